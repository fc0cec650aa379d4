"""`lorica score`: runs over the same rows ranked by accuracy and latency."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lorica.commands.arguments import (
    are_shares,
    as_output,
    check_not_read,
    emit,
    inform,
    parse_weights,
    parser,
    resolve,
    split_words,
)
from lorica.commands.gold_file import GoldFile
from lorica.commands.pages.page_files import WriteTable, add_html_option, file_facts, write_pages
from lorica.commands.pages.score_page import score_page
from lorica.commands.run_log import add_run_option, recorded_run
from lorica.commands.score_result import RunFacts, ScoreResult, Unit, score_dict, score_text, write_leaderboard
from lorica.commands.scored_run import FinishedRun, check_comparable, is_run, measured_noise, open_run, read_runs_gold
from lorica.errors import DataError, UsageError
from lorica.metrics.run_scores import (
    ACCURACY_WEIGHT,
    LATENCY_WEIGHT,
    MINIMUM_ACCURACY,
    RUN_NOISE,
    RunColumns,
    RunScore,
    ScoreRules,
    score_runs,
)
from lorica.pipeline.judged_answers import bootstrap_clusters, correctness_metric, is_right
from lorica.reports.page import Report

_EXAMPLES = """  lorica score fast.csv slow.csv
  lorica score a.csv.run b.csv.run examples/rules/test.csv
  lorica score a.jsonl b.jsonl --per token --csv leaderboard.csv
  lorica score a.csv b.csv --weights 0.8,0.2 --min-accuracy 0.5 --json"""


def run(arguments: Sequence[str]) -> int:
    """Rank, print and write."""
    options = _parse(arguments)
    runs, gold = _open_runs(options.runs, options.gold)
    inputs = {"answers": [finished.answers_path for finished in runs], "gold": [gold.path]}
    if options.csv is not None:
        check_not_read({"--csv": options.csv}, [*inputs["answers"], *inputs["gold"]])
    with recorded_run(options.run, "score", arguments, resolve({"task": gold.task.name}), inputs) as run_log:
        result = _score_runs(runs, gold, rules=options.rules, unit=options.per)
        if options.csv is not None:
            write_leaderboard(options.csv, result)
            inform(f"leaderboard: {options.csv}")

        def page() -> tuple[Report, WriteTable]:
            facts = file_facts([*inputs["answers"], *inputs["gold"]])
            return score_page(result, facts), lambda path: write_leaderboard(path, result)

        reports = write_pages(page, options.html, run_log)
        if run_log is not None:
            scores = {f"score.{run.name}": run.score for run in result.runs}
            run_log.write_metrics(scores, main=f"score.{result.runs[0].name}")
            run_log.update(rows=result.rows, outputs=reports, summary=score_dict(result))
    emit(score_dict(result), as_json=options.json, text=score_text(result))
    return 0


def score_files(paths: Sequence[Path], gold_path: Path | None, *, rules: ScoreRules, unit: Unit) -> ScoreResult:
    """Score runs by their folders or outputs. gold_path: rows with gold; None takes the rows that were answered.

    Raises DataError for a run that cannot be used and for runs that cannot be put on one scale, UsageError for one that
    is there twice.
    """
    return _score_runs(*_open_runs(paths, gold_path), rules=rules, unit=unit)


def _open_runs(paths: Sequence[Path], gold_path: Path | None) -> tuple[list[FinishedRun], GoldFile]:
    runs = [open_run(path) for path in paths]
    check_comparable(runs)
    return runs, read_runs_gold(runs, gold_path)


def _score_runs(runs: Sequence[FinishedRun], gold: GoldFile, *, rules: ScoreRules, unit: Unit) -> ScoreResult:
    rules = replace(rules, run_noise=max(rules.run_noise, measured_noise(runs)))
    columns = {finished.name: _columns(finished, gold, unit) for finished in runs}
    groups = bootstrap_clusters(gold.rows)
    scored, pairs = score_runs(columns, rules, groups=groups)
    machine = runs[0].record.machine
    return ScoreResult(
        task=gold.task.name,
        metric=correctness_metric(gold.task).name,
        unit=unit,
        rows=len(gold.rows),
        machine="" if machine is None else f"{machine.processor}, {machine.accelerator or f'{machine.cores} cores'}",
        gold=str(gold.path),
        rules=rules,
        runs=scored,
        pairs=pairs,
        facts=_facts(runs),
        subjects=_by_subject(columns, gold, rules),
    )


def _columns(finished: FinishedRun, gold: GoldFile, unit: Unit) -> RunColumns:
    judged = gold.judge(gold.read_answers(finished.answers_path), finished.name)
    timings = [finished.timings[row.id] for row in gold.rows]
    units = np.array([timing.generated_tokens if unit == "token" else 1 for timing in timings], dtype=np.float64)
    if not units.sum():
        fix = "leave --per token out: choices are scored, not written"
        raise DataError("no row has generated a token", path=finished.name, fix=fix)
    seconds = np.array([timing.seconds for timing in timings])
    if not seconds.sum():
        raise DataError("the rows with gold took 0 seconds", path=finished.name, fix="score against the rows answered")
    correct = np.array(is_right(correctness_metric(gold.task), judged), dtype=np.float64)
    return RunColumns(correct, seconds, units)


def _by_subject(columns: dict[str, RunColumns], gold: GoldFile, rules: ScoreRules) -> dict[str, tuple[RunScore, ...]]:
    """The runs on the rows of each subject, of several; without subjects for which a run computed nothing."""
    subjects = sorted({row.subject for row in gold.rows})
    scored: dict[str, tuple[RunScore, ...]] = {}
    for subject in subjects if len(subjects) > 1 else ():
        members = np.array([row.subject == subject for row in gold.rows])
        subset = {
            name: RunColumns(run.correct[members], run.seconds[members], run.units[members])
            for name, run in columns.items()
        }
        if all(run.seconds.sum() and run.units.sum() for run in subset.values()):
            groups = bootstrap_clusters([row for row in gold.rows if row.subject == subject])
            scored[subject or "(none)"], _ = score_runs(subset, rules, groups=groups)
    return scored


def _facts(runs: Sequence[FinishedRun]) -> dict[str, RunFacts]:
    manifests = {finished.name: finished.record.manifest for finished in runs}
    keys = sorted({key for manifest in manifests.values() for key in manifest} - {"output"})
    differing = [key for key in keys if len({manifest.get(key, "") for manifest in manifests.values()}) > 1]
    return {
        finished.name: RunFacts(
            seconds=sum(timing.seconds for timing in finished.timings.values()),
            prompt_tokens=sum(timing.prompt_tokens for timing in finished.timings.values()),
            generated_tokens=sum(timing.generated_tokens for timing in finished.timings.values()),
            parts=len({timing.part for timing in finished.timings.values()}),
            warmup_rows=finished.warmup_rows,
            settings={key: finished.record.manifest.get(key, "") for key in differing},
        )
        for finished in runs
    }


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = parser(
        "score",
        "Rank runs of `lorica infer` over the same rows on one machine: 0.6 x accuracy + 0.4 x latency score; that of\n"
        "the fastest run is 1, and 0.5 for one that takes twice as long. Latency is the engine's own time. Runs that\n"
        "a paired bootstrap does not tell apart share a rank; beside them stands the accuracy-latency front.\n"
        "Runs of different machines, rows or tasks are refused: a latency says nothing on another machine.",
        _EXAMPLES,
        overrides=False,
    )
    command.add_argument(
        "words",
        nargs="*",
        metavar="RUN [RUN ...] [GOLD]",
        help="outputs of `lorica infer`, or their OUTPUT.run folders; last the rows with gold, if those that were "
        "answered have none",
    )
    command.add_argument(
        "--weights",
        type=parse_weights,
        default=[ACCURACY_WEIGHT, LATENCY_WEIGHT],
        metavar="ACCURACY,LATENCY",
        help="their sum is 1 (0.6,0.4)",
    )
    command.add_argument(
        "--min-accuracy",
        type=float,
        default=MINIMUM_ACCURACY,
        metavar="SHARE",
        help="below it a run scores 0, is not ranked and sets no latency for others (%(default)s)",
    )
    command.add_argument(
        "--per", choices=("row", "token"), default="row", help="latency of a row, or of a generated token (%(default)s)"
    )
    command.add_argument(
        "--run-noise",
        type=float,
        default=RUN_NOISE,
        metavar="SHARE",
        help="how much a run's latency varies from run to run on this machine, at least (standard deviation, "
        "%(default)s); runs of one command measure it",
    )
    command.add_argument("--csv", type=as_output, metavar="FILE", help="write the leaderboard with its intervals")
    add_html_option(command, beside="the leaderboard")
    add_run_option(command)
    options = command.parse_args(list(arguments))
    options.rules = score_rules(options.weights, options.min_accuracy, options.run_noise)
    options.runs, options.gold = _runs_and_gold(options.words)
    return options


def score_rules(weights: Sequence[float], minimum_accuracy: float, run_noise: float) -> ScoreRules:
    """Checked rules. Raises UsageError."""
    if len(weights) != 2 or not are_shares(weights):
        raise UsageError(
            f"weights {', '.join(map(str, weights))}; needed: two, of accuracy and latency, whose sum is 1",
            fix="--weights 0.6,0.4",
        )
    for name, share in (("--min-accuracy", minimum_accuracy), ("--run-noise", run_noise)):
        if not 0 <= share < 1:
            raise UsageError(f"{name} {share}; allowed: shares from 0 to below 1", fix=f"{name} 0.1")
    return ScoreRules(weights[0], weights[1], minimum_accuracy, run_noise)


def _runs_and_gold(words: Sequence[str]) -> tuple[list[Path], Path | None]:
    paths, overrides = split_words(words)
    if overrides:
        raise UsageError(
            f"lorica score takes no configuration; got {overrides[0]}", fix="each run has its own: leave it out"
        )
    if not paths:
        raise UsageError("lorica score needs a run or more; got none", fix="lorica score answers.csv")
    gold = paths.pop() if len(paths) > 1 and paths[-1].is_file() and not is_run(paths[-1]) else None
    return paths, gold
