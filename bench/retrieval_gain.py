"""Does retrieval help on textbook questions, is the right module found, and does a passage ever cross subjects?

    python bench/retrieval_gain.py OPENSTAX_FOLDER [--task mcq] [--rows 400] [key=value ...]

OPENSTAX_FOLDER holds mcq.jsonl, saq.jsonl and modules/BOOK.jsonl.gz, which join on `module`. One index for each subject
of the rows is built of its books, `lorica kb test` answers the rows with passages and without, and 10,000 look-ups of
the pipeline's own are held against the books of their subjects.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from lorica.commands.kb_test import answer_twice, gain_text, measure_gain
from lorica.config.compose import compose
from lorica.data.read import rows_from_memory
from lorica.pipeline.retrieve import Retriever
from lorica.retrieval.build_index import BuildOptions, build_index
from lorica.retrieval.index import Index, subjects
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings

LOOK_UPS = 10_000


def main() -> None:
    """Build, answer, look up, and print the figures."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--task", choices=("mcq", "saq"), default="mcq")
    arguments.add_argument("--rows", type=int, default=0, help="so many rows, drawn evenly; 0 for all")
    arguments.add_argument("overrides", nargs="*")
    options = arguments.parse_intermixed_args()
    with (options.folder / f"{options.task}.jsonl").open(encoding="utf-8") as rows_file:
        records = [json.loads(line) for line in rows_file]
    if options.rows:
        records = records[:: max(1, len(records) // options.rows)][: options.rows]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        modules, build_seconds = build_indexes(options.folder / "modules", records, folder / "kb")
        chosen_rows = folder / "rows.jsonl"
        chosen_rows.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        words = [f"task={options.task}", f"retrieval.dir={folder / 'kb'}", "retrieval.source_column=module"]
        resolved = compose([*words, *options.overrides], environ={})
        gain = measure_gain(answer_twice(resolved, chosen_rows, folder / "run", resume_command=""))
        print(gain_text(gain, resolved.config.retrieval), "\n", file=sys.stderr)
        crossed, seconds = look_up(folder / "kb", records, modules)
    overall = gain.overall
    assert overall is not None
    difference = overall.pair.test.difference
    print(
        f"rows={overall.rows} without={overall.without.value:.4f} with={overall.with_passages.value:.4f} "
        f"difference={difference.value:+.4f} low={difference.low:+.4f} high={difference.high:+.4f} "
        f"mcnemar_p={overall.pair.mcnemar.p_value:.3g} detectable={overall.pair.test.detectable:.4f} "
        f"own_module_shown={overall.own_shown}/{overall.documents} switched_on={sum(gain.switches.values())} "
        f"look_ups={LOOK_UPS} crossed={crossed} ms_per_look_up={1000 * seconds / LOOK_UPS:.2f} "
        f"build_seconds={build_seconds:.1f}"
    )


def build_indexes(
    modules_folder: Path, records: list[dict[str, str]], kb_folder: Path
) -> tuple[dict[str, set[str]], float]:
    """Subject -> the modules of its books, and the seconds that the indexes took."""
    books: dict[str, set[str]] = {}
    for record in records:
        books.setdefault(record["subject"], set()).add(record["book"])
    modules: dict[str, set[str]] = {}
    started = time.perf_counter()
    for subject, subject_books in sorted(books.items()):
        files = [modules_folder / f"{book}.jsonl.gz" for book in sorted(subject_books)]
        build_index(kb_folder, subject, files, BuildOptions(columns={"id": "module"}, skip_bad=True))
        modules[subject] = set()
        for file in files:
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                modules[subject] |= {json.loads(line)["module"] for line in lines}
    return modules, time.perf_counter() - started


def look_up(kb_folder: Path, records: list[dict[str, str]], modules: dict[str, set[str]]) -> tuple[int, float]:
    """Passages of another subject's modules among `LOOK_UPS` look-ups by questions of all subjects, and the seconds."""
    generator = random.Random(0)
    task = load_task("saq", TaskSettings())
    crossed, seconds = 0, 0.0
    with contextlib.ExitStack() as stack:
        indexes = {subject: stack.enter_context(Index.open(kb_folder, subject)) for subject in subjects(kb_folder)}
        retriever = Retriever(indexes, top_k=5, max_tokens=512)
        names = sorted(modules)
        for _ in range(LOOK_UPS):
            subject, question = generator.choice(names), generator.choice(records)["question"]
            (row,) = rows_from_memory([{"question": question, "subject": subject}], task.schemas)
            started = time.perf_counter()
            found = retriever.look_up(row.subject, task.retrieval_query(row)).passages or ()
            seconds += time.perf_counter() - started
            crossed += sum(passage.source not in modules[subject] for passage in found)
    return crossed, seconds


if __name__ == "__main__":
    main()
