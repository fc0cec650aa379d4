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


def test_nothing_asked_for_is_nothing_found() -> None:
    assert find_adapters(None, {}) == {}


def test_a_folder_without_any_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(AdapterError, match=r"no adapter in .*none of its subfolders(.|\n)*leave it out"):
        find_adapters(tmp_path, {})


def test_adapters_one_level_deeper_are_pointed_out(tmp_path: Path) -> None:
    make(tmp_path / "runs" / "rules" / "rules")
    make(tmp_path / "runs" / "saq" / "general" / "best")
    (tmp_path / "runs" / "logs").mkdir()
    with pytest.raises(AdapterError) as caught:
        find_adapters(tmp_path / "runs", {})
    runs = tmp_path / "runs"
    assert caught.value.fix == f"did you mean adapters.dir={runs / 'rules'} or adapters.dir={runs / 'saq'}?"


def test_a_base_model_is_no_folder_of_adapters(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(AdapterError, match=r"is a base model(.|\n)*set model\.path="):
        find_adapters(tmp_path, {})


@pytest.mark.parametrize("left", ["training.json", "checkpoints/step-10/state.json"])
def test_a_training_that_did_not_finish_is_named(tmp_path: Path, left: str) -> None:
    make(tmp_path / "algebra")
    file = tmp_path / "history" / left
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    for base, paths in ((tmp_path, {}), (None, {"history": str(tmp_path / "history")})):
        with pytest.raises(AdapterError, match=r"training of history did not finish") as caught:
            find_adapters(base, paths)
        assert caught.value.fix == "go on with training.resume=true, or remove the folder"


def test_the_folder_of_one_unfinished_training_is_named(tmp_path: Path) -> None:
    make(tmp_path / "rules" / "last")
    (tmp_path / "rules" / "training.json").write_text("{}")
    with pytest.raises(AdapterError, match="training of rules did not finish"):
        find_adapters(tmp_path / "rules", {})


def test_errors_name_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="nowhere"):
        find_adapters(tmp_path / "nowhere", {})
    with pytest.raises(AdapterError, match=r"'algebra': no adapter_config\.json in .*gone nor in .*best"):
        find_adapters(None, {"algebra": str(tmp_path / "gone")})
    adapter = make(tmp_path / "one")
    with pytest.raises(AdapterError, match=r"itself an adapter(.|\n)*adapters\.paths\.NAME="):
        find_adapters(adapter, {})


def test_weights_without_a_config_are_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(AdapterError, match=r"broken holds adapter weights and no adapter_config\.json"):
        find_adapters(tmp_path, {})
