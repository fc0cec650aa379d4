"""The page of `lorica kb test --html`: for which subjects passages help, and the rows answered with and without."""

from __future__ import annotations

from collections.abc import Sequence

from lorica.commands.evaluated_file import EvaluatedFile
from lorica.commands.pages.eval_page import evaluation_sections
from lorica.commands.pages.page_parts import difference_text, estimates_plot, facts_section, p_text, whole_page
from lorica.names import count_of
from lorica.pipeline.retrieval_gain import RetrievalGain, SubjectGain
from lorica.reports.page import Cell, Report, ReportTable, Section
from lorica.reports.short_names import short_names
from lorica.tasks.base import Task

_FEW_SUBJECTS = 40


def kb_test_page(
    gain: RetrievalGain,
    files: Sequence[EvaluatedFile],
    task: Task,
    words: Sequence[str],
    facts: Sequence[tuple[str, Cell]],
) -> Report:
    """The whole page. files: the answers with passages and without. words: that switch on what is proposed. facts: for
    the end."""
    sections = [_subjects(gain), *evaluation_sections(files, task, {}, None), facts_section(facts)]
    return whole_page("Do passages of the knowledge base help?", _verdict(gain, words), sections)


def _verdict(gain: RetrievalGain, words: Sequence[str]) -> list[str]:
    """What is proposed, of how many subjects and rows."""
    on = [subject_gain.subject for subject_gain in gain.subjects if subject_gain.switch]
    if on:
        others = f" and {len(on) - 5} others" if len(on) > 5 else ""
        sentences = [f"Passages help in {', '.join(on[:5])}{others}: {' '.join(words)}"]
    else:
        sentences = ["No evidence that passages help in any subject: leave retrieval off."]
    if gain.overall is not None:
        difference = difference_text(gain.overall.pair.test.difference)
        sentences.append(
            f"Over {gain.overall.rows:,} rows of {len(gain.subjects):,} subjects {gain.metric} changes by {difference}."
        )
        if gain.overall.failed:
            sentences.append(f"Beware: the look-up of {gain.overall.failed:,} rows failed; they had no passages.")
    if gain.unindexed:
        count = sum(gain.unindexed.values())
        sentences.append(f"{count_of(count, 'row')} of subjects without an index had no passages either time.")
    return sentences


def _subjects(gain: RetrievalGain) -> Section:
    gains = [*([gain.overall] if gain.overall is not None and len(gain.subjects) > 1 else []), *gain.subjects]
    shown = short_names((subject_gain.subject for subject_gain in gains), 60)
    table = ReportTable(
        (
            "subject", "rows", "without", "with passages", "difference", "p (Holm)", "detectable", "right only without",
            "right only with", "passages", "own document shown", "verdict",
        ),
        tuple(_subject_cells(shown[subject_gain.subject], subject_gain) for subject_gain in gains),
        interactive=True,
        choose=("verdict",),
    )  # fmt: skip
    differences = [(shown[subject_gain.subject], subject_gain.pair.test.difference) for subject_gain in gains]
    plot = estimates_plot(f"{gain.metric}: with minus without", differences, zero="no difference")
    return Section(
        "By subject",
        "With passages minus without, on the same rows. A subject is proposed only where the interval lies above 0, "
        "and p, corrected for the number of subjects, below 0.05.",
        tables=(table,) if gains else (),
        charts=(plot,) if 0 < len(gains) <= _FEW_SUBJECTS else (),
    )


def _subject_cells(name: str, gain: SubjectGain) -> tuple[Cell, ...]:
    test, mcnemar = gain.pair.test, gain.pair.mcnemar
    return (
        name,
        gain.rows,
        str(gain.without),
        str(gain.with_passages),
        difference_text(test.difference),
        p_text(gain.pair.p_corrected),
        test.detectable,
        mcnemar.only_second,
        mcnemar.only_first,
        gain.shown,
        f"{gain.own_shown:,} of {gain.documents:,}" if gain.documents else "",
        gain.verdict,
    )
