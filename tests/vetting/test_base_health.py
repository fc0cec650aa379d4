"""The health of a base model: worked out once, kept under the digest of its files, and only where it was asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.passports import make_adapter
from tests.vetting.specimens import codes

from lorica.engines.base import EngineSettings
from lorica.models.locate import locate_model
from lorica.vetting.base import base_health
from lorica.vetting.base.base_health import check_base_files, check_base_health
from lorica.vetting.base_checks import BaseChecker
from lorica.vetting.measure.model_session import ModelSession, SessionSettings

TINY = locate_model("embedded:lorica_tiny", environ={})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORICA_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def few_merges(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    tokenizer = json.loads((base / "tokenizer.json").read_text("utf-8"))
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = merges[: len(merges) // 10]
    (base / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    return base


def test_it_is_worked_out_once_for_each_base_and_precision(few_merges: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = check_base_health(ModelSession(SessionSettings(few_merges)))
    assert set(codes(first)) >= set(codes(check_base_files(few_merges))) >= {"L318"}
    monkeypatch.setattr(base_health, "base_loss", lambda *_: pytest.fail("asked again"))
    assert check_base_health(ModelSession(SessionSettings(few_merges))) == first
    for settings in (SessionSettings(TINY), SessionSettings(few_merges, engine_settings=EngineSettings("float16"))):
        with pytest.raises(pytest.fail.Exception):
            check_base_health(ModelSession(settings))


@pytest.mark.parametrize("deep", [True, False])
def test_it_is_examined_only_where_it_was_asked_for(few_merges: Path, tmp_path: Path, deep: bool) -> None:
    from lorica.vetting.diagnosis.diagnose import find_adapter
    from lorica.vetting.levels import examine

    examined = examine(find_adapter(make_adapter(tmp_path / "adapter")))
    examination, _ = BaseChecker(SessionSettings(few_merges), None, top=3, deep=deep).run(examined)
    assert ("L318" in codes(examination.findings)) == deep
