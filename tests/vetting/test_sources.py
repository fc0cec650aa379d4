"""Adapters are found wherever they lie, each once, and what is none is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.hostile.folders import CONFIG, WEIGHTS, make_adapter

from lorica.commands import check
from lorica.errors import AdapterError
from lorica.vetting.files.check_files import examine_files
from lorica.vetting.files.sources import AdapterSource, find_sources, search_sources


def names(*places: Path) -> list[str]:
    return [source.name for source in find_sources(places)]


def one(place: Path) -> AdapterSource:
    (source,) = find_sources([place])
    return source


def make_cache(hub: Path, repository: str, revisions: tuple[str, ...], main: str = "") -> Path:
    """A Hugging Face cache entry: blobs, and snapshots of links to them."""
    entry = hub / f"models--{repository.replace('/', '--')}"
    (entry / "blobs").mkdir(parents=True)
    for revision in revisions:
        made = make_adapter(hub / "made")
        snapshot = entry / "snapshots" / revision
        snapshot.mkdir(parents=True)
        for file in sorted(made.iterdir()):
            blob = entry / "blobs" / f"{revision}{file.name}"
            shutil.move(file, blob)
            (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
        made.rmdir()
    if main:
        (entry / "refs").mkdir()
        (entry / "refs" / "main").write_text(main + "\n")
    return entry


def test_a_folder_and_its_files_are_one_adapter(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "mine")
    for place in (folder, folder / WEIGHTS, folder / CONFIG):
        source = one(place)
        assert (source.name, source.kind, source.path, source.user_path) == ("mine", "folder", folder, place)
    assert len(find_sources([folder, folder / WEIGHTS, folder / "."])) == 1


def test_relative_paths_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_adapter(tmp_path / "mine"))
    assert one(Path(".")).name == "mine"


def test_a_run_with_its_checkpoints(tmp_path: Path) -> None:
    run = make_adapter(tmp_path / "run")
    for inner in ("checkpoint-500", "checkpoints/step-3", "checkpoints/best-3", "last"):
        make_adapter(run / inner)
    source = one(run)
    assert (source.kind, source.name) == ("folder", "run")
    checkpoint = one(run / "checkpoint-500")
    assert (checkpoint.kind, checkpoint.name, checkpoint.run) == ("checkpoint", "run/checkpoint-500", run)
    step = one(run / "checkpoints" / "step-3")
    assert (step.kind, step.name, step.run) == ("checkpoint", "run/checkpoints/step-3", run)
    (run / "training.json").write_text('{"format": 1}')
    specimen, findings = examine_files(step)
    assert specimen is not None
    assert specimen.documents == {"training.json": {"format": 1}}
    assert findings == []
    whole, _ = examine_files(source)
    assert whole is not None
    assert sorted(whole.files) == [CONFIG, WEIGHTS, "training.json"]


def test_a_run_that_did_not_publish_shows_its_checkpoints(tmp_path: Path) -> None:
    for step in (1, 2):
        make_adapter(tmp_path / "run" / "checkpoints" / f"step-{step}")
        make_adapter(tmp_path / "other" / f"checkpoint-{step}")
    assert names(tmp_path / "run") == ["checkpoints/step-1", "checkpoints/step-2"]
    assert names(tmp_path / "other") == ["checkpoint-1", "checkpoint-2"]
    assert len(find_sources([tmp_path])) == 4


def test_the_best_of_a_run(tmp_path: Path) -> None:
    make_adapter(tmp_path / "law" / "best")
    source = one(tmp_path / "law")
    assert (source.name, source.path, source.kind) == ("law", tmp_path / "law" / "best", "checkpoint")
    make_adapter(tmp_path / "law" / "another")
    assert names(tmp_path / "law") == ["another", "best"]


def test_folders_of_many_two_levels_deep(tmp_path: Path) -> None:
    for inner in ("a", "b", "group/c", "group/d", ".hidden", "too/deep/for/it"):
        make_adapter(tmp_path / "all" / inner)
    assert names(tmp_path / "all") == ["a", "b", "group/c", "group/d"]


def test_many_adapters_are_not_opened(tmp_path: Path) -> None:
    for number in range(300):
        folder = tmp_path / f"{number:03}"
        folder.mkdir()
        (folder / CONFIG).write_bytes(b"not read")
        os.mkfifo(folder / WEIGHTS)  # opening it would block
    assert len(names(tmp_path)) == 300


def test_names_are_made_unique(tmp_path: Path) -> None:
    places = [make_adapter(tmp_path / part / "same") for part in ("x/1", "y/2", "z/2")]
    assert names(*places) == ["1/same", "2/same (1)", "2/same (2)"]


def test_a_cache_entry_gives_its_main_revision(tmp_path: Path) -> None:
    entry = make_cache(tmp_path / "hub", "org/name", ("aaa", "bbb"), main="aaa")
    source = one(entry)
    assert (source.name, source.kind, source.path.name, source.limit) == ("org/name", "cache", "aaa", entry)
    specimen, findings = examine_files(source)
    assert findings == []
    assert specimen is not None
    assert specimen.header is not None
    assert one(entry / "snapshots" / "bbb").kind == "cache"
    assert one(entry / "snapshots" / "bbb").name == one(entry).name == "/".join(entry.name.split("--")[1:])
    assert names(tmp_path / "hub") == ["org/name"]


def test_a_cache_entry_without_refs_gives_its_newest_snapshot(tmp_path: Path) -> None:
    entry = make_cache(tmp_path, "org/name", ("aaa", "bbb"))
    os.utime(entry / "snapshots" / "bbb", (1, 1))
    assert one(entry).path.name == "aaa"


def test_a_name_of_the_hub_points_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache(tmp_path, "org/name", ("aaa",))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AdapterError, match=r"did you mean .*models--org--name"):
        find_sources([Path("org/name")])


def test_single_files(tmp_path: Path) -> None:
    file = make_adapter(tmp_path / "a") / WEIGHTS
    alone = tmp_path / "alone.safetensors"
    shutil.copy(file, alone)
    source = one(alone)
    assert (source.kind, source.name) == ("file", "alone.safetensors")
    specimen, findings = examine_files(source)
    assert specimen is not None
    assert specimen.header is not None
    assert [each.code for each in findings] == ["L002"]


def refused(place: Path) -> str:
    with pytest.raises(AdapterError) as caught:
        find_sources([place])
    return str(caught.value)


def test_what_is_no_adapter_is_named(tmp_path: Path) -> None:
    make_adapter(tmp_path / "adapter")
    assert f"did you mean {tmp_path / 'adapter'}?" in refused(tmp_path / "adaptor")
    assert "correct the path" in refused(tmp_path / "adapter" / "x\0y")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refused(tmp_path / "empty")
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (base / name).write_bytes(b"")
        assert "is a base model" in refused(base)
    (tmp_path / "notes.txt").write_text("x")
    assert "is no adapter" in refused(tmp_path / "notes.txt")
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe" in refused(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    assert "cannot be read" in refused(tmp_path / "circle")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "x.txt").write_text("x")
    assert "holds no adapter" in refused(tmp_path / "texts")
    assert names(tmp_path) == ["adapter"]  # the base model beside it is passed over


def passed(*places: Path) -> list[str]:
    """What was not looked at, below the first place."""
    return sorted(str(each.relative_to(places[0])) for each in search_sources(places)[1])


def test_adapters_three_levels_down_are_found(tmp_path: Path) -> None:
    for inner in ("a/b/c", "x/y/z", "x/run/checkpoints/step-1", "x/y/run/checkpoint-1"):
        make_adapter(tmp_path / inner)
    assert names(tmp_path) == ["a/b/c", "x/run/checkpoints/step-1", "x/y/z"]
    assert passed(tmp_path) == ["x/y/run"]
    assert names(tmp_path / "x" / "y") == ["run/checkpoint-1", "z"]


def test_what_lies_deeper_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_adapter(tmp_path / "near")
    make_adapter(tmp_path / "far" / "1" / "2" / "3" / "4")
    make_adapter(tmp_path / "near" / "checkpoint-5")
    assert names(tmp_path) == ["near"]
    assert passed(tmp_path) == ["far/1/2", "near/checkpoint-5"]
    check.run([str(tmp_path)])
    assert f"Not looked at: {tmp_path / 'far/1/2'}, {tmp_path / 'near' / 'checkpoint-5'};" in capsys.readouterr().out
    check.run([str(tmp_path), "--json"])
    assert len(json.loads(capsys.readouterr().out)["not_looked_at"]) == 2
    assert passed(tmp_path, tmp_path / "near" / "checkpoint-5") == ["far/1/2"]
    shutil.rmtree(tmp_path / "near")
    assert str(tmp_path / "far/1/2") in refused(tmp_path)
    assert names(tmp_path / "far/1/2") == ["3/4"]


def test_adapters_within_an_adapters_folder_are_said(tmp_path: Path) -> None:
    make_adapter(tmp_path / "repo")
    for inner in ("other", "checkpoints/step-2", "last"):
        make_adapter(tmp_path / "repo" / inner)
    (tmp_path / "repo" / "logs").mkdir()
    assert names(tmp_path / "repo") == ["repo"]
    assert passed(tmp_path / "repo") == ["checkpoints/step-2", "last", "other"]


@pytest.mark.parametrize("beside", [(), ("training_args.bin", "optimizer.pt", "README.md")])
@pytest.mark.parametrize("own_config", [True, False])
def test_a_parent_with_a_config_whose_weights_lie_below(
    beside: tuple[str, ...], own_config: bool, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for inner in ("best", "checkpoint-10", "checkpoint-20"):
        make_adapter(run / inner)
        if not own_config:
            (run / inner / CONFIG).unlink()
    shutil.copy(make_adapter(tmp_path / "made") / CONFIG, run / CONFIG)
    for name in beside:
        (run / name).write_bytes(b"x")
    source = one(run)
    assert (source.name, source.path) == ("run", run / "best")
    assert passed(run) == ["checkpoint-10", "checkpoint-20"]
    specimen, findings = examine_files(source)
    assert specimen is not None
    assert [each.code for each in findings] == ([] if own_config else ["L002"])
    if not own_config:  # what the advice says leads on
        assert str(run / CONFIG) in findings[0].fix
        shutil.copy(run / CONFIG, run / "best" / CONFIG)
        assert examine_files(one(run))[1] == []
    shutil.rmtree(run / "best")
    assert names(run) == ["checkpoint-10", "checkpoint-20"]
    assert names(tmp_path) == ["made", "run/checkpoint-10", "run/checkpoint-20"]


def test_a_parent_with_a_config_two_levels_above_the_weights(tmp_path: Path) -> None:
    make_adapter(tmp_path / "run" / "final" / "adapter")
    shutil.copy(tmp_path / "run" / "final" / "adapter" / CONFIG, tmp_path / "run" / CONFIG)
    assert names(tmp_path / "run") == ["final/adapter"]
    assert names(tmp_path) == ["run/final/adapter"]


def test_a_config_without_weights_anywhere_stays_one_adapter(tmp_path: Path) -> None:
    shutil.copy(make_adapter(tmp_path / "made") / CONFIG, tmp_path / CONFIG)
    shutil.rmtree(tmp_path / "made")
    (tmp_path / "checkpoint-1").mkdir()
    assert [each.code for each in examine_files(one(tmp_path))[1]] == ["L003"]


def test_a_tree_of_loops_ends(tmp_path: Path) -> None:
    """Links that lead round in circles, and chains of configs without weights."""
    make_adapter(tmp_path / "real")
    for number in range(30):
        (tmp_path / f"loop{number:02}").symlink_to(tmp_path)
        (tmp_path / f"self{number:02}").symlink_to(f"self{number:02}")
    assert names(tmp_path) == ["real"]
    inner = tmp_path / "deep"
    for _ in range(100):
        inner = inner / "checkpoints"
        inner.mkdir(parents=True)
        (inner / CONFIG).write_bytes(b"{}")
    assert len(search_sources([tmp_path / "deep"])[0]) <= 1


def test_so_many_folders_are_listed_and_the_others_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        make_adapter(tmp_path / f"{number:02}" / "inner")
    assert len(names(tmp_path)) == 40
    monkeypatch.setattr("lorica.vetting.files.sources.MAX_FOLDERS", 60)
    found, left = search_sources([tmp_path])
    assert 10 < len(found) < 40
    assert len(found) + len(left) == 40
