"""What `lorica judge` shows: how far the judge can be believed before what it found, as text and as plain values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from lorica.data.write import atomic_file
from lorica.judging.agreement import Agreement
from lorica.judging.calls import FAILURES
from lorica.judging.judge_result import JudgeResult
from lorica.judging.verdicts import NOT_ASKED
from lorica.metrics.bootstrap import Estimate
from lorica.names import count_of
from lorica.reports.page import Cell, ReportTable
from lorica.reports.text_table import plain_table

_FAILURE_EXAMPLES = 3
FAILURE_REASONS = {**FAILURES, NOT_ASKED: "not asked: a limit ended the run before"}
"""Kind of failure -> what it is."""


def judge_dict(result: JudgeResult) -> dict[str, Any]:
    """The result without the rows, as values of JSON."""
    mean = result.mean
    return {
        "answers": result.answer_files,
        "gold": result.gold_file,
        "judge": result.judge,
        "rubric": {"name": result.rubric, "digest": result.rubric_digest},
        "rows": result.row_count,
        "sampled": result.sampled,
        "believable": {
            "order_swapped": result.swap,
            "asked_again": result.repetition,
            "first_letter_rate": result.letter_rate,
            "agreement": [_agreement_dict(entry) for entry in result.agreements],
            "warnings": result.warnings,
        },
        "n": mean.n,
        "judged": mean.judged,
        "failed": result.failed,
        "no_answer": result.no_answer,
        "failures": result.failures,
        "mean": mean.mean,
        "mean_score": mean.score,
        "mean_if_failed_count": {"lowest": mean.lowest, "highest": mean.highest},
        "labels": result.labels,
        "label_mass": None
        if result.label_mass is None
        else dict(zip(("lowest", "mean"), result.label_mass, strict=True)),
        **{name: getattr(result, name) for name in ("models", "calls", "journaled", "retried")},
        **{name: getattr(result, name) for name in ("prompt_tokens", "completion_tokens", "control_tokens")},
        "over_budget": result.over_budget,
        "stopped": result.stopped or None,
    }


def judge_text(result: JudgeResult) -> str:
    """Tables and sentences for a terminal."""
    beliefs = filter(None, [plain_table(belief_table(result)), letter_sentence(result)])
    paragraphs = [_judge_line(result), "\n".join(beliefs)]
    paragraphs += [_agreement_table(entry) for entry in result.agreements if entry.n]
    paragraphs.append(_mean_sentences(result))
    if result.failed:
        paragraphs.append(_failure_table(result))
    if result.control_tokens:
        paragraphs.append(
            f"{count_of(len(result.control_tokens), 'row holds', 'rows hold')} text such as <|im_end|>, first "
            f"{result.control_tokens[0]!r}: a server may read it as its own control tokens. A local judge does not."
        )
    return "\n\n".join(paragraphs)


def judge_metrics(result: JudgeResult) -> dict[str, Estimate]:
    """The estimates of a result by name, for a run folder."""
    metrics = {"mean": result.mean.mean, "same verdict, order swapped": result.swap.rate}
    if result.mean.score is not None:
        metrics["mean by probability"] = result.mean.score
    return metrics | {f"kappa with {entry.reference}": entry.kappa for entry in result.agreements}


def write_verdicts(path: Path, result: JudgeResult) -> None:
    """One line of JSON for each row, in the order of the gold file. Raises DataError where it cannot be written."""
    with atomic_file(path) as verdicts_file:
        for verdict in result.rows:
            values = {
                "id": verdict.row_id,
                "verdict": verdict.label or None,
                "score": verdict.score,
                "probabilities": dict(verdict.probabilities) or None,
                "as_asked": verdict.orders[0] or None,
                "swapped": verdict.orders[1] or None,
                "consistent": verdict.is_consistent if verdict.orders[0] else None,
                "by_rule": verdict.by_rule,
                "failure": verdict.failure or None,
                "detail": verdict.detail or None,
            }
            verdicts_file.write(msgspec.json.encode(values) + b"\n")


def _judge_line(result: JudgeResult) -> str:
    judge = result.judge
    name = (
        f"{judge['model']} at {judge['url']} ({judge['structured_output']})"
        if judge["judge"] == "endpoint"
        else f"the local model {judge['model']} ({judge['base'][:19]}), "
        + ("no adapter" if judge["adapter"] == "none" else f"adapter {judge['adapter'][:19]}")
        + f", {judge['dtype']}"
    )
    read = "probabilities of the labels" if judge["scoring"] == "probability" else "labels alone"
    line = f"judge: {name}\nscoring: {read}, in all of the run; rubric {result.rubric} ({result.rubric_digest[:19]})"
    other_names = [model for model in result.models if model != judge.get("model")]
    return line + (f"\nthe endpoint calls itself {', '.join(other_names)}" if other_names else "")


def belief_table(result: JudgeResult) -> ReportTable:
    """How far the judge stays with its verdicts."""
    rows = tuple(
        (f"same verdict, {name}", f"{entry.same:,} of {entry.n:,}", str(entry.rate), _change_text(entry.largest_change))
        for name, entry in (("order swapped", result.swap), ("asked again", result.repetition))
    )
    return ReportTable(("Can the judge be believed?", "rows", "share [95%]", "largest change of a probability"), rows)


def _change_text(change: float) -> str:
    return "" if math.isnan(change) else f"{change:.3g}"


def letter_sentence(result: JudgeResult) -> str:
    """How often it chose the first letter; "" without a reply."""
    if math.isnan(result.letter_rate):
        return ""
    return f"It chose the first letter in {result.letter_rate:.0%} of its replies, whatever stood behind it."


def confusion_table(entry: Agreement) -> ReportTable:
    """Rows by the label of the reference, and that of the judge."""
    names = list(dict.fromkeys(name for pair in entry.confusion for name in pair))
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (reference, *(entry.confusion.get((reference, verdict), 0) for verdict in names)) for reference in names
    )
    return ReportTable((f"by {entry.reference}", *(f"judged {name}" for name in names)), rows)


def rates_sentence(entry: Agreement) -> str:
    """How often the reference, and the judge, gave the best label."""
    return (
        f"{entry.label}: {entry.base_rate:.1%} by {entry.reference} (base rate), {entry.judge_rate:.1%} by the judge."
    )


def _agreement_table(entry: Agreement) -> str:
    heading = (f"against {entry.reference}", "n", "agreement [95%]", "Cohen's kappa [95%]")
    table = ReportTable(heading, (("the judge", entry.n, str(entry.accuracy), str(entry.kappa)),))
    return "\n".join((plain_table(table), rates_sentence(entry), plain_table(confusion_table(entry))))


def _mean_sentences(result: JudgeResult) -> str:
    mean = result.mean
    counts = ", ".join(f"{count} {name}" for name, count in result.labels.items())
    sampled = f" (a sample of {result.row_count})" if result.sampled else ""
    sentences = [
        f"mean verdict: {mean.mean}; mean over the {mean.judged} judged of {mean.n} rows{sampled}; "
        f"{result.failed} failed ({result.failed / mean.n:.0%})",
        f"  {counts}",
    ]
    if result.failed:
        sentences.append(
            f"  between {mean.lowest:.3f} and {mean.highest:.3f} if the failed rows had the lowest or highest value"
        )
    if result.no_answer:
        ruled = count_of(result.no_answer, "row without an answer has", "rows without an answer have")
        sentences.append(f"  {ruled} a verdict by rule; nobody was asked")
    if mean.score is not None:
        sentences.append(f"mean by probability: {mean.score}")
    if result.label_mass is not None:
        lowest, average = result.label_mass
        sentences.append(f"probability of any letter at all: {average:.3f} in the mean, {lowest:.3g} at least")
    sentences.append(
        f"{result.calls} calls now, {result.journaled} from the journal"
        + (f", {result.retried} sent again" if result.retried else "")
        + (f"; {result.prompt_tokens:,} + {result.completion_tokens:,} tokens" if result.prompt_tokens else "")
    )
    return "\n".join(sentences)


def _failure_table(result: JudgeResult) -> str:
    rows: list[tuple[Cell, ...]] = []
    for kind, count in result.failures.items():
        examples = [verdict for verdict in result.rows if verdict.failure == kind][:_FAILURE_EXAMPLES]
        example_ids = ", ".join(verdict.row_id for verdict in examples)
        rows.append((FAILURE_REASONS[kind], count, example_ids, examples[0].detail))
    return plain_table(ReportTable(("failed because", "rows", "such as", "the first"), tuple(rows)))


def _agreement_dict(entry: Agreement) -> dict[str, Any]:
    confusion = [
        {"reference": reference, "verdict": verdict, "rows": count}
        for (reference, verdict), count in entry.confusion.items()
    ]
    values = {name: getattr(entry, name) for name in ("n", "accuracy", "kappa", "label", "base_rate", "judge_rate")}
    return {"with": entry.reference, **values, "confusion": confusion}
