"""`lorica judge`: what a model thinks of answers, and how far that model can be believed."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Sequence
from typing import Any, get_args

import msgspec

from lorica import signals
from lorica.commands.arguments import (
    as_output,
    as_path,
    check_not_read,
    emit,
    inform,
    parser,
    resolve,
    split_words,
    warn,
)
from lorica.commands.judge_answers import JudgeRequest, check_judge_is_named, judge_answer_files
from lorica.commands.judge_report import judge_dict, judge_metrics, judge_text, write_verdicts
from lorica.commands.pages.judge_page import judge_page, write_judged_rows
from lorica.commands.pages.page_files import WriteTable, add_html_option, file_facts, write_pages
from lorica.commands.run_log import add_run_option, recorded_run, run_file
from lorica.config.presets import preset_names
from lorica.errors import EngineError, UsageError
from lorica.judging.calls import Scoring
from lorica.judging.chat_reply import StructuredOutput
from lorica.judging.endpoint import EndpointSettings
from lorica.judging.rubrics import RUBRICS
from lorica.names import count_of, shell_line
from lorica.reports.page import Report

API_KEY = "LORICA_JUDGE_API_KEY"
_UNENCRYPTED = re.compile(r"http://(?!(localhost|127\.0\.0\.1|\[::1\])([:/]|$))", re.IGNORECASE)

_EXAMPLES = """  lorica judge answers.jsonl gold.jsonl task=saq --judge-model models/qwen3-4b
  lorica judge answers.jsonl gold.jsonl task=saq --endpoint http://localhost:8000/v1 --judge-model qwen3-32b
  lorica judge a.jsonl b.jsonl gold.jsonl task=saq --rubric pairwise --judge-model models/qwen3-4b
  lorica judge answers.jsonl gold.jsonl task=saq --judge-model models/qwen3-4b --labels read_by_me.csv
  LORICA_JUDGE_API_KEY=... lorica judge answers.jsonl gold.jsonl task=qa --endpoint https://api.example.com/v1 \\
      --judge-model large --sample 200 --price 2.5,10 --max-cost 1"""


def run(arguments: Sequence[str]) -> int:
    """Judge, print how far the judge can be believed, then what it found."""
    options = _parse(arguments)
    check_not_read({"--output": options.output}, [*options.answers, options.gold, options.labels])
    request = JudgeRequest(
        rubric=options.rubric,
        labels_file=options.labels,
        sample=options.sample,
        repeat=options.repeat,
        journal=options.journal,
        endpoint=_endpoint(options),
    )
    overrides = list(options.overrides)
    if options.judge_model is not None and request.endpoint is None:
        key = "model" if options.judge_model in preset_names("model") else "model.path"
        overrides.append(f"{key}={options.judge_model}")
    resolved = resolve(overrides)
    if request.endpoint is None:
        check_judge_is_named(resolved.config, [word.partition("=")[0] for word in overrides])
    inputs = {"answers": options.answers, "gold": [options.gold], "labels": [options.labels]}
    with recorded_run(options.run, "judge", arguments, resolved, inputs) as run_log:
        try:
            result = judge_answer_files(resolved.config, options.answers, options.gold, request)
        except KeyboardInterrupt as stop:
            signals.say(stop, f"verdicts so far are kept; go on: {shell_line('lorica', 'judge', *arguments)}")
            raise
        if options.output is not None:
            write_verdicts(options.output, result)
            inform(f"{count_of(len(result.rows), 'row')} written to {options.output}")
        emit(judge_dict(result), as_json=options.json, text=judge_text(result))
        for warning in result.warnings:
            warn(warning)

        def page() -> tuple[Report, WriteTable]:
            facts = file_facts([*options.answers, options.gold])
            return judge_page(result, facts), lambda path: write_judged_rows(path, result)

        outputs = write_pages(page, options.html, run_log)
        if run_log is not None:
            if options.output is not None:
                outputs.insert(0, run_file("verdicts", options.output, rows=result.mean.n))
            run_log.write_metrics(judge_metrics(result), main="mean")
            run_log.update(rows=result.mean.n, summary=judge_dict(result), outputs=outputs)
    return EngineError.exit_code if result.stopped or not result.mean.judged else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = parser(
        "judge",
        "Have a model judge answers: a local one, by the probabilities of fixed labels, or one behind an\n"
        "OpenAI-compatible endpoint, by strict structured output. Every row is asked in both orders of the choices.\n"
        "First comes how far the judge can be believed: does it stay with its verdicts, does it agree with exact\n"
        "match and with labels of yours. Verdicts are kept as they come: the same command again asks nothing twice.\n"
        "docs/judge.md explains all of it.",
        _EXAMPLES,
        overrides=False,
    )
    command.add_argument(
        "words",
        nargs="*",
        metavar="ANSWERS [ANSWERS] GOLD [key=value ...]",
        help="answers of `lorica infer`, or any table with ids and `answer` (two for --rubric pairwise); last the rows "
        "with their gold answers; task=...; model and adapters keys name a local judge",
    )
    rubric_names = ", ".join(RUBRICS)
    command.add_argument(
        "--rubric", default="reference", help=f"{rubric_names}, or a .toml file of your own (%(default)s)"
    )
    judge_model_help = "the judge: model.path or preset of a local one, or its name at the endpoint"
    command.add_argument("--judge-model", metavar="MODEL", help=judge_model_help)
    command.add_argument(
        "--labels", type=as_path, metavar="FILE", help="rows that people labelled: columns id and label"
    )
    command.add_argument(
        "--sample", type=_count, metavar="N", help="judge N rows, drawn once and for all, not every row"
    )
    repeat_help = "ask N rows twice, to see whether verdicts stay (%(default)s)"
    command.add_argument("--repeat", type=_count, default=20, metavar="N", help=repeat_help)
    command.add_argument(
        "--journal", type=as_path, metavar="DIR", help="where verdicts are kept (beside the answers: ANSWERS.verdicts)"
    )
    command.add_argument("--output", type=as_output, metavar="FILE.jsonl", help="write the verdict on every row")
    add_html_option(command, beside="all rows")
    add_run_option(command)
    _add_endpoint_options(command)
    return _checked(command.parse_args(list(arguments)))


def _add_endpoint_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("an endpoint as judge (nothing is contacted without --endpoint)")
    group.add_argument("--endpoint", metavar="URL", help="address of an OpenAI-compatible API, such as .../v1")
    group.add_argument("--api-key-env", metavar="NAME", help=f"environment variable that holds the key ({API_KEY})")
    group.add_argument(
        "--structured-output",
        choices=get_args(StructuredOutput),
        help="how replies are held to their form (json_schema); none: the bare letter. Nothing is fallen back to",
    )
    scoring_help = "read log-probabilities or labels alone; by itself the first reply decides, for the whole run"
    group.add_argument("--scoring", choices=get_args(Scoring), help=scoring_help)
    group.add_argument("--max-tokens", type=_positive, metavar="N", help="of a reply (32); more for models that think")
    group.add_argument("--concurrency", type=_positive, metavar="N", help="requests at a time (4)")
    group.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="for a whole reply (60)")
    group.add_argument("--retries", type=_count, metavar="N", help="after 429, 5xx, time-outs and lost connections (4)")
    group.add_argument(
        "--body", type=_json_object, metavar="JSON", help="further fields of each request; null drops one"
    )
    group.add_argument("--price", type=_prices, metavar="IN,OUT", help="per million prompt and reply tokens")
    group.add_argument(
        "--max-cost", type=_seconds, metavar="X", help="ask no more once that much was spent; needs --price"
    )


_ENDPOINT_ONLY = {
    "api_key_env": "", "structured_output": "structured", "scoring": "scoring", "max_tokens": "max_tokens",
    "concurrency": "concurrency", "timeout": "timeout", "retries": "retries", "body": "body", "price": "prices",
    "max_cost": "max_cost",
}  # fmt: skip


def _endpoint(options: argparse.Namespace) -> EndpointSettings | None:
    if options.endpoint is None:
        return None
    values = {field: getattr(options, name) for name, field in _ENDPOINT_ONLY.items() if field}
    key_variable = options.api_key_env or API_KEY
    api_key = os.environ.get(key_variable, "")
    if options.api_key_env and not api_key:
        raise UsageError(f"the environment variable {key_variable} is not set", fix=f"export {key_variable}=...")
    if not api_key.isascii() or any(character.isspace() for character in api_key):
        raise UsageError(f"the key in {key_variable} holds characters that no key has", fix="set it anew, in one line")
    if api_key and _UNENCRYPTED.match(options.endpoint):
        warn(f"the key in {key_variable} goes over the network unencrypted: https:// would protect it")
    return EndpointSettings(
        options.endpoint,
        options.judge_model,
        api_key=api_key,
        **{field: value for field, value in values.items() if value is not None},
    )


def _checked(options: argparse.Namespace) -> argparse.Namespace:
    """Files and overrides told apart. Raises UsageError for options that cannot be meant."""
    files, options.overrides = split_words(options.words)
    file_count = 3 if options.rubric == "pairwise" else 2
    if len(files) not in (2, 3) or (options.rubric in RUBRICS and len(files) != file_count):
        raise UsageError(
            f"--rubric {options.rubric} needs {file_count} files, answers and gold; got {len(files)}",
            fix="lorica judge ANSWERS GOLD task=..., or ANSWERS ANSWERS GOLD with --rubric pairwise",
        )
    *options.answers, options.gold = files
    if len({path.resolve() for path in options.answers}) < len(options.answers):
        raise UsageError("a file of answers is named twice", fix="name those of two models")
    stray = [name for name in _ENDPOINT_ONLY if getattr(options, name) is not None]
    if options.endpoint is None and stray:
        raise UsageError(f"--{stray[0].replace('_', '-')} is of an endpoint", fix="add --endpoint URL, or leave it out")
    if options.endpoint is not None and not options.judge_model:
        raise UsageError("the endpoint's model is not named", fix="add --judge-model NAME")
    if options.max_cost is not None and options.price is None:
        raise UsageError("--max-cost needs to know what tokens cost", fix="add --price IN,OUT (per million tokens)")
    return options


def _number(text: str, allowed: str, minimum: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not minimum <= number < math.inf:
        raise UsageError(f"{text!r} is not {allowed}", fix=f"give {allowed}")
    return number


def _count(text: str) -> int:
    number = _number(text, "a whole number from 0 on", 0)
    if number != int(number):
        raise UsageError(f"{text!r} is no whole number", fix="give a whole number")
    return int(number)


def _positive(text: str) -> int:
    _number(text, "a whole number from 1 on", 1)
    return _count(text)


def _seconds(text: str) -> float:
    return _number(text, "a number above 0", 1e-3)


def _prices(text: str) -> tuple[float, float]:
    prices = [_number(price, "two prices, such as 2.5,10", 0) for price in text.split(",")]
    if len(prices) != 2:
        raise UsageError(f"--price {text}; allowed: two numbers", fix="--price 2.5,10")
    return prices[0], prices[1]


def _json_object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise UsageError(f"--body {text}: {error}", fix="--body '{\"seed\": 1}'") from error
