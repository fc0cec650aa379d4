"""Rows that an adapter was trained on are recognised by the digests it carries, and by nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.passports import make_adapter

from lorica.adapters.folder import open_adapter
from lorica.adapters.passport import (
    PASSPORT_NAME,
    BaseFacts,
    CanaryFacts,
    MetricsFacts,
    Passport,
    PromptFacts,
    TrainingFacts,
)
from lorica.adapters.passport_facts import adapter_facts
from lorica.admission.make_passport import data_facts
from lorica.data.digest import ids_digest
from lorica.data.split import split
from lorica.pipeline.train import TrainJob, TrainVal
from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.rules import RulesCase
from lorica.vetting.measure.contamination import without_training_rows

from .specimens import pairs, specimen

TASK = load_task("rules")
DIGEST = "sha256:" + "0" * 64
SEED, RATIO = 7, 0.15


def _rows(count: int, start: int = 0, subject: str = "") -> list[Row]:
    return [
        Row(f"r{i}", RulesCase(body=f"{i * 7919} {i * i} {i**3} post", rule="no selling"), subject, i % 2)
        for i in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapters") / "one")


def _documents(adapter: Path, rows: Sequence[Row], ratio: float = RATIO) -> dict[str, Any]:
    parts = TrainVal(*split(rows, ratio=ratio, seed=SEED, text=TASK.text)) if ratio else TrainVal(rows, [])
    training = TrainingFacts(settings={}, seed=SEED, steps=1, best_step=1, first_loss=1.0, last_loss=1.0, tokens=1)
    passport = Passport(
        format=1,
        made_by="lorica test",
        adapter=adapter_facts(open_adapter(adapter)),
        base=BaseFacts(name="base", config=DIGEST, weights=DIGEST, digest=DIGEST, shape={}),
        prompt=PromptFacts(tokenizer=DIGEST, template=DIGEST),
        canaries=CanaryFacts(
            engine="native", dtype="float32", device="cpu", kind="probes", gap=2.0, tolerance={}, items=()
        ),
        metrics=MetricsFacts(on="none", note="a test"),
        data=data_facts(TrainJob("rules", rows, "posts.csv", Path("runs")), parts),
        training=training,
    )
    return {PASSPORT_NAME: msgspec.to_builtins(passport)}


def _asked(documents: dict[str, Any], rows: Sequence[Row], name: str = "rules") -> tuple[set[str], list[str]]:
    one, _ = specimen(pairs({"self_attn.q_proj": (64, 64)}, [0, 1]), documents=documents, name=name)
    left, findings = without_training_rows(one, rows, TASK)
    assert {each.code for each in findings} <= {"L426"}
    return {row.id for row in left}, [each.severity for each in findings]


def test_of_the_rows_of_its_training_only_those_held_out_are_asked(adapter: Path) -> None:
    rows = _rows(300)
    held = {row.id for row in split(rows, ratio=RATIO, seed=SEED, text=TASK.text)[1]}
    assert len(held) == 44
    assert _asked(_documents(adapter, rows), rows) == (held, ["note"])


@pytest.mark.parametrize("ratio", [0.0, 0.05])
def test_too_few_others_are_a_warning(adapter: Path, ratio: float) -> None:
    rows = _rows(200)
    assert _asked(_documents(adapter, rows, ratio), rows) == ({row.id for row in rows}, ["warn"])


def test_the_training_part_alone_and_the_held_out_part_alone(adapter: Path) -> None:
    rows = _rows(300)
    train, held = split(rows, ratio=RATIO, seed=SEED, text=TASK.text)
    documents = _documents(adapter, rows)
    assert _asked(documents, train) == ({row.id for row in train}, ["warn"])
    assert _asked(documents, held) == ({row.id for row in held}, [])


def test_other_rows_are_asked_without_a_word(adapter: Path) -> None:
    rows = _rows(300)
    documents = _documents(adapter, rows)
    for others in (_rows(300, 300), rows[:-1], [msgspec.structs.replace(row, gold=0) for row in rows]):
        assert _asked(documents, others) == ({row.id for row in others}, [])
    assert _asked({}, rows)[1] == []


def test_the_adapter_of_a_subject_knows_its_rows_among_all(adapter: Path) -> None:
    algebra, history = _rows(300, subject="algebra"), _rows(60, 300, subject="history")
    documents = _documents(adapter, algebra)
    left, severities = _asked(documents, [*algebra, *history])
    assert severities == ["note"]
    assert {row.id for row in history} < left
    assert len(left) == 60 + 44
    plain = [msgspec.structs.replace(row, subject="") for row in algebra]
    assert _asked(documents, plain, "runs/algebra")[1] == ["note"]


def test_the_older_record_tells_by_ids() -> None:
    rows = _rows(300)
    train, held = split(rows, ratio=0.2, seed=3, text=TASK.text)
    manifest = {"digest.rows": ids_digest(row.id for row in train), "training.seed": "3"}
    manifest["digest.validation_rows"] = ids_digest(row.id for row in held)
    documents = {"training.json": {"manifest": manifest}}
    assert _asked(documents, rows) == ({row.id for row in held}, ["note"])
    assert _asked(documents, _rows(300, 5))[1] == []
    assert _asked({"training.json": {"manifest": {"digest.rows": 3}}}, rows)[1] == []
