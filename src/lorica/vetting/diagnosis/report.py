"""A diagnosis for people and programs: in a terminal, as a page, as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from lorica.reports.page import Report, ReportTable, Section, clean
from lorica.reports.text_table import plain_table
from lorica.vetting.diagnosis.diagnose import Diagnosis
from lorica.vetting.diagnosis.next_steps import first_step, is_pickle
from lorica.vetting.diagnosis.posterior import Evidence, Hypothesis, direction

# Runners-up and lines of evidence that a terminal shows; the page has them all.
_MAX_OTHERS, _MAX_LINES, _MAX_AGAINST = 4, 6, 3


def to_text(diagnosis: Diagnosis) -> str:
    """The leading cause with its evidence, the runners-up, the experiments, and the next command."""
    top = diagnosis.hypotheses[0]
    if diagnosis.decided:
        sections = [f"{diagnosis.name}: {top.title} ({top.certainty})\n  {_meaning(diagnosis)}"]
    else:
        reason = f"{top.title} is the first of what is possible, and too little speaks for it to name it"
        sections = [f"{diagnosis.name}: undecided\n  {_why_undecided(diagnosis)}\n  {reason}"]
    sections.append(_evidence_lines(top))
    runners_up = [hypothesis for hypothesis in diagnosis.hypotheses[1:] if hypothesis.certainty != "unlikely"]
    if runners_up:
        rows = tuple((item.title, item.certainty, _most_telling(item)) for item in runners_up[:_MAX_OTHERS])
        table = plain_table(ReportTable(("cause", "certainty", "most telling"), rows), max_cell=90)
        sections.append("then\n" + _indented(table.splitlines()))
    if diagnosis.experiments:
        lines = [f"{result.asks} {'; '.join(result.outcome)}" for result in diagnosis.experiments if result.outcome]
        silent = sum(not result.outcome for result in diagnosis.experiments)
        lines += [f"{silent} more could tell nothing"] if silent else []
        sections.append("asked\n" + _indented(lines))
    if diagnosis.settle:
        sections.append("what would settle it\n" + _indented(diagnosis.settle))
    if diagnosis.untested and diagnosis.certainty != "settled":
        hidden = len(diagnosis.untested) - _MAX_LINES
        lines = [*diagnosis.untested[:_MAX_LINES], *([f"and {hidden} more"] if hidden > 0 else [])]
        sections.append("not tested\n" + _indented(lines))
    sections.append("next\n" + _indented(_next_steps(diagnosis)))
    return clean("\n\n".join(sections))


def to_report(diagnosis: Diagnosis) -> Report:
    """The whole diagnosis as a page."""
    top = diagnosis.hypotheses[0]
    open_question = f"Undecided: {_why_undecided(diagnosis)}. First of what is possible, but not enough to name it: "
    lead = f"{'' if diagnosis.decided else open_question}{top.title} ({top.certainty}): {_meaning(diagnosis)}."
    causes = tuple((item.title, item.means, item.certainty) for item in diagnosis.hypotheses)
    return Report(
        title=f"Diagnosis of {diagnosis.name}",
        summary=f"{lead}\n\nNext: {' '.join(_next_steps(diagnosis))}",
        sections=(
            Section("Causes", "The leading one first.", (ReportTable(("cause", "which means", "certainty"), causes),)),
            *(_hypothesis(item) for item in diagnosis.hypotheses[:3]),
            Section(
                "Experiments",
                "In their order. Those with two causes were chosen to decide between them.",
                (_experiments(diagnosis),),
                notes=diagnosis.settle,
            ),
            Section("Evidence", tables=(_evidence(diagnosis),)),
            Section("Not tested", tables=(), notes=diagnosis.untested or ("Everything was tested.",)),
        ),
        footer=f"{diagnosis.path}. Evidence of one group counts once.",
    )


def to_plain(diagnosis: Diagnosis) -> dict[str, Any]:
    """JSON-able values. What evidence weighs is told in words: the numbers behind them rank causes and mean no more."""
    plain: dict[str, Any] = msgspec.to_builtins(diagnosis)
    evidence = [
        {"id": item.id, "text": item.text, "source": item.source, "group": item.group, "speaks": _directions(item)}
        for item in diagnosis.evidence
    ]
    return plain | {"decided": diagnosis.decided, "evidence": evidence}


def _directions(item: Evidence) -> dict[str, str]:
    """Cause -> how the evidence bears on it, without those that it leaves as they are."""
    words = {cause: direction(weight) for cause, weight in sorted(item.weights.items())}
    return {cause: word for cause, word in words.items() if word != "neutral"}


def _meaning(diagnosis: Diagnosis) -> str:
    if diagnosis.cause == "unreadable" and is_pickle(diagnosis.findings):
        return "its weights are a pickle: that can run code, so it is not opened, and nothing is known of what is in it"
    return diagnosis.hypotheses[0].means


def _why_undecided(diagnosis: Diagnosis) -> str:
    codes = dict.fromkeys(finding.code for finding in diagnosis.findings if finding.severity != "note")
    findings = f"what was found ({', '.join(codes)}) does not settle it"
    return findings if codes else "nothing wrong was found in what could be looked at"


def _next_steps(diagnosis: Diagnosis) -> list[str]:
    first = first_step(diagnosis.cause, diagnosis.findings) if diagnosis.decided else ""
    return [f"{first}, then", diagnosis.command] if first else [diagnosis.command]


def _hypothesis(hypothesis: Hypothesis) -> Section:
    bearings = (*hypothesis.evidence_for, *hypothesis.evidence_against)
    rows = tuple((item.text, item.source, item.direction) for item in bearings)
    tables = (ReportTable(("evidence", "from", "direction"), rows),) if rows else ()
    means = f"{hypothesis.means[:1].upper()}{hypothesis.means[1:]}."
    return Section(f"{hypothesis.title} ({hypothesis.certainty})", means, tables)


def _experiments(diagnosis: Diagnosis) -> ReportTable:
    titles = {hypothesis.cause: hypothesis.title for hypothesis in diagnosis.hypotheses}
    rows = tuple(
        (
            result.asks,
            " or ".join(titles[cause] for cause in result.between if cause) or "always asked",
            "; ".join(result.outcome) or "it could tell nothing",
        )
        for result in diagnosis.experiments
    )
    return ReportTable(("question", "to decide between", "what came out"), rows)


def _evidence(diagnosis: Diagnosis) -> ReportTable:
    titles = {hypothesis.cause: hypothesis.title for hypothesis in diagnosis.hypotheses}
    rows = []
    for item in diagnosis.evidence:
        causes: dict[str, list[str]] = {}
        for cause, word in _directions(item).items():
            causes.setdefault(word, []).append(titles[cause])
        speaks = "; ".join(f"{word} {', '.join(names)}" for word, names in causes.items())
        rows.append((item.text, item.source, item.group, speaks))
    return ReportTable(("what was seen", "from", "group", "speaks"), tuple(rows))


def _evidence_lines(top: Hypothesis) -> str:
    bearings = (*top.evidence_for[:_MAX_LINES], *top.evidence_against[:_MAX_AGAINST])
    lines = [f"{item.direction}: {item.text} [{item.source}]" for item in bearings]
    return _indented(lines or ["nothing speaks for it: too little was tested to decide"])


def _most_telling(hypothesis: Hypothesis) -> str:
    heaviest = (*hypothesis.evidence_for[:1], *hypothesis.evidence_against[:1])
    item = max(heaviest, key=lambda item: item.direction.startswith("strongly"), default=None)
    return f"{item.direction}: {item.text}" if item else "nothing speaks for or against it"


def _indented(lines: list[str] | tuple[str, ...]) -> str:
    return "\n".join(f"  {line}" for line in lines)
