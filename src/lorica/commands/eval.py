"""`lorica eval`: result files against the rows with their gold answers, and against each other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from lorica.commands.arguments import emit, parser, resolve, split_words
from lorica.commands.eval_report import comparison_dict, comparison_text, evaluation_dict, evaluation_text
from lorica.commands.evaluated_file import evaluated_files
from lorica.commands.gold_file import DEFAULT_FPRS, read_gold
from lorica.commands.pages.eval_page import evaluation_page
from lorica.commands.pages.eval_page_rows import write_rows
from lorica.commands.pages.page_files import WriteTable, add_html_option, file_facts, write_pages
from lorica.commands.run_log import add_run_option, recorded_run
from lorica.commands.trained_rows import add_trained_option
from lorica.errors import UsageError
from lorica.metrics.normalise import LORICA, NORMALISATIONS
from lorica.pipeline.compare import compare
from lorica.reports.page import Report

_OPTIONS = ("by", "fpr", "html", "normalisation", "weight")


def run(arguments: Sequence[str]) -> int:
    """Measure, and print metrics, groups, the health of the scores, and which file is better."""
    options = _parse(arguments)
    resolved = resolve(options.overrides)
    inputs = {"answers": options.answers, "gold": [options.gold]}
    with recorded_run(options.run, "eval", arguments, resolved, inputs) as run_log:
        group_columns = [column_name.strip() for column_name in ",".join(options.by).split(",")]
        allowed = options.allow_training_rows
        gold = read_gold(
            resolved.config, options.gold, group_columns, weight_column=options.weight, allow_training_rows=allowed
        )
        judged_sets = {str(path): gold.judge(gold.read_answers(path), str(path)) for path in options.answers}
        evaluations = {
            name: gold.evaluate(judged, normalisation=options.normalisation, max_fprs=options.fpr)
            for name, judged in judged_sets.items()
        }
        reading = gold.list_skipped(options.answers[0] if len(options.answers) == 1 else options.gold)
        comparison = None
        if len(options.answers) == 1:
            (evaluation,) = evaluations.values()
            result, text = evaluation_dict(evaluation), evaluation_text(evaluation)
        else:
            comparison = compare(gold.task, judged_sets, normalisation=options.normalisation)
            result = {"files": {name: evaluation_dict(evaluation) for name, evaluation in evaluations.items()}}
            result |= comparison_dict(comparison)
            text = comparison_text(comparison, evaluations, gold.task.metric_names)

        def page() -> tuple[Report, WriteTable]:
            files = evaluated_files(gold, judged_sets, evaluations, options.normalisation)
            facts = [("task", gold.task.name), *file_facts([*options.answers, gold.path])]
            return evaluation_page(files, gold.task, gold.by, comparison, facts), partial(write_rows, files, gold.task)

        reports = write_pages(page, options.html, run_log)
        if run_log is not None:
            metrics = {
                metric_name if len(evaluations) == 1 else f"{file_name}: {metric_name}": measured
                for file_name, evaluation in evaluations.items()
                for metric_name, measured in evaluation.metrics.items()
            }
            run_log.write_metrics(metrics, main=next(iter(metrics), ""))
            run_log.update(rows=next(iter(evaluations.values())).n, outputs=reports)
        result |= {"trained_rows": sorted(gold.trained_rows)} if gold.trained_rows else {}
        emit(result | {"reading": reading}, as_json=options.json, text=text)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = parser(
        "eval",
        "Compare answers with gold: every metric with its 95% bootstrap interval and n, per group, with the counts of\n"
        "truncated, invalid and fall-back rows, of rows without an answer and of answers that cannot be read, and the\n"
        "health of the score column. Several files of answers are compared with each other, pair by pair of answers:\n"
        "paired bootstrap, exact McNemar, and ranks that differ only where the files do. docs/metrics.md says how.",
        "  lorica eval answers.csv examples/rules/test.csv task=rules\n"
        "  lorica eval base.csv adapter.csv examples/rules/test.csv task=rules\n"
        "  lorica eval answers.jsonl gold.jsonl task=mcq --json\n"
        "  lorica eval answers.csv gold.csv task=saq --by country,subject --normalisation squad",
        overrides=False,
    )
    command.add_argument(
        "words",
        nargs="*",
        metavar="ANSWERS [ANSWERS ...] GOLD [key=value ...]",
        help="files that `lorica infer` wrote, or any tables with the rows' ids and `answer`; last the rows with their "
        "gold answers; task=... and column mappings",
    )
    command.add_argument(
        "--by", metavar="COLUMN,...", action="append", default=[], help="columns of the gold file to group by, as well"
    )
    weight_help = "a column of the gold file that says how much each row counts, in every metric and interval"
    command.add_argument("--weight", metavar="COLUMN", default="", help=weight_help)
    command.add_argument(
        "--normalisation",
        choices=tuple(NORMALISATIONS),
        default=LORICA.name,
        help="; ".join(f"{normalisation.name}: {normalisation.about}" for normalisation in NORMALISATIONS.values())
        + " (%(default)s)",
    )
    fpr_help = "false-positive rates, each with the threshold of scores that keeps to it (0.01,0.05,0.1)"
    command.add_argument("--fpr", metavar="RATE,...", type=_rates, default=DEFAULT_FPRS, help=fpr_help)
    add_trained_option(command)
    add_html_option(command, beside="all rows")
    add_run_option(command)
    return _checked(command.parse_args(list(arguments)))


def _checked(options: argparse.Namespace) -> argparse.Namespace:
    """Files and overrides told apart. Raises UsageError for options that cannot be meant."""
    files, options.overrides = split_words(options.words)
    if len(files) < 2:
        fix = "lorica eval ANSWERS GOLD task=..."
        raise UsageError(f"lorica eval needs two files or more, answers and at last gold; got {len(files)}", fix=fix)
    *options.answers, options.gold = files
    if len({path.resolve() for path in options.answers}) < len(options.answers):
        raise UsageError("a file of answers is named twice", fix="name each once")
    for override in options.overrides:
        option_name, _, option_value = override.partition("=")
        if option_name in _OPTIONS:
            fix = f"--{option_name} {option_value}"
            raise UsageError(f"{override}: {option_name} is an option of lorica eval, not a key", fix=fix)
    return options


def _rates(rates_text: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(rate_text) for rate_text in rates_text.split(",") if rate_text.strip())
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < 1 for rate in rates):
        raise UsageError(f"--fpr {rates_text}; allowed: rates between 0 and 1", fix="--fpr 0.01,0.05")
    return rates
