"""The compiled kernels against torch's operators in float64, and their bits against each row's own."""

from __future__ import annotations

import ctypes
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.errors import ConfigError  # noqa: E402
from lorica.models.batched_lora import CompiledLora  # noqa: E402
from lorica.models.compiled import bindings, build, library  # noqa: E402
from lorica.models.cpu import ops  # noqa: E402
from lorica.models.cpu.linear import quantize_rows  # noqa: E402
from lorica.models.cpu.ops import FusedRmsNorm, QkvHeads, RotaryEmbedding  # noqa: E402
from lorica.models.decoder import RmsNorm  # noqa: E402
from lorica.models.lora import LoraPair, LoraSpan, LoraWeights  # noqa: E402
from lorica.models.rope import apply_rotary, cos_sin_table  # noqa: E402

pytestmark = pytest.mark.usefixtures("target")
there = pytest.mark.skipif(not bindings.is_available(), reason=f"no compiled kernels: {library.why_unavailable()}")
STATES = [torch.bfloat16, torch.float16, torch.float32]
ROUNDED = {
    torch.bfloat16: {"atol": 1e-2, "rtol": 8e-3},
    torch.float16: {"atol": 1e-3, "rtol": 1e-3},
    torch.float32: {"atol": 2e-6, "rtol": 2e-6},
}


