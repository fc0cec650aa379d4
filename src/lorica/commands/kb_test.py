"""`lorica kb test`: does a knowledge base help? Rows with gold answers, asked with its passages and without."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from lorica.commands.arguments import emit, going_on, inform, parser, resolve, split_words
from lorica.commands.build_retrieval import open_indexes
from lorica.commands.eval_report import pair_dict
from lorica.commands.evaluated_file import evaluated_files
from lorica.commands.gold_file import GoldFile, read_gold
from lorica.commands.infer import infer_file
from lorica.commands.pages.eval_page_rows import write_rows
from lorica.commands.pages.kb_test_page import kb_test_page
from lorica.commands.pages.page_files import WriteTable, add_html_option, file_facts, write_pages
from lorica.commands.run_log import add_run_option, recorded_run, run_file
from lorica.config.compose import Resolved
from lorica.config.parse_values import show
from lorica.config.retrieval_section import ALL_SUBJECTS, RetrievalConfig
from lorica.data.group_columns import EMPTY
from lorica.errors import ConfigError, DataError, UsageError
from lorica.metrics.bootstrap import Estimate
from lorica.names import shell_line
from lorica.pipeline.retrieval_gain import RetrievalGain, SubjectGain, retrieval_gain
from lorica.records import Answer
from lorica.reports.page import Report, ReportTable
from lorica.reports.text_table import plain_table

ANSWER_FILES = {"without": "without.jsonl", "with": "with.jsonl"}
_MAIN = "gain"
_HEADER = (
    "subject", "rows", "without", "with passages", "difference", "95% interval", "only without", "only with",
    "McNemar p", "p corrected", "detectable", "own shown", "verdict",
)  # fmt: skip


def run(arguments: Sequence[str]) -> int:
    """Answer twice, compare, and print what to switch on."""
    command = parser(
        "kb test",
        "Answer rows with gold answers twice, with passages of a knowledge base and without, and compare the answers\n"
        "pair by pair, subject by subject. A subject is proposed for retrieval only where its passages help by more\n"
        "than the choice of rows explains. Interrupted? Add inference.resume=true to the same command.",
        "  lorica kb test questions.jsonl task=mcq retrieval.dir=kb\n"
        "  lorica kb test questions.jsonl task=saq retrieval.dir=kb adapters.dir=runs/saq --run runs/kb-saq\n"
        "  lorica kb test questions.jsonl task=mcq retrieval.dir=kb retrieval.source_column=module --json",
        overrides=False,
    )
    command.add_argument(
        "words", nargs="*", metavar="ROWS [key=value ...]", help="the rows with their gold answers; task=..., ..."
    )
    add_html_option(command, beside="all rows")
    add_run_option(command)
    options = command.parse_args(list(arguments))
    files, overrides = split_words(options.words)
    if len(files) != 1:
        raise UsageError(f"lorica kb test needs one file of rows; got {len(files)}", fix="lorica kb test ROWS task=...")
    resolved = resolve(overrides)
    with recorded_run(options.run, "kb test", arguments, resolved, {"rows": files}) as run_log:
        answered = answer_twice(
            resolved, files[0], options.run, resume_command=going_on("kb test", arguments, "inference.resume=true")
        )
        gain = measure_gain(answered)
        words = configuration(gain, resolved.config.retrieval)

        def page() -> tuple[Report, WriteTable]:
            gold = replace(answered.gold, by={})  # documents are too many to group by
            paths = [str(answered.folder / ANSWER_FILES[name]) for name in ("with", "without")]
            answers = zip(paths, (answered.with_passages, answered.without), strict=True)
            judged_sets = {path: gold.judge(path_answers, path) for path, path_answers in answers}
            files = evaluated_files(gold, judged_sets, {path: gold.evaluate(judged_sets[path]) for path in paths})
            facts = file_facts([gold.path, *map(Path, paths)])
            return kb_test_page(gain, files, gold.task, words, facts), partial(write_rows, files, gold.task)

        reports = write_pages(page, options.html, run_log)
        if run_log is not None:
            run_log.write_metrics(gain_metrics(gain), main=_MAIN if gain.overall is not None else "")
            run_log.update(
                rows=gain.overall.rows if gain.overall is not None else 0,
                outputs=[*(run_file("answers", options.run / name) for name in ANSWER_FILES.values()), *reports],
                summary={"switches": gain.switches},
            )
    text = gain_text(gain, resolved.config.retrieval)
    emit(_gain_dict(gain) | {"configuration": words}, as_json=options.json, text=text)
    return 0


@dataclass(frozen=True)
class RowsAnsweredTwice:
    """Rows with gold, and their answers by row id: without passages and with. folder: where the files of answers lie.
    documents: row id -> the document that it was taken from."""

    gold: GoldFile
    folder: Path
    without: Mapping[str, Answer]
    with_passages: Mapping[str, Answer]
    documents: Mapping[str, str]


def answer_twice(
    resolved: Resolved, rows_file: Path, run_dir: Path | None = None, *, resume_command: str
) -> RowsAnsweredTwice:
    """Answer the rows of a file without and with passages, into a folder.

    Every subject with an index is tried, or those that `retrieval.enabled` names. run_dir: None for the
    configuration's, or runs/kb_test/ROWS. Raises ConfigError without a knowledge base, and what `infer` and `eval`
    raise.
    """
    retrieval = resolved.config.retrieval
    if not retrieval.dir:
        raise ConfigError("retrieval.dir is not set", fix="retrieval.dir=FOLDER, which `lorica kb build` makes")
    switches = retrieval.enabled if any(retrieval.enabled.values()) else {ALL_SUBJECTS: True}
    open_indexes(retrieval, switches)  # before hours of answers without them
    column = retrieval.source_column
    gold = read_gold(resolved.config, rows_file, [column])
    folder = run_dir or Path(resolved.config.run_dir or f"runs/kb_test/{rows_file.name.partition('.')[0]}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"nothing can be written here ({error.strerror})", path=folder, fix="run_dir=FOLDER, or --run FOLDER"
        ) from error
    answers = {
        name: _answer(resolved, gold, folder / ANSWER_FILES[name], section, resume_command)
        for name, section in (("without", RetrievalConfig()), ("with", replace(retrieval, enabled=switches)))
    }
    documents = {row_id: value for row_id, value in gold.by.get(column, {}).items() if value != EMPTY}
    return RowsAnsweredTwice(gold, folder, answers["without"], answers["with"], documents)


def measure_gain(answered: RowsAnsweredTwice) -> RetrievalGain:
    """Compare both answers to each row."""
    gold = answered.gold
    return retrieval_gain(gold.task, gold.rows, answered.with_passages, answered.without, documents=answered.documents)


def _answer(
    resolved: Resolved, gold: GoldFile, output: Path, section: RetrievalConfig, resume_command: str
) -> dict[str, Answer]:
    inform(f"answering {output.stem} passages")
    config = replace(resolved.config, input=str(gold.path), output=str(output), run_dir="", retrieval=section)
    infer_file(replace(resolved, config=config), resume_command=resume_command)
    return gold.read_answers(output)


def gain_metrics(gain: RetrievalGain) -> dict[str, Estimate]:
    """For a run folder: the differences, and what they are of."""
    gains = {f" of {subject_gain.subject}": subject_gain for subject_gain in gain.subjects}
    if gain.overall is not None:
        gains[""] = gain.overall
    return {
        f"{name}{suffix}": estimate
        for suffix, subject_gain in gains.items()
        for name, estimate in (
            (_MAIN, subject_gain.pair.test.difference),
            (f"{gain.metric} with passages", subject_gain.with_passages),
            (f"{gain.metric} without", subject_gain.without),
        )
    }


def configuration(gain: RetrievalGain, section: RetrievalConfig) -> list[str]:
    """The words of a command line that switch on what is proposed, as this test asked; [] where nothing is."""
    if not any(gain.switches.values()):
        return []
    asked = [
        f"retrieval.{key.name}={show(getattr(section, key.name))}"
        for key in fields(section)
        if key.name in ("dir", "top_k", "min_score", "max_tokens", "search", "encoder")
        and getattr(section, key.name) != getattr(RetrievalConfig(), key.name)
    ]
    return [*asked, f"retrieval.enabled={show(gain.switches)}"]


def _gain_dict(gain: RetrievalGain) -> dict[str, Any]:
    return {
        "metric": gain.metric,
        "subjects": [_subject_dict(subject_gain) for subject_gain in gain.subjects],
        "overall": None if gain.overall is None else _subject_dict(gain.overall),
        "unindexed": gain.unindexed,
        "switches": gain.switches,
    }


def _subject_dict(gain: SubjectGain) -> dict[str, Any]:
    plain_counts = ("subject", "rows", "shown", "failed", "documents", "own_shown", "switch", "verdict")
    return {name: getattr(gain, name) for name in plain_counts} | {
        "with_passages": gain.with_passages,
        "without": gain.without,
        "comparison": pair_dict(gain.pair),
    }


def gain_text(gain: RetrievalGain, section: RetrievalConfig) -> str:
    """The table for a terminal, and what follows from it."""
    gains = [*gain.subjects, *([gain.overall] if gain.overall is not None and len(gain.subjects) > 1 else [])]
    paragraphs = [f"{gain.metric}, with passages of {section.dir} and without, on the same rows"]
    paragraphs.append(plain_table(ReportTable(_HEADER, tuple(map(_cells, gains))), max_cell=200))
    failed = 0 if gain.overall is None else gain.overall.failed
    if failed:
        paragraphs.append(f"warning: the look-up of {failed} rows failed; they were asked without passages")
    if gain.unindexed:
        listed = ", ".join(f"{subject or '(none)'} {count}" for subject, count in sorted(gain.unindexed.items()))
        paragraphs.append(f"rows of subjects without an index, asked without passages both times: {listed}")
    if gain.overall is None:
        return "\n\n".join([*paragraphs, "no row is of a subject with an index: nothing was compared"])
    words = configuration(gain, section)
    nothing = "no evidence that passages help: leave retrieval.enabled as it is, off"
    paragraphs.append(f"proposed: {shell_line(*words)}" if words else nothing)
    return "\n\n".join(paragraphs)


def _cells(gain: SubjectGain) -> tuple[str, ...]:
    test, mcnemar = gain.pair.test, gain.pair.mcnemar
    own_shown = f"{gain.own_shown} of {gain.documents}" if gain.documents else ""
    return (
        gain.subject,
        str(gain.rows),
        f"{gain.without.value:.4f}",
        f"{gain.with_passages.value:.4f}",
        f"{test.difference.value:+.4f}",
        f"{test.difference.low:+.4f} to {test.difference.high:+.4f}",
        str(mcnemar.only_second),
        str(mcnemar.only_first),
        f"{mcnemar.p_value:.3g}",
        f"{gain.pair.p_corrected:.3g}",
        "undefined" if math.isnan(test.detectable) else f"{test.detectable:.4f}",
        own_shown,
        gain.verdict,
    )
