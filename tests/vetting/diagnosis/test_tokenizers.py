"""The tokenizer beside an adapter against the base's: how it is written does not count, only what it encodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorica.adapters.raw_adapter import RawAdapter
from lorica.models.locate import locate_model
from lorica.vetting.diagnosis.inputs import Context, DiagnosisInputs
from lorica.vetting.diagnosis.on_files import compare_tokenizers

TINY = locate_model("embedded:lorica_tiny", environ={})


def _rewritten_merges(tokenizer: dict[str, Any]) -> None:
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = [
        pair.split(" ", 1) if isinstance(pair, str) else " ".join(pair) for pair in merges
    ]  # as older and newer libraries write them


def _strange_merges(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["merges"] = [[1, None]] * 200


@pytest.mark.parametrize(("change", "is_mismatch"), [(_rewritten_merges, False), (_strange_merges, True)])
def test_only_what_is_encoded_otherwise_is_another_tokenizer(
    change: Callable[[dict[str, Any]], None], is_mismatch: bool, tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY / name, tmp_path / name)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    change(tokenizer)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    specimen = RawAdapter(name="a", given=tmp_path, kind="folder", folder=tmp_path)
    evidence = compare_tokenizers(Context(specimen, None, DiagnosisInputs(base=TINY), tmp_path))
    assert (evidence[-1].weights["tokenizer_mismatch"] > 0) == is_mismatch
    # As the base's own they are read, whatever is in them.
    compare_tokenizers(Context(specimen, None, DiagnosisInputs(base=tmp_path), tmp_path))
