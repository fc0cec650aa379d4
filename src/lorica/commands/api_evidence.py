"""The Python API of what turns answers into a decision (comparing, judging, blending, averaging, calibrating, measuring
retrieval), and of the machine.

Arguments, settings and errors are as in `lorica.commands.api`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from lorica.commands import arguments_of_api as argument
from lorica.commands.arguments import resolve
from lorica.commands.arguments_of_api import PathLike, Settings, all_settings, configuration
from lorica.errors import ConfigError
from lorica.metrics.normalise import LORICA, NORMALISATIONS
from lorica.records import Answer

if TYPE_CHECKING:
    from lorica.commands.average import AverageResult
    from lorica.commands.calibrations import CalibrationResult
    from lorica.commands.doctor import DoctorReport
    from lorica.commands.ensemble_report import EnsembleResult
    from lorica.judging.endpoint import EndpointSettings
    from lorica.judging.judge_result import JudgeResult
    from lorica.pipeline.compare import FileComparison
    from lorica.pipeline.retrieval_gain import RetrievalGain

CalibrationMethod = Literal["auto", "platt", "isotonic", "temperature"]
BlendMethod = Literal["rank", "mean", "power", "stack", "vote"]


def compare(
    answers: Sequence[PathLike] | Mapping[str, PathLike | Sequence[Answer]],
    gold: PathLike,
    *,
    task: str,
    normalisation: str = LORICA.name,
    allow_training_rows: bool = False,
    settings: Settings = None,
) -> FileComparison:
    """Compare two or more sets of answers to the same rows, pair by pair of answers: which is better by more than the
    choice of rows explains (paired bootstrap of the main metric, exact McNemar, Holm's correction for many pairs).

    answers: files that `infer` wrote, or name -> file or answers of a pipeline. gold: the rows with their gold answers.
    normalisation: what texts are compared under, `lorica` or `squad`. allow_training_rows: judge also rows whose own
    labels the answering adapter was trained on (`adapt`), and say on standard error how many there are. Differences in
    the result are first minus second, in units of the metric; sets that nothing tells apart may share a rank.

    Raises UsageError for fewer than two sets, DataError for rows without gold or an answer, for answers of others and
    for rows whose own labels were trained on.

        comparison = lorica.compare({"a": "a.csv", "b": "b.csv"}, "held_out.csv", task="rules")
        comparison.ranks, comparison.pairs[0].test.difference, comparison.pairs[0].better
    """
    from lorica.commands.gold_file import read_gold
    from lorica.pipeline.compare import compare as compare_judged

    config = configuration({"task": argument.task_name(task)}, None, settings)
    answer_sets, gold_path = argument.named_answers(answers), argument.local_file(gold, "gold")
    normalisation = argument.one_of(normalisation, "normalisation", tuple(NORMALISATIONS))
    allowed = argument.switch(allow_training_rows, "allow_training_rows")
    gold_file = read_gold(config, gold_path, [], allow_training_rows=allowed)
    judged_sets = {name: gold_file.judge(gold_file.read_answers(given), name) for name, given in answer_sets.items()}
    gold_file.list_skipped(gold_path)
    return compare_judged(gold_file.task, judged_sets, normalisation=normalisation)


def calibrate(
    answers: PathLike | Sequence[Answer],
    gold: PathLike,
    *,
    adapter: PathLike,
    task: str,
    method: CalibrationMethod = "auto",
    allow_training_rows: bool = False,
    replace: bool = False,
    save_anyway: bool = False,
    settings: Settings = None,
) -> CalibrationResult:
    """Fit a calibration of an adapter's scores (`rules`, `mcq`) on answers to held-out rows, and save it beside it as
    `calibration.json`, which `infer` applies with `settings={"adapters.calibration": "require"}`.

    answers: what `infer` wrote with this adapter, or the answers of a pipeline. gold: the rows with their gold answers.
    method: `auto` takes the one of lowest log-loss. allow_training_rows: fit also on rows that the adapter was trained
    on, which the file then says. replace: write over a calibration that is there. save_anyway: save it also where the
    rows do not show that it helps; else the result's `path` is None there. Figures before and after are of rows that
    the fit had not seen: log-loss in nats per row, Brier score, expected calibration error (0 to 1).

    Raises DataError for answers that cannot be fitted on, AdapterError for an adapter that did not give them or was
    trained on the rows, TrainingError for too few rows and where no method helps.

        result = lorica.calibrate("answers.csv", "held_out.csv", adapter="runs/rules/rules", task="rules")
        result.calibration.method, result.calibration.before.log_loss, result.calibration.after.log_loss
    """
    from lorica.calibration.calibration_maps import METHODS
    from lorica.commands.calibrate import calibrate_answers

    return calibrate_answers(
        all_settings({"task": argument.task_name(task)}, None, settings),
        argument.given_answers(answers),
        argument.local_file(gold, "gold"),
        argument.local_file(adapter, "adapter"),
        method=argument.one_of(method, "method", ("auto", *METHODS)),
        allow_training_rows=argument.switch(allow_training_rows, "allow_training_rows"),
        replace=argument.switch(replace, "replace"),
        save_anyway=argument.switch(save_anyway, "save_anyway"),
    )


def blend(
    answers: Sequence[PathLike],
    *,
    task: str,
    gold: PathLike | None = None,
    method: BlendMethod = "rank",
    weights: Sequence[float] | None = None,
    within: str | None = None,
    rows: PathLike | None = None,
    power: float = 2.0,
    output: PathLike | None = None,
    save: PathLike | None = None,
    model: PathLike | None = None,
    allow_training_rows: bool = False,
    settings: Settings = None,
) -> EnsembleResult:
    """Blend files of answers to the same rows into one; with `gold`, say what each member adds and whether the blend
    beats the best of them.

    answers: files that `infer` wrote; with `model` one is enough. method: `rank`, `mean`, `power` (with exponent
    `power`), `stack` (needs gold) or `vote`. weights: one for each file; their sum is 1. within: take ranks within each
    value of this column of `gold` or `rows`. output: where the blend is written. save: where the fitted blend is
    written (.json), which serves rows to come as `model`. allow_training_rows: as `compare` takes it.

    Raises UsageError for arguments that contradict each other, DataError for files of different rows and for rows of
    `gold` whose own labels a member was trained on.

        result = lorica.blend(["a.csv", "b.csv"], task="rules", gold="held_out.csv", output="blend.csv")
        result.verdict, result.estimates["the blend"]
    """
    from lorica.commands.ensemble import blend_files
    from lorica.commands.ensemble_request import BlendRequest
    from lorica.ensemble.blends import METHODS

    request = BlendRequest(
        files=argument.local_paths(answers, "answers"),
        gold=argument.optional_file(gold, "gold"),
        method=argument.one_of(method, "method", tuple(METHODS)),
        weights=None if weights is None else argument.weights(weights),
        within=within,
        rows=argument.optional_file(rows, "rows"),
        power=argument.number(power, "power"),
        output=argument.optional_file(output, "output"),
        save=argument.optional_file(save, "save"),
        model=argument.optional_file(model, "model"),
        allow_training_rows=argument.switch(allow_training_rows, "allow_training_rows"),
    )
    return blend_files(configuration({"task": argument.task_name(task)}, None, settings), request).result


def average(
    adapters: Sequence[PathLike], output: PathLike, *, weights: Sequence[float] | None = None, rank: int = 0
) -> AverageResult:
    """Write one adapter whose update is the weighted mean of several adapters' of one base into the new folder
    `output`.

    adapters: two folders or more. weights: one for each; their sum is 1. rank: cut the mean to this rank; 0 keeps it
    exact, with the sum of their ranks. `error` in the result is the share of the update's Frobenius norm that was cut.

    Raises AdapterError for adapters that do not fit together, UsageError for weights that do not and a folder that
    holds an adapter.

        lorica.average(["runs/folds/fold-1", "runs/folds/fold-2"], "runs/mean", rank=16).error
    """
    from lorica.commands.average import average_folders

    return average_folders(
        argument.local_paths(adapters, "adapters"),
        argument.local_file(output, "output"),
        weights=None if weights is None else argument.weights(weights),
        rank=argument.whole_number(rank, "rank"),
    )


def judge(
    answers: PathLike | Sequence[Answer] | tuple[PathLike, PathLike],
    gold: PathLike,
    *,
    task: str,
    rubric: PathLike = "reference",
    base: PathLike | None = None,
    adapter: PathLike | None = None,
    endpoint: EndpointSettings | None = None,
    labels: PathLike | None = None,
    sample: int | None = None,
    repeat: int = 20,
    journal: PathLike | None = None,
    settings: Settings = None,
) -> JudgeResult:
    """Have a model judge answers to the rows of `gold`, each in both orders of the choices.

    answers: what `infer` wrote, any table with ids and `answer`, or the answers of a pipeline; a pair of files, as a
    tuple, for a pairwise rubric. rubric: `reference`, `free`, `pairwise`, or the path of one in TOML. base, adapter:
    the local judge, which answers by the probabilities of the labels; endpoint: an OpenAI-compatible one in its place;
    one of them must be named.
    labels: a file of rows that people labelled. sample: judge so many rows, None for all. repeat: ask so many twice.
    journal: the folder where verdicts are kept, so that nothing is asked twice; None for beside the answers.

    Believe `mean` as far as `agreements`, `swap`, `repetition` and `warnings` let you. Raises DataError for files and
    rubrics, ModelError and AdapterError for a local judge, EngineError for an endpoint that cannot be used at all.

        result = lorica.judge("answers.jsonl", "gold.jsonl", task="saq", base="models/qwen3-4b")
        result.mean.mean, result.failed, result.agreements[0].kappa
    """
    from lorica.commands.judge_answers import JudgeRequest, check_judge_is_named, judge_answer_files

    if endpoint is not None and (base is not None or adapter is not None):
        raise ConfigError("endpoint and base or adapter are given; allowed: one judge", fix="leave one of them out")
    keys = all_settings({"task": argument.task_name(task)}, base, settings)
    if adapter is not None:
        keys |= {"adapters.paths": {"judge": argument.path_text(adapter, "adapter")}, "adapters.use": "judge"}
    files: Sequence[object] = (answers,)
    if isinstance(answers, tuple) and len(answers) == 2 and not isinstance(answers[0], Answer):
        files = answers
    config = resolve(keys).config
    if endpoint is None:
        check_judge_is_named(config, keys)
    return judge_answer_files(
        config,
        [argument.given_answers(file) for file in files],
        argument.local_file(gold, "gold"),
        JudgeRequest(
            rubric=argument.path_text(rubric, "rubric"),
            labels_file=argument.optional_file(labels, "labels"),
            sample=None if sample is None else argument.whole_number(sample, "sample"),
            repeat=argument.whole_number(repeat, "repeat"),
            journal=argument.optional_file(journal, "journal"),
            endpoint=endpoint,
        ),
    )


def measure_retrieval(
    rows: PathLike,
    knowledge_base: PathLike,
    run_dir: PathLike,
    *,
    task: str,
    base: PathLike | None = None,
    source_column: str = "",
    resume: bool = False,
    settings: Settings = None,
) -> RetrievalGain:
    """Answer rows with gold answers with passages of a knowledge base and without, and compare them by subject.

    knowledge_base: the folder that `lorica kb build` made. run_dir: takes both files of answers. source_column: the
    column that names the document of a row. resume: go on with an interrupted call. settings: further configuration,
    such as "adapters.dir" and "retrieval.top_k".

    Raises ConfigError for a knowledge base without an index, RetrievalError for one that is damaged, DataError for rows
    without gold, ModelError for the base.

        gain = lorica.measure_retrieval("rows.jsonl", "kb", "runs/kb-test", task="mcq")
        gain.switches, gain.subjects[0].pair.test.difference
    """
    from lorica.commands.kb_test import answer_twice, measure_gain

    named = {
        "task": argument.task_name(task),
        "retrieval.dir": argument.path_text(knowledge_base, "knowledge_base"),
        "retrieval.source_column": source_column or None,
        "inference.resume": argument.switch(resume, "resume") or None,
    }
    answered = answer_twice(
        resolve(all_settings(named, base, settings)),
        argument.local_file(rows, "rows"),
        argument.local_file(run_dir, "run_dir"),
        resume_command=argument.RESUMED,
    )
    return measure_gain(answered)


def doctor() -> DoctorReport:
    """What this machine computes fast and why, what is compiled and installed, what `auto` chooses, and what to mend.

    Rates in the result are of one thread, in 10^9 operations a second (`memory`: 10^9 bytes a second). Raises
    ConfigError where LORICA_CPU_TARGET names a target that is not there.

        for remedy in lorica.doctor().problems:
            print(remedy.problem, remedy.fix)
    """
    from lorica.commands.doctor import examine

    return examine()
