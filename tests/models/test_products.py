"""Packed weights and their compiled products: beside torch's operators on every target, and their bits."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.models.compiled import library, products  # noqa: E402

pytestmark = pytest.mark.usefixtures("target")

STORAGES = ("bfloat16", "float16", "int16", "int8", "int4")
SHAPES = [(100, 128), (77, 100), (1100, 192), (33, 1088)]  # whole panels and groups, and remainders of both


def some(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pack(weight: Any, storage: str) -> products.Panels:
    if storage.startswith("int"):
        return products.pack_codes(weight, int(storage[3:]))
    return products.pack_floats(weight, getattr(torch, storage))


def whole(panels: products.Panels) -> Any:
    return panels.dequantize(0, len(panels.weight))[: panels.shape[0]]


def round_activations(x: Any) -> Any:
    """x [T, in] as the codes of its rows stand for it: the largest is 16383 steps."""
    peak = x.abs().amax(1, keepdim=True).clamp_min(1e-30)
    return (x * (16383 / peak)).round() * (peak / 16383)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("storage", STORAGES)
def test_weights_are_half_a_step_away(shape: tuple[int, int], storage: str) -> None:
    weight = some(*shape)
    weight[3], weight[4], weight[5, :32] = 0, 1e-3, 7
    restored = whole(pack(weight, storage))
    if not storage.startswith("int"):
        assert torch.equal(restored, weight.to(getattr(torch, storage)).float())
        return
    padded = torch.nn.functional.pad(weight, (0, -shape[1] % products.GROUP))
    groups = padded.view(shape[0], -1, products.GROUP)
    spread = groups.amax(-1) - groups.amin(-1) if storage == "int4" else groups.abs().amax(-1)
    step = spread / {"int4": 15, "int8": 127, "int16": 2047}[storage]
    allowed = 0.501 * step.repeat_interleave(products.GROUP, 1)[:, : shape[1]] + 1e-6
    assert ((restored - weight).abs() <= allowed).all()
    assert not restored[3].any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("storage", STORAGES)
def test_a_product_is_that_of_the_restored_weights(shape: tuple[int, int], storage: str) -> None:
    panels, bias = pack(some(*shape), storage), some(shape[0], seed=2)
    target = library.target()
    x = some(300, shape[1], seed=1)
    x[:, 7] *= 40  # a massive activation
    x[3] = 0
    for rows, dtype in (
        (1, torch.float32),
        (2, torch.bfloat16),
        (7, torch.float16),
        (13, torch.float32),
        (300, torch.float32),
    ):
        inputs = x[:rows].to(dtype)
        rounded = round_activations(inputs.float()) if storage.startswith("int") and target else inputs
        expected = rounded.double() @ whole(panels).double().t() + bias.double()
        product = products.multiply(inputs, panels, bias)
        assert product.dtype == torch.float32
        # A code on the edge may be rounded either way: it is a step of 16383 away then.
        assert (product - expected).abs().max() <= 3e-5 * expected.abs().max()


@pytest.mark.parametrize("storage", STORAGES)
def test_the_bits_of_a_row_are_its_own(storage: str, target: str) -> None:
    if target == library.NO_TARGET:
        pytest.skip("torch's operators round by the number of rows")
    panels, x = pack(some(200, 1088), storage), some(500, 1088, seed=1)
    expected = products.multiply(x, panels, None)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for first, rows in ((0, 1), (3, 2), (10, 5), (17, 16), (40, 31), (100, 250), (0, 499)):
                product = products.multiply(x[first : first + rows], panels, None)
                assert torch.equal(product, expected[first : first + rows])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("storage", ["int16", "int8", "int4"])
def test_sums_of_the_largest_codes_do_not_overflow(storage: str) -> None:
    weight = torch.cat([torch.ones(16, 256), -torch.ones(16, 256), torch.eye(16, 256)])
    panels = pack(weight, storage)
    for sign in (1, -1):
        product = products.multiply(sign * torch.ones(2, 256), panels, None)
        torch.testing.assert_close(product, sign * weight.sum(1).expand(2, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_is_no_number_stays_in_its_row(storage: str, poison: float) -> None:
    x = some(4, 128, seed=1)
    x[2, 5] = poison
    product = products.multiply(x, pack(some(64, 128), storage), None)
    assert not product[2].isfinite().any()
    assert product[[0, 1, 3]].isfinite().all()
