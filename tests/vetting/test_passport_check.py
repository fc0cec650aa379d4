"""check_passport and check_canaries: what differs from the passport is named, and nothing healthy is accused."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from safetensors.numpy import load_file, save_file
from tests.passports import BASE, Deaf, give_passport, make_adapter

from lorica.adapters.raw_adapter import RawAdapter
from lorica.engines import load_engine
from lorica.engines.base import Engine, EngineSettings
from lorica.errors import EngineError
from lorica.models.base_folder import BaseFolder
from lorica.prompts.encoder import Encoder
from lorica.vetting.base_checks import BaseChecker
from lorica.vetting.canary_findings import check_canaries
from lorica.vetting.files.check_files import examine_files
from lorica.vetting.files.sources import find_sources
from lorica.vetting.findings import Finding
from lorica.vetting.levels import examine
from lorica.vetting.measure.model_session import ModelSession, SessionSettings
from lorica.vetting.passport_check import check_passport


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine("native", BaseFolder(BASE), EngineSettings(dtype="float32", device="cpu", threads=1))


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Path:
    folder = make_adapter(tmp_path_factory.mktemp("signed") / "rules")
    give_passport(folder, engine)
    return folder


@pytest.fixture
def copy(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "rules"))


def _specimen(folder: Path) -> RawAdapter:
    (source,) = find_sources([folder])
    specimen, _ = examine_files(source)
    assert specimen is not None
    return specimen


def _check(folder: Path, base: Path | None = None) -> dict[str, Finding]:
    found = check_passport(_specimen(folder), base)
    assert len({each.code for each in found}) == len(found)
    return {each.code: each for each in found}


def _alter_passport(folder: Path, place: str, value: Any) -> None:
    path = folder / "lorica.json"
    values = json.loads(path.read_text("utf-8"))
    *parents, last = place.split(".")
    inner = values
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    path.write_text(json.dumps(values), "utf-8")


def _alter_config(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_nothing_is_said_of_a_healthy_one(signed: Path, engine: Engine) -> None:
    assert not _check(signed)
    assert not _check(signed, BASE)
    (found,) = check_canaries(_specimen(signed), engine)
    assert (found.code, found.severity, found.facts["reading"]) == ("L374", "note", "reproduced")


def test_no_passport_is_a_note(tmp_path: Path, engine: Engine) -> None:
    folder = make_adapter(tmp_path / "bare")
    found = _check(folder, BASE)
    assert set(found) == {"L340"}
    assert found["L340"].severity == "note"
    assert not check_canaries(_specimen(folder), engine)


@pytest.mark.parametrize("raw", ["{", "[]", "{}", '{"format": 7}', '{"format": 1, "adapter": 3}'])
def test_a_broken_passport_is_a_warning(copy: Path, engine: Engine, raw: str) -> None:
    (copy / "lorica.json").write_text(raw)
    assert _check(copy, BASE)["L341"].severity == "warn"
    assert not check_canaries(_specimen(copy), engine)


def test_a_config_that_was_written_anew_and_means_the_same_is_a_note(copy: Path) -> None:
    _alter_config(copy, {"target_modules": ["v_proj", "q_proj"], "peft_version": "0.21.2", "layers_pattern": None})
    found = _check(copy, BASE)
    assert set(found) == {"L344"}
    assert found["L344"].severity == "note"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lora_alpha": 4}, "lora_alpha 8 -> 4"),
        ({"use_rslora": True}, "use_rslora (none) -> true"),
        ({"target_modules": ["q_proj"]}, 'target_modules ["q_proj", "v_proj"] -> ["q_proj"]'),
        ({"alpha_pattern": {"q_proj": 2}}, 'alpha_pattern (none) -> {"q_proj": 2}'),
        ({"layers_to_transform": [0]}, "layers_to_transform (none) -> [0]"),
        ({"use_dora": True}, "use_dora (none) -> true"),
    ],
)
def test_a_config_that_was_changed_is_rejected_and_named(copy: Path, changes: dict[str, Any], says: str) -> None:
    _alter_config(copy, changes)
    found = _check(copy)["L342"]
    assert found.severity == "reject"
    assert says in found.seen
    assert set(found.facts["changed"]) == set(changes)
    assert found.facts.get("scale_factor") == (0.5 if "lora_alpha" in changes else None)


def test_another_base_name_is_a_warning(copy: Path) -> None:
    _alter_config(copy, {"base_model_name_or_path": "Qwen/Qwen2.5-1.5B"})
    found = _check(copy)
    assert set(found) == {"L350"}
    assert "Qwen/Qwen2.5-1.5B" in found["L350"].seen


def test_weights_that_were_changed_are_rejected_and_those_saved_anew_are_not(copy: Path) -> None:
    weights = copy / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file(dict(reversed(tensors.items())), weights, metadata={"by": "another tool"})
    assert set(_check(copy)) == {"L344"}
    first = next(iter(tensors))
    tensors[first] = tensors[first] * np.float32(1.001)
    save_file(tensors, weights)
    assert _check(copy)["L343"].severity == "reject"


def test_a_passport_that_contradicts_itself_is_a_warning(copy: Path) -> None:
    _alter_passport(copy, "adapter.parameters", 17)
    assert "17 parameters" in _check(copy)["L348"].seen


def test_a_passport_that_proves_little_is_a_warning(copy: Path) -> None:
    canaries = json.loads((copy / "lorica.json").read_text("utf-8"))["canaries"]
    _alter_passport(copy, "canaries.items", canaries["items"][:3])
    assert "3 canaries" in _check(copy)["L349"].seen
    for item in canaries["items"]:
        for choice in item["choices"]:
            choice["adapter"] = choice["base"]
    _alter_passport(copy, "canaries.items", canaries["items"])
    assert "say the same" in _check(copy)["L349"].seen


def _edited_base(place: Path, name: str, change: Any) -> Path:
    shutil.copytree(BASE, place)
    path = place / name
    path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), "utf-8")
    return place


def test_the_base_is_compared_part_by_part(copy: Path, tmp_path: Path) -> None:
    config = _edited_base(tmp_path / "config", "config.json", lambda values: {**values, "note": 1})
    found = _check(copy, config)
    assert set(found) == {"L345"}
    assert found["L345"].severity == "warn"
    assert found["L345"].facts["equal_shape"]
    assert not found["L345"].facts["weights_differ"]
    shape = _edited_base(tmp_path / "shape", "config.json", lambda values: {**values, "hidden_size": 512})
    assert _check(copy, shape)["L345"].severity == "reject"
    assert "hidden_size 512 instead of 256" in _check(copy, shape)["L345"].seen
    weights = Path(shutil.copytree(BASE, tmp_path / "weights"))
    raw = bytearray((weights / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (weights / "model.safetensors").write_bytes(raw)
    assert _check(copy, weights)["L345"].facts["weights_differ"]


def test_tokenizer_and_template_are_compared(copy: Path, tmp_path: Path) -> None:
    template = Path(shutil.copytree(BASE, tmp_path / "template"))
    with (template / "chat_template.jinja").open("a") as file:
        file.write("{# another one #}")
    assert set(_check(copy, template)) == {"L347"}
    # One that is refused says nothing of the tokenizer.
    refused = Path(shutil.copytree(BASE, tmp_path / "refused"))
    with (refused / "chat_template.jinja").open("a") as file:
        file.write("{% if add_generation_prompt %}Sure: {% endif %}")
    found = _check(copy, refused)
    assert set(found) == {"L347"}
    assert found["L347"].seen.startswith("the chat template of")
    tokens = {"content": "<extra>", "special": True, "id": 6143, "single_word": False, "lstrip": False}

    def add(values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "added_tokens": [*values["added_tokens"], {**tokens, "rstrip": False, "normalized": False}]}

    assert "L346" in _check(copy, _edited_base(tmp_path / "tokens", "tokenizer.json", add))


def test_the_older_record_is_checked_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "old")
    config = json.loads((folder / "adapter_config.json").read_text())
    encoder = Encoder.load(BASE)
    manifest = {f"lora.{key}": json.dumps(value) for key, value in config.items()}
    manifest |= {"digest.base": BaseFolder(BASE).digest, "digest.tokenizer": encoder.tokenizer_digest}
    record = {"format": 1, "status": "finished", "manifest": manifest, "result": None}
    (folder / "training.json").write_text(json.dumps(record))
    assert set(_check(folder, BASE)) == {"L340"}
    _alter_config(folder, {"lora_alpha": 80})
    assert "since the training: lora_alpha 8 -> 80" in _check(folder)["L342"].seen
    _alter_config(folder, {"lora_alpha": 8})
    record["manifest"] = {**manifest, "digest.base": "sha256:other", "digest.tokenizer": "sha256:other"}
    (folder / "training.json").write_text(json.dumps(record))
    assert set(_check(folder, BASE)) == {"L340", "L345", "L346"}
    record["manifest"] = {"lora.r": "{", "digest.base": 3}
    (folder / "training.json").write_text(json.dumps(record))
    assert set(_check(folder, BASE)) == {"L340"}


def test_canaries_speak_for_the_right_cause(copy: Path, engine: Engine) -> None:
    (found,) = check_canaries(_specimen(copy), Deaf(engine), "deaf")
    assert (found.code, found.severity) == ("L370", "reject")
    _alter_config(copy, {"lora_alpha": 40})
    (found,) = check_canaries(_specimen(copy), engine, "altered")
    assert (found.code, found.severity) == ("L372", "reject")
    assert found.facts["effect"] > 1.3  # an update five times as strong saturates
    (copy / "adapter_model.safetensors").write_bytes(b"short")
    (found,) = check_canaries(_specimen(copy), engine, "short")
    assert (found.code, found.severity) == ("L376", "warn")


@pytest.mark.parametrize("error", [IndexError("a mistake of ours"), EngineError("no memory")])
def test_no_error_leaves_the_canaries_adapter_in_the_engine(
    copy: Path, engine: Engine, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("lorica.vetting.canary_findings.run_canaries", fails)
    monkeypatch.setattr("lorica.vetting.base_checks.check_behaviour", lambda *_, **__: (None, []))
    (source,) = find_sources([copy])
    checker = BaseChecker(SessionSettings(BASE), None)
    checker.__dict__["_session"] = ModelSession(SessionSettings(BASE), engine)
    with suppress(IndexError):
        checker.run(examine(source))
    with pytest.raises(EngineError, match="canaries of rules"):
        engine.remove_adapter("canaries of rules")
