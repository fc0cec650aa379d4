"""A diagnosis for people: in a terminal, and as a report."""

from __future__ import annotations

from lorica.reports.page import Report, Section, Table, clean
from lorica.reports.table import plain_table
from lorica.vetting.diagnosis.diagnose import Diagnosis
from lorica.vetting.diagnosis.evidence import Hypothesis, Weighed
from lorica.vetting.diagnosis.settle import first_step, is_pickle

# Runners-up and lines of evidence that a terminal shows; the report has them all.
_SHOWN, _LINES = 4, 6
# Where a cause is as sure as this, a terminal is spared what more could have been tested.
_SETTLED = 0.95
# In a terminal, a cause less probable than this is not mentioned.
_MENTIONED = 0.005


def to_text(found: Diagnosis) -> str:
    """The top cause with its evidence, the runners-up, the experiments, and the next command."""
    top = found.hypotheses[0]
    if found.decided:
        parts = [f"{found.name}: {top.title} ({_percent(top.posterior)})\n  {_means(found, top)}", _evidence_lines(top)]
    else:
        said = f"most probable is {top.title} ({_percent(top.posterior)}), which is too little to name it"
        parts = [f"{found.name}: undecided\n  {_known(found)}\n  {said}", _evidence_lines(top)]
    others = [each for each in found.hypotheses[1 : 1 + _SHOWN] if each.posterior >= _MENTIONED]
    if others:
        rows = tuple((each.title, _percent(each.posterior), _best(each)) for each in others)
        parts.append(
            "then\n" + _indented(plain_table(Table(("cause", "probability", "most telling"), rows), max_cell=90))
        )
    if found.experiments:
        lines = [f"  {each.asks} {'; '.join(each.found)}" for each in found.experiments if each.found]
        silent = sum(not each.found for each in found.experiments)
        lines += [f"  {silent} more could tell nothing"] if silent else []
        parts.append("asked\n" + "\n".join(lines))
    if found.settle:
        parts.append("what would settle it\n" + "\n".join(f"  {each}" for each in found.settle))
    if found.untested and top.posterior < _SETTLED:
        lines = [f"  {each}" for each in found.untested[:_LINES]]
        more = len(found.untested) - len(lines)
        parts.append("not tested\n" + "\n".join([*lines, *([f"  and {more} more"] if more else [])]))
    first = first_step(found.cause, found.findings) if found.decided else ""
    parts.append("next\n" + (f"  {first}, then\n" if first else "") + f"  {found.command}")
    return clean("\n\n".join(parts))


def to_report(found: Diagnosis) -> Report:
    """The whole diagnosis as a page."""
    top = found.hypotheses[0]
    first = first_step(found.cause, found.findings) if found.decided else ""
    named = "" if found.decided else f"Undecided: {_known(found)}. Most probable, but not enough to name it: "
    summary = (
        f"{named}{top.title}: {_means(found, top)}. Probability {_percent(top.posterior)}.\n\n"
        f"Next: {first + ', then ' if first else ''}{found.command}"
    )
    return Report(
        title=f"Diagnosis of {found.name}",
        summary=summary,
        sections=(
            Section("Causes", "Before and after the evidence; they add up to 100%.", (_causes(found),)),
            *(_hypothesis(each) for each in found.hypotheses[:3]),
            Section(
                "Experiments",
                "In their order. Those with two causes were chosen to decide between them.",
                (_experiments(found),),
                notes=found.settle,
            ),
            Section("Evidence", tables=(_evidence(found),)),
            Section("Not tested", tables=(), notes=found.untested or ("Everything was tested.",)),
        ),
        footer=f"{found.path}. A weight is a natural-log likelihood ratio; evidence of one group counts once.",
    )


def _means(found: Diagnosis, top: Hypothesis) -> str:
    if found.cause == "unreadable" and is_pickle(found.findings):
        return "its weights are a pickle: that can run code, so it is not opened, and nothing is known of what is in it"
    return top.means


def _known(found: Diagnosis) -> str:
    """What is known where no cause can be named."""
    codes = dict.fromkeys(each.code for each in found.findings if each.severity != "note")
    told = f"what was found ({', '.join(codes)}) does not settle it"
    return told if codes else "nothing wrong was found in what could be looked at"


def _causes(found: Diagnosis) -> Table:
    rows = tuple((each.title, each.means, _percent(each.prior), _percent(each.posterior)) for each in found.hypotheses)
    return Table(("cause", "which means", "before", "after"), rows)


def _hypothesis(each: Hypothesis) -> Section:
    rows = tuple((w.text, w.source, w.direction, w.weight) for w in (*each.evidence_for, *each.evidence_against))
    tables = (Table(("evidence", "from", "direction", "weight"), rows),) if rows else ()
    said = f"{each.means[:1].upper()}{each.means[1:]}."
    return Section(f"{each.title} ({_percent(each.posterior)})", said, tables)


def _experiments(found: Diagnosis) -> Table:
    titles = {each.cause: each.title for each in found.hypotheses}
    rows = tuple(
        (
            each.asks,
            " or ".join(titles[cause] for cause in each.between if cause) or "always asked",
            "; ".join(each.found) or "it could tell nothing",
        )
        for each in found.experiments
    )
    return Table(("question", "to decide between", "what came out"), rows)


def _evidence(found: Diagnosis) -> Table:
    titles = {each.cause: each.title for each in found.hypotheses}
    rows = tuple(
        (
            each.text,
            each.source,
            each.group,
            ", ".join(f"{titles[c]} {w:+.1f}" for c, w in sorted(each.weights.items())),
        )
        for each in found.evidence
    )
    return Table(("what was seen", "from", "group", "weights"), rows)


def _evidence_lines(top: Hypothesis) -> str:
    lines = [_line(each) for each in top.evidence_for[:_LINES]]
    lines += [_line(each) for each in top.evidence_against[:3]]
    return "\n".join(lines) or "  nothing speaks for it: too little was tested to decide"


def _line(each: Weighed) -> str:
    return f"  {each.direction}: {each.text} [{each.source}]"


def _best(each: Hypothesis) -> str:
    telling = sorted((*each.evidence_for, *each.evidence_against), key=lambda w: -abs(w.weight))
    return f"{telling[0].direction}: {telling[0].text}" if telling else "nothing speaks for or against it"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "below 1%"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
