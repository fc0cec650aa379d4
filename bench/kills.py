"""Kill `lorica infer` at random moments until it is done: is the file the same to the byte, and what was lost?

    python bench/kills.py [--kills 50] [--rows 120] [--texts 384] [--dtype bfloat16] [--kinds rules,saq]

Two runs on the embedded model, one of scores (two choices a row, as W1) and one of short texts (as W3): each once
without interruption, then killed (`kill -9`) after a random time, again and again, and resumed by the same command. A
kill counts when it hit a run that had not finished. Between a kill and the next start the journal and its log are
compared with what was there before: committed rows may only grow. The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lorica.pipeline.resumable import GENERATION_GROUP


def make_rows(path: Path, kind: str, rows: int) -> Path:
    """A file for the task `rules` (scores) or `saq` (texts)."""
    draw = random.Random(kind)
    words = ("post", "cats", "dogs", "money", "cheap", "sale", "visit", "my", "site", "friends", "today", "never")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "body", "rule"] if kind == "rules" else ["id", "question"])
        for i in range(rows):
            text = " ".join(draw.choice(words) for _ in range(draw.randrange(10, 60)))
            writer.writerow([f"r{i}", text, "No advertising."] if kind == "rules" else [f"r{i}", f"{text}?"])
    return path


def command(kind: str, dtype: str, rows: Path, output: Path) -> list[str]:
    """The same command for the first run and every resume."""
    given = [f"model.dtype={dtype}"]
    given += [
        f"task={kind}",
        f"input={rows}",
        f"output={output}",
        "inference.resume=true",
        "inference.batch_tokens=512",
    ]
    given += ["inference.window_rows=40"] if kind == "rules" else ["inference.max_new_tokens=12"]
    return [sys.executable, "-m", "lorica.cli", "infer", *given]


def run(kind: str, dtype: str, rows: Path, output: Path, after: float | None) -> tuple[bool, float]:
    """Run, and kill after so many seconds; returns whether it was killed, and how long it took."""
    begun = time.perf_counter()
    process = subprocess.Popen(command(kind, dtype, rows, output), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        code = process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True, time.perf_counter() - begun
    if code:
        raise SystemExit((process.stderr.read() if process.stderr else b"").decode())
    return False, time.perf_counter() - begun


def kept(output: Path) -> tuple[int, ...]:
    """Rows committed, and batches since."""
    path = output.with_name(output.name + ".partial") / "journal.sqlite"
    if not path.exists():
        return 0, 0
    not_made = contextlib.suppress(sqlite3.OperationalError)  # killed before the tables were there
    with contextlib.closing(sqlite3.connect(path)) as database, not_made:
        counts = "SELECT (SELECT total(rows) FROM windows), (SELECT count(*) FROM outputs)"
        rows, batches = database.execute(counts).fetchone()
        return int(rows), batches
    return 0, 0


def main() -> None:
    """Kill, resume, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each kind of run")
    parser.add_argument("--rows", type=int, default=120, help="of scores")
    parser.add_argument("--texts", type=int, default=3 * GENERATION_GROUP, help="rows that are answered by texts")
    parser.add_argument("--dtype", default="auto", help="of the base")
    parser.add_argument("--kinds", default="rules,saq", help="scores, texts")
    given = parser.parse_args()
    figures = [f"bench=kills dtype={given.dtype}"]
    nothing: tuple[int, ...] = (0, 0)
    chance = random.Random(0)
    for kind in given.kinds.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            count = given.rows if kind == "rules" else given.texts
            rows = make_rows(folder / "rows.csv", kind, count)
            _, whole_seconds = run(kind, given.dtype, rows, folder / "whole.jsonl", None)
            right = (folder / "whole.jsonl").read_bytes()
            kills = finished = same = 0
            output = folder / "out.jsonl"
            before = nothing
            while kills < given.kills:
                killed, _ = run(kind, given.dtype, rows, output, chance.uniform(0.3, 1.0) * whole_seconds)
                if killed and not output.exists():  # it appears whole, when all is done
                    kills += 1
                    now = kept(output)
                    if now[0] < before[0]:
                        raise SystemExit("committed answers were lost")
                    before = now
                    continue
                finished += 1
                same += output.read_bytes() == right
                output.unlink()
                for suffix in (".run", ".partial"):
                    shutil.rmtree(output.with_name(output.name + suffix), ignore_errors=True)
                before = nothing
            while run(kind, given.dtype, rows, output, None)[0]:
                pass
            finished += 1
            same += output.read_bytes() == right
            print(f"{kind}: {kills} kills over {finished} files, {same} of them the same to the byte")
            figures.append(f"{kind}_kills={kills} {kind}_files={finished} {kind}_identical={same}")
    print(" ".join(figures))


if __name__ == "__main__":
    main()
