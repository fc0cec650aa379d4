"""Packed linear layers against plain ones, and the probes of torch's private operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.models.compiled import library  # noqa: E402
from lorica.models.cpu import kernels  # noqa: E402
from lorica.models.cpu.linear import make_linear, quantize_rows, quantize_weight, residual_dtype  # noqa: E402

F = torch.nn.functional


@pytest.fixture
def layers() -> list[Any]:
    torch.manual_seed(0)
    return [torch.nn.Linear(128, width).requires_grad_(False) for width in (96, 32, 32)]


@pytest.mark.parametrize("rows", [1, 3, 64, 300])
@pytest.mark.parametrize(
    ("precision", "off"),
    [
        ("float32", 1e-5),
        ("bfloat16", 0.02),
        ("float16", 1e-3),
        ("int16", 1e-3),
        ("int8", 0.03),
        ("int8-weights", 0.03),
        ("int4-weights", 0.2),
    ],
)
def test_layers_of_one_input_as_one_product(layers: list[Any], rows: int, precision: str, off: float) -> None:
    x = torch.randn(rows, 128, generator=torch.Generator().manual_seed(1))
    expected = torch.cat([layer(x) for layer in layers], dim=1)
    product = make_linear(layers, precision)
    found = product(x.to(residual_dtype(precision))).float()
    assert (found - expected).abs().max() < off * expected.abs().max()
    assert found.shape == expected.shape


@pytest.mark.skipif(bool(library.why_unavailable()), reason="without kernels torch multiplies in float16")
def test_states_beside_weights_in_float16_do_not_overflow(layers: list[Any]) -> None:
    x = torch.full((3, 128), 3e5).to(residual_dtype("float16"))
    assert make_linear(layers, "float16")(x).isfinite().all()


def test_codes_stand_for_their_weights() -> None:
    weight = torch.randn(2100, 64, generator=torch.Generator().manual_seed(0))
    weight[3], weight[4] = 0, 1e-3
    codes, scales = quantize_weight(weight)
    assert codes.dtype == torch.int8
    assert codes.abs().max() == 127
    assert ((codes * scales[:, None] - weight).abs() <= 0.5001 * scales[:, None]).all()


def test_activations_keep_their_own_scale() -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1e-4], [1], [1e4], [0], [1]])
    codes, scale = quantize_rows(x)
    assert codes.dtype == torch.uint8
    assert ((codes.float() - 128) * scale - x).abs().le(scale * 0.5001).all()
    assert (codes[3] == 128).all()
    x[4, 7] = torch.nan
    assert quantize_rows(x)[1].isnan().squeeze(1).tolist() == [False] * 4 + [True]


@pytest.mark.skipif(not kernels.has_int8_linear(), reason="this processor or this torch has no fast int8 product")
def test_whole_numbers_are_exact_at_the_edges() -> None:
    codes = torch.tensor([[255] * 4864, [1] * 4864, [128] * 4864], dtype=torch.uint8)
    weight = torch.cat([torch.full((16, 4864), 127), torch.full((16, 4864), -127)]).to(torch.int8)
    found = kernels.int8_linear(codes, kernels.prepack_int8(weight), torch.ones(32))
    assert found[0, 0] == 127 * 127 * 4864
    assert found[0, 16] == -127 * 127 * 4864
    assert found[1, 0] == -127 * 127 * 4864
    assert not found[2].any()


@pytest.fixture
def fresh_probes() -> Iterator[None]:
    probes = (kernels.can_prepack, kernels.has_int8_linear)
    for probe in probes:
        probe.cache_clear()
    yield
    for probe in probes:
        probe.cache_clear()


@pytest.mark.usefixtures("fresh_probes")
@pytest.mark.parametrize("change", ["raises", "wrong"])
def test_an_operator_that_changed_is_not_used(change: str, layers: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(*given: Any) -> Any:
        if change == "raises":
            raise AttributeError("no such operator")
        return torch.ones(len(given[0]), 32) if len(given[0]) != 5 else torch.ones(5, 40)

    for name in ("prepacked_linear", "int8_linear"):
        monkeypatch.setattr(kernels, name, changed)
    assert not kernels.can_prepack(torch.float32)
    assert not kernels.has_int8_linear()
    x = torch.randn(9, 128)
    found = make_linear(layers[:1], "float32")(x)
    assert torch.equal(found, layers[0](x))
    assert (make_linear(layers[:1], "int8")(x) - found).abs().max() < 0.03 * found.abs().max()


@pytest.mark.usefixtures("fresh_probes")
def test_sums_that_overflow_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    # What processors without VNNI do: neighbours are added in 16 bits.
    def saturating(codes: Any, packed: Any, scales: Any) -> Any:
        pairs = codes.float().view(len(codes), 1, -1, 2) * packed.float().view(1, len(packed), -1, 2)
        sums = pairs.sum(-1).clamp(-32768, 32767).sum(-1)
        return (sums - 128 * packed.float().sum(1)) * scales

    monkeypatch.setattr(kernels, "prepack_int8", lambda weight: weight)
    monkeypatch.setattr(kernels, "int8_linear", saturating)
    assert not kernels.has_int8_linear()
