"""Two trainings, two inferences and checks in one folder at once, killed at random: is what is left one run's, whole?

    python bench/shared_folder.py [--rounds 20] [--seed 0]

The two trainings learn opposite labels with the same command but for `input=`. In each round all five kinds of process
start at random moments, get SIGKILL or SIGTERM at random moments, and start again, until a training has published and
an inference has answered. Then the folder must hold the weights that its own record's rows give when they are trained
alone, a passport of these weights, and answers of this adapter; and no check, at any moment, may have called anything
else trusted or have rejected what was whole. The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from lorica.adapters.folder import open_adapter
from lorica.adapters.passport import read_passport
from lorica.adapters.passport_facts import adapter_facts
from lorica.training.checkpoints import read_record
from lorica.vetting.findings import EXIT_CODES

POSTS = Path(__file__).resolve().parents[1] / "examples" / "rules" / "posts.csv"
SETTINGS = ("task=rules", "training=tiny", "training.epochs=2", "training.save_steps=1")


def make_rows(folder: Path, count: int = 48) -> dict[str, Path]:
    """Posts, and the same with the opposite labels."""
    with POSTS.open(newline="", encoding="utf-8") as file:
        header, *posts = list(csv.reader(file))[: count + 1]
    files = {"plain": folder / "plain.csv", "flipped": folder / "flipped.csv"}
    for name, path in files.items():
        with path.open("w", newline="", encoding="utf-8") as file:
            flipped = [[*post[:-1], str(1 - int(post[-1]))] for post in posts]
            csv.writer(file).writerows([header, *(posts if name == "plain" else flipped)])
    return files


def train(rows: Path, run: Path) -> list[str]:
    """The command that begins a training or goes on with it."""
    return ["train", *SETTINGS, f"input={rows}", f"run_dir={run}", "training.resume=true"]


def infer(rows: Path, run: Path, output: Path) -> list[str]:
    """The command that answers rows with what was trained."""
    return ["infer", "task=rules", f"input={rows}", f"output={output}", f"adapters.dir={run}", "inference.resume=true"]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `lorica`; what it prints is appended to a file."""
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, "-m", "lorica", *words], stdout=file, stderr=file)


def must(words: list[str], log: Path) -> None:
    """Run `lorica` to its end."""
    if start(words, log).wait():
        raise SystemExit(f"{' '.join(words)}: see {log}\n{log.read_text()[-2000:]}")


def verdict(folder: Path, log: Path, code: int) -> str:
    """One word on what a check said; it raises where that is wrong."""
    said = log.read_text("utf-8", "replace")
    log.unlink()
    if code == EXIT_CODES["unchecked"]:
        return "unchecked"
    if code not in EXIT_CODES.values():
        return "killed"
    adapters = json.loads(said[said.index("{\n") :])["adapters"]
    own = [each for each in adapters if Path(each["path"]) == folder]
    codes = {finding["code"] for each in own for finding in each["findings"]}
    if any(each["status"] == "rejected" for each in adapters) and not codes <= {"L002", "L014"}:
        raise SystemExit(f"a wrong verdict: {said}")
    return own[0]["status"] if own else "checkpoints"


def one_round(files: dict[str, Path], work: Path, alone: float, chance: random.Random, seen: Counter[str]) -> None:
    """All at once in `work/run`, until there are an adapter and answers. alone: seconds of a training by itself."""
    run, output, folder = work / "run", work / "answers.csv", work / "run" / "rules"
    commands = {
        "train plain": train(files["plain"], run),
        "train flipped": train(files["flipped"], run),
        "infer 1": infer(files["plain"], run, output),
        "infer 2": infer(files["plain"], run, output),
        "check": ["check", "--json", str(folder)],
    }
    going: dict[str, subprocess.Popen[bytes]] = {}
    ends: dict[str, float] = {}
    kills, deadline = 0, time.monotonic() + 100 * alone
    while not (output.exists() and any(folder.glob("adapter_config.json"))) or going:
        if time.monotonic() > deadline:
            raise SystemExit(f"no end in sight: see {work}")
        for name, process in list(going.items()):
            code = process.poll()
            if code is None:
                if time.monotonic() > ends[name]:
                    ends[name] += 5
                    process.send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                    kills += 1
                continue
            del going[name]
            if name == "check":
                seen[verdict(folder, work / "check.log", code)] += 1
            else:
                seen[f"{name.split()[0]}_{'killed' if code < 0 else code}"] += 1
        done = output.exists() and (folder / "adapter_config.json").exists()
        for name, words in commands.items():
            if name not in going and not done and chance.random() < 0.02:
                going[name] = start(words, work / f"{name}.log")
                # Longer and longer, so that each gets to its end at last.
                ends[name] = time.monotonic() + chance.uniform(0.3, 1.2) * alone * (1 + kills / 10)
        time.sleep(0.05)
    seen["kills"] += kills


def main() -> None:
    """Train each alone, then all at once, round by round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    chance, seen, right = random.Random(given.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = make_rows(folder)
        begun = time.monotonic()
        for name, rows in files.items():
            must(train(rows, folder / name), folder / "log")
            must(infer(files["plain"], folder / name, folder / f"{name}.answers.csv"), folder / "log")
        seconds = (time.monotonic() - begun) / 4
        for number in range(given.rounds):
            work = folder / "work"
            work.mkdir()
            kills = seen["kills"]
            one_round(files, work, seconds, chance, seen)
            adapter = work / "run" / "rules"
            record, passport = read_record(adapter), read_passport(adapter)
            if record is None or passport is None:
                raise SystemExit(f"round {number}: an adapter without record or passport")
            name = Path(record.manifest["digest.source"]).stem
            alone = folder / name / "rules"
            for file in ("adapter_model.safetensors", "adapter_config.json", "lorica.json"):
                if (adapter / file).read_bytes() != (alone / file).read_bytes():
                    raise SystemExit(f"round {number}: {file} is not that of {name}")
            if passport.adapter != adapter_facts(open_adapter(adapter)):
                raise SystemExit(f"round {number}: the passport is not true")
            if (work / "answers.csv").read_bytes() != (folder / f"{name}.answers.csv").read_bytes():
                raise SystemExit(f"round {number}: the answers are not those of {name}")
            if start(["check", str(adapter)], folder / "log").wait() not in (0, 10):  # 10: warned, it learned little
                raise SystemExit(f"round {number}: rejected: see {folder / 'log'}")
            right += 1
            print(f"round {number}: {name}, {seen['kills'] - kills} kills", flush=True)
            shutil.rmtree(work)
    counts = " ".join(f"{name}={count}" for name, count in sorted(seen.items()))
    print(f"bench=shared_folder rounds={given.rounds} whole_and_true={right} {counts}")


if __name__ == "__main__":
    main()
