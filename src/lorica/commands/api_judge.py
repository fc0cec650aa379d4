"""`lorica.judge`: the command `lorica judge` as a function with plain arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lorica.commands import arguments_of_api as argument
from lorica.commands.api_settings import PathLike, Settings, all_settings
from lorica.commands.arguments import resolve
from lorica.errors import ConfigError
from lorica.records import Answer

if TYPE_CHECKING:
    from lorica.judging.endpoint import EndpointSettings
    from lorica.judging.judge_result import JudgeResult


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
    files: Iterable[object] = (answers,)
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
