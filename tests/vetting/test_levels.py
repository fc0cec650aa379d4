"""The line of levels on files: what one adapter does must not stop the others."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from lorica.adapters.config import AdapterConfig
from lorica.vetting import levels
from lorica.vetting.batch import examine_all
from lorica.vetting.files.sources import AdapterSource, find_sources

from .numbers_fixtures import healthy, write

QV = AdapterConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])


def test_a_mistake_of_ours_leaves_one_adapter_unchecked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(source: AdapterSource) -> None:
        raise IndexError("tuple index out of range")

    monkeypatch.setattr(levels, "examine_files", fails)
    sources = [AdapterSource(name=name, user_path=tmp_path, kind="folder", path=tmp_path) for name in ("a", "b")]
    with ExitStack() as stack:
        found = examine_all(sources, stack, jobs=1)
    assert [each.verdict.status for each in found] == ["unchecked", "unchecked"]
    assert [each.findings[0].code for each in found] == ["L099", "L099"]
    assert "IndexError" in found[0].findings[0].seen


def _levels(folder: Path) -> dict[str, str]:
    (source,) = find_sources([folder])
    return {each.code: each.severity for each in levels.examine(source).verdict.findings}


def test_a_rejected_adapter_is_not_told_to_get_a_passport(tmp_path: Path) -> None:
    assert _levels(write(tmp_path / "a", healthy(), config=QV))["L340"] == "note"
    nothing = {name: values * (0 if "lora_B" in name else 1) for name, values in healthy().items()}
    found = _levels(write(tmp_path / "b", nothing, config=QV))
    assert found["L210"] == "reject"
    assert "L340" not in found


def test_a_passport_that_is_no_json_is_told_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", healthy(), config=QV)
    for text, code in (("", "L070"), ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "L010")):
        (folder / "lorica.json").write_text(text)
        found = _levels(folder)
        assert code in found
        assert "L341" not in found
    (folder / "lorica.json").write_text("{}")
    assert _levels(folder)["L341"] == "warn"


@pytest.mark.parametrize("text", ["{}", "[1]", '{"r": 8, "lora_alpha": 16}'])
def test_without_a_config_to_compare_with_the_structure_did_not_pass(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "a", healthy())
    (folder / "adapter_config.json").write_text(text)
    (source,) = find_sources([folder])
    statuses = levels.examine(source).verdict.levels
    assert statuses[0] == "failed"
    assert statuses[1] in ("skipped", "warned")


def test_swapped_halves_are_told_once(tmp_path: Path) -> None:
    swapped = {
        name.replace("lora_A", "?").replace("lora_B", "lora_A").replace("?", "lora_B"): values
        for name, values in healthy().items()
    }
    config = msgspec.structs.replace(QV, base_model_name_or_path="embedded:lorica_tiny")
    found = _levels(write(tmp_path / "a", swapped, config=config))
    assert found["L113"] == "reject"
    assert "L163" not in found


def test_a_file_called_gguf_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF\0\0\0\0" + bytes(64))
    found = _levels(tmp_path / "model.gguf")
    assert found["L011"] == "reject"
    assert "L022" not in found


def _fits(folder: Path, name: str, *, hidden: int = 4096, layers: int = 32) -> str:
    """What is said of the bases that an adapter of Llama-2-7B's shapes fits."""
    shapes = {"inputs": hidden, "outputs": hidden, "layers": layers, "rank": 1}
    config = msgspec.structs.replace(QV, r=1, base_model_name_or_path=name)
    (source,) = find_sources([write(folder, healthy(**shapes), config=config)])
    return levels.examine(source, max_level=1).fits


def test_the_named_base_stands_first_among_those_that_fit(tmp_path: Path) -> None:
    text = _fits(tmp_path / "a", "meta-llama/Llama-2-7b-chat-hf")
    assert text.startswith("fits meta-llama/Llama-2-7b-chat-hf and ")
    assert _fits(tmp_path / "b", "NousResearch/Llama-2-7b-hf").startswith("fits meta-llama/Llama-2-7b-hf and ")
    count = int(text.split(" and ")[1].split()[0])
    assert _fits(tmp_path / "c", "me/my-own-7b").endswith(
        "me/my-own-7b, which the config names, is not among those known by shape"
    )
    assert f" and {count} others; does not fit Qwen/Qwen3-4B: " in _fits(tmp_path / "d", "Qwen/Qwen3-4B")
