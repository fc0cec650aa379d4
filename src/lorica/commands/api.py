"""The Python API, as `import lorica` offers it: the commands as functions with plain arguments.

`settings` of every function holds further configuration, by the keys of docs/configuration.md with values as they are:
{"lora.r": 8, "training": "tiny", "task.columns": {"body": "text"}}. The environment counts as it does for the commands.
What a person should know is said on standard error. Errors are those of `lorica.errors`, all of them LoricaErrors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lorica.adapters.registry import BASE, is_adapter
from lorica.commands import arguments_of_api as argument
from lorica.commands import build
from lorica.commands.arguments import inform, resolve
from lorica.commands.arguments_of_api import PathLike, Settings, all_settings, configuration
from lorica.commands.rows import naming_its_task, open_rows, reading_log, tell
from lorica.commands.trained_rows import TrainedRows, with_flag
from lorica.config.schema import Config
from lorica.data.read import rows_from_memory
from lorica.errors import ConfigError
from lorica.metrics.normalise import LORICA, NORMALISATIONS
from lorica.metrics.run_scores import ACCURACY_WEIGHT, LATENCY_WEIGHT, MINIMUM_ACCURACY, RUN_NOISE
from lorica.models.base_folder import BaseFolder
from lorica.pipeline.answer import Pipeline
from lorica.records import Answer, Row
from lorica.vetting.findings import LEVELS

if TYPE_CHECKING:
    from lorica.commands.check_result import CheckResult
    from lorica.commands.frontier import FrontierResult
    from lorica.commands.infer import InferResult
    from lorica.commands.score_result import ScoreResult
    from lorica.commands.train_jobs import TrainingRun
    from lorica.pipeline.evaluate import Evaluation
    from lorica.runs.stored_run import StoredRun
    from lorica.vetting.diagnosis import Diagnosis

Adapters = PathLike | Mapping[str, PathLike] | None


def train(
    rows: PathLike | Mapping[str, PathLike],
    run_dir: PathLike,
    *,
    task: str,
    base: PathLike | None = None,
    per_subject: bool = False,
    folds: int = 0,
    resume: bool = False,
    settings: Settings = None,
) -> TrainingRun:
    """Train LoRA adapters, each into `run_dir`/NAME in PEFT's folder format, with its passport.

    rows: a file of rows with gold answers, for one adapter named after the task; or subject -> file, for one adapter
    each and `general` on all rows. task: `rules`, `mcq`, `saq` or `qa`. base: a base model's folder, Hugging Face id in
    the local cache or `embedded:lorica_tiny`. per_subject: one adapter for each subject of the file, and `general`.
    folds: so many adapters of one file, with out-of-fold scores of all rows, which `folds` of the result is about.
    resume: go on with an interrupted run in `run_dir`. Losses in the result are in nats per answer token.

    Raises DataError for rows that cannot be used, ModelError for the base, TrainingError for a loss that is not finite,
    ResumeError for another run in `run_dir`, ConfigError for settings.

        run = lorica.train("posts.csv", "runs/rules", task="rules", settings={"training": "tiny", "lora.r": 8})
        run.adapters["rules"].folder
    """
    from lorica.commands.train import train_files

    by_subject = argument.by_name(rows, "rows", argument.rows_text) if isinstance(rows, Mapping) else None
    arguments = {
        "task": argument.task_name(task),
        "run_dir": argument.path_text(run_dir, "run_dir"),
        "training.per_subject": argument.switch(per_subject, "per_subject") or None,
        "training.resume": argument.switch(resume, "resume") or None,
        "folds.count": argument.whole_number(folds, "folds") or None,
        **({"data": by_subject} if by_subject else {"input": argument.rows_text(rows)}),
    }
    return train_files(resolve(all_settings(arguments, base, settings)), resume_command=argument.RESUMED)


def infer(
    rows: PathLike,
    output: PathLike,
    *,
    task: str,
    adapters: Adapters = None,
    base: PathLike | None = None,
    resume: bool = False,
    settings: Settings = None,
) -> InferResult:
    """Answer a file of rows into `output`, in input order; its suffix decides the format (.csv, .jsonl, .parquet).

    adapters: one adapter's folder, which answers every row; a folder of adapters, each named after its task or subject;
    or name -> folder; None asks the base model alone. task, base: as `train` takes them. resume: go on with the
    unfinished output of the same call. Scores in the output are probabilities; `load_pipeline` answers rows in memory.

    Raises DataError for rows that cannot be read, AdapterError for an adapter that does not prove itself, ModelError
    for the base, ResumeError where another run left `output`, ConfigError for settings.

        result = lorica.infer("posts.csv", "answers.csv", task="rules", adapters="runs/rules/rules")
        result.rows, result.flags
    """
    from lorica.commands.infer import infer_file

    arguments = {
        "task": argument.task_name(task),
        "input": argument.rows_text(rows),
        "output": argument.path_text(output, "output"),
        "inference.resume": argument.switch(resume, "resume") or None,
        **_adapters(adapters, task),
    }
    return infer_file(resolve(all_settings(arguments, base, settings)), resume_command=argument.RESUMED)


def evaluate(
    answers: PathLike | Sequence[Answer],
    gold: PathLike,
    *,
    task: str,
    by: Sequence[str] = (),
    weight: str = "",
    normalisation: str = LORICA.name,
    allow_training_rows: bool = False,
    settings: Settings = None,
) -> Evaluation:
    """Measure answers against the rows with their gold answers: every metric with its 95% bootstrap interval and n.

    answers: what `infer` wrote, any table with ids and `answer`, or the answers of a pipeline. gold: the file of rows
    that was answered. by: columns of it to group by, or one. weight: the column that says how much each row counts.
    normalisation: what texts are compared under, `lorica` or `squad`. allow_training_rows: judge also rows whose own
    labels the answering adapter was trained on (`adapt`), and say on standard error how many there are.

    Raises DataError for rows without gold or an answer, for answers of other rows, and for rows whose own labels were
    trained on.

        evaluation = lorica.evaluate("answers.csv", "held_out.csv", task="rules", by=["rule"])
        evaluation.metrics["roc_auc"].value
    """
    from lorica.commands.gold_file import read_gold

    config = configuration({"task": argument.task_name(task)}, None, settings)
    given, gold_path = argument.given_answers(answers), argument.local_file(gold, "gold")
    columns = argument.names(by, "by", item="a column's name")
    normalisation = argument.one_of(normalisation, "normalisation", tuple(NORMALISATIONS))
    allowed = argument.switch(allow_training_rows, "allow_training_rows")
    gold_file = read_gold(config, gold_path, columns, weight_column=weight, allow_training_rows=allowed)
    answers_by_id = gold_file.read_answers(given)
    gold_file.list_skipped(given if isinstance(given, Path) else gold_path)
    judged = gold_file.judge(answers_by_id, str(given) if isinstance(given, Path) else "answers")
    return gold_file.evaluate(judged, normalisation=normalisation)


def score(
    runs: PathLike | Sequence[PathLike],
    gold: PathLike | None = None,
    *,
    weights: Sequence[float] = (ACCURACY_WEIGHT, LATENCY_WEIGHT),
    min_accuracy: float = MINIMUM_ACCURACY,
    per: Literal["row", "token"] = "row",
    run_noise: float = RUN_NOISE,
) -> ScoreResult:
    """Rank runs of `infer` over the same rows on one machine by accuracy and latency.

    runs: outputs of `infer`, or their OUTPUT.run folders, or one. gold: rows with gold, where those that were answered
    have none. weights: of accuracy and latency; their sum is 1. min_accuracy: a run below it scores 0 and is not
    ranked. per: latency of a row, or of a generated token, in seconds. run_noise: how much a run's latency varies from
    run to run, as a standard deviation relative to it.

    Raises DataError for runs that did not finish, were changed, or cannot be put on one scale, UsageError for weights.

        result = lorica.score(["fast.csv", "exact.csv"])
        [(run.name, run.rank, run.score.value) for run in result.runs]
    """
    from lorica.commands.score import score_files, score_rules

    if per not in ("row", "token"):
        raise ConfigError(f"per is {per!r}; allowed: 'row', 'token'", fix="leave it out for the latency of a row")
    return score_files(
        argument.local_paths(runs, "runs"),
        argument.optional_file(gold, "gold"),
        rules=score_rules(
            argument.numbers(weights, "weights"),
            *argument.numbers([min_accuracy, run_noise], "min_accuracy or run_noise"),
        ),
        unit=per,
    )


def frontier(
    rows: PathLike,
    run_dir: PathLike,
    *,
    task: str,
    minutes: float,
    adapters: Adapters = None,
    base: PathLike | None = None,
    vary: Mapping[str, Sequence[str]] | None = None,
    resume: bool = False,
    settings: Settings = None,
) -> FrontierResult:
    """Measure combinations of settings on a file of rows with gold, and find those that no other one matches in both
    accuracy and latency.

    run_dir: the folder that holds what was measured, at every moment. minutes: that it may take in all. task, adapters,
    base: as `infer` takes them. vary: key -> values to try, in place of the default ones of that key. resume: go on
    with the unfinished search of the same call. Latencies are the engine's seconds for a row.

    Raises DataError for rows without gold and where nothing could be measured, ResumeError for another search in
    `run_dir`, ConfigError for settings.

        result = lorica.frontier("held_out.csv", "runs/front", task="rules", minutes=5, adapters="runs/rules")
        [(point.name, point.accuracy.value, result.commands[point.name]) for point in result.front]
    """
    from lorica.commands.frontier import find_frontier

    arguments = {
        "task": argument.task_name(task),
        "input": argument.rows_text(rows),
        "run_dir": argument.path_text(run_dir, "run_dir"),
        "minutes": argument.numbers([minutes], "minutes")[0],
        "inference.resume": argument.switch(resume, "resume") or None,
        **_adapters(adapters, task),
    }
    varied = {key: argument.names(values, f"vary[{key!r}]") for key, values in (vary or {}).items()}
    return find_frontier(all_settings(arguments, base, settings), varied, words=(), resume_command=argument.RESUMED)


def check(
    adapters: PathLike | Sequence[PathLike],
    *,
    base: PathLike | None = None,
    rows: PathLike | None = None,
    task: str | None = None,
    level: int | None = None,
    jobs: int = 1,
    deep: bool = False,
    settings: Settings = None,
) -> CheckResult:
    """Vet adapters: from their files alone, and with a base model on it.

    adapters: folders, checkpoints, single files, archives, or folders of many. base: as `train` takes it. rows: a file
    of rows of `task` to ask, which with gold answers shows the gain over the base. level: the highest to carry out, 0
    to 4. jobs: processes, 0 for one a core. deep: examine the base model itself, too (its tokenizer, precision and loss
    on text), once for each base.

    Nothing that is wrong with an adapter raises: that is what the findings say. Raises AdapterError for a path without
    an adapter, ModelError for the base, DataError for the rows, UsageError for rows without their task.

        result = lorica.check("downloads/", base="models/qwen3-0.6b")
        [(adapter.name, adapter.status) for adapter in result.ranked]
    """
    from lorica.commands.check import check_adapters

    return check_adapters(
        argument.local_paths(adapters, "adapters"),
        base=argument.base_name(base),
        rows_file=argument.optional_file(rows, "rows"),
        level=None if level is None else argument.whole_number(level, "level", highest=max(LEVELS)),
        process_count=argument.whole_number(jobs, "jobs"),
        deep=argument.switch(deep, "deep"),
        overrides=all_settings({"task": argument.optional_task(task)}, None, settings),
    )


def diagnose(
    adapter: PathLike,
    *,
    base: PathLike | None = None,
    rows: PathLike | None = None,
    task: str | None = None,
    expected_bases: Sequence[PathLike] = (),
    answers: PathLike | None = None,
    settings: Settings = None,
) -> Diagnosis:
    """Rank the causes for which an adapter may misbehave, with the evidence, and run the experiments that decide.

    base: the one it is used with. rows: a file of rows of `task` with their gold answers; 50 to 150 are plenty.
    expected_bases: others it may belong to, or one. answers: a file of answers or scores that are doubted.

    The result's title names the likeliest cause, and `decided` says whether enough speaks for it: where it is False the
    title is only the first of what is possible.

    Nothing that is wrong with the adapter raises. Raises AdapterError for a path without an adapter or with several,
    ModelError for a base, DataError for the rows, UsageError for rows without their task, or without base and answers.

        diagnosis = lorica.diagnose("adapter", base="models/qwen3-4b", rows="labelled.csv", task="rules")
        diagnosis.decided, diagnosis.title, diagnosis.command
    """
    from lorica.commands.diagnose import diagnose_adapter

    return diagnose_adapter(
        argument.local_file(adapter, "adapter"),
        base=argument.base_name(base),
        rows_file=argument.optional_file(rows, "rows"),
        expected_bases=argument.base_names(expected_bases, "expected_bases"),
        answers=argument.optional_file(answers, "answers"),
        overrides=all_settings({"task": argument.optional_task(task)}, None, settings),
    )


def list_runs(
    folders: PathLike | Sequence[PathLike] = ".",
    *,
    commands: Sequence[str] = (),
    tasks: Sequence[str] = (),
    statuses: Sequence[str] = (),
    where: Sequence[str] = (),
) -> list[StoredRun]:
    """The runs in `folders` and below that can be read and meet all that is asked, the earliest first.

    commands, tasks, statuses: a list or a single one; () any. where: conditions on keys of the configuration and on
    metrics, such as `lora.r=8` and `roc_auc>0.9`. What cannot be read is said on standard error.

    Raises DataError for a folder that is not there, UsageError for a condition that cannot be meant.

        for run in lorica.list_runs("results", commands=["eval"], where=["roc_auc>0.9"]):
            print(run.name, run.status, run.metrics["roc_auc"].value)
    """
    from lorica.runs.select_runs import parse_condition, select_runs, sort_runs
    from lorica.runs.stored_run import find_runs

    runs, unusable = find_runs(argument.local_paths(folders, "folders"))
    for broken in unusable:
        inform(f"{broken.name} cannot be read: {broken.reason}")
    conditions = [parse_condition(text) for text in argument.names(where, "where", item="a condition")]
    selected = select_runs(
        runs,
        commands=argument.names(commands, "commands"),
        tasks=argument.names(tasks, "tasks"),
        statuses=argument.names(statuses, "statuses"),
        conditions=conditions,
    )
    return sort_runs(selected, "started")


class RecordPipeline:
    """A loaded model with its adapters; call it with records, get their answers in the same order."""

    def __init__(self, pipeline: Pipeline, config: Config, trained: TrainedRows, base: BaseFolder) -> None:
        self._pipeline, self._config, self._trained, self._base = pipeline, config, trained, base
        self._log = reading_log(config)

    def __call__(self, records: Iterable[Mapping[str, Any]] | Any) -> list[Answer]:
        """Answer records of one of the task's tables, such as {"questionID", "subject", "question"}, in their order.

        records: dictionaries in anything that yields them (a list, a generator, a dataset), or a data frame or table of
        pandas, polars or pyarrow; values may be numpy's and pandas' own. A frame's index is not read. Or the path of a
        file of rows. What of them is not read is said on standard error, once. Raises DataError naming the line, or the
        position of a record, that cannot be used, AdapterError for one that nothing may answer.
        """
        self._log.forget_skipped()
        rows = self._read(records)
        tell(self._log)
        answers = self._pipeline.answer(rows)
        base_rows = sum(answer.adapter == BASE for answer in answers)
        build.refuse_base_rows(self._config, self._base, self._pipeline.adapters, base_rows)
        pairs = zip(rows, answers, strict=True)
        return [with_flag(own) if own.adapter in self._trained.trained_on(row) else own for row, own in pairs]

    def _read(self, records: Any) -> list[Row]:
        task_object, columns = self._pipeline.task, self._config.task
        if isinstance(records, (str, Path)):
            return list(
                open_rows(self._config, task_object, argument.local_file(records, "records"), read_log=self._log)
            )
        with naming_its_task(task_object):
            return rows_from_memory(
                records, task_object.schemas, columns=columns.columns, constants=columns.constants, log=self._log
            )


def load_pipeline(
    task: str = "qa", *, adapters: Adapters = None, base: PathLike | None = None, settings: Settings = None
) -> RecordPipeline:
    """Load a base model and adapters once, to answer records in memory as `infer` answers a file.

    task, adapters, base: as `infer` takes them. Raises AdapterError for an adapter that does not prove itself,
    ModelError for the base, ConfigError for settings.

        pipeline = lorica.load_pipeline("saq", adapters="runs/saq")
        pipeline([{"questionID": "1", "subject": "history", "question": "Who crossed the Rubicon?"}])[0].answer
    """
    config = configuration({"task": argument.task_name(task), **_adapters(adapters, task)}, base, settings)
    folders, base_model = build.adapter_folders(config), build.base_folder(config)
    pipeline = build.build_pipeline(config, base_model, build.open_adapters(folders))
    return RecordPipeline(pipeline, config, TrainedRows(pipeline.task, folders), base_model)


def _adapters(adapters: Adapters, task: str) -> dict[str, object]:
    """The `adapters` keys: one adapter's folder is the task's, and answers every row."""
    if adapters is None:
        return {}
    if isinstance(adapters, Mapping):
        return {"adapters.paths": argument.by_name(adapters, "adapters", argument.path_text)}
    folder = argument.local_file(adapters, "adapters", allowed="a path, name -> path, or None for the base alone")
    return {"adapters.paths": {task: folder}, "adapters.use": task} if is_adapter(folder) else {"adapters.dir": folder}
