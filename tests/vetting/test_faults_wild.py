"""The wild kinds of the fault bench: each builds for five seeds, and what it builds differs from the sound adapter."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.vetting.test_faults_small import _TinySite
from tools.fault_kinds import wild_files, wild_numbers
from tools.fault_kinds.all_kinds import KINDS, WILD
from tools.fault_kinds.bundle import read_bundle
from tools.fault_kinds.case import BASES, Case, Kind, Site
from tools.fault_kinds.trained import FAULTY
from tools.fault_kinds.truths import causes_of

from lorica.vetting.findings import causes
from tools import zoo

SEEDS = range(5)
RUNS = ("wild-rows-cut", "wild-numbers-for-words", "wild-diverged")  # from plans of the same names
TRAINED = (*RUNS, "wild-averaged-factors", "wild-summed-rslora")  # from plans of healthy variants
WITH_ZOO = [kind for kind in WILD if kind.level != "files" and kind.name not in TRAINED]


def _digest(folder: Path) -> str:
    """Of every file's name and bytes, the bench's own card apart."""
    whole = hashlib.sha256()
    for path in sorted(one for one in folder.rglob("*") if one.is_file() and one.name != "zoo.json"):
        whole.update(path.name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def _sound(site: Site) -> str:
    bundle, _ = site.start()
    return _digest(bundle.save(site.place / "sound"))


@pytest.mark.parametrize("kind", wild_files.KINDS, ids=lambda one: one.name)
def test_a_kind_of_files_builds_and_differs(kind: Kind, tmp_path: Path) -> None:
    for seed in SEEDS:
        site = _TinySite(seed, tmp_path / str(seed))
        case = kind.build(site)
        assert _digest(case.path) != _sound(site)


@pytest.mark.parametrize("kind", wild_files.KINDS, ids=lambda one: one.name)
def test_a_seed_builds_the_same_twice(kind: Kind, tmp_path: Path) -> None:
    first, again = (kind.build(_TinySite(3, tmp_path / name)) for name in ("first", "again"))
    assert _digest(first.path) == _digest(again.path)


@pytest.mark.parametrize("kind", WITH_ZOO, ids=lambda one: one.name)
def test_a_kind_with_a_base_builds_and_differs(kind: Kind, tmp_path: Path) -> None:
    known = {one.base for one in zoo.adapters()}
    if not set(BASES) <= known:
        pytest.skip("needs the zoo: python -m tools.zoo")
    for seed in SEEDS:
        site = Site(seed, tmp_path / str(seed))
        case: Case = kind.build(site)
        assert site.used is not None
        sound = read_bundle(site.used.folder).save(tmp_path / f"sound-{seed}")
        own_base = _digest(case.base) == _digest(site.base(site.used.base))
        assert not own_base or _digest(case.path) != _digest(sound)


@pytest.mark.parametrize("name", ["wild-averaged-factors", "wild-summed-rslora"])
def test_folds_are_merged_to_one_adapter(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = next(one for one in WILD if one.name == name)
    folders = []
    for seed in range(3):
        bundle, _ = _TinySite(seed, tmp_path).start()
        folders.append(bundle.save(tmp_path / f"fold-{seed}"))
    bundles = [read_bundle(folder) for folder in folders]
    monkeypatch.setattr(wild_numbers, "_folds", lambda site: (bundles, tmp_path))
    merged = read_bundle(kind.build(Site(0, tmp_path / "case")).path)
    rank = 8 if name == "wild-averaged-factors" else 24
    assert merged.config["r"] == rank
    assert {merged.tensors[one].shape[0] for one in merged.names("lora_A")} == {rank}
    assert _digest(tmp_path / "case" / "adapter") != _digest(folders[0])


def test_every_run_gone_wrong_has_its_plan() -> None:
    assert {name.removeprefix("wild-") for name in RUNS} <= {plan.name for plan in FAULTY}


def test_the_wild_kinds_are_unseen_and_have_their_causes() -> None:
    assert set(WILD) <= set(KINDS)
    levels = [kind.level for kind in WILD]
    assert levels.count("files") >= 8
    assert levels.count("base") >= 6
    assert levels.count("behaviour") >= 10
    for kind in WILD:
        assert kind.name.startswith("wild-")
        assert kind.unseen
        assert not kind.healthy
        assert kind.causes
        assert kind.causes <= set(causes())
        assert causes_of(kind, Case(Path(), Path())) == kind.causes
