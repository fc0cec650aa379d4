"""L170, L172, L180-L182: what Lorica's own record and passport say of a run: whether it diverged, and from what answers
it learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorica.adapters.passport import PASSPORT_NAME
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.registry import TRAINING_RECORD
from lorica.pipeline.label_balance import is_lopsided
from lorica.vetting.claims.json_values import as_mapping, as_real
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import figure, shown


def check_own_run(adapter: RawAdapter) -> list[Finding]:
    """Findings about a training of Lorica. Never raises for what is in the documents."""
    record = as_mapping(adapter.documents.get(TRAINING_RECORD))
    return _diverged(record) + _labels(record, as_mapping(adapter.documents.get(PASSPORT_NAME)))


def _diverged(record: Mapping[str, Any]) -> list[Finding]:
    if isinstance(record.get("diverged"), str):
        return [finding("L170", shown(record["diverged"], 200), expected="finite losses", file=TRAINING_RECORD)]
    result = as_mapping(record.get("result"))
    if result.get("outcome") != "diverged":
        return []
    base_loss, last_loss = (as_real(result.get(result_key)) for result_key in ("seen_base", "seen_last"))
    if base_loss is None or last_loss is None:
        return []
    actual = f"the training diverged: loss {figure(base_loss)} (base) -> {figure(last_loss)} on its own training rows"
    facts = {"base": base_loss, "last": last_loss, "published": result.get("best_step")}
    return [finding("L172", actual, file=TRAINING_RECORD, facts=facts)]


def _labels(record: Mapping[str, Any], passport: Mapping[str, Any]) -> list[Finding]:
    """By the record, or else by the passport."""
    labels, passport_data = as_mapping(record.get("labels")), as_mapping(passport.get("data"))
    labels_file = TRAINING_RECORD if labels else PASSPORT_NAME
    train_counts = as_mapping(labels.get("training") or passport_data.get("train"))
    held_out_counts = as_mapping(labels.get("held_out") or passport_data.get("validation"))
    row_count, distinct, largest = _counts(train_counts)
    if row_count < 2 or not distinct:
        return []
    if distinct == 1:
        actual = f"all {row_count} training rows have one answer"
        return [finding("L180", actual, file=labels_file, facts={"rows": row_count})]
    findings = []
    if is_lopsided(row_count, largest):
        actual = f"{largest} of {row_count} training rows have one answer"
        findings.append(finding("L181", actual, file=labels_file, facts={"rows": row_count, "largest": largest}))
    held_rows, held_distinct, _ = _counts(held_out_counts)
    if held_rows > 1 and held_distinct == 1:
        actual = f"all {held_rows} held-out rows have one answer"
        findings.append(finding("L182", actual, file=labels_file, facts={"rows": held_rows}))
    return findings


def _counts(row_counts: Mapping[str, Any]) -> tuple[int, int, int]:
    """Rows with an answer, different answers, rows of the commonest; 0 where it is not known."""
    values = (row_counts.get("rows"), row_counts.get("distinct", row_counts.get("answers")), row_counts.get("largest"))
    row_count, distinct, largest = (row_value if type(row_value) is int else 0 for row_value in values)
    return row_count, distinct, largest
