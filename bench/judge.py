"""How good is a local judge? 100 rows with answers that are right or wrong by rule.

    python bench/judge.py [--base FOLDER ...] [--rows 100] [--saq FILE] [--rubric reference]

Rows are drawn from a file of short answers with subjects (OpenStax). A right answer is the gold one, a wrong one the
gold answer of another row of the same subject, half and half; the labels are known without anybody's reading. Each base
judges them (the embedded one where none is named), then the same answers again out of the journal. Prints what `lorica
judge` does, and ends with one line of key=value figures of each base. auc: of its probability of "correct", in the mean
of both orders: what a better threshold or better words could still bring out.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
from collections import defaultdict
from pathlib import Path

import lorica
from lorica.commands.judge_report import judge_text
from lorica.metrics.metric_table import find_metric

SAQ = Path(__file__).resolve().parents[2] / "shared" / "data" / "openstax" / "saq.jsonl"


def write_rows(saq_file: Path, folder: Path, row_count: int) -> tuple[Path, Path, Path]:
    """Files of answers, gold and labels: every second answer is wrong."""
    rows = [json.loads(line) for line in saq_file.read_text("utf-8").splitlines()]
    generator = random.Random(0)
    answers_of = defaultdict(list)
    for row in rows:
        answers_of[row["subject"]].append(row["answer"])
    answers, gold, labels = [], [], ["id,label"]
    for number, row in enumerate(generator.sample(rows, row_count)):
        is_right = number % 2 == 0
        others = [answer for answer in answers_of[row["subject"]] if answer.casefold() != row["answer"].casefold()]
        answers.append({"id": row["id"], "answer": row["answer"] if is_right else generator.choice(others)})
        gold.append({name: row[name] for name in ("id", "subject", "question", "answer")})
        labels.append(f"{row['id']},{'correct' if is_right else 'incorrect'}")
    paths = folder / "answers.jsonl", folder / "gold.jsonl", folder / "labels.csv"
    for path, records in zip(paths, (answers, gold), strict=False):
        path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    paths[2].write_text("\n".join(labels) + "\n", "utf-8")
    return paths


def judge_twice(base: str, files: tuple[Path, Path, Path], rubric: str) -> str:
    """Judge, then take the same verdicts from the journal; the figures as one line."""
    answers, gold_file, labels = files
    first, again = (
        lorica.judge(answers, gold_file, task="saq", base=base, labels=labels, rubric=rubric) for _ in range(2)
    )
    if (again.calls, again.rows) != (0, first.rows):
        raise SystemExit(f"the journal lost verdicts: {again.calls} calls were made again")
    print(judge_text(first), end="\n\n")
    (labelled,) = (entry for entry in first.agreements if entry.reference == "the labelled rows")
    assert first.label_mass is not None
    is_right = dict(csv.reader(labels.read_text("utf-8").splitlines()[1:]))
    judged = [verdict for verdict in first.rows if verdict.is_judged]
    gold = [int(is_right[verdict.row_id] == "correct") for verdict in judged]
    auc = find_metric("roc_auc")(gold, [verdict.score for verdict in judged])
    figures = {
        "base": Path(base).name,
        "rows": first.mean.n,
        "failed": first.failed,
        "judged_correct": f"{first.mean.mean.value:.3f}",
        "accuracy": f"{labelled.accuracy.value:.3f}",
        "auc": f"{auc:.3f}",
        "kappa": f"{labelled.kappa.value:.3f}",
        "kappa_low": f"{labelled.kappa.low:.3f}",
        "kappa_high": f"{labelled.kappa.high:.3f}",
        "same_swapped": f"{first.swap.rate.value:.3f}",
        "same_again": f"{first.repetition.rate.value:.3f}",
        "first_letter": f"{first.letter_rate:.3f}",
        "letter_mass": f"{first.label_mass[1]:.3f}",
    }
    return " ".join(f"{name}={value}" for name, value in figures.items())


def main() -> None:
    """See the module's docstring."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--base", nargs="+", default=["embedded:lorica_tiny"])
    command.add_argument("--rows", type=int, default=100)
    command.add_argument("--saq", type=Path, default=SAQ)
    command.add_argument("--rubric", default="reference")
    options = command.parse_args()
    if not options.saq.exists():
        print(f"skipped=1 missing={options.saq.name}")
        return
    with tempfile.TemporaryDirectory() as folder:
        files = write_rows(options.saq, Path(folder), options.rows)
        for line in [judge_twice(base, files, options.rubric) for base in options.base]:
            print(line)


if __name__ == "__main__":
    main()
