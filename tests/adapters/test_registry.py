from __future__ import annotations

from pathlib import Path

import pytest

from lorica.adapters.registry import find_adapters
from lorica.errors import AdapterError


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


def test_finds_subfolders_their_best_and_named_paths(tmp_path: Path) -> None:
    base = tmp_path / "adapters"
    make(base / "mcq")
    make(base / "rules" / "best")
    make(base / "rules" / "last")
    make(base / ".half.tmp")
    (base / "logs").mkdir()
    (base / "notes.txt").write_text("")
    elsewhere = make(tmp_path / "elsewhere" / "best")
    named = make(tmp_path / "named")
    found = find_adapters(base, {"algebra": str(elsewhere.parent), "mcq": str(named)})
    assert found == {"algebra": elsewhere, "mcq": named, "rules": base / "rules" / "best"}
    assert list(found) == sorted(found)


def test_nothing_asked_for_is_nothing_found(tmp_path: Path) -> None:
    assert find_adapters(None, {}) == {}
    assert find_adapters(tmp_path, {}) == {}


def test_errors_name_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="nowhere"):
        find_adapters(tmp_path / "nowhere", {})
    with pytest.raises(AdapterError, match=r"'algebra': no adapter_config\.json in .*gone nor in .*best"):
        find_adapters(None, {"algebra": str(tmp_path / "gone")})
    adapter = make(tmp_path / "one")
    with pytest.raises(AdapterError, match=r"itself an adapter(.|\n)*adapters\.paths\.one="):
        find_adapters(adapter, {})


def test_weights_without_a_config_are_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(AdapterError, match=r"broken holds adapter weights and no adapter_config\.json"):
        find_adapters(tmp_path, {})
