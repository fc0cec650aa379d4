"""Whether answers were given to the very rows that they are judged by: equal ids do not tell."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

from lorica.commands.arguments import warn
from lorica.data.near_duplicates import text_digest
from lorica.data.row_timings import stream_timings
from lorica.errors import DataError
from lorica.runs.run_record import TIMINGS_NAME, RunRecord, run_folder_of
from lorica.runs.stored_run import check_answers

SCHEMAS = "schemas"
"""The entry in the summary of a run of `infer` with the names of the schemas that its rows were read in."""


def check_answered_texts(
    answers_path: Path, record: RunRecord, texts: Mapping[str, str], gold_path: Path, schemas: Set[str]
) -> None:
    """Hold the rows' own texts in a file with gold against those that were answered, as far as the run beside the
    answers tells and it was read in the same schemas: what the text of a row is depends on them. record: of that run.
    texts: by row id.

    Raises DataError where more than half of them differ in letters or digits; says so where some do.
    """
    digests = _answered_digests(answers_path, record, schemas)
    compared_ids = [row_id for row_id in texts if row_id in digests]
    differing_ids = [row_id for row_id in compared_ids if text_digest(texts[row_id]) != digests[row_id]]
    if not differing_ids:
        return
    problem = (
        f"{len(differing_ids)} of {len(compared_ids)} rows of {gold_path} have another text than the row of the same "
        "id that was answered"
    )
    if 2 * len(differing_ids) > len(compared_ids):
        fix = "name the file that was answered; or, if its texts were rewritten, a file of ids and gold answers alone"
        raise DataError(problem, path=answers_path, row_id=differing_ids[0], fix=fix)
    warn(f"{answers_path}: {problem}, first {differing_ids[0]!r}: their answers say nothing of the new texts")


def _answered_digests(answers_path: Path, record: RunRecord, schemas: Set[str]) -> dict[str, str]:
    """Row id -> digest of the text that was answered; {} for answers read in other schemas, and for those changed
    since."""
    if record.summary.get(SCHEMAS) != sorted(schemas):
        return {}
    try:
        check_answers(answers_path, record)
        timings = stream_timings(run_folder_of(answers_path) / TIMINGS_NAME)
        return {timing.id: timing.text for timing in timings if timing.text and not timing.warmup}
    except DataError:
        return {}  # whoever needs the run says what is wrong with it
