"""Contamination: rows that an adapter was trained on, by the digests that it carries. On those it proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from lorica.adapters.passport import DataFacts
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.registry import TRAINING_RECORD
from lorica.admission.provenance import rows_facts
from lorica.data.digest import ids_digest
from lorica.data.split import split
from lorica.errors import LoricaError
from lorica.records import Row
from lorica.tasks.base import Task
from lorica.vetting.findings import Finding, finding
from lorica.vetting.measure.measurements import ENOUGH

# Held-out shares that are tried besides the one that the counts tell; a digest says which was the right one.
_RATIOS = (0.15, 0.1, 0.2, 0.05, 0.25, 0.3, 0.5)


class _TrainingRows(msgspec.Struct, frozen=True):
    """What an adapter says of the rows of its training. digest: makes of rows what stands in the record; whole,
    training, held_out: the digests of all rows ("" unknown), and of the parts they were divided into."""

    digest: Callable[[Sequence[Row]], str]
    whole: str
    training: str
    held_out: str
    seed: int
    ratios: tuple[float, ...]


def without_training_rows(specimen: RawAdapter, rows: Sequence[Row], task: Task) -> tuple[Sequence[Row], list[Finding]]:
    """The rows to ask, and what is said of the others.

    Digests are of whole files and of the parts they were divided into: where the rows are those of the training, the
    split is made again, and only held-out rows are asked where enough of them have gold. A part of the training rows
    that was picked by hand is not recognised.
    """
    trained_ids, divided = _trained_ids(specimen, rows, task)
    if not trained_ids:
        return rows, []
    unseen = [row for row in rows if row.id not in trained_ids] if divided else []
    facts = {"rows": len(rows), "trained_on": len(trained_ids), "left": len(unseen)}
    trained_share = f"{len(trained_ids)} of {len(rows)} rows"
    if sum(row.gold is not None for row in unseen) >= ENOUGH:
        unseen_note = f"{trained_share}; only the {len(unseen)} others are asked"
        return unseen, [finding("L426", unseen_note, severity="note", facts=facts)]
    return rows, [finding("L426", f"{trained_share}; {len(unseen)} others are too few to measure on", facts=facts)]


def training_row_ids(specimen: RawAdapter, rows: Sequence[Row], task: Task) -> frozenset[str]:
    """The ids of those rows that the adapter was trained on, as far as `without_training_rows` recognises them."""
    return _trained_ids(specimen, rows, task)[0]


def _trained_ids(specimen: RawAdapter, rows: Sequence[Row], task: Task) -> tuple[frozenset[str], bool]:
    """(ids of the rows it was trained on, whether its training held some of the rows out)."""
    record = _record(specimen) if rows else None
    for candidate in _as_trained(specimen, rows) if record is not None else ():
        assert record is not None
        trained, held_out = _divide(record, candidate, task)
        if trained:
            return frozenset(row.id for row in trained), bool(held_out)
    return frozenset(), False


def _record(specimen: RawAdapter) -> _TrainingRows | None:
    passport = specimen.passport
    if passport is not None and passport.data is not None:
        return _of_passport(passport.data, 0 if passport.training is None else passport.training.seed)
    record = specimen.documents.get(TRAINING_RECORD)
    manifest = record.get("manifest") if isinstance(record, dict) else None
    return _of_manifest(manifest) if isinstance(manifest, dict) else None


def _of_passport(data_facts: DataFacts, seed: int) -> _TrainingRows:
    held_out = data_facts.validation
    return _TrainingRows(
        digest=lambda rows: rows_facts(rows).content,
        whole=data_facts.all.content,
        training=data_facts.train.content,
        held_out=(held_out or rows_facts(())).content,
        seed=seed,
        ratios=() if held_out is None else (*_RATIOS, held_out.rows / max(1, data_facts.all.rows)),
    )


def _of_manifest(manifest: dict[str, Any]) -> _TrainingRows | None:
    """The older record knows the ids of the parts only."""
    training_digest, held_out_digest, seed = (
        manifest.get(manifest_key) for manifest_key in ("digest.rows", "digest.validation_rows", "training.seed")
    )
    if not isinstance(training_digest, str) or not isinstance(held_out_digest, str) or not str(seed).isdecimal():
        return None
    divided = held_out_digest != ids_digest(())
    # Of the whole there is no digest: whether a split gives the parts decides.
    return _TrainingRows(
        digest=lambda rows: ids_digest(row.id for row in rows),
        whole="" if divided else training_digest,
        training=training_digest,
        held_out=held_out_digest,
        seed=int(str(seed)),
        ratios=_RATIOS if divided else (),
    )


def _as_trained(specimen: RawAdapter, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """The rows as a training may have had them: all, those of a subject, or all as of the subject it is named after."""
    yield rows
    subjects = sorted({row.subject for row in rows})
    if len(subjects) > 1:
        for subject in subjects:
            yield [row for row in rows if row.subject == subject]
    elif subjects == [""]:
        subject_name = specimen.name.rpartition("/")[2]
        yield [msgspec.structs.replace(row, subject=subject_name) for row in rows]


def _divide(record: _TrainingRows, rows: Sequence[Row], task: Task) -> tuple[Sequence[Row], Sequence[Row]]:
    """(rows it was trained on, rows it held out); nothing where these are other rows."""
    digest = record.digest(rows)
    if digest == record.training or (not record.ratios and digest == record.whole):
        return rows, ()
    if digest != (record.whole or digest):
        return (), ()
    for held_out_ratio in dict.fromkeys(record.ratios):
        try:
            trained, held_out = split(rows, ratio=held_out_ratio, seed=record.seed, text=task.text)
        except LoricaError:
            continue
        if record.digest(trained) == record.training and record.digest(held_out) == record.held_out:
            return trained, held_out
    return (), ()
