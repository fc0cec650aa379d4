"""One attention backend for a loaded model: which it is, what it promises, and that nothing chooses again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from lorica.engines.native.attention import block, select  # noqa: E402
from lorica.engines.native.attention.select import select_backend  # noqa: E402
from lorica.engines.native.engine import NativeEngine  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.compiled import amx, bindings, library  # noqa: E402
from lorica.models.cpu.cpu_decoder import CpuDecoder  # noqa: E402
from lorica.models.cpu.kernels import rounds_by_batch  # noqa: E402
from lorica.models.locate import locate_model  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402
from lorica.records import Generate, Request, Sampling, ScoreChoices  # noqa: E402

FLASH = "flash" if block.has_flash_kernel() else "plain"
ONEDNN_TILES = rounds_by_batch(torch.bfloat16)
ALL: tuple[type[Request], ...] = (ScoreChoices, Generate)
SCORES: tuple[type[Request], ...] = () if rounds_by_batch(torch.float32) else (ScoreChoices,)
HALF = ("bmm", (ScoreChoices,)) if block.has_bfloat16_bmm() else (FLASH, SCORES)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bool], CpuDecoder]:
    def load(precision: str, compiled: bool) -> CpuDecoder:
        if not compiled:
            monkeypatch.setattr(bindings, "supports_head_dim", lambda width: False)
        base = BaseFolder(locate_model("embedded:lorica_tiny", environ={}))
        return CpuDecoder(load_decoder(base), precision)

    return load


@pytest.mark.parametrize(
    ("precision", "compiled", "deterministic", "name", "batch_invariant"),
    [
        ("float32", False, True, FLASH, SCORES),
        ("float32", False, False, FLASH, ()),
        ("float32", True, True, "compiled", (ScoreChoices, Generate)),
        ("bfloat16", False, True, *((FLASH, ()) if ONEDNN_TILES else HALF)),
        ("bfloat16", False, False, FLASH, ()),
        ("bfloat16", True, True, "compiled", () if ONEDNN_TILES and not amx.is_available() else ALL),
        ("bfloat16", True, False, "compiled", ()),
    ],
)
def test_the_backend_fits_precision_and_kernels(
    decoder: Callable[[str, bool], CpuDecoder],
    precision: str,
    compiled: bool,
    deterministic: bool,
    name: str,
    batch_invariant: tuple[type[Request], ...],
) -> None:
    if name == "compiled" and not bindings.is_available():
        pytest.skip(f"no compiled kernels: {library.why_unavailable()}")
    backend = select_backend(decoder(precision, compiled), deterministic=deterministic)
    assert (backend.name, backend.batch_invariant) == (name, batch_invariant)


def test_it_is_chosen_once_and_described_from_there(
    decoder: Callable[[str, bool], CpuDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = NativeEngine(decoder("float32", False))
    for chooser in ("fits_varlen", "prefers_bmm", "uses_flash"):
        monkeypatch.delattr(select, chooser)
    requests: list[Request] = [
        ScoreChoices("a", (1, 2, 3), ((4,), (5, 6))),
        Generate("b", (1, 2), Sampling(max_new_tokens=2)),
    ]
    assert not [output.error for output in engine.run(requests) if output.error]
    info = engine.info
    assert (info.attention, info.kernels, info.deterministic) == (FLASH, "torch", bool(SCORES))
    assert info.is_batch_invariant(requests[0]) is bool(SCORES)
    assert not info.is_batch_invariant(requests[1])
