"""What `lorica check` shows: a block for one adapter, a table for several, a page, a CSV, plain values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lorica.names import listed
from lorica.reports.page import Cell, Report, Section, Table, clean
from lorica.reports.text_table import plain_table
from lorica.vetting.claims.training_evidence import TrainingEvidence
from lorica.vetting.findings import LEVELS, Finding
from lorica.vetting.levels import Examination
from lorica.vetting.profile import Profile
from lorica.vetting.ranking import RankedAdapter

if TYPE_CHECKING:
    from lorica.vetting.base_checks import BaseCheckResult  # loads torch, which the levels on files do without

COLUMNS = (
    *("place", "adapter", "verdict", "levels", "method", "base", "revision", "fits", "rank", "alpha", "scaling"),
    *("targets", "layers", "dropout", "parameters", "bytes", "dtype", "training", "conflicts", "behaviour", "reasons"),
)
# What a terminal has room for; the page and the CSV have all columns.
_SHORT = ("place", "adapter", "verdict", "levels", "base", "rank", "scaling", "targets", "parameters", "reasons")
# On the page what a reader looks for first stands first.
_FIRST = ("place", "adapter", "verdict", "levels", "reasons")
_PAGE = (*_FIRST, *(column for column in COLUMNS if column not in _FIRST))
_ABOVE = "stands above the next because"
# So many adapters are shown one below the other at once.
_FEW = 4
_MARKS = {"passed": "+", "noted": "+", "warned": "!", "failed": "x", "skipped": "-"}


def one(found: Examination, behaviour: BaseCheckResult | None) -> str:
    """Everything about one adapter, for a terminal."""
    verdict = found.verdict
    levels = " · ".join(f"L{level} {name} {verdict.levels[level]}" for level, name in LEVELS.items())
    lines = [f"{clean(verdict.name)}: {verdict.status.upper()}", f"  {_about(found.profile)}"]
    if found.fits:
        lines.append(f"  {clean(found.fits)}")
    if trained := _training(found.evidence):
        lines.append(f"  {trained}")
    if behaviour is not None:
        lines += [f"  {line}" for line in behaviour.lines]
    return "\n".join([*lines, f"  {levels}", *(finding_text(each) for each in verdict.findings)])


def several(
    found: Sequence[Examination], behaviours: Sequence[BaseCheckResult | None], places: Sequence[RankedAdapter]
) -> str:
    """The comparison, best first, and why each stands where it stands."""
    table = comparison(found, behaviours, places, _SHORT)
    why = [f"{each.position}. {clean(each.name)}: {each.above}" for each in places if each.above]
    ranking = ["", "Why in this order:", *why[:20]] if len(found) > 1 else []
    if len(why) > 20:
        ranking.append(f"... and {len(why) - 20} more, in --json")
    legend = "levels: + passed, ! warned, x failed, - skipped"
    return "\n".join([plain_table(table, max_cell=36, names=("adapter", "base")), legend, *_sequences(found), *ranking])


def passed_over(folders: Sequence[Path]) -> str:
    """What to say of folders that were not looked at; "" where there are none."""
    if not folders:
        return ""
    names = listed((clean(str(folder)) for folder in folders), 3)
    return f"\nNot looked at: {names}; name a folder to check what is in it."


def runs_of(found: Sequence[Examination]) -> list[tuple[str, list[str]]]:
    """The training runs that several of the adapters are of, each with its adapters' names in the order of steps."""
    notes = [note.facts for adapter in found for note in adapter.findings if note.code == "L256"]
    return list({tuple(facts["members"]): (facts["run"], facts["members"]) for facts in notes}.values())


def _sequences(found: Sequence[Examination]) -> list[str]:
    lines = []
    for run, names in runs_of(found):
        shown = names if len(names) <= 8 else [*names[:4], "...", *names[-3:]]
        lines.append(clean(f"{run}: {' -> '.join(shown)} ({len(names)} of one run)"))
    return ["", "Training runs, in the order of their steps:", *lines] if lines else []


