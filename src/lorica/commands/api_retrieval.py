"""`lorica.measure_retrieval`: the command `lorica kb test` as a function with plain arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorica.commands import arguments_of_api as argument
from lorica.commands.api_settings import PathLike, Settings, all_settings
from lorica.commands.arguments import resolve

if TYPE_CHECKING:
    from lorica.pipeline.retrieval_gain import RetrievalGain


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
        resume_command="the same call with resume=True",
    )
    return measure_gain(answered)
