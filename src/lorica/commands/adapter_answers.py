"""Rows answered by adapters that were chosen beforehand; what was answered outlasts a kill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lorica.adapters.member import Member
from lorica.commands import build
from lorica.commands.row_progress import row_progress
from lorica.commands.run_log import counted
from lorica.config.schema import Config
from lorica.data.journal import Journal
from lorica.pipeline.answer import Pipeline
from lorica.pipeline.answer_by_adapter import answer_by_adapter
from lorica.records import Answer, Row
from lorica.runs.run_folder import RunFolder


@contextmanager
def adapter_answers(
    config: Config,
    adapters: Mapping[str, Member],
    requested: Sequence[tuple[str, Row]],
    journal_folder: Path,
    identity: Mapping[str, str],
    *,
    unit_name: str = "rows",
    run_log: RunFolder | None = None,
) -> Iterator[tuple[Pipeline, dict[str, str], list[tuple[str, Answer]]]]:
    """A block that is given the pipeline, all that decides its answers (a manifest), and (adapter, its answer) for each
    (adapter, row) of `requested`.

    journal_folder: holds what was answered until the block ends without an error; the same call goes on with it.
    identity: what else decides the answers, beside `build.manifest`. unit_name: of rows in the progress. run_log: is
    told of rows that are done. Raises what building a pipeline and answering raises, ResumeError for a journal of other
    answers.
    """
    base = build.base_folder(config)
    pipeline = build.build_pipeline(config, base, adapters)
    manifest = build.manifest(config, base, adapters, pipeline, identity)
    with Journal.open(journal_folder, manifest, resume=True) as journal:
        with row_progress(len(requested), unit_name) as advance:
            answered = answer_by_adapter(
                pipeline,
                requested,
                journal,
                window_rows=config.inference.window_rows,
                on_done=advance if run_log is None else counted(advance, run_log),
            )
        yield pipeline, manifest, answered
        journal.remove()
