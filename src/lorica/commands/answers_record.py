"""What the run folder beside a file of answers says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lorica.admission.provenance import RETRIEVAL, WITH_PASSAGES
from lorica.commands.run_log import run_folder_of
from lorica.data.digest import file_digest
from lorica.errors import DataError
from lorica.runs.former_run import finished_record
from lorica.runs.run_record import RunRecord
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings


def record_of_answers(answers_path: Path) -> RunRecord | None:
    """The record of the run that left these answers; None where there is none. Raises DataError for a damaged one and
    for answers that were changed since."""
    record = finished_record(run_folder_of(answers_path))
    if record is None:
        return None
    if file_digest(answers_path) not in {output.digest for output in record.outputs if output.role == "answers"}:
        raise DataError(
            f"it was changed since its run, as {run_folder_of(answers_path)} tells",
            path=answers_path,
            fix="answer the rows again, or move the run folder away",
        )
    return record


def answered_with(manifest: Mapping[str, str]) -> dict[str, str]:
    """Method, style, retrieval, template, tokenizer and base of a run, under the names that the gate has for them."""
    settings = TaskSettings(method=manifest["task.method"], style=manifest["task.style"])
    settings = load_task(manifest["task.name"], settings).settings
    digests = {name: manifest[name] for name in ("template", "tokenizer", "base")}
    passages = WITH_PASSAGES if any(key.startswith("retrieval.") for key in manifest) else "none"
    return {"method": settings.method, "style": settings.style, RETRIEVAL: passages, **digests}