def comparison(
    found: Sequence[Examination],
    behaviours: Sequence[BaseCheckResult | None],
    places: Sequence[RankedAdapter],
    columns: Sequence[str] = COLUMNS,
) -> Table:
    """Side by side, in the order of the ranking."""
    by_name = {each.source.name: (each, behaviour) for each, behaviour in zip(found, behaviours, strict=True)}
    rows = []
    for place in places:
        cells = _cells(*by_name[place.name], place)
        rows.append(tuple(cells[column] for column in columns))
    return Table(tuple(columns), tuple(rows))


def page(
    found: Sequence[Examination], behaviours: Sequence[BaseCheckResult | None], places: Sequence[RankedAdapter]
) -> Report:
    """The page for people: the table to sort and filter, the ranking with its reasons, and every finding of every
    adapter; of many adapters each is folded behind its name in the table."""
    statuses = [each.verdict.status for each in found]
    counts = ", ".join(f"{statuses.count(each)} {each}" for each in dict.fromkeys(statuses))
    number = {each.source.name: place for place, each in enumerate(found, 2)}
    above = {place.name: place.above for place in places}
    table = comparison(found, behaviours, places, _PAGE)
    side_by_side = Table(
        (*table.columns, _ABOVE),
        tuple((*row, above[place.name]) for row, place in zip(table.rows, places, strict=True)),
        interactive=True,
        sections=tuple(number[place.name] for place in places),
        choose=("verdict", "method"),
        narrow=_SHORT,
    )
    how = "Best first; the first criterion that differs decides. A name leads to all that was found about the adapter."
    runs = _sequences(found)[2:]
    sections = [Section("Side by side", how, (side_by_side,), notes=tuple(runs))]
    for each, behaviour in zip(found, behaviours, strict=True):
        text = _about(each.profile) + (f"\n\nShapes: {each.fits}." if each.fits else "")
        tables = (_findings_table(each.verdict.findings),) if each.verdict.findings else ()
        notes = () if behaviour is None else behaviour.lines
        heading = f"{_visible(each.source.name)}: {each.verdict.status}"
        sections.append(Section(heading, text, tables, notes=notes, folded=len(found) > _FEW))
    return Report("Adapters checked by Lorica", f"{len(found)} adapters: {counts}.", tuple(sections))


def plain(found: Examination, behaviour: BaseCheckResult | None) -> dict[str, Any]:
    """One adapter as JSON-able values."""
    verdict = found.verdict
    return {
        "name": verdict.name,
        "path": verdict.path,
        "status": verdict.status,
        "levels": {f"L{level}": result for level, result in verdict.levels.items()},
        "findings": [finding_dict(each) for each in verdict.findings],
        "profile": msgspec.to_builtins(found.profile),
        "fits": None if found.match is None else {"text": found.fits, **msgspec.to_builtins(found.match)},
        "training": None if found.evidence is None else msgspec.to_builtins(found.evidence),
        "content_digest": None if found.numbers is None else found.numbers.content_digest,
        "update_norm": None if found.numbers is None else found.numbers.norm,
        "behaviour": None if behaviour is None else behaviour.plain,
    }


def finding_dict(each: Finding) -> dict[str, Any]:
    """A finding as JSON-able values."""
    return {"title": each.title, "level": each.level, **msgspec.to_builtins(each)}


def _about(about: Profile) -> str:
    if not about.modules:
        return f"{clean(about.method) or 'unknown method'}, no adapted modules could be read"
    flags = [name for name, on in (("rsLoRA", about.rslora), ("DoRA", about.dora)) if on]
    parts = [
        f"{clean(about.method)} {' '.join(flags)}".strip(),
        f"r={_span(about.ranks)}",
        f"alpha {_span(about.alphas)} (scaling {_span(about.scalings)})",
        f"{about.modules} modules in {len(about.layers)} layers: {clean(', '.join(about.targets))}",
        f"{about.parameters:,} parameters, {_size(about.bytes)}, {', '.join(about.dtypes)}",
        f"base {clean(about.base) or 'not named'}" + (f" @ {clean(about.revision)}" if about.revision else ""),
    ]
    return " · ".join(parts)


