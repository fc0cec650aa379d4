"""Products of bfloat16 by AMX's tiles: beside exact ones, and the same bits of a row in any company."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.models.compiled import amx  # noqa: E402
from lorica.models.cpu import kernels  # noqa: E402
from lorica.models.cpu.linear import make_linear, rounds_by_row  # noqa: E402

SHAPES = [(100, 96), (77, 100), (1027, 352), (576, 1536)]  # whole panels and tiles, and remainders of both
needs_tiles = pytest.mark.skipif(not amx.is_available(), reason="no AMX, or no kernels for it")


def some(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@needs_tiles
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_exact_but_for_one_rounding(shape: tuple[int, int]) -> None:
    weight, bias, x = some(*shape).bfloat16(), some(shape[0], seed=2), some(75, shape[1], seed=1).bfloat16()
    panels = amx.pack(weight)
    for rows in (1, 15, 16, 17, 32, 33, 75):
        expected = x[:rows].double() @ weight.double().t() + bias.double()
        product = amx.multiply(x[:rows], panels, bias)
        assert product.dtype == torch.bfloat16
        torch.testing.assert_close(product.double(), expected, atol=1e-3, rtol=2**-8)
    assert torch.isnan(amx.multiply(x[:2] * torch.nan, panels, None)).all()
    assert amx.multiply(x[:0], panels, bias).shape == (0, shape[0])


@needs_tiles
def test_threads_change_no_bit() -> None:
    panels, x = amx.pack(some(1027, 352)), some(75, 352, seed=1).bfloat16()
    products = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        products.append(amx.multiply(x, panels, None))
    assert torch.equal(*products)


@pytest.mark.parametrize("shape", [(1536, 576), (576, 1536)])
def test_padded_rows_of_bfloat16_round_alike_where_that_is_said(shape: tuple[int, int]) -> None:
    layer = torch.nn.Linear(shape[1], shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(some(*shape), requires_grad=False)
    linear = make_linear((layer,), "bfloat16")
    if kernels.rounds_by_batch(torch.bfloat16) and not rounds_by_row(linear):
        pytest.skip("rows round by the batch here, and nothing is said")
    x = some(384, shape[1], seed=1).to(torch.bfloat16 if kernels.can_prepack(torch.bfloat16) else torch.float32)
    expected = linear(x[:256])
    for rows in (16, 32, 48, 256, 384):
        assert torch.equal(linear(x[:rows])[:256], expected[:rows]), rows
