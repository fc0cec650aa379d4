"""What `lorica eval` shows: an evaluation as text and as plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from lorica.metrics.bootstrap import Estimate
from lorica.metrics.health import ScoreHealth
from lorica.pipeline.evaluate import Evaluation, Grouping
from lorica.reports.page import Table
from lorica.reports.table import plain_table

# Rows without an answer, and unreadable answers, that the text names.
_NAMED = 5


def evaluation_dict(found: Evaluation) -> dict[str, Any]:
    """The evaluation as plain values; what is undefined is null."""

    def estimates(of: dict[str, Estimate]) -> dict[str, Any]:
        return {name: estimate_dict(one) | _compared(found, name) for name, one in of.items()}

    return {
        "n": found.n,
        "metrics": estimates(found.metrics),
        "groups": {name: estimate_dict(one) for name, one in found.groups.items()},
        "by": {
            column: {
                "groups": {
                    name: {"rows": grouping.rows[name], "metrics": estimates(of)}
                    for name, of in grouping.groups.items()
                },
                "mean_over_groups": {name: _number(mean) for name, mean in grouping.means.items()},
            }
            for column, grouping in found.by.items()
        },
        "no_answer": {"count": len(found.no_answer), "ids": list(found.no_answer)},
        "unreadable": {
            "count": len(found.unreadable),
            "rows": [{"id": row_id, "problem": problem} for row_id, problem in found.unreadable.items()],
        },
        "contradictory": {"count": len(found.contradictory), "ids": list(found.contradictory)},
        "unscored": found.unscored,
        "stages": found.stages,
        "flags": found.flags,
        "choice_mass": msgspec.to_builtins(found.choice_mass),
    }


def estimate_dict(one: Estimate) -> dict[str, Any]:
    """An estimate as plain values; NaN becomes None."""
    return {
        "value": _number(one.value),
        "low": _number(one.low),
        "high": _number(one.high),
        "n": one.n,
        "note": one.note,
    }


def health_dict(health: ScoreHealth) -> dict[str, Any]:
    """The health of a column of scores as plain values; NaN becomes None."""
    plain = {name: getattr(health, name) for name in health.__struct_fields__}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in plain.items()}


def metric_title(found: Evaluation, name: str) -> str:
    """A metric's name, with what its texts were compared under."""
    return f"{name} ({found.normalisations[name]})" if name in found.normalisations else name


def evaluation_text(found: Evaluation, health: ScoreHealth | None) -> str:
    """Tables and sentences for a terminal."""
    parts = [_table("metric", {metric_title(found, name): one for name, one in found.metrics.items()})]
    parts += [_grouping_table(found, column, grouping) for column, grouping in found.by.items()]
    if found.groups and not found.by:
        parts.append(_table(f"group ({metric_title(found, next(iter(found.metrics)))})", found.groups))
    counts = {name or "(no stage)": count for name, count in {**found.stages, **found.flags}.items()}
    parts.append("rows: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    if found.no_answer:
        parts.append(f"no answer: {_some(found, found.no_answer)}, which count as wrong")
    if found.unreadable:
        shown = [f"  {row_id!r}: {why}" for row_id, why in list(found.unreadable.items())[:_NAMED]]
        head = f"cannot be read as an answer: {len(found.unreadable)} of {found.n} rows, which count as wrong, such as"
        parts.append("\n".join([head, *shown]))
    if found.contradictory:
        parts.append(
            f"the answer contradicts the score: {_some(found, found.contradictory)}; the score (from 0.5 on) counts"
        )
    if found.unscored:
        parts.append(f"{found.unscored} of {found.n} rows have no score and are left out of metrics on scores")
    if health is not None:
        parts.append(
            f"scores: {health.unique} distinct, mean {health.mean:.3f}, std {health.std:.3f}, "
            f"{health.minimum:.3f} to {health.maximum:.3f}"
        )
    mass = found.choice_mass
    if mass is not None:
        parts.append(f"choice mass: {mass}")
    reasons = health.reasons if health is not None else {"low_mass": mass.problem} if mass is not None else {}
    parts += [f"warning: {flag}: {why}" for flag, why in sorted(reasons.items()) if why]
    return "\n\n".join(parts)


def _table(heading: str, estimates: dict[str, Estimate]) -> str:
    rows = [
        (name, f"{one.value:.4f}", f"{one.low:.4f} to {one.high:.4f}", str(one.n), one.note)
        for name, one in estimates.items()
    ]
    return plain_table(Table((heading, "value", "95% interval", "n", "note"), tuple(rows)))


def _grouping_table(found: Evaluation, column: str, grouping: Grouping) -> str:
    rows = [
        (name, str(grouping.rows[name]), *(_cell(one) for one in estimates.values()))
        for name, estimates in grouping.groups.items()
    ]
    means = ("undefined" if math.isnan(mean) else f"{mean:.4f}" for mean in grouping.means.values())
    rows.append((f"mean of {len(grouping.groups)} groups", str(found.n), *means))
    titles = (metric_title(found, name) for name in found.metrics)
    return plain_table(Table((column, "rows", *titles), tuple(rows)))


def _cell(one: Estimate) -> str:
    return "undefined" if math.isnan(one.value) else f"{one.value:.4f} [{one.low:.4f}, {one.high:.4f}]"


def _some(found: Evaluation, ids: Sequence[str]) -> str:
    named = ", ".join(map(repr, ids[:_NAMED])) + (", ..." if len(ids) > _NAMED else "")
    return f"{len(ids)} of {found.n} rows ({named})"


def _compared(found: Evaluation, name: str) -> dict[str, str]:
    return {"normalisation": found.normalisations[name]} if name in found.normalisations else {}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