def _visible(name: str) -> str:
    """A name as a table shows it: what cannot be seen, and blanks that tables draw as one, are written out, so that
    different names look different."""
    plain = name if name.isprintable() else ascii(name)[1:-1]
    return re.sub(r"(?<= ) |^ | $", r"\\x20", plain)


def _cells(found: Examination, behaviour: BaseCheckResult | None, place: RankedAdapter) -> dict[str, Cell]:
    about, verdict = found.profile, found.verdict
    reasons = [each for each in verdict.findings if each.severity != "note"]
    claims = [each for each in verdict.findings if "L150" <= each.code < "L200" and each.severity != "note"]
    return {
        "place": place.position,
        "adapter": _visible(verdict.name),
        "verdict": verdict.status,
        "levels": "".join(_MARKS[verdict.levels[level]] for level in LEVELS),
        "method": about.method + (" rsLoRA" if about.rslora else "") + (" DoRA" if about.dora else ""),
        "base": about.base,
        "revision": about.revision,
        "fits": found.fits,
        "rank": _span(about.ranks),
        "alpha": _span(about.alphas),
        "scaling": _span(about.scalings),
        "targets": ", ".join(about.targets),
        "layers": len(about.layers),
        "dropout": about.dropout,
        "parameters": about.parameters,
        "bytes": about.bytes,
        "dtype": ", ".join(about.dtypes),
        "training": _training(found.evidence),
        "conflicts": "; ".join(each.seen for each in claims),
        "behaviour": "" if behaviour is None else "; ".join(behaviour.lines),
        "reasons": "; ".join(f"{each.code} {each.title}" for each in reasons),
    }


def _findings_table(findings: Sequence[Finding]) -> Table:
    rows = tuple((f.code, f.severity, f.title, f.file, f.seen, f.expected, f.fix) for f in findings)
    return Table(("code", "severity", "means", "file", "seen", "expected", "what to do"), rows)


def finding_text(each: Finding) -> str:
    """A finding for a terminal: what, where, and what to do."""
    where = f" [{clean(each.file)}]" if each.file else ""
    lines = [f"  {each.severity:<6} {each.code}{where} {each.title}: {clean(each.seen)}"]
    lines += [f"         expected: {clean(each.expected)}"] if each.expected else []
    lines += [f"         -> {clean(each.fix)}"] if each.fix else []
    return "\n".join(lines)


def _training(seen: TrainingEvidence | None) -> str:
    """What is known of the training, in one line; "" when nothing is."""
    if seen is None:
        return ""
    parts = []
    if seen.steps is not None:
        parts.append(f"{seen.steps} steps" + (f" in {seen.epochs:.3g} epochs" if seen.epochs is not None else ""))
    if seen.training_rows is not None:
        parts.append(f"{seen.training_rows} rows")
    if seen.loss_first is not None and seen.loss_last is not None:
        parts.append(f"loss {seen.loss_first:.3g} to {seen.loss_last:.3g}")
    if seen.eval_last is not None:
        parts.append(f"validation loss {seen.eval_last:.3g}")
    elif seen.held_out is False:
        parts.append("no validation split")
    if seen.fold is not None:
        parts.append(f"fold {seen.fold}" + (f" of {seen.folds}" if seen.folds is not None else ""))
    parts += ["with a card"] if seen.card else []
    return ", ".join(parts)


def _span(values: Sequence[float]) -> str:
    if not values:
        return "?"
    shown = [f"{value:g}" for value in values]
    return shown[0] if len(shown) == 1 else ", ".join(shown) if len(shown) <= 3 else f"{shown[0]}-{shown[-1]}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
