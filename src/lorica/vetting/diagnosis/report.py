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
    leading = diagnosis.hypotheses[0]
    if diagnosis.decided:
        sections = [f"{diagnosis.name}: {leading.title} ({leading.certainty})\n  {_meaning(diagnosis)}"]
    else:
        reason = f"{leading.title} is the first of what is possible, and too little speaks for it to name it"
        sections = [f"{diagnosis.name}: undecided\n  {_why_undecided(diagnosis)}\n  {reason}"]
    sections.append(_evidence_lines(leading))
    runners_up = [hypothesis for hypothesis in diagnosis.hypotheses[1:] if hypothesis.certainty != "unlikely"]
    if runners_up:
        first_others = runners_up[:_MAX_OTHERS]
        table_rows = tuple((cause.title, cause.certainty, _most_telling(cause)) for cause in first_others)
        text_table = plain_table(ReportTable(("cause", "certainty", "most telling"), table_rows), max_cell=90)
        sections.append("then\n" + _indented(text_table.splitlines()))
    if diagnosis.experiments:
        lines = [f"{result.asks} {'; '.join(result.outcome)}" for result in diagnosis.experiments if result.outcome]
        silent_count = sum(not result.outcome for result in diagnosis.experiments)
        lines += [f"{silent_count} more could tell nothing"] if silent_count else []
        sections.append("asked\n" + _indented(lines))
    if diagnosis.settle:
        sections.append("what would settle it\n" + _indented(diagnosis.settle))
    if diagnosis.untested and diagnosis.certainty != "settled":
        hidden_count = len(diagnosis.untested) - _MAX_LINES
        lines = [*diagnosis.untested[:_MAX_LINES], *([f"and {hidden_count} more"] if hidden_count > 0 else [])]
        sections.append("not tested\n" + _indented(lines))
    sections.append("next\n" + _indented(_next_steps(diagnosis)))
    return clean("\n\n".join(sections))


def to_report(diagnosis: Diagnosis) -> Report:
    """The whole diagnosis as a page."""
    leading = diagnosis.hypotheses[0]
    open_question = f"Undecided: {_why_undecided(diagnosis)}. First of what is possible, but not enough to name it: "
    lead_sentence = f"{leading.title} ({leading.certainty}): {_meaning(diagnosis)}."
    lead_sentence = lead_sentence if diagnosis.decided else open_question + lead_sentence
    hypotheses = diagnosis.hypotheses
    cause_rows = tuple((hypothesis.title, hypothesis.means, hypothesis.certainty) for hypothesis in hypotheses)
    causes = ReportTable(("cause", "which means", "certainty"), cause_rows)
    return Report(
        title=f"Diagnosis of {diagnosis.name}",
        summary=f"{lead_sentence}\n\nNext: {' '.join(_next_steps(diagnosis))}",
        sections=(
            Section("Causes", "The leading one first.", (causes,)),
            *(_hypothesis(hypothesis) for hypothesis in hypotheses[:3]),
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
    plain_fields: dict[str, Any] = msgspec.to_builtins(diagnosis)
    for plain_evidence, evidence_item in zip(plain_fields["evidence"], diagnosis.evidence, strict=True):
        del plain_evidence["weights"]
        plain_evidence["speaks"] = _directions(evidence_item)
    return plain_fields | {"decided": diagnosis.decided}


def _directions(evidence_item: Evidence) -> dict[str, str]:
    """Cause -> how the evidence bears on it, without those that it leaves as they are."""
    directions = {cause_name: direction(weight) for cause_name, weight in sorted(evidence_item.weights.items())}
    return {cause_name: word for cause_name, word in directions.items() if word != "neutral"}


def _meaning(diagnosis: Diagnosis) -> str:
    if diagnosis.cause == "unreadable" and is_pickle(diagnosis.findings):
        return "its weights are a pickle: that can run code, so it is not opened, and nothing is known of what is in it"
    return diagnosis.hypotheses[0].means


def _why_undecided(diagnosis: Diagnosis) -> str:
    found_codes = dict.fromkeys(finding.code for finding in diagnosis.findings if finding.severity != "note")
    findings_text = f"what was found ({', '.join(found_codes)}) does not settle it"
    return findings_text if found_codes else "nothing wrong was found in what could be looked at"


def _next_steps(diagnosis: Diagnosis) -> list[str]:
    manual_step = first_step(diagnosis.cause, diagnosis.findings) if diagnosis.decided else ""
    return [f"{manual_step}, then", diagnosis.command] if manual_step else [diagnosis.command]


def _hypothesis(hypothesis: Hypothesis) -> Section:
    bearings = (*hypothesis.evidence_for, *hypothesis.evidence_against)
    table_rows = tuple((bearing.text, bearing.source, bearing.direction) for bearing in bearings)
    tables = (ReportTable(("evidence", "from", "direction"), table_rows),) if table_rows else ()
    meaning = f"{hypothesis.means[:1].upper()}{hypothesis.means[1:]}."
    return Section(f"{hypothesis.title} ({hypothesis.certainty})", meaning, tables)


def _experiments(diagnosis: Diagnosis) -> ReportTable:
    titles = {hypothesis.cause: hypothesis.title for hypothesis in diagnosis.hypotheses}
    table_rows = []
    for result in diagnosis.experiments:
        between = " or ".join(titles[cause_name] for cause_name in result.between if cause_name) or "always asked"
        table_rows.append((result.asks, between, "; ".join(result.outcome) or "it could tell nothing"))
    return ReportTable(("question", "to decide between", "what came out"), tuple(table_rows))


def _evidence(diagnosis: Diagnosis) -> ReportTable:
    titles = {hypothesis.cause: hypothesis.title for hypothesis in diagnosis.hypotheses}
    table_rows = []
    for evidence_item in diagnosis.evidence:
        titles_by_direction: dict[str, list[str]] = {}
        for cause_name, word in _directions(evidence_item).items():
            titles_by_direction.setdefault(word, []).append(titles[cause_name])
        speaks = "; ".join(f"{word} {', '.join(cause_titles)}" for word, cause_titles in titles_by_direction.items())
        table_rows.append((evidence_item.text, evidence_item.source, evidence_item.group, speaks))
    return ReportTable(("what was seen", "from", "group", "speaks"), tuple(table_rows))


def _evidence_lines(leading: Hypothesis) -> str:
    bearings = (*leading.evidence_for[:_MAX_LINES], *leading.evidence_against[:_MAX_AGAINST])
    lines = [f"{bearing.direction}: {bearing.text} [{bearing.source}]" for bearing in bearings]
    return _indented(lines or ["nothing speaks for it: too little was tested to decide"])


def _most_telling(hypothesis: Hypothesis) -> str:
    heaviest = (*hypothesis.evidence_for[:1], *hypothesis.evidence_against[:1])
    item = max(heaviest, key=lambda item: item.direction.startswith("strongly"), default=None)
    return f"{item.direction}: {item.text}" if item else "nothing speaks for or against it"


def _indented(text_lines: list[str] | tuple[str, ...]) -> str:
    return "\n".join(f"  {text_line}" for text_line in text_lines)
