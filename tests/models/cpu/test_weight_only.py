"""Weights in few bits: what they stand for, restored in parts, with and without the compiled kernel."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.models.compiled import bindings, library  # noqa: E402
from lorica.models.cpu import weight_only  # noqa: E402
from lorica.models.cpu.linear import quantize_weight  # noqa: E402
from lorica.models.cpu.weight_only import Int4Weight, Int8Weight, QuantizedWeight, WeightOnlyLinear, group_size_for  # noqa: E402


def some(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def whole(codes: QuantizedWeight, dtype: Any) -> Any:
    into = torch.empty(codes.shape, dtype=dtype)
    codes.dequantize(0, into)
    return into


def int8(weight: Any, dtype: Any) -> Int8Weight:
    codes, scales = quantize_weight(weight, scales_in=dtype)
    return Int8Weight(codes, scales.to(dtype))


@pytest.mark.parametrize("width", [64, 96, 128, 896])
def test_four_bits_are_half_a_step_away(width: int) -> None:
    weight = some(1100, width)
    weight[3], weight[4], weight[5, :32] = 0, 1e-3, 7
    codes = Int4Weight(weight, torch.float32)
    parts = weight.view(1100, -1, codes.group)
    step = (parts.amax(-1) - parts.amin(-1)) / 15
    apart = (whole(codes, torch.float32).view(parts.shape) - parts).abs()
    assert (apart <= 0.5001 * step[..., None] + 1e-6).all()
    assert codes.codes.numel() * 2 == weight.numel()
    assert not whole(codes, torch.float32)[3].any()


def test_a_scale_that_was_rounded_is_no_error() -> None:
    weight = some(64, 128)
    codes = Int4Weight(weight, torch.bfloat16)
    exact = whole(Int4Weight(weight, torch.float32), torch.float32)
    found = whole(codes, torch.float32)
    assert (found - weight).square().mean() < 1.1 * (exact - weight).square().mean()


def test_groups() -> None:
    assert [group_size_for(width) for width in (64, 192, 256, 96, 48)] == [64, 64, 64, 32, 0]


@pytest.mark.skipif(not bindings.is_available(), reason=f"no compiled kernels: {library.why_unavailable()}")
@pytest.mark.parametrize("make", [lambda weight: Int4Weight(weight, torch.bfloat16), lambda w: int8(w, torch.bfloat16)])
def test_the_compiled_kernel_restores_to_the_last_bit(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (64, 96, 224):
        codes = make(some(70, width))
        compiled = whole(codes, torch.bfloat16)
        part = torch.empty(9, width, dtype=torch.bfloat16)
        codes.dequantize(61, part)
        assert torch.equal(part, compiled[61:])
        with monkeypatch.context() as patch:
            patch.setattr(bindings, "is_available", lambda: False)
            assert torch.equal(whole(codes, torch.bfloat16), compiled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [Int4Weight, int8])
def test_products_are_those_of_what_is_restored(make: Any, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    codes, bias = make(some(200, 96), dtype), some(200).to(dtype)
    plain = whole(codes, dtype).float()
    for step_bytes in (1, 1 << 14, 1 << 21):
        monkeypatch.setattr(weight_only, "_DEQUANTIZED_BYTES", step_bytes)
        product = WeightOnlyLinear(codes, bias, dtype)
        for rows in (1, 15, 16, 47):
            x = some(rows, 96).to(dtype)
            expected = x.float() @ plain.t() + bias.float()
            found = product(x)
            assert found.dtype == dtype
            torch.testing.assert_close(found.float(), expected, atol=1e-3 if dtype == torch.float32 else 0.2, rtol=0.02)
