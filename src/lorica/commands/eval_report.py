"""What `lorica eval` shows: an evaluation as text and as plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from lorica.metrics.bootstrap import Estimate
from lorica.metrics.health import ScoreHealth
from lorica.pipeline.evaluate import Evaluation, Grouping
from lorica.reports.page import ReportTable
from lorica.reports.text_table import plain_table

# Rows without an answer, and unreadable answers, that the text names.
_NAMED = 5
# Notes and names of groups are read to their ends.
_WIDEST = 200


def evaluation_dict(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as plain values; what is undefined is null."""

    def estimates(of: dict[str, Estimate]) -> dict[str, Any]:
        return {name: estimate_dict(estimate) | _compared(evaluation, name) for name, estimate in of.items()}

    return {
        "n": evaluation.n,
        "metrics": estimates(evaluation.metrics),
        "groups": {name: estimate_dict(estimate) for name, estimate in evaluation.groups.items()},
        "by": {
            column: {
                "groups": {
                    name: {"rows": grouping.rows[name], "metrics": estimates(of)}
                    for name, of in grouping.groups.items()
                },
                "mean_over_groups": {name: _number(mean) for name, mean in grouping.means.items()},
            }
            for column, grouping in evaluation.by.items()
        },
        "no_answer": {"count": len(evaluation.no_answer), "ids": list(evaluation.no_answer)},
        "unreadable": {
            "count": len(evaluation.unreadable),
            "rows": [{"id": row_id, "problem": problem} for row_id, problem in evaluation.unreadable.items()],
        },
        "contradictory": {"count": len(evaluation.contradictory), "ids": list(evaluation.contradictory)},
        "unscored": evaluation.unscored,
        "stages": evaluation.stages,
        "flags": evaluation.flags,
        "choice_mass": msgspec.to_builtins(evaluation.choice_mass),
        "health": None if evaluation.health is None else _health_dict(evaluation.health),
    }


def estimate_dict(estimate: Estimate) -> dict[str, Any]:
    """An estimate as plain values; NaN becomes None."""
    return {
        "value": _number(estimate.value),
        "low": _number(estimate.low),
        "high": _number(estimate.high),
        "n": estimate.n,
        "note": estimate.note,
    }


def _health_dict(health: ScoreHealth) -> dict[str, Any]:
    """The health of a column of scores as plain values; NaN becomes None."""
    plain = {name: getattr(health, name) for name in health.__struct_fields__}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain.items()}


def metric_title(evaluation: Evaluation, name: str) -> str:
    """A metric's name, with what its texts were compared under."""
    return f"{name} ({evaluation.normalisations[name]})" if name in evaluation.normalisations else name


def evaluation_text(evaluation: Evaluation) -> str:
    """Tables and sentences for a terminal."""
    health = evaluation.health
    paragraphs = [
        _table("metric", {metric_title(evaluation, name): estimate for name, estimate in evaluation.metrics.items()})
    ]
    paragraphs += [_grouping_table(evaluation, column, grouping) for column, grouping in evaluation.by.items()]
    if evaluation.groups and not evaluation.by:
        paragraphs.append(
            _table(f"group ({metric_title(evaluation, next(iter(evaluation.metrics)))})", evaluation.groups)
        )
    counts = {name or "(no stage)": count for name, count in {**evaluation.stages, **evaluation.flags}.items()}
    paragraphs.append("rows: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    if evaluation.no_answer:
        paragraphs.append(f"no answer: {_some(evaluation, evaluation.no_answer)}, which count as wrong")
    if evaluation.unreadable:
        shown = [f"  {row_id!r}: {why}" for row_id, why in list(evaluation.unreadable.items())[:_NAMED]]
        count = f"{len(evaluation.unreadable)} of {evaluation.n} rows"
        paragraphs.append("\n".join([f"cannot be read as an answer: {count}, which count as wrong, such as", *shown]))
    if evaluation.contradictory:
        named = _some(evaluation, evaluation.contradictory)
        paragraphs.append(f"the answer contradicts the score: {named}; the score (from 0.5 on) counts")
    if evaluation.unscored:
        paragraphs.append(
            f"{evaluation.unscored} of {evaluation.n} rows have no score and are left out of metrics on scores"
        )
    if health is not None:
        paragraphs.append(
            f"scores: {health.unique} distinct, mean {health.mean:.3f}, std {health.std:.3f}, "
            f"{health.minimum:.3f} to {health.maximum:.3f}"
        )
    mass = evaluation.choice_mass
    if mass is not None:
        paragraphs.append(f"choice mass: {mass}")
    reasons = health.reasons if health is not None else {"low_mass": mass.problem} if mass is not None else {}
    paragraphs += [f"warning: {flag}: {why}" for flag, why in sorted(reasons.items()) if why]
    return "\n\n".join(paragraphs)


def _table(heading: str, estimates: dict[str, Estimate]) -> str:
    rows = [
        (name, f"{estimate.value:.4f}", f"{estimate.low:.4f} to {estimate.high:.4f}", str(estimate.n), estimate.note)
        for name, estimate in estimates.items()
    ]
    return plain_table(ReportTable((heading, "value", "95% interval", "n", "note"), tuple(rows)), max_cell=_WIDEST)


def _grouping_table(evaluation: Evaluation, column: str, grouping: Grouping) -> str:
    rows = [
        (name, str(grouping.rows[name]), *(_cell(estimate) for estimate in estimates.values()))
        for name, estimates in grouping.groups.items()
    ]
    means = ("undefined" if math.isnan(mean) else f"{mean:.4f}" for mean in grouping.means.values())
    rows.append((f"mean of {len(grouping.groups)} groups", str(evaluation.n), *means))
    titles = (metric_title(evaluation, name) for name in evaluation.metrics)
    return plain_table(ReportTable((column, "rows", *titles), tuple(rows)), max_cell=_WIDEST)


def _cell(estimate: Estimate) -> str:
    return (
        "undefined" if math.isnan(estimate.value) else f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"
    )


def _some(evaluation: Evaluation, ids: Sequence[str]) -> str:
    named = ", ".join(map(repr, ids[:_NAMED])) + (", ..." if len(ids) > _NAMED else "")
    return f"{len(ids)} of {evaluation.n} rows ({named})"


def _compared(evaluation: Evaluation, name: str) -> dict[str, str]:
    return {"normalisation": evaluation.normalisations[name]} if name in evaluation.normalisations else {}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
