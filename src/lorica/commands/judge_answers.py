"""From files of answers to what a judge says of them: the items, the judge, and the result over all rows."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lorica.commands import build
from lorica.commands.arguments import inform
from lorica.commands.gold_file import GoldFile, read_gold
from lorica.commands.pages.eval_page_rows import gold_text, row_text
from lorica.commands.row_progress import row_progress
from lorica.config.schema import Config, ModelConfig
from lorica.data.column_mapping import id_text
from lorica.data.column_names import fold_name
from lorica.data.formats import open_unconfigured
from lorica.engine_table import ENGINES
from lorica.errors import AdapterError, DataError, ModelError, UsageError
from lorica.judging.endpoint import EndpointJudge, EndpointSettings
from lorica.judging.judge_result import (
    JudgeResult,
    compare_labels,
    count_failures,
    count_labels,
    first_letter_rate,
    label_masses,
    mean_of_verdicts,
    order_consistency,
    repetition_consistency,
)
from lorica.judging.judge_run import JudgeRun, plan_calls, run_judge
from lorica.judging.local_judge import LocalJudge
from lorica.judging.rubrics import FIRST, SECOND, TIE, JudgeItem, Rubric, find_rubric
from lorica.judging.verdict_journal import VerdictJournal
from lorica.judging.verdicts import by_rule, combine
from lorica.names import count_of, did_you_mean
from lorica.pipeline.judged_answers import JudgedAnswer, bootstrap_clusters, correctness_metric, is_right
from lorica.records import Answer
from lorica.tasks.base import Task

JOURNAL_SUFFIX = ".verdicts"
EXACT_MATCH = "exact match"

# What a label of the best and of the worst value may be written as, too.
_RIGHT, _WRONG = ("1", "true", "yes"), ("0", "false", "no")
# What chat templates write around turns: a server may read it as its own where a text holds it.
_CONTROL_TOKENS = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")


@dataclass(frozen=True)
class JudgeRequest:
    """rubric: a name, or the path of one. labels_file: rows labelled by people. sample: rows to judge, None for all.
    repeat: items to ask twice. journal: where verdicts are kept, None for beside the answers. endpoint: None for a
    local judge."""

    rubric: str = "reference"
    labels_file: Path | None = None
    sample: int | None = None
    repeat: int = 20
    journal: Path | None = None
    endpoint: EndpointSettings | None = None


@dataclass(frozen=True)
class _JudgedRows:
    """The rows to judge: the answers of each file in their order, and for each row its item, or the label that it has
    without a question to anybody."""

    files: tuple[list[JudgedAnswer], ...]
    items: list[JudgeItem | str]

    @property
    def asked(self) -> list[JudgeItem]:
        return [item for item in self.items if isinstance(item, JudgeItem)]


def judge_answer_files(
    config: Config, answers: Sequence[Path | Sequence[Answer]], gold_file: Path, request: JudgeRequest
) -> JudgeResult:
    """Judge the answers of one file, or of two with a pairwise rubric, to the rows of a file with gold.

    Raises DataError for rows, answers, labels and rubrics that cannot be used, ModelError and AdapterError for a local
    judge, EngineError where an endpoint cannot be used at all.
    """
    rubric = find_rubric(request.rubric)
    if len(answers) != (2 if rubric.kind == "pairwise" else 1):
        raise UsageError(
            f"the rubric {rubric.name} is {rubric.kind}, and {len(answers)} file(s) of answers are given",
            fix="give two files of answers to a pairwise rubric, and one to any other",
        )
    if request.sample == 0:
        raise UsageError("a sample of 0 rows judges nothing", fix="--sample 200 (from Python sample=200), or all rows")
    gold = read_gold(config, gold_file, [])
    names = [str(file) if isinstance(file, Path) else f"answers {number}" for number, file in enumerate(answers, 1)]
    judged_sets = [gold.judge(gold.read_answers(file), name) for file, name in zip(answers, names, strict=True)]
    positions: Sequence[int] = range(len(gold.rows))
    if request.sample is not None and request.sample < len(gold.rows):
        positions = sorted(random.Random(0).sample(positions, request.sample))
    files = tuple([judged[position] for position in positions] for judged in judged_sets)
    rows = _JudgedRows(files, [_item(gold.task, rubric, row_answers) for row_answers in zip(*files, strict=True)])
    labels = _read_labels(request.labels_file, gold, rubric) if request.labels_file is not None else None
    judge = EndpointJudge(request.endpoint) if request.endpoint is not None else _local_judge(config)
    beside = answers[0] if isinstance(answers[0], Path) else gold_file
    journal_folder = request.journal or beside.with_name(beside.name + JOURNAL_SUFFIX)
    call_count = len(plan_calls(rows.asked, request.repeat)[0])
    with VerdictJournal(journal_folder) as journal, row_progress(call_count, "judgements") as on_done:
        run = run_judge(judge, rubric, rows.asked, journal, repeat=request.repeat, on_done=on_done)
    inform(f"{count_of(run.made, 'judgement')} made, {run.journaled} taken from {journal_folder}")
    endpoint = judge if isinstance(judge, EndpointJudge) else None
    identity = run.identity if endpoint is not None else {**run.identity, "model": config.model.path}
    return _result(tuple(names), gold, rows, run, labels, identity, endpoint)


def check_judge_is_named(config: Config, keys: Iterable[str]) -> None:
    """Raise UsageError where nothing names a local judge: the base that other commands take by themselves is none.

    keys: those that were set for this command."""
    is_named = not {"model", "model.path"}.isdisjoint(keys) or config.adapters.dir or config.adapters.paths
    if not is_named and config.model.path == ModelConfig.path:
        raise UsageError(
            "no judge is named, and the embedded model is no usable one",
            fix="name a local model or an endpoint: --judge-model MODEL, or --endpoint URL --judge-model NAME (from "
            "Python base= or endpoint=); to try the command without a usable judge: --judge-model lorica_tiny",
        )


def _item(task: Task, rubric: Rubric, row_answers: Sequence[JudgedAnswer]) -> JudgeItem | str:
    """What is asked of a row, or the label that it has by rule: no answer is never right."""
    texts = [_answer_text(task, judged) for judged in row_answers]
    if rubric.kind == "pairwise" and not all(texts):
        return TIE if not any(texts) else FIRST if texts[0] else SECOND
    if not all(texts):
        return rubric.worst.name
    row = row_answers[0].row
    reference = "" if rubric.kind == "free" else gold_text(task, row)
    # Pages show a post alone; whether "Yes" is right of it depends on the rule.
    question = task.baseline_text(row) if task.answer_type == "score" else row_text(task, row)
    return JudgeItem(question, reference, tuple(texts))


def _answer_text(task: Task, judged: JudgedAnswer) -> str:
    """The answer as the judge is shown it; "" for none."""
    if isinstance(judged.value, int):
        return gold_text(task, msgspec.structs.replace(judged.row, gold=judged.value))
    return (judged.answer.answer or "").strip() if judged.value is not None or judged.problem else ""


def _local_judge(config: Config) -> LocalJudge:
    base_model = build.base_folder(config)
    if base_model.encoder_family is not None or ENGINES[config.engine.name].tokenizer:
        raise ModelError(
            f"{config.model.name} classifies, and a judge reads a question and chooses a letter",
            fix="name a model that writes: --judge-model MODEL",
        )
    adapters = build.open_adapters(build.adapter_folders(config))
    if len(adapters) > 1:
        raise AdapterError(
            f"{len(adapters)} adapters are named, and one judge judges all rows: {', '.join(sorted(adapters))}",
            fix="name the judge's adapter: adapters.use=NAME",
        )
    pipeline = build.build_pipeline(config, base_model, adapters)
    name = next(iter(adapters), None)
    facts = pipeline.engine.info
    return LocalJudge(
        pipeline.engine,
        pipeline.encoder,
        adapter=name,
        max_tokens=pipeline.settings.prompt_tokens(0),
        identity={
            "base": base_model.digest,
            "adapter": "none" if name is None else adapters[name].digest,
            "template": pipeline.encoder.template_digest,
            "tokenizer": pipeline.encoder.tokenizer_digest,
            "engine": facts.name,
            "dtype": facts.dtype,
        },
    )


def _result(
    answer_files: tuple[str, ...],
    gold: GoldFile,
    rows: _JudgedRows,
    run: JudgeRun,
    labels: Mapping[str, str] | None,
    identity: Mapping[str, str],
    endpoint: EndpointJudge | None,
) -> JudgeResult:
    first_file = rows.files[0]
    verdicts = tuple(
        by_rule(judged.row.id, run.rubric, item)
        if isinstance(item, str)
        else combine(judged.row.id, run.rubric, run.orders(item))
        for judged, item in zip(first_file, rows.items, strict=True)
    )
    clusters = bootstrap_clusters([judged.row for judged in first_file])
    row_groups = {} if clusters is None else {
        judged.row.id: cluster for judged, cluster in zip(first_file, clusters, strict=True)
    }  # fmt: skip
    agreements = []
    if run.rubric.judges_correctness:
        matches = _exact_match_labels(gold.task, rows, run.rubric)
        agreements.append(compare_labels(EXACT_MATCH, matches, verdicts, run, row_groups))
    if labels is not None:
        agreements.append(compare_labels("the labelled rows", labels, verdicts, run, row_groups))
    records = run.records.values()
    return JudgeResult(
        answer_files=answer_files,
        gold_file=str(gold.path),
        judge=identity,
        rubric=run.rubric.name,
        rubric_digest=run.rubric.digest,
        row_count=len(gold.rows),
        sampled=len(verdicts) < len(gold.rows),
        mean=mean_of_verdicts(verdicts, run, clusters),
        labels=count_labels(verdicts, run),
        failures=count_failures(verdicts),
        no_answer=sum(verdict.by_rule for verdict in verdicts),
        swap=order_consistency(verdicts, row_groups),
        repetition=repetition_consistency(run),
        letter_rate=first_letter_rate(run),
        label_mass=label_masses(run),
        agreements=tuple(agreements),
        items={
            judged.row.id: item
            for judged, item in zip(first_file, rows.items, strict=True)
            if isinstance(item, JudgeItem)
        },
        models=tuple(sorted({record.model for record in records} - {""})),
        calls=run.made,
        journaled=run.journaled,
        retried=0 if endpoint is None else endpoint.retried,
        prompt_tokens=sum(record.prompt_tokens or 0 for record in records),
        completion_tokens=sum(record.completion_tokens or 0 for record in records),
        control_tokens=() if endpoint is None else _with_control_tokens(rows),
        over_budget=endpoint is not None and endpoint.over_budget,
        stopped="" if endpoint is None else endpoint.stopped,
        rows=verdicts,
    )


def _exact_match_labels(task: Task, rows: _JudgedRows, rubric: Rubric) -> dict[str, str]:
    """Row id -> the label that comparing texts gives it: of two answers, which alone is right."""
    correctness = correctness_metric(task)
    right = [is_right(correctness, judged) for judged in rows.files]
    row_ids = [judged.row.id for judged in rows.files[0]]
    if rubric.kind == "pairwise":
        names = [TIE if first == second else FIRST if first else SECOND for first, second in zip(*right, strict=True)]
    else:
        names = [rubric.best.name if correct else rubric.worst.name for correct in right[0]]
    return dict(zip(row_ids, names, strict=True))


def _with_control_tokens(rows: _JudgedRows) -> tuple[str, ...]:
    return tuple(
        judged.row.id
        for judged, item in zip(rows.files[0], rows.items, strict=True)
        if isinstance(item, JudgeItem)
        and any(_CONTROL_TOKENS.search(text) for text in (item.question, item.reference, *item.answers))
    )


def _read_labels(labels_file: Path, gold: GoldFile, rubric: Rubric) -> dict[str, str]:
    """Row id -> label, of a table with a column of ids and `label`. Raises DataError for a label that the rubric has
    not, an id twice, and one of no row."""
    table = open_unconfigured(labels_file)
    id_names = {fold_name(name) for name in ("id", *gold.id_names)}
    spellings = {label.name.casefold(): label.name for label in rubric.labels}
    if rubric.kind != "pairwise":
        spellings |= dict.fromkeys(_RIGHT, rubric.best.name) | dict.fromkeys(_WRONG, rubric.worst.name)
    row_ids = {row.id for row in gold.rows}
    labels: dict[str, str] = {}
    for line, record in table.whole_records(table.names):
        row_id, label_text = _cells(labels_file, line, record, id_names)
        if row_id in labels:
            raise DataError(
                "the row is labelled twice", path=labels_file, line=line, row_id=row_id, fix="keep one label"
            )
        if row_id not in row_ids:
            fix = "label rows of the file that is judged"
            raise DataError(
                f"the label is of no row of {gold.path}", path=labels_file, line=line, row_id=row_id, fix=fix
            )
        label = spellings.get(label_text.casefold())
        if label is None:
            problem = f"{label_text!r} is no label of the rubric {rubric.name}; allowed: {', '.join(spellings)}"
            fix = did_you_mean(label_text, spellings, otherwise="write one of these, or leave the row out")
            raise DataError(problem, path=labels_file, line=line, row_id=row_id, fix=fix)
        labels[row_id] = label
    if not labels:
        raise DataError("the file holds no label", path=labels_file, fix="add rows with id and label")
    return labels


def _cells(labels_file: Path, line: int, record: Mapping[str, Any], id_names: set[str]) -> tuple[str, str]:
    ids = [cell for column, cell in record.items() if fold_name(column) in id_names]
    labels = [cell for column, cell in record.items() if fold_name(column) == "label"]
    if len(ids) != 1 or len(labels) != 1:
        problem = f"a label needs the columns id and label; this row has {', '.join(record)}"
        fix = "id,label"
        raise DataError(problem, path=labels_file, line=line, fix=fix)
    try:
        row_id = id_text(ids[0])
    except ValueError as error:
        raise DataError(str(error), path=labels_file, line=line, fix="give every label the id of its row") from error
    label = labels[0]
    return row_id, (str(label).lower() if isinstance(label, bool) else "" if label is None else str(label)).strip()