@pytest.fixture
def some() -> Callable[..., Any]:
    """Random numbers of a shape."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


def norm_of(width: int, some: Callable[..., Any], eps: float = 1e-6) -> RmsNorm:
    made = RmsNorm(width, eps)
    made.weight.data = some(width).abs() + 0.5
    return made


@there
@pytest.mark.parametrize("dtype", STATES)
@pytest.mark.parametrize("width", [16, 37, 64, 896])
def test_norms_and_sums(some: Callable[..., Any], dtype: Any, width: int) -> None:
    x, added = some(5, width).to(dtype), some(5, width).to(dtype)
    norm = norm_of(width, some)
    mine = FusedRmsNorm(norm, dtype, compiled=True)
    wide = norm.double()
    weight = norm.weight.data.to(dtype).double()
    expected = wide(x.double()) / norm.weight.data.double() * weight
    torch.testing.assert_close(mine(x).double(), expected, **ROUNDED[dtype])
    states = x.clone()
    found = mine.add_and_norm(states, added.clone())  # it may lie in the memory of what was added
    torch.testing.assert_close(states, x + added)
    expected = wide(states.double()) / norm.weight.data.double() * weight
    torch.testing.assert_close(found.double(), expected, **ROUNDED[dtype])
    assert torch.equal(found[3:], mine(states[3:])), "a row's bits are its own"


@there
@pytest.mark.parametrize("dtype", STATES)
@pytest.mark.parametrize("count", [1, 16, 35, 4864])
def test_gates(some: Callable[..., Any], dtype: Any, count: int) -> None:
    opened, up = (some(3, count) * 4).to(dtype), some(3, count).to(dtype)
    opened[0, 0], opened[1, 0], opened[2, 0] = 300.0, -300.0, 0.0
    expected = torch.nn.functional.silu(opened.double()) * up.double()
    found = ops.silu_and_mul(opened.clone(), up, compiled=True)
    torch.testing.assert_close(found.double(), expected, **ROUNDED[dtype])
    opened[0, 0] = math.nan
    assert ops.silu_and_mul(opened, up, compiled=True)[0, 0].isnan(), "what is broken stays visible"


@there
@pytest.mark.parametrize(
    ("dtype", "out"), [*((dtype, dtype) for dtype in STATES), *((torch.float32, dtype) for dtype in STATES[:2])]
)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "normed"), [(14, 2, 64, False), (4, 4, 16, True), (6, 2, 80, True)]
)
def test_heads_are_taken_apart_and_turned(
    some: Callable[..., Any], dtype: Any, out: Any, heads: int, kv_heads: int, width: int, normed: bool
) -> None:
    class Config:
        pass

    config: Any = Config()
    config.heads, config.kv_heads, config.head_dim = heads, kv_heads, width
    norms = [norm_of(width, some) if normed else None for _ in range(2)]
    mine = [None if norm is None else FusedRmsNorm(norm, dtype, compiled=True) for norm in norms]
    positions = torch.tensor([0, 3, 77, 1000])
    speeds = 1.0 / 10000 ** (torch.arange(0, width, 2) / width)
    mixed = some(4, (heads + 2 * kv_heads) * width).to(dtype)
    into = tuple(torch.empty(4, count, width, dtype=out) for count in (heads, kv_heads, kv_heads))
    turn = RotaryEmbedding(positions, speeds, dtype, compiled=True)
    QkvHeads(config, *mine, compiled=True).split_qkv_and_rotate(mixed, turn.rows_of(slice(0, 4)), into)
    cosine, sine = (one.double() for one in cos_sin_table(positions, speeds, torch.float32))
    parts = torch.split(mixed.double().view(4, -1, width), [heads, kv_heads, kv_heads], dim=1)
    for number, (found, part) in enumerate(zip(into, parts, strict=True)):
        norm = norms[number] if number < 2 else None
        if norm is not None:
            part = norm.double()(part) / norm.weight.data.double() * norm.weight.data.to(dtype).double()
        expected = part if number == 2 else apply_rotary(part, cosine, sine)
        torch.testing.assert_close(found.double(), expected, **ROUNDED[out])


@there
@pytest.mark.parametrize(
    ("dtype", "factors", "sums"),
    [
        *((dtype, dtype, dtype) for dtype in STATES),
        *((torch.float32, dtype, torch.float32) for dtype in STATES[:2]),
        (torch.bfloat16, torch.float32, torch.float32),
    ],
)
@pytest.mark.parametrize(("inside", "outs", "rank"), [(896, (896, 128, 128), 16), (100, (33, 7, 5), 5), (64, (64,), 1)])
def test_updates_of_several_adapters(
    some: Callable[..., Any], dtype: Any, factors: Any, sums: Any, inside: int, outs: tuple[int, ...], rank: int
) -> None:
    paths = tuple(f"p{number}" for number in range(len(outs)))
    adapters = []
    for number in range(3):
        own = rank + number
        pairs = {
            path: LoraPair((some(own, inside) / inside**0.5).to(factors), some(out, own).to(factors), 0.5)
            for at, (path, out) in enumerate(zip(paths, outs, strict=True))
            if number == 0 or (number + at) % 3
        }
        adapters.append(LoraWeights(str(number), pairs))
    spans = [LoraSpan(adapters[0], 3, 50), LoraSpan(adapters[1], 50, 51), LoraSpan(adapters[2], 60, 190)]
    x, y = some(200, inside).to(dtype), some(200, sum(outs)).to(sums)
    expected, found = y.double(), y.clone()
    for span in spans:
        rows = slice(span.start, span.stop)
        for number, path in enumerate(paths):
            pair = span.adapter.pairs.get(path)
            if pair is not None:
                columns = slice(sum(outs[:number]), sum(outs[: number + 1]))
                expected[rows, columns] += pair.scaling * (x[rows].double() @ pair.a.double().T) @ pair.b.double().T
    updates = CompiledLora(spans, dtype)
    for start, stop in ((0, 70), (70, 200)):
        updates.add(paths, outs, x[start:stop], found[start:stop], start)
    scale = ROUNDED[dtype]["atol"]
    torch.testing.assert_close(found.double(), expected, atol=8 * scale, rtol=scale)
    alone = y[50:51].clone()
    CompiledLora([LoraSpan(adapters[1], 0, 1)], dtype).add(paths, outs, x[50:51], alone)
    assert torch.equal(alone, found[50:51]), "a row's bits are its own"
    CompiledLora(spans, dtype).add(("nothing",), outs[:1], x, found)


def restored(codes: Any, steps: Any) -> Any:
    return (codes.double() - 128) * steps.double()[:, None]


@there
@pytest.mark.parametrize("dtype", STATES)
@pytest.mark.parametrize("width", [5, 64, 4864])
def test_rounding_to_int8(some: Callable[..., Any], dtype: Any, width: int) -> None:
    x = some(6, width).to(dtype)
    x[4], x[5, 1] = 0, math.nan
    codes, steps = bindings.quantize_rows(x)
    right, scales = quantize_rows(x)
    assert torch.equal(codes[:5], right[:5])
    torch.testing.assert_close(steps, scales[:, 0], equal_nan=True, rtol=1e-6, atol=0)


@there
@pytest.mark.parametrize("dtype", STATES)
@pytest.mark.parametrize("width", [20, 896])
def test_between_products_of_whole_numbers(some: Callable[..., Any], width: int, dtype: Any) -> None:
    """Each against the same in steps: scale, add, norm or gate, round."""
    x, added, scales, weight = some(4, width), some(4, width), some(4).abs(), some(width)
    states = x.clone()
    bindings.add_scaled(states, added, scales)
    torch.testing.assert_close(states, x + added * scales[:, None])
    states = x.clone()
    codes, steps, plain = bindings.add_norm_quantize(states, (added, scales), weight, 1e-6, keep_normed=dtype)
    torch.testing.assert_close(states, x + added * scales[:, None])
    normed = torch.nn.functional.rms_norm(states.double(), (width,), weight.double(), 1e-6)
    assert plain is not None
    torch.testing.assert_close(plain.double(), normed, **ROUNDED[dtype])
    assert (restored(codes, steps) - normed).abs().max() <= steps.max() * 0.501
    opened, up = some(4, width) * 3, some(4, width)
    for factor in (None, scales):
        wide = torch.ones(4, 1, dtype=torch.double) if factor is None else factor.double()[:, None]
        inner = torch.nn.functional.silu(opened.double() * wide) * up.double() * wide
        codes, steps, plain = bindings.silu_and_mul_quantize(opened, up, factor, keep_product=dtype)
        assert plain is not None
        torch.testing.assert_close(plain.double(), inner, **ROUNDED[dtype])
        assert (restored(codes, steps) - inner).abs().max() <= steps.max() * 0.501
    bias = some(width)
    for shift in (None, bias):
        y = opened.clone()
        bindings.scale_rows(y, scales, shift)
        torch.testing.assert_close(y, opened * scales[:, None] + (0 if shift is None else shift))


@pytest.fixture
def own_library(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path for a library that is made in a test, quickly, and the environment of a user who says nothing."""
    monkeypatch.delenv(library.TARGET_VARIABLE)
    for module in (build, library):
        monkeypatch.setattr(module, "LIBRARY", tmp_path / "_kernels.so")
    monkeypatch.setattr(build, "_OPTIONS", (*build._OPTIONS[1:], "-Werror"))
    library.clear_caches()
    return tmp_path / "_kernels.so"


