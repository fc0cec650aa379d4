"""From the outside: templates that ask at the wrong place, tokenizers of another model, answers that take the room."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lorica import load_pipeline
from lorica.cli import main
from lorica.data.journal import Journal
from lorica.data.write import read_answers, write_answers
from lorica.models.locate import locate_model
from lorica.records import Answer

TURNS = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
OPENS = TURNS + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"


@pytest.fixture
def question(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"questionID": "1", "question": "Who ruled Egypt as queen?"}\n')
    return path


@pytest.fixture
def post(tmp_path: Path) -> Path:
    path = tmp_path / "posts.jsonl"
    path.write_text('{"body": "Buy my lamp!", "rule": "No advertising."}\n{"body": "Hi", "rule": "Be kind."}\n')
    return path


def infer(*words: str, output: Path, engine: str = "fake") -> int:
    return main(["infer", f"engine={engine}", f"output={output}", *words])


def answers(output: Path) -> list[Answer]:
    return list(read_answers(output))


def test_an_answer_may_not_take_all_the_positions(
    question: Path, post: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    words = ("task=qa", f"input={question}")
    assert infer(*words, "inference.max_new_tokens=2048", output=output) == 2
    error = capsys.readouterr().err
    assert "inference.max_new_tokens=2048 leaves no room" in error
    assert not output.exists()
    value = error.rpartition("such as ")[2].strip()
    assert infer(*words, f"inference.max_new_tokens={value}", output=output) == 0
    # Nearly all of them: the row fails with what to do, and doing it leads on.
    capsys.readouterr()
    assert infer(*words, "inference.max_new_tokens=2047", output=output) == 5
    (failed,) = answers(output)
    assert "max_input_tokens" not in (failed.problem or "")
    value = (failed.problem or "").rpartition("lower inference.max_new_tokens to at most ")[2].split(",")[0]
    assert infer(*words, f"inference.max_new_tokens={value}", output=output) == 0
    assert infer("task=rules", f"input={post}", "inference.max_new_tokens=2048", output=output) == 0
    assert all(answer.score is not None for answer in answers(output))


def test_training_refuses_such_answers_before_it_begins(
    few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "task=rules", "task.method=generate", f"input={few_posts}", f"run_dir={tmp_path / 'run'}"]
    assert main([*words, "inference.max_new_tokens=4096"]) == 2
    assert "leaves no room" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("template", "told"), [(OPENS, "</think>"), (TURNS, "assistant")])
def test_a_prompt_is_ended_where_answers_stand_and_that_is_told(
    template: str, told: str, post: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.jinja").write_text(template)
    words = ("task=rules", f"input={post}", f"model.chat_template={tmp_path / 't.jinja'}")
    assert infer(*words, output=tmp_path / "out.jsonl") == 0
    error = capsys.readouterr().err
    assert error.count("t.jinja") == 1
    assert told in error


def test_a_template_that_asks_elsewhere_is_refused_before_anything_runs(
    post: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.jinja").write_text(OPENS.replace("<think>\n", "Sure: "))
    words = ("task=rules", f"input={post}")
    own = f"model.chat_template={tmp_path / 't.jinja'}"
    assert infer(*words, own, output=tmp_path / "out.jsonl") == 3
    assert "-> set model.chat_template" in capsys.readouterr().err
    assert infer(*words, "model.chat_template=plain", output=tmp_path / "out.jsonl") == 0


def test_without_a_generation_prompt_the_same_is_asked(post: Path, tmp_path: Path) -> None:
    """The template of the embedded model without its generation prompt: the same scores and masses."""
    (tmp_path / "t.jinja").write_text(TURNS)
    words = ("task=rules", f"input={post}")
    assert infer(*words, output=tmp_path / "a.jsonl", engine="native") == 0
    own = f"model.chat_template={tmp_path / 't.jinja'}"
    assert infer(*words, own, output=tmp_path / "b.jsonl", engine="native") == 0
    assert answers(tmp_path / "a.jsonl") == answers(tmp_path / "b.jsonl")


def copy_of_base(folder: Path, tokens: list[dict[str, object]]) -> Path:
    """The embedded model with more tokens in its tokenizer than rows in its embedding."""
    shutil.copytree(locate_model("embedded:lorica_tiny", environ={}), folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] += tokens
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def test_a_tokenizer_with_tokens_beyond_the_model(
    post: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    words = ("task=rules", f"input={post}")
    unused = copy_of_base(tmp_path / "a", [{"id": 6144, "content": "<pad>", "special": True, **flags}])
    assert infer(*words, f"model.path={unused}", output=tmp_path / "out.jsonl") == 0
    assert "'<pad>' (6144)" in capsys.readouterr().err
    spoken = copy_of_base(tmp_path / "b", [{"id": 6144, "content": "Watchmaker", "special": False, **flags}])
    assert infer(*words, f"model.path={spoken}", output=tmp_path / "other.jsonl") == 3
    assert "'Watchmaker' (6144)" in capsys.readouterr().err
    assert not (tmp_path / "other.jsonl").exists()


def test_a_low_mass_is_told_before_and_after_a_run_and_by_eval(
    post: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded model in a form it was not trained on, and in its own."""
    words, output = ("task=rules", f"input={post}"), tmp_path / "out.jsonl"
    assert infer(*words, "--json", output=output, engine="native") == 0
    told = capsys.readouterr()
    assert "probability" not in told.err
    mass = json.loads(told.out)["choice_mass"]
    assert mass["n"] == 2
    assert not mass["low"]
    assert mass["p10"] > 0.5
    assert infer(*words, "model.chat_template=plain", output=output, engine="native") == 0
    told = capsys.readouterr()
    assert "choice mass: median 0.0" in told.out
    assert told.err.count("the choices have little of the model's probability") == 2
    assert "the model would rather write" in told.err
    low = answers(output)
    assert all(answer.choice_mass is not None and answer.choice_mass < 0.1 for answer in low)
    record = json.loads((tmp_path / "out.jsonl.run/run.json").read_text())
    assert record["summary"]["choice_mass"]["low"]
    gold = tmp_path / "gold.jsonl"
    rows = [json.loads(line) | {"rule_violation": n % 2} for n, line in enumerate(post.read_text().splitlines())]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["eval", str(output), str(gold), "task=rules"]) == 0
    told = capsys.readouterr()
    assert "choice mass: median 0.0" in told.out
    assert told.out.count("warning: low_mass") == 1
    assert main(["eval", str(output), str(gold), "task=rules", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["choice_mass"]["n"] == 2
    assert "low_mass" in found["health"]["flags"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_check_of_scores_reads_the_mass(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"answers{suffix}"
    failed = Answer(id="0", stage="invalid", flags=("error",))
    rows = [Answer(id=str(n), score=0.01 * n, stage="choice", choice_mass=0.02) for n in range(1, 40)]
    write_answers(path, [*rows, failed])
    main(["check", "--scores", str(path)])
    assert "L470" in capsys.readouterr().out
    healthy = [Answer(id=str(n), score=0.01 * n, stage="choice", choice_mass=0.9) for n in range(1, 40)]
    write_answers(path, [*healthy, failed])
    main(["check", "--scores", str(path)])
    assert "L470" not in capsys.readouterr().out
    write_answers(path, [Answer(id=str(n), score=0.01 * n, stage="choice") for n in range(1, 40)])
    main(["check", "--scores", str(path)])
    assert "L470" not in capsys.readouterr().out


def test_answers_in_memory_carry_the_mass() -> None:
    pipeline = load_pipeline("rules", settings={"engine": "fake"})
    (answer,) = pipeline([{"body": "Buy my lamp!", "rule": "No advertising."}])
    assert answer.choice_mass == pytest.approx(0.9)


def test_an_unfinished_run_from_before_the_mass_is_refused(
    post: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its answers would carry none, beside others that do."""
    output = tmp_path / "out.jsonl"
    words = ("task=rules", f"input={post}")
    assert infer(*words, output=output) == 0
    manifest = json.loads((tmp_path / "out.jsonl.run/run.json").read_text())["manifest"]
    del manifest["answers"]
    with Journal.open(tmp_path / "out.jsonl.partial", manifest, resume=False) as journal:
        journal.commit([Answer(id="row-1", answer="Yes", score=0.5)])
    output.unlink()
    capsys.readouterr()
    assert infer(*words, "inference.resume=true", output=output) == 6
    assert "choice_mass" in capsys.readouterr().err
