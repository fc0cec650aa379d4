"""Answers against gold: what counts, what is left out, and what is drawn together."""

from __future__ import annotations

import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from lorica.data.read import rows_from_memory
from lorica.errors import DataError
from lorica.metrics import text_metrics
from lorica.pipeline.evaluate import evaluate, paired_metric_difference
from lorica.records import Answer, Row
from lorica.tasks import load_task

RULES = load_task("rules")


def _rows(count: int, *, group_size: int = 0) -> list[Row]:
    records = [
        {"row_id": str(i), "body": f"post {i}", "rule": "r", "rule_violation": i % 2}
        | ({"group": f"g{i // group_size}"} if group_size else {})
        for i in range(count)
    ]
    return rows_from_memory(records, RULES.schemas)


def _answers(scores: list[float | None]) -> dict[str, Answer]:
    return {
        str(i): Answer(id=str(i), score=score, stage="invalid" if score is None else "choice")
        for i, score in enumerate(scores)
    }


SCORES: list[float | None] = [((i * 37) % 100) / 100 + (0.3 if i % 2 else 0) for i in range(60)]


def test_it_agrees_with_scikit_learn() -> None:
    rows = _rows(60)
    found = evaluate(RULES, rows, _answers(SCORES))
    gold = [row.gold for row in rows]
    assert found.metrics["roc_auc"].value == pytest.approx(roc_auc_score(gold, SCORES))
    assert found.metrics["accuracy"].value == pytest.approx(
        accuracy_score(gold, [int((score or 0) >= 0.5) for score in SCORES])
    )
    assert found.n == 60
    assert found.groups == {}


def test_rows_of_a_group_are_drawn_together() -> None:
    # Ten copies of each answer carry the information of one: the interval must not shrink.
    alone = evaluate(RULES, _rows(12), _answers(SCORES[:12])).metrics["accuracy"]
    copies = [score for score in SCORES[:12] for _ in range(10)]
    records = [
        {"row_id": str(i), "body": f"post {i}", "rule": "r", "rule_violation": (i // 10) % 2, "group": f"g{i // 10}"}
        for i in range(120)
    ]
    grouped = evaluate(RULES, rows_from_memory(records, RULES.schemas), _answers(copies)).metrics["accuracy"]
    assert grouped.value == pytest.approx(alone.value)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, abs=0.05)


def test_rows_without_a_score_are_counted_and_are_wrong_where_labels_count() -> None:
    found = evaluate(RULES, _rows(60), _answers([None, None, *SCORES[2:]]))
    assert found.unscored == 2
    assert found.metrics["roc_auc"].n == 58
    assert found.metrics["accuracy"].n == 60
    assert found.stages == {"choice": 58, "invalid": 2}


def test_the_difference_of_a_system_to_itself_is_nothing() -> None:
    rows, answers = _rows(60), _answers(SCORES)
    same = paired_metric_difference(RULES, rows, answers, answers)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    worse = paired_metric_difference(RULES, rows, answers, _answers([1 - (score or 0) for score in SCORES]))
    assert worse.low > 0


@pytest.mark.parametrize("missing", ["gold", "answer"])
def test_what_is_missing_is_named_with_its_file(missing: str) -> None:
    rows, answers = _rows(4), _answers(SCORES[:4])
    if missing == "gold":
        rows = rows_from_memory([{"row_id": str(i), "body": "b", "rule": "r"} for i in range(4)], RULES.schemas)
    else:
        del answers["2"]
    with pytest.raises(DataError, match=r"gold.csv.*'0'" if missing == "gold" else r"answers.csv.*'2'"):
        evaluate(RULES, rows, answers, gold_file="gold.csv", answer_file="answers.csv")


def test_texts_are_compared_once_however_they_are_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task("saq")
    records = [{"id": str(i), "question": "q", "answer": f"{i} km", "subject": f"s{i % 3}"} for i in range(12)]
    rows = rows_from_memory(records, task.schemas)
    answers = {row.id: Answer(id=row.id, answer=f"{int(row.id) % 5} km", stage="text") for row in rows}
    by = {"country": {row.id: "ab"[int(row.id) % 2] for row in rows}}
    compared: list[tuple[str, str]] = []

    def counted(accepted: list[str], answer: list[str]) -> float:
        compared.append((accepted[0], answer[0]))
        return token_overlap(accepted, answer)

    token_overlap = text_metrics._f1
    monkeypatch.setattr(text_metrics, "_f1", counted)
    found = evaluate(task, rows, answers, by=by)
    assert sorted(compared) == sorted({(str(i), str(i % 5)) for i in range(12)})
    assert found.by["country"].groups["a"]["token_f1"] == evaluate(task, rows[::2], answers).metrics["token_f1"]
    assert found.metrics["token_f1"].value == pytest.approx((5 + 7 / 2) / 12)
