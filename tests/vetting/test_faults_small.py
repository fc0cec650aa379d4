"""The fault bench in small: faults of files on a random adapter, each caught and named; PEFT silent beside some."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tools.fault_kinds import bases, behaviour, field_base, field_files, field_numbers, files, healthy, structure
from tools.fault_kinds.bundle import Bundle, encode, read_bundle, write_tensors
from tools.fault_kinds.case import Case, Kind, Site
from tools.fault_kinds.truths import causes_of
from tools.fault_run.tables import Entry, fault_table, last_line, reliability_lines

from lorica.vetting.findings import causes

KINDS: tuple[Kind, ...] = (
    *files.KINDS,
    *structure.KINDS,
    *bases.KINDS,
    *behaviour.KINDS,
    *field_files.KINDS,
    *field_numbers.KINDS,
    *field_base.KINDS,
)
SMALL = (
    "empty", "truncated", "header-twice", "overlap", "lfs-weights", "pickle", "half-pairs", "layer-missing",
    "wrapper-prefix", "adapter-in-names", "nan", "zero-b", "constant", "rank-changed",
)  # fmt: skip


class _TinySite(Site):
    """A site whose healthy adapter is random, so that no zoo is needed."""

    def start(self, *, targets: int = 1, bases: tuple[str, ...] = ()) -> tuple[Bundle, Path]:
        numbers = np.random.default_rng(self.seed)
        tensors = {}
        for layer in range(4):
            for target in ("q_proj", "v_proj"):
                path = f"base_model.model.model.layers.{layer}.self_attn.{target}"
                out = 128 if target == "q_proj" else 64
                tensors[f"{path}.lora_A.weight"] = numbers.uniform(-0.09, 0.09, (8, 128)).astype(np.float32)
                tensors[f"{path}.lora_B.weight"] = numbers.normal(0, 0.02, (out, 8)).astype(np.float32)
        config = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "r": 8,
            "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0, "bias": "none",
            "use_rslora": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None,
            "layers_to_transform": None, "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
        }  # fmt: skip
        return Bundle(config, tensors), self.place / "no-base"


def _judged(kind: Kind, case: Case) -> Entry:
    pytest.importorskip("torch")
    from tools.fault_run.judge import Judge

    judge = Judge.__new__(Judge)  # files alone: no rows, no base
    causes = causes_of(kind, case)
    found = {"check": judge._check(kind, case, causes), "diagnosis": judge._diagnose(kind, case)}
    return found | {"causes": sorted(causes), "kind": kind.name, "level": kind.level, "unseen": kind.unseen, "seed": 0}


@pytest.mark.parametrize("name", SMALL)
def test_a_fault_of_files_is_caught_and_named(name: str, tmp_path: Path) -> None:
    kind = next(one for one in KINDS if one.name == name)
    entry = _judged(kind, kind.build(_TinySite(3, tmp_path)))
    assert entry["check"]["caught"] in ("rejected", "warned"), entry["check"]
    assert set(entry["causes"]) & set(entry["diagnosis"]["causes"][:3]), entry["diagnosis"]


def test_the_healthy_adapter_is_not_rejected(tmp_path: Path) -> None:
    site = _TinySite(0, tmp_path)
    bundle, base = site.start()
    sound = Kind("sound", "files", "nothing", lambda _: Case(tmp_path, base), causes=frozenset({"healthy"}))
    entry = _judged(sound, Case(bundle.save(tmp_path / "adapter"), base))
    assert entry["check"]["status"] != "rejected", entry["check"]


def test_there_are_enough_kinds_and_their_causes_exist() -> None:
    names = [kind.name for kind in (*KINDS, *healthy.KINDS)]
    assert len(set(names)) == len(names)
    assert len(KINDS) >= 45
    assert sum(kind.unseen for kind in KINDS) >= 10
    assert len(healthy.KINDS) >= 40
    for kind in (*KINDS, *healthy.KINDS):
        assert kind.causes or kind.unseen
        assert kind.causes <= set(causes())


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path) -> None:
    bundle, _ = _TinySite(1, tmp_path).start()
    again = read_bundle(bundle.save(tmp_path / "adapter"))
    assert again.config == bundle.config
    assert all((again.tensors[name] == array).all() for name, array in bundle.tensors.items())


def test_bfloat16_bytes_are_torchs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    array = np.array([[1.0, -0.3333, 3e-39, 65504.0, 1.00390625, 1.01171875]], np.float32)
    write_tensors(tmp_path / "one.safetensors", {"a": encode(array, "BF16")})
    expected = torch.from_numpy(array).to(torch.bfloat16)
    assert torch.equal(load_file(tmp_path / "one.safetensors")["a"], expected)


def test_the_last_line_counts() -> None:
    entry: Entry = {
        "kind": "a", "seed": 0, "level": "files", "unseen": True, "causes": ["unreadable"],
        "check": {"caught": "rejected"}, "diagnosis": {"causes": ["incomplete", "unreadable"]},
        "peft": {"from_pretrained": "silent", "load_adapter": "error"},
    }  # fmt: skip
    missed = entry | {"seed": 1, "check": {"caught": "missed"}, "diagnosis": {"causes": ["unreadable"]}}
    figures = dict(part.split("=") for part in last_line([entry, missed], []).split())
    assert figures["recall_files"] == "0.5000"
    assert (figures["top1"], figures["top3"], figures["peft_silent"]) == ("0.5000", "1.0000", "2")
    assert "a " in fault_table([entry, missed])
    assert json.dumps(entry)


def test_the_words_of_the_diagnosis_are_counted_by_halves_of_the_kinds() -> None:
    def entry(kind: str, certainty: str, cause: str) -> Entry:
        return {"kind": kind, "causes": ["altered"], "diagnosis": {"causes": [cause], "certainties": [certainty]}}

    faults = [entry("a", "settled", "altered"), entry("a", "settled", "healthy"), entry("b", "likely", "altered")]
    lines = [" ".join(line.split()) for line in reliability_lines(faults)]
    assert "first half of the kinds settled cases 2 right 1 0.500" in lines
    assert "second half likely cases 1 right 1 1.000" in lines
    assert "all kinds settled cases 2 right 1 0.500" in lines
