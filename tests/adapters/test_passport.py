"""The passport as a file: what is written is read back, equal input gives equal bytes, nothing broken is believed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.passports import make_adapter

from lorica.adapters import passport as room
from lorica.adapters.effective_settings import plain_name
from lorica.adapters.folder import open_adapter
from lorica.adapters.passport import (
    PASSPORT_NAME,
    SCHEMA,
    BaseFacts,
    Canary,
    CanaryChoice,
    CanaryFacts,
    CanaryMessage,
    MetricsFacts,
    Passport,
    PromptFacts,
    Tolerance,
    document_schema,
    passport_bytes,
    read_passport,
    write_passport,
)
from lorica.adapters.passport_facts import adapter_facts, changed_settings, content_digest, file_changes
from lorica.errors import AdapterError

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapters") / "one")


def _passport(adapter: Path, *, value: float = -0.25) -> Passport:
    choices = (
        CanaryChoice(text="Yes", tokens=(3,), base=-1.5, adapter=value),
        CanaryChoice(text="No [\n 1, 2]", tokens=(4, 5), base=-2.0, adapter=-7.125e-05),
    )
    items = tuple(
        Canary(
            id=f"probe-{number}",
            prompt=(1, 2, number),
            choices=choices,
            messages=(CanaryMessage(role="user", content="ü [\n1,\n2]"),),
        )
        for number in range(8)
    )
    return Passport(
        format=1,
        made_by="lorica test",
        adapter=adapter_facts(open_adapter(adapter)),
        base=BaseFacts(name="base", config=DIGEST, weights=DIGEST, digest=DIGEST, shape={"hidden_size": 256}),
        prompt=PromptFacts(tokenizer=DIGEST, template=DIGEST),
        canaries=CanaryFacts(
            engine="native",
            dtype="float32",
            device="cpu",
            kind="probes",
            gap=2.0,
            tolerance={"float32": Tolerance(absolute=1e-3, relative=1e-4)},
            items=items,
        ),
        metrics=MetricsFacts(on="none", note="a test"),
    )


def test_what_is_written_is_read_back(adapter: Path) -> None:
    passport = _passport(adapter)
    path = write_passport(adapter, passport)
    assert path == adapter / PASSPORT_NAME
    assert read_passport(adapter) == passport
    assert passport_bytes(passport) == path.read_bytes() == passport_bytes(read_passport(adapter) or passport)
    assert not [each for each in adapter.iterdir() if each.name.endswith(".tmp")]


def test_the_bytes_are_canonical_json_with_numbers_on_one_line(adapter: Path) -> None:
    raw = passport_bytes(_passport(adapter)).decode("utf-8")
    values = json.loads(raw)
    assert list(values) == sorted(values)
    assert '"prompt": [1, 2, 0]' in raw
    assert values["canaries"]["items"][0]["messages"][0]["content"] == "ü [\n1,\n2]"
    assert values["canaries"]["items"][0]["choices"][1]["text"] == "No [\n 1, 2]"


def test_a_figure_that_is_not_finite_is_never_written(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="not finite"):
        write_passport(tmp_path, _passport(adapter, value=float("-inf")))
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_passport(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_passport(tmp_path, _passport(adapter))
    before = (tmp_path / PASSPORT_NAME).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lorica.adapters.passport.os.fsync", full)
    with pytest.raises(AdapterError, match="cannot be written"):
        write_passport(tmp_path, _passport(adapter, value=-0.5))
    assert [each.name for each in tmp_path.iterdir()] == [PASSPORT_NAME]
    assert (tmp_path / PASSPORT_NAME).read_bytes() == before


def _change(values: Any, place: str, value: Any) -> None:
    *parents, last = place.split(".")
    for parent in parents:
        values = values[int(parent)] if isinstance(values, list) else values[parent]
    values[last] = value


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("format", 2, "format 2"),
        ("format", "1", "format"),
        ("adapter.config", "sha256:short", "adapter.config"),
        ("adapter.parameters", -1, "parameters"),
        ("adapter.settings", [], "settings"),
        ("canaries.items", None, "items"),
        ("canaries.items.0.prompt", [], "prompt"),
        ("canaries.items.0.prompt", [1.5], "prompt"),
        ("canaries.items.0.prompt", [True], "prompt"),
        ("canaries.items.0.choices", [], "choices"),
        ("canaries.items.0.id", "probe-1", "one id"),
        ("canaries.tolerance", {"float32": {"absolute": -1, "relative": 0}}, "tolerance"),
        ("canaries.kind", "x\u0007" * 400, "enum value"),
        ("metrics.on", "somewhere", "metrics.on"),
        ("base.shape", {"hidden_size": "wide"}, "shape"),
    ],
)
def test_a_broken_passport_is_refused_naming_the_place(adapter: Path, place: str, value: Any, says: str) -> None:
    values = json.loads(passport_bytes(_passport(adapter)))
    _change(values, place, value)
    with pytest.raises(AdapterError, match=re.escape(says)) as caught:
        room.to_passport(values)
    assert len(caught.value.message) < 400
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"format": NaN}',
        b'{"format": 1, "format": 1}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff\xfe",
        b"version https://git-lfs.github.com/spec/v1\n",
        b'{"format": ' + b"9" * 6000 + b"}",
        b" " * (room.MAX_PASSPORT_BYTES + 1),
    ],
    ids=lambda raw: repr(raw[:14]),
)
def test_what_is_no_passport_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / PASSPORT_NAME).write_bytes(raw)
    with pytest.raises(AdapterError, match=re.escape(PASSPORT_NAME)):
        read_passport(tmp_path)


def test_no_passport_is_none_and_keys_of_later_versions_are_ignored(adapter: Path, tmp_path: Path) -> None:
    assert read_passport(tmp_path) is None
    passport = _passport(adapter)
    values = json.loads(passport_bytes(passport))
    values["signature"] = {"by": "a later version"}
    values["adapter"]["more"] = 1
    (tmp_path / PASSPORT_NAME).write_text(json.dumps(values), "utf-8")
    assert read_passport(tmp_path) == passport


def test_the_shipped_schema_is_what_the_types_say() -> None:
    assert SCHEMA.read_bytes() == document_schema(), (
        "run: python -c 'from lorica.adapters.passport import *; SCHEMA.write_bytes(document_schema())'"
    )


def test_the_schema_accepts_what_is_written_and_refuses_what_is_broken(adapter: Path) -> None:
    schema = json.loads(SCHEMA.read_bytes())
    values = json.loads(passport_bytes(_passport(adapter)))
    assert not list(_problems(schema, schema, values))
    _change(values, "canaries.items.0.choices.0.tokens", [])
    assert list(_problems(schema, schema, values))


def _problems(root: dict[str, Any], schema: dict[str, Any], value: Any) -> Any:
    """A validator of the keywords that the schema uses; it fails on any other."""
    if "$ref" in schema:
        yield from _problems(root, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], value)
        return
    known = {"type", "properties", "required", "items", "additionalProperties", "anyOf", "enum", "pattern"}
    known |= {"minimum", "maximum", "minItems", "description", "title", "default", "$schema", "$defs"}
    assert set(schema) <= known
    if "anyOf" in schema and all(list(_problems(root, one, value)) for one in schema["anyOf"]):
        yield "anyOf"
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "null": type(None)}
    kinds["number"] = (int, float)
    if "type" in schema and (not isinstance(value, kinds[schema["type"]]) or isinstance(value, bool)):
        yield schema["type"]
        return
    if "enum" in schema and value not in schema["enum"]:
        yield "enum"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield "pattern"
    if ("minimum" in schema and value < schema["minimum"]) or ("maximum" in schema and value > schema["maximum"]):
        yield "range"
    if len(value) < schema["minItems"] if "minItems" in schema else False:
        yield "minItems"
    for name in schema.get("required", ()):
        if name not in value:
            yield name
    for name, one in schema.get("properties", {}).items():
        if name in value:
            yield from _problems(root, one, value[name])
    for each in value if "items" in schema else ():
        yield from _problems(root, schema["items"], each)
    for each in value.values() if isinstance(schema.get("additionalProperties"), dict) else ():
        yield from _problems(root, schema["additionalProperties"], each)


def test_the_content_digest_is_of_the_tensors_and_not_of_the_file(adapter: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(adapter / "adapter_model.safetensors")
    again = tmp_path / "again.safetensors"
    save_file(dict(reversed(tensors.items())), again, metadata={"format": "np", "by": "another tool"})
    assert again.read_bytes() != (adapter / "adapter_model.safetensors").read_bytes()
    assert content_digest(again) == content_digest(adapter / "adapter_model.safetensors")
    name = next(iter(tensors))
    tensors[name] = np.nextafter(tensors[name], np.float32(1))
    save_file(tensors, again)
    assert content_digest(again) != content_digest(adapter / "adapter_model.safetensors")


def test_changes_are_named_with_both_values(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    facts = adapter_facts(open_adapter(folder))
    assert (facts.ranks, facts.scalings, facts.tensors, facts.modules) == ((4,), (2.0,), 24, 12)
    config = json.loads((folder / "adapter_config.json").read_text())
    # As PEFT writes it again: more keys, another order of the targets, nulls.
    same = {**config, "target_modules": ["v_proj", "q_proj"], "layers_pattern": None, "fan_in_fan_out": False}
    (folder / "adapter_config.json").write_text(json.dumps(same))
    assert not changed_settings(facts.settings, same)
    assert not file_changes(facts, open_adapter(folder))
    other = {**same, "lora_alpha": 16, "use_rslora": True}
    (folder / "adapter_config.json").write_text(json.dumps(other))
    (text,) = file_changes(facts, open_adapter(folder))
    assert "lora_alpha 8 -> 16" in text
    assert "use_rslora (none) -> true" in text
    make_adapter(folder, seed=1)
    assert [each for each in file_changes(facts, open_adapter(folder)) if "other weights" in each]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("embedded:lorica_tiny", "embedded:lorica_tiny"),
        ("/home/someone/models/qwen/", "qwen"),
        ("./models/qwen", "qwen"),
        ("~/qwen", "qwen"),
        ("C:\\models\\qwen", "qwen"),
    ],
)
def test_a_path_of_the_machine_is_no_name(given: str, kept: str) -> None:
    assert plain_name(given) == kept


def test_reading_one_loads_nothing_heavy() -> None:
    code = "import sys, lorica.adapters.passport, lorica.adapters.passport_facts, lorica.vetting.passport_check as p; "
    code += "print(' '.join(sys.modules))"
    root = Path(__file__).resolve().parents[2] / "src"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"torch", "transformers", "tokenizers", "hydra"}


def test_structs_are_frozen(adapter: Path) -> None:
    with pytest.raises(AttributeError):
        _passport(adapter).made_by = "someone else"  # type: ignore[misc]
    assert msgspec.structs.asdict(_passport(adapter))["format"] == 1
