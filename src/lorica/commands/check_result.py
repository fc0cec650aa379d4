"""What `lorica check` and `lorica.check` give: every adapter with its verdict, and the order in which to trust them; as
a block for one adapter, a table for several, a page, a CSV, plain values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lorica.adapters.raw_adapter import OWN_MODELS
from lorica.names import count_of, listed
from lorica.reports.page import Cell, Report, ReportTable, Section, clean
from lorica.reports.text_table import plain_table
from lorica.vetting.claims.training_evidence import TrainingEvidence
from lorica.vetting.findings import EXIT_CODES, LEVELS, Finding, Status, Verdict
from lorica.vetting.levels import Examination
from lorica.vetting.profile import Profile
from lorica.vetting.ranking import Standing, rank

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


@dataclass(frozen=True)
class AdapterCheck:
    """One adapter among those that were checked.

    examination: all that is known of it. on_base: what trying it on the base model gave, None without a base. rank: in
    the ranking, from 1. above: why it stands above the next one, "" for the last.
    """

    examination: Examination
    on_base: BaseCheckResult | None
    rank: int
    above: str

    @property
    def name(self) -> str:
        """The adapter's name, different from those of the others."""
        return self.examination.source.name

    @cached_property
    def verdict(self) -> Verdict:
        """What its findings add up to, level by level."""
        return self.examination.verdict

    @property
    def status(self) -> Status:
        """`trusted`, `warnings`, `rejected` or `unchecked`."""
        return self.verdict.status

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, the gravest first."""
        return self.verdict.findings


@dataclass(frozen=True)
class CheckResult:
    """adapters: in the order in which they were found. not_checked: folders that were not looked into."""

    adapters: tuple[AdapterCheck, ...]
    not_checked: tuple[Path, ...] = ()

    @cached_property
    def ranked(self) -> tuple[AdapterCheck, ...]:
        """The adapters, the one to trust first at the beginning."""
        return tuple(sorted(self.adapters, key=lambda adapter: adapter.rank))

    @property
    def exit_code(self) -> int:
        """The exit code of `lorica check`: 0 trusted, 10 warnings, 11 rejected, 12 unchecked; the worst counts."""
        return max(EXIT_CODES[adapter.status] for adapter in self.adapters)

    @property
    def runs(self) -> list[tuple[str, list[str]]]:
        """The training runs of which there are several checkpoints: the run, and names in the order of their steps."""
        findings = (finding for adapter in self.adapters for finding in adapter.examination.findings)
        sequences = (finding.facts for finding in findings if finding.code == "L256")
        return list(
            {tuple(run_facts["members"]): (run_facts["run"], run_facts["members"]) for run_facts in sequences}.values()
        )


def rank_adapters(
    examinations: Sequence[Examination], on_base: Sequence[BaseCheckResult | None], not_checked: Sequence[Path]
) -> CheckResult:
    """The result of a check. on_base: [n], of the same adapters as `examinations`."""
    standings = [
        Standing(
            verdict=examination.verdict,
            gain=None if base_result is None else base_result.gain,
            metric=None if base_result is None else base_result.metric,
        )
        for examination, base_result in zip(examinations, on_base, strict=True)
    ]
    ranking = {ranked_adapter.name: ranked_adapter for ranked_adapter in rank(standings)}
    adapters = []
    for examination, base_result in zip(examinations, on_base, strict=True):
        ranked = ranking[examination.source.name]
        adapters.append(AdapterCheck(examination, base_result, ranked.position, ranked.above))
    return CheckResult(tuple(adapters), tuple(not_checked))


def one_text(adapter: AdapterCheck) -> str:
    """Everything about one adapter, for a terminal."""
    verdict, examination = adapter.verdict, adapter.examination
    level_outcomes = " · ".join(f"L{level} {name} {verdict.levels[level]}" for level, name in LEVELS.items())
    text_lines = [f"{clean(verdict.name)}: {verdict.status.upper()}", f"  {_summary(examination.profile)}"]
    if examination.fits:
        text_lines.append(f"  {clean(examination.fits)}")
    if training := _training(examination.evidence):
        text_lines.append(f"  {training}")
    text_lines += [f"  {text_line}" for text_line in _on_base(adapter)]
    return "\n".join([*text_lines, f"  {level_outcomes}", *(finding_text(finding) for finding in verdict.findings)])


def comparison_text(result: CheckResult) -> str:
    """The comparison, best first, and why each stands where it stands."""
    table = comparison(result, _SHORT)
    reasons = [f"{adapter.rank}. {clean(adapter.name)}: {adapter.above}" for adapter in result.ranked if adapter.above]
    ranking = ["", "Why in this order:", *reasons[:20]] if len(result.adapters) > 1 else []
    if len(reasons) > 20:
        ranking.append(f"... and {len(reasons) - 20} more, in --json")
    legend = "levels: + passed, ! warned, x failed, - skipped"
    return "\n".join([plain_table(table, max_cell=36, names=("adapter", "base")), legend, *_runs(result), *ranking])


def not_checked_text(folders: Sequence[Path]) -> str:
    """What to say of folders that were not looked into; "" where there are none."""
    if not folders:
        return ""
    folder_names = listed((clean(str(folder)) for folder in folders), 3)
    return f"\nNot looked at: {folder_names}; name a folder to check what is in it."


def _runs(result: CheckResult) -> list[str]:
    run_lines = []
    for run_name, names in result.runs:
        shown_names = names if len(names) <= 8 else [*names[:4], "...", *names[-3:]]
        run_lines.append(clean(f"{run_name}: {' -> '.join(shown_names)} ({len(names)} of one run)"))
    return ["", "Training runs, in the order of their steps:", *run_lines] if run_lines else []


def _on_base(adapter: AdapterCheck) -> tuple[str, ...]:
    return () if adapter.on_base is None else adapter.on_base.lines


def comparison(result: CheckResult, columns: Sequence[str] = COLUMNS) -> ReportTable:
    """Side by side, in the order of the ranking."""
    rows = tuple(tuple(cells[column] for column in columns) for cells in map(_cells, result.ranked))
    return ReportTable(tuple(columns), rows)


def page(result: CheckResult) -> Report:
    """The page for people: the table to sort and filter, the ranking with its reasons, and every finding of every
    adapter; of many adapters each is folded behind its name in the table."""
    statuses = [adapter.status for adapter in result.adapters]
    status_counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    section_numbers = {adapter.name: number for number, adapter in enumerate(result.adapters, 2)}
    table = comparison(result, _PAGE)
    side_by_side = ReportTable(
        (*table.columns, _ABOVE),
        tuple((*row, adapter.above) for row, adapter in zip(table.rows, result.ranked, strict=True)),
        interactive=True,
        sections=tuple(section_numbers[adapter.name] for adapter in result.ranked),
        choose=("verdict", "method"),
        narrow=_SHORT,
    )
    how = "Best first; the first criterion that differs decides. A name leads to all that was found about the adapter."
    sections = [Section("Side by side", how, (side_by_side,), notes=tuple(_runs(result)[2:]))]
    is_folded = len(result.adapters) > _FEW
    for adapter in result.adapters:
        examination = adapter.examination
        section_text = _summary(examination.profile) + (f"\n\nShapes: {examination.fits}." if examination.fits else "")
        columns = ("code", "severity", "means", "file", "seen", "expected", "what to do")
        rows = tuple(
            (finding.code, finding.severity, finding.title, finding.file, finding.seen, finding.expected, finding.fix)
            for finding in adapter.findings
        )
        finding_tables = (ReportTable(columns, rows),) if rows else ()
        heading = f"{_visible(adapter.name)}: {adapter.status}"
        sections.append(Section(heading, section_text, finding_tables, notes=_on_base(adapter), folded=is_folded))
    return Report(
        "Adapters checked by Lorica", f"{count_of(len(result.adapters), 'adapter')}: {status_counts}.", tuple(sections)
    )


def check_dict(result: CheckResult) -> dict[str, Any]:
    """The result as JSON-able values."""
    return {
        "exit_code": result.exit_code,
        "adapters": [_adapter_dict(adapter) for adapter in result.adapters],
        "ranking": [{"place": adapter.rank, "name": adapter.name, "above": adapter.above} for adapter in result.ranked],
        "runs": [{"run": run_name, "members": checkpoint_names} for run_name, checkpoint_names in result.runs],
        "not_looked_at": [str(folder) for folder in result.not_checked],
    }


def _adapter_dict(adapter: AdapterCheck) -> dict[str, Any]:
    examination, verdict = adapter.examination, adapter.verdict
    base_match, evidence, numbers = examination.match, examination.evidence, examination.numbers
    return {
        "name": verdict.name,
        "path": verdict.path,
        "status": verdict.status,
        "levels": {f"L{level}": outcome for level, outcome in verdict.levels.items()},
        "findings": [finding_dict(finding) for finding in verdict.findings],
        "profile": msgspec.to_builtins(examination.profile),
        "fits": None if base_match is None else {"text": examination.fits, **msgspec.to_builtins(base_match)},
        "training": None if evidence is None else msgspec.to_builtins(evidence),
        "content_digest": None if numbers is None else numbers.content_digest,
        "update_norm": None if numbers is None else numbers.norm,
        "behaviour": None if adapter.on_base is None else adapter.on_base.plain,
    }


def finding_dict(finding: Finding) -> dict[str, Any]:
    """A finding as JSON-able values."""
    return {"title": finding.title, "level": finding.level, **msgspec.to_builtins(finding)}


def _summary(profile: Profile) -> str:
    if profile.kind in OWN_MODELS:
        numbers = f"{profile.parameters:,} parameters, {_size(profile.bytes)}, {', '.join(profile.dtypes)}"
        base_words = f" on {clean(profile.base)}" if profile.base else ""
        return f"{clean(profile.method)} of its own{base_words} · {numbers}"
    if not profile.modules:
        return f"{clean(profile.method) or 'unknown method'}, no adapted modules could be read"
    summary_facts = [
        clean(_method(profile)).strip(),
        f"r={_span(profile.ranks)}",
        f"alpha {_span(profile.alphas)} (scaling {_span(profile.scalings)})",
        f"{profile.modules} modules in {len(profile.layers)} layers: {clean(', '.join(profile.targets))}",
        f"{profile.parameters:,} parameters, {_size(profile.bytes)}, {', '.join(profile.dtypes)}",
        f"base {clean(profile.base) or 'not named'}" + (f" @ {clean(profile.revision)}" if profile.revision else ""),
    ]
    return " · ".join(summary_facts)


def _method(profile: Profile) -> str:
    return profile.method + (" rsLoRA" if profile.rslora else "") + (" DoRA" if profile.dora else "")


def _visible(raw_name: str) -> str:
    """A name as a table shows it: what cannot be seen, and blanks that tables draw as one, are written out, so that
    different names look different."""
    visible_name = raw_name if raw_name.isprintable() else ascii(raw_name)[1:-1]
    return re.sub(r"(?<= ) |^ | $", r"\\x20", visible_name)


def _cells(adapter: AdapterCheck) -> dict[str, Cell]:
    examination, verdict = adapter.examination, adapter.verdict
    profile = examination.profile
    reasons = [finding for finding in verdict.findings if finding.severity != "note"]
    return {
        "place": adapter.rank,
        "adapter": _visible(verdict.name),
        "verdict": verdict.status,
        "levels": "".join(_MARKS[verdict.levels[level]] for level in LEVELS),
        "method": _method(profile),
        "base": profile.base,
        "revision": profile.revision,
        "fits": examination.fits,
        "rank": _span(profile.ranks),
        "alpha": _span(profile.alphas),
        "scaling": _span(profile.scalings),
        "targets": ", ".join(profile.targets),
        "layers": len(profile.layers),
        "dropout": profile.dropout,
        "parameters": profile.parameters,
        "bytes": profile.bytes,
        "dtype": ", ".join(profile.dtypes),
        "training": _training(examination.evidence),
        "conflicts": "; ".join(finding.seen for finding in reasons if "L150" <= finding.code < "L200"),
        "behaviour": "; ".join(_on_base(adapter)),
        "reasons": "; ".join(f"{finding.code} {finding.title}" for finding in reasons),
    }


def finding_text(finding: Finding) -> str:
    """A finding for a terminal: what, where, and what to do."""
    file_mark = f" [{clean(finding.file)}]" if finding.file else ""
    text_lines = [f"  {finding.severity:<6} {finding.code}{file_mark} {finding.title}: {clean(finding.seen)}"]
    text_lines += [f"         expected: {clean(finding.expected)}"] if finding.expected else []
    text_lines += [f"         -> {clean(finding.fix)}"] if finding.fix else []
    return "\n".join(text_lines)


def _training(evidence: TrainingEvidence | None) -> str:
    """What the files tell of the training, in one line; "" where they tell nothing."""
    if evidence is None:
        return ""
    training_facts = []
    if evidence.steps is not None:
        epoch_text = f" in {evidence.epochs:.3g} epochs" if evidence.epochs is not None else ""
        training_facts.append(f"{count_of(evidence.steps, 'step')}{epoch_text}")
    if evidence.training_rows is not None:
        training_facts.append(f"{evidence.training_rows} rows")
    if evidence.loss_first is not None and evidence.loss_last is not None:
        training_facts.append(f"loss {evidence.loss_first:.3g} to {evidence.loss_last:.3g}")
    if evidence.eval_last is not None:
        training_facts.append(f"validation loss {evidence.eval_last:.3g}")
    elif evidence.held_out is False:
        training_facts.append("no validation split")
    if evidence.fold is not None:
        training_facts.append(f"fold {evidence.fold}" + (f" of {evidence.folds}" if evidence.folds is not None else ""))
    training_facts += ["with a card"] if evidence.card else []
    return ", ".join(training_facts)


def _span(sorted_values: Sequence[float]) -> str:
    value_texts = [f"{number:g}" for number in sorted_values] or ["?"]
    return ", ".join(value_texts) if len(value_texts) <= 3 else f"{value_texts[0]}-{value_texts[-1]}"


def _size(byte_count: int) -> str:
    return f"{byte_count / 1e6:.1f} MB" if byte_count >= 100_000 else f"{byte_count / 1e3:.1f} kB"
