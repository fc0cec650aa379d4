"""Every way to spoil adapter_config.json has its own code, and the weights' header is read all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.hostile.folders import CONFIG, codes, examine, make_adapter


def lora(**changes: Any) -> bytes:
    return json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]} | changes).encode()


REJECTED = {
    "too large": (b" " * (4 * 1024 * 1024 + 1), "L050"),
    "too many values": (lora(modules_to_save=[0] * 600_000), "L050"),
    "not UTF-8": (b'{"\xff": 1}', "L051"),
    "UTF-16": ("{}".encode("utf-16"), "L011"),
    "empty": (b"", "L052"),
    "not JSON": (b"{'r': 8}", "L052"),
    "long number": (b'{"peft_type": "LORA", "r": ' + b"9" * 5000 + b"}", "L052"),
    "nested": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "L053"),
    "nested within the parser's limit": (b'{"a":' + b"[" * 500 + b"]" * 500 + b"}", "L053"),
    "a list": (b"[]", "L054"),
    "null": (b"null", "L054"),
    "a key twice": (lora()[:-1] + b', "r": 8}', "L055"),
    "NaN": (b'{"peft_type": "LORA", "lora_alpha": NaN}', "L056"),
    "Infinity": (b'{"peft_type": "LORA", "lora_dropout": -Infinity}', "L056"),
    "surrogate": (b'{"a": "\\ud800"}', "L057"),
    "no type": (b'{"r": 8}', "L058"),
    "type is a number": (b'{"peft_type": 3}', "L058"),
    "rank is text": (lora(r="8"), "L059"),
    "a task of no PEFT": (lora(task_type="causal_lm"), "L059"),
    "a task without a name": (lora(task_type=""), "L059"),
    "flag is text": (lora(use_rslora="false"), "L059"),
    "pattern is a list": (lora(rank_pattern=["q_proj"]), "L059"),
    "rank 0": (lora(r=0), "L060"),
    "rank of a pattern": (lora(rank_pattern={"q_proj": 70_000}), "L060"),
    "enormous rank": (lora(r=10**400), "L060"),
    "alpha -1": (lora(lora_alpha=-1), "L060"),
    "alpha 1e999": (lora()[:-1].replace(b'"lora_alpha": 4', b'"lora_alpha": 1e999') + b"}", "L060"),
    "dropout 1": (lora(lora_dropout=1.0), "L060"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "L010"),
    "a pickle": (b"\x80\x04}.", "L011"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_spoilt_configs(case: str, tmp_path: Path) -> None:
    raw, code = REJECTED[case]
    folder = make_adapter(tmp_path / "adapter")
    (folder / CONFIG).write_bytes(raw)
    specimen, findings = examine(folder)
    if code == "L060" and case == "enormous rank":
        assert codes(findings) in (["L059"], ["L060"])  # beyond 64 bits it is no number to msgspec
    else:
        assert codes(findings) == [code]
    assert specimen is not None
    assert specimen.header is not None
    assert all(each.seen.isprintable() and len(each.seen) < 400 for each in findings)


MENTIONED: dict[str, tuple[dict[str, Any], str, str]] = {
    "misspelt key": ({"lora_aplha": 16}, "L061", "warn"),
    "unknown key without effect": ({"a_key_of_the_future": None}, "L061", "note"),
    "auto_mapping of transformers": (
        {"auto_mapping": {"base_model_class": "X", "parent_library": "transformers.models.x"}},
        "L062",
        "note",
    ),
    "auto_mapping of another module": ({"auto_mapping": {"parent_library": "antigravity"}}, "L063", "warn"),
    "auto_map": ({"auto_map": {"AutoModel": "modeling.Evil"}}, "L063", "warn"),
    "expression": ({"target_modules": "(a+)+$"}, "L064", "note"),
    "expression in a pattern": ({"rank_pattern": {"layers.(0|1).*": 2}}, "L064", "note"),
    "terminal codes": ({"base_model_name_or_path": "org/\x1b[2Jmodel"}, "L065", "warn"),
    "writing turned": ({"base_model_name_or_path": "org/\u202eledom"}, "L065", "warn"),
}


@pytest.mark.parametrize("case", MENTIONED)
def test_what_is_worth_a_word(case: str, tmp_path: Path) -> None:
    changes, code, severity = MENTIONED[case]
    folder = make_adapter(tmp_path / "adapter")
    (folder / CONFIG).write_bytes(lora(**changes))
    specimen, findings = examine(folder)
    assert [(each.code, each.severity) for each in findings] == [(code, severity)]
    assert specimen is not None
    assert specimen.config is not None
    assert findings[0].seen.isprintable()


def test_the_misspelt_key_is_guessed(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    (folder / CONFIG).write_bytes(lora(lora_aplha=16))
    assert "'lora_alpha'" in examine(folder)[1][0].fix


def test_a_key_that_is_given_twice_keeps_its_last_value_for_later_levels(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    (folder / CONFIG).write_bytes(lora()[:-1] + b', "r": 8}')
    specimen, _ = examine(folder)
    assert specimen is not None
    assert specimen.config is not None
    assert specimen.config.r == 8


@pytest.mark.parametrize(
    ("key", "written", "meant"),
    [
        ("task_type", "causal_lm", '"CAUSAL_LM"'),
        ("task_type", "TaskType.SEQ_CLS", '"SEQ_CLS"'),
        ("task_type", "", "null"),
        ("task_type", "CHAT", "null"),
        ("peft_type", "PeftType.LORA", '"LORA"'),
        ("peft_type", " LORA ", '"LORA"'),
    ],
)
def test_names_that_peft_writes_otherwise(key: str, written: str, meant: str, tmp_path: Path) -> None:
    """PEFT 0.21 raises KeyError or ValueError for each of them; what the fix says makes an adapter of it."""
    folder = make_adapter(tmp_path / "adapter")
    (folder / CONFIG).write_bytes(lora(**{key: written}))
    (hit,) = examine(folder)[1]
    assert hit.fix.endswith(meant)
    (folder / CONFIG).write_bytes(lora(**{key: json.loads(meant)}))
    assert codes(examine(folder)[1]) == []


@pytest.mark.parametrize("task", [None, "CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM"])
def test_tasks_of_peft(task: str | None, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    (folder / CONFIG).write_bytes(lora(task_type=task))
    assert codes(examine(folder)[1]) == []
