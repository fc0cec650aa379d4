"""A column of scores, and what is said about it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from lorica.metrics.bootstrap import Estimate, estimate
from lorica.metrics.health import (
    ENOUGH_ROWS,
    LOW_MASS,
    SATURATED_SHARE,
    TOO_GOOD_AUC,
    TOO_GOOD_ROWS,
    ScoreHealth,
    mass_health,
    score_health,
)
from lorica.metrics.metric_table import METRICS
from lorica.names import count_of
from lorica.vetting.findings import Finding, Severity, finding

# A value is round when so few decimals write it; models do not put these out often.
_DECIMALS = 2
# A round value is suspicious from this share and count on, where at most so many of the other values are round.
_ROUND_SHARE, _ROUND_COUNT, _OTHERS_ROUND = 0.01, 5, 0.2
_FEW_VALUES = 10
_ONE_SIDED = 0.98
_BAD_ROWS = 0.01
_LABELLED = 30
# So many rows tell chance from a ranking worth having; with fewer, a wide interval says little.
_MANY_LABELLED, _COIN = 100, 0.55
# So wide a spread of the log-odds still ranks rows, however small the probabilities are.
_LOG_ODDS_STD = 0.25


class ScoreColumn(msgspec.Struct):
    """A column of scores as it was read.

    ids: [n], "" without an id column. values: [n], None where nothing stands. broken: (line, text) of cells that are
    no finite number; their value is None. fallback: [n], whether a declared constant stands for an unread answer.
    flags: how many rows carry each flag of Lorica's answers. gold: [n], 0 or 1, None where unknown. masses: [n], how
    much of the model's probability the choices had, None where unknown.
    """

    path: Path
    name: str
    id_name: str
    ids: list[str] = []
    values: list[float | None] = []
    broken: list[tuple[int, str]] = []
    fallback: list[bool] = []
    flags: Counter[str] = msgspec.field(default_factory=Counter)
    gold: list[int | None] = []
    masses: list[float | None] = []


def check_scores(scores: ScoreColumn) -> tuple[ScoreHealth, list[Finding]]:
    """Sum up a column of scores, which should lie from 0 to 1, and judge it: findings in the order of their codes."""
    health = score_health(scores.values, fallback=scores.fallback, masses=scores.masses)
    findings = [*_spread(health, scores), *_rows(health, scores)]
    mass = mass_health(scores.masses)
    if mass is not None and mass.low:
        findings.append(finding("L470", f"choice_mass: {mass}", expected=f"a median above {LOW_MASS:g}"))
    findings += _trained_rows(scores)
    findings += _duplicates(scores.ids if scores.id_name else (), scores.values)
    findings += _constants(scores.values)
    findings += _against_gold(scores)
    facts: dict[str, object] = {"column": scores.name, "rows": len(scores.values), "n": health.n}
    with_file = [
        msgspec.structs.replace(finding, file=scores.path.name, facts=facts | finding.facts) for finding in findings
    ]
    return health, sorted(with_file, key=lambda finding: finding.code)


def _spread(health: ScoreHealth, scores: ScoreColumn) -> Iterator[Finding]:
    if not health.n:
        yield finding("L468", f"the column {scores.name!a} is empty in all rows")
        return
    enough = health.n >= ENOUGH_ROWS
    facts = {"unique": health.unique, "std": health.std, "mode": health.mode, "mode_share": health.mode_share}
    if health.unique == 1 and health.n > 1:
        actual = f"all {health.n} rows have the score {health.mode:g}"
        yield finding("L450", actual, severity="reject" if enough else "warn", facts=facts)
    elif enough and "collapsed" in health.reasons and not _still_ranks(scores.values):
        yield finding("L451", f"{health.unique} values, standard deviation {health.std:.1e}", facts=facts)
    if enough and health.unique == 2:
        yield finding("L452", f"{health.minimum:g} and {health.maximum:g} only, in {health.n} rows", facts=facts)
    elif enough and "dominant_value" in health.reasons:
        yield finding("L466", f"{health.mode_share:.0%} of the rows have the score {health.mode:g}", facts=facts)
    elif health.n >= 5 * _FEW_VALUES and 2 < health.unique <= _FEW_VALUES:
        yield finding("L460", f"{health.unique} different scores in {health.n} rows", facts=facts)
    at_bounds = health.near_low + health.near_high
    if enough and health.unique > 2 and at_bounds > SATURATED_SHARE:
        bound_shares = {"near_low": health.near_low, "near_high": health.near_high}
        yield finding("L456", f"{at_bounds:.0%} of the scores lie within 0.001 of 0 or 1", facts=bound_shares)
    if health.minimum < 0 or health.maximum > 1:
        fix = "divide by 100: these look like per cent" if health.minimum >= 0 and health.maximum <= 100 else ""
        fix = "take the exponential: these look like log-probabilities" if health.maximum <= 0 else fix
        facts = {"minimum": health.minimum, "maximum": health.maximum}
        yield finding("L455", f"{health.minimum:g} to {health.maximum:g}", fix=fix, facts=facts)
    elif enough and health.unique > 2 and max(health.balance, 1 - health.balance) > _ONE_SIDED:
        direction = "above" if health.balance > 0.5 else "at or below"
        actual = f"{max(health.balance, 1 - health.balance):.1%} of the scores lie {direction} the middle"
        yield finding("L463", actual, facts={"balance": health.balance})


def _still_ranks(values: Sequence[float | None]) -> bool:
    """Whether tiny differences are those of tiny probabilities, which rank rows well."""
    inside = np.array([score_value for score_value in values if score_value is not None and 0 < score_value < 1])
    if len(inside) < len(values) / 2:
        return False
    return float(np.std(np.log(inside) - np.log1p(-inside))) > _LOG_ODDS_STD


def _rows(health: ScoreHealth, scores: ScoreColumn) -> Iterator[Finding]:
    row_count, broken, flags = len(scores.values), scores.broken, scores.flags
    if broken:
        first_line, first_text = broken[0]
        actual = f"{len(broken)} of {row_count} cells of {scores.name!a} are no finite number, the first is "
        actual += f"{first_text[:40]!a} in line {first_line}"
        yield finding("L453", actual, facts={"broken": len(broken), "first_line": first_line})
    missing = health.missing - len(broken)
    if missing > 0 and health.n:
        yield finding("L454", f"{missing} of {row_count} rows have no score", facts={"missing": missing})
    if share := health.fallback_share:
        actual, severity = f"{share:.1%} of the rows were answered by the fall-back constant", _of_share(share)
        yield finding("L458", actual, severity=severity, facts={"fallback_share": share})
    bad_shares = {
        flag_name: flags[flag_name] / row_count for flag_name in ("cut_off", "error", "invalid") if flags.get(flag_name)
    }
    if bad_shares:
        share_texts = ", ".join(f"{share:.1%} {flag_name}" for flag_name, share in bad_shares.items())
        facts = {f"{flag_name}_share": share for flag_name, share in bad_shares.items()}
        yield finding("L464", share_texts, severity=_of_share(max(bad_shares.values())), facts=facts)
    if flags.get("adapter_fallback"):
        share = flags["adapter_fallback"] / row_count
        yield finding("L465", f"{share:.1%} of the rows", facts={"adapter_fallback_share": share})


def _of_share(bad_share: float) -> Severity:
    return "warn" if bad_share > _BAD_ROWS else "note"


def _trained_rows(scores: ScoreColumn) -> Iterator[Finding]:
    """Rows whose own labels `lorica adapt` trained the answering adapter on; the worse where they are to judge it."""
    if trained_count := scores.flags.get("trained_on"):
        has_gold = any(label is not None for label in scores.gold)
        rows_text = f"{trained_count} of {count_of(len(scores.values), 'row')}"
        severity: Severity = "warn" if has_gold else "note"
        yield finding("L471", rows_text, severity=severity, facts={"trained_rows": trained_count})


def _duplicates(ids: Sequence[str], values: Sequence[float | None]) -> Iterator[Finding]:
    id_counts = Counter(ids)
    repeated = {row_id for row_id, id_count in id_counts.items() if id_count > 1}
    if not repeated:
        return
    scores_by_id: dict[str, set[float | None]] = {}
    for row_id, score_value in zip(ids, values, strict=True):
        if row_id in repeated:
            scores_by_id.setdefault(row_id, set()).add(score_value)
    clashing = sorted(row_id for row_id, scores in scores_by_id.items() if len(scores) > 1)
    first_id = ascii((clashing or sorted(repeated))[0][:40])
    count_text = count_of(len(repeated), "id stands", "ids stand")
    actual = f"{count_text} in several rows, {len(clashing)} with different scores; the first is {first_id}"
    facts = {"duplicate_ids": len(repeated), "clashing_ids": len(clashing)}
    yield finding("L459", actual, severity="reject" if clashing else "warn", facts=facts)


def _constants(values: Sequence[float | None]) -> Iterator[Finding]:
    """Round values that come up again and again inside the range, among values that are not round."""
    inside = [score_value for score_value in values if score_value is not None and 0 < score_value < 1]
    if len(inside) < ENOUGH_ROWS:
        return
    value_counts = Counter(score_value for score_value in inside if score_value == round(score_value, _DECIMALS))
    frequent = {
        score_value: count
        for score_value, count in value_counts.most_common()
        if count >= _ROUND_COUNT and count >= _ROUND_SHARE * len(values)
    }
    other_count = len(inside) - sum(frequent.values())
    other_round_count = sum(value_counts.values()) - sum(frequent.values())
    # A column that is round throughout was written with few decimals; its values say nothing.
    if not frequent or other_count < _ROUND_COUNT or other_round_count > _OTHERS_ROUND * other_count:
        return
    shares = [[score_value, count / len(values)] for score_value, count in list(frequent.items())[:3]]
    actual = " and ".join(f"{score_value:g} in {share:.1%} of the rows" for score_value, share in shares)
    yield finding("L457", actual, facts={"constants": shares})


def _against_gold(scores: ScoreColumn) -> Iterator[Finding]:
    gold_and_score = zip(scores.gold, scores.values, strict=True)
    labelled = [(gold, score) for gold, score in gold_and_score if gold is not None and score is not None]
    if not labelled:
        return
    gold, ranked = map(list, zip(*labelled, strict=True))
    auc: Estimate = estimate(METRICS["roc_auc"], gold, ranked, resamples=1_000)
    if math.isnan(auc.value):
        return
    facts = {"auc": auc.value, "auc_low": auc.low, "auc_high": auc.high, "labelled": auc.n}
    yield finding("L467", f"ROC-AUC {auc} on {auc.n} labelled rows", facts=facts)
    if auc.n < _LABELLED:
        return
    if auc.high < 0.5:
        yield finding("L461", f"ROC-AUC {auc} on {auc.n} rows", facts=facts)
    elif auc.low <= 0.5 and (auc.n >= _MANY_LABELLED or auc.value < _COIN) and len(set(ranked)) > 1:
        yield finding("L469", f"ROC-AUC {auc} on {auc.n} rows", facts=facts)
    elif auc.n >= TOO_GOOD_ROWS and auc.value > TOO_GOOD_AUC:
        yield finding("L462", f"ROC-AUC {auc.value:.4f} on {auc.n} rows", facts=facts)
