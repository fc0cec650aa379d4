"""The line of levels on files: what one adapter does must not stop the others."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from lorica.vetting import check
from lorica.vetting.files.sources import Source
from lorica.vetting.many import examine_all


def test_a_mistake_of_ours_leaves_one_adapter_unchecked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(source: Source) -> None:
        raise IndexError("tuple index out of range")

    monkeypatch.setattr(check, "examine_files", fails)
    sources = [Source(name=name, given=tmp_path, kind="folder", place=tmp_path) for name in ("a", "b")]
    with ExitStack() as stack:
        found = examine_all(sources, stack, jobs=1)
    assert [each.verdict.status for each in found] == ["unchecked", "unchecked"]
    assert [each.findings[0].code for each in found] == ["L099", "L099"]
    assert "IndexError" in found[0].findings[0].seen