one_target = pytest.mark.parametrize("target", [library.NO_TARGET], indirect=True)


@one_target
@pytest.mark.skipif(bool(build.why_not()), reason=build.why_not() or "a compiler is there")
def test_a_library_of_other_sources_is_not_used(own_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.why_unavailable() == "not built"
    assert build.build() == "", "the sources compile without a warning"
    library.clear_caches()
    targets = library.available_targets()
    assert library.target() == (targets[-1] if targets else "")
    for name in targets:
        assert getattr(ctypes.CDLL(str(own_library)), f"lorica_attend_{build.suffix(name)}")
    monkeypatch.setattr(library, "digest", lambda: "another")
    library.clear_caches()
    assert library.why_unavailable() == "built from other sources"
    assert library.target() == ""


@one_target
def test_the_environment_chooses_the_target(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.target() == ""
    assert library.why_unavailable() == f"{library.TARGET_VARIABLE} is none"
    monkeypatch.setattr(library, "TARGET_OPTIONS", dict.fromkeys(("avx2", "avx512"), ()))  # those of one architecture
    for name, message in (("avx3", "none of avx2, avx512, none"), ("avx512", "there are avx2")):
        monkeypatch.setattr(library, "_load", lambda: (("avx2",), ""))
        monkeypatch.setenv(library.TARGET_VARIABLE, name)
        library._choose.cache_clear()
        with pytest.raises(ConfigError, match=message) as raised:
            library.target()
        assert "avx2, none" in raised.value.fix
    monkeypatch.setattr(library, "_load", lambda: ((), "not built"))
    library._choose.cache_clear()
    with pytest.raises(ConfigError, match="not built"):
        library.target()
    monkeypatch.undo()


@one_target
def test_a_target_that_the_compiler_does_not_know_is_left_out(
    own_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(build.TARGET_OPTIONS, "newest", ("-mno-such-instructions",))
    monkeypatch.setattr(build, "_compile", lambda folder, options: f"{folder.name} {options[-1]}")
    if not build.why_not():
        targets = build.build().split('"')[1].split(",")
        assert next(iter(build.TARGET_OPTIONS)) in targets
        assert "newest" not in targets


@one_target
def test_without_a_compiler_nothing_is_built_and_the_reason_is_said(
    own_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_library.write_bytes(b"an older one")
    monkeypatch.setenv("CC", "")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no C compiler" in build.build() or "x86-64" in build.build()
    assert not own_library.exists()
    own_library.write_bytes(b"no library")
    assert library.why_unavailable() == "the library cannot be loaded"
    assert not bindings.supports_head_dim(64)
