"""What `lorica adapt` is worth: a rule that training has not seen, answered before and after learning its examples.

    python bench/adapt.py --data ../shared/data --out runs/adapt_bench [--unseen advertising,hate] [--only-table]
        [--rules advertising,hate,insults,spoilers] [--texts 236] [--seen-rows 30] [--drill] [--shift] [KEY=VALUE ...]

Makes a table in the shape of the rule-violation task out of HateCheck, sms_spam and examples/rules: rule, post, two
examples that break the rule and two that do not, from texts that are nobody's post. Six rules (or those of --rules; in
place of `hate` also HateCheck by target: hate_women, hate_trans, hate_gay, hate_black, hate_disabled, hate_muslims,
hate_immigrants), of which one is left to the test file. --texts: of each label of a rule, at most; --seen-rows: of each
label of the other rules that go to the test file. Runs `lorica adapt` once for each rule of --unseen, compares its
answers with those of the unadapted model by pairs (`lorica eval`), and holds the gain against what was expected
beforehand. --drill turns the pseudo-labels of a class around in the last round and compares the adapter with the last
good one, byte by byte. --shift moves the scores of one rule and blends with and without ranks within rules. KEY=VALUE
goes to `lorica adapt`. Ends with one line of key=value figures.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lorica
from lorica.cli import main as lorica_main
from lorica.data.digest import file_digest

Texts = dict[int, list[str]]  # label -> texts
COLUMNS = ("row_id", "body", "rule", "subreddit", "positive_example_1", "positive_example_2", "negative_example_1",
           "negative_example_2", "rule_violation")  # fmt: skip
RULES = {
    "advertising": "No unsolicited messages: no prizes, offers, ring tones or calls to premium numbers.",
    "hate": "No hateful content: do not attack people for who they are or where they come from.",
}
TARGETS = ("women", "trans people", "gay people", "black people", "disabled people", "Muslims", "immigrants")
EXAMPLE_RULES = {
    "legal": "No legal advice",
    "selling": "No advertising",
    "insults": "No insults",
    "spoilers": "No spoilers",
}
POOL_SHARE = 0.4  # of a rule's texts, which are examples; the others are posts


def read_texts(data: Path, examples: Path) -> dict[str, tuple[str, Texts]]:
    """Short name -> (rule, its texts by label)."""
    rules: dict[str, tuple[str, Texts]] = {}
    sources = (
        ("advertising", data / "sms_spam" / "messages.jsonl", "spam"),
        ("hate", data / "hatecheck" / "cases.jsonl", "hateful"),
    )
    for name, path, positive in sources:
        texts: Texts = {0: [], 1: []}
        for line in path.read_text("utf-8").splitlines():
            record = json.loads(line)
            texts[int(record["label"] == positive)].append(record["text"].strip())
        rules[name] = (RULES[name], texts)
    for target in TARGETS:
        texts = {0: [], 1: []}
        for line in (data / "hatecheck" / "cases.jsonl").read_text("utf-8").splitlines():
            record = json.loads(line)
            if record["target"] == target:
                texts[int(record["label"] == "hateful")].append(record["text"].strip())
        rules[f"hate_{target.split()[0].lower()}"] = (f"No hateful content about {target}.", texts)
    rows = [row for file in ("posts.csv", "test.csv") for row in _read_csv(examples / file)]
    for name, beginning in EXAMPLE_RULES.items():
        own = [row for row in rows if row["rule"].startswith(beginning)]
        rules[name] = (
            own[0]["rule"],
            {label: [row["body"] for row in own if row["rule_violation"] == str(label)] for label in (0, 1)},
        )
    return rules


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as csv_file:
        return list(csv.DictReader(csv_file))


def rule_rows(name: str, rule: str, texts: Texts, most: int, generator: random.Random) -> list[dict[str, str]]:
    """The rows of one rule in random order; posts and examples share no text."""
    posts: list[tuple[str, int]] = []
    pools: Texts = {}
    for label in (0, 1):
        distinct = list(dict.fromkeys(texts[label]))
        generator.shuffle(distinct)
        distinct = distinct[:most]
        pool_size = int(len(distinct) * POOL_SHARE)
        pools[label] = distinct[:pool_size]
        posts += [(text, label) for text in distinct[pool_size:]]
    generator.shuffle(posts)
    rows = []
    for number, (text, label) in enumerate(posts, 1):
        positive, negative = (generator.sample(pools[side], 2) for side in (1, 0))
        cells = (f"{name}-{number}", text, rule, f"r/{name}", *positive, *negative, str(label))
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def make_tables(
    rules: Mapping[str, tuple[str, Texts]], unseen: str, out: Path, *, most: int, seen_rows: int, seed: int
) -> None:
    """train.csv of all rules but one; test.csv with all rows of that one, and some of the others."""
    generator = random.Random(seed)
    train: list[dict[str, str]] = []
    test: list[dict[str, str]] = []
    for name, (rule, texts) in rules.items():
        rows = rule_rows(name, rule, texts, most, generator)
        if name == unseen:
            test += rows
            continue
        by_label = {label: [row for row in rows if row["rule_violation"] == str(label)] for label in (0, 1)}
        held_out = {row["row_id"] for own in by_label.values() for row in own[:seen_rows]}
        test += [row for row in rows if row["row_id"] in held_out]
        train += [row for row in rows if row["row_id"] not in held_out]
    for rows in (train, test):
        generator.shuffle(rows)
    out.mkdir(parents=True, exist_ok=True)
    for path, rows in ((out / "train.csv", train), (out / "test.csv", test)):
        with path.open("w", newline="", encoding="utf-8") as csv_file:
            writer = csv.DictWriter(csv_file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def _run(*words: str) -> None:
    print("$ lorica", *words, flush=True)
    code = lorica_main(list(words))
    if code:
        raise SystemExit(code)


def adapt_and_compare(unseen: str, out: Path, words: Sequence[str], answering: Sequence[str]) -> dict[str, float]:
    """Adapt, answer with the unadapted model as well, and compare on the rows of the unseen rule."""
    run_dir = out / "run"
    files = (f"input={out / 'test.csv'}", f"train={out / 'train.csv'}")
    _run(
        "adapt",
        "task=rules",
        *files,
        f"run_dir={run_dir}",
        f"output={out / 'adapted.csv'}",
        *words,
        "training.resume=true",
    )
    result = json.loads((run_dir / "adapt.json").read_text("utf-8"))
    unadapted = run_dir / "stages" / "unadapted"
    adapters = (f"adapters.paths.rules={unadapted}", "adapters.use=rules")
    _run("infer", "task=rules", files[0], f"output={out / 'unadapted.csv'}", *adapters, *answering)
    gold = _rows_of(out / "test.csv", out / "unseen.csv", unseen)
    pair = compare_on(gold, out / "adapted.csv", out / "unadapted.csv")
    difference = pair.test.difference
    estimate = result["estimate"]
    figures = {"gain": difference.value, "low": difference.low, "high": difference.high, "rows": float(pair.n)}
    for name in ("adapted", "unadapted"):
        evaluation = lorica.evaluate(out / f"{name}.unseen.csv", gold, task="rules")
        figures[name] = evaluation.metrics["roc_auc"].value
    if estimate is not None:
        figures |= {f"estimate_{key}": estimate["gain"][key] for key in ("value", "low", "high")}
        for name in ("control", "above_chance", "by_labels"):
            figures |= {f"{name}_{key}": estimate[name][key] for key in ("value", "low", "high")}
        figures |= {name: estimate[name] for name in ("p_value", "deviation", "shuffles")}
        figures["control_gains"] = float(estimate["control_gains"])
        figures |= {"predicted_low": estimate["low"], "predicted_high": estimate["high"]}
        figures["in_predicted"] = float(estimate["low"] <= difference.value <= estimate["high"])
    figures["rounds_accepted"] = float(sum(report["accepted"] for report in result["rounds"]))
    figures |= {name: result[name] for name in ("seconds", "disk_bytes", "stages_bytes")}
    return figures


def _rows_of(source: Path, target: Path, name: str) -> Path:
    """The rows of one rule as a file of their own."""
    rows = [row for row in _read_csv(source) if row["row_id"].startswith(f"{name}-")]
    with target.open("w", newline="", encoding="utf-8") as csv_file:
        writer = csv.DictWriter(csv_file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return target


def compare_on(gold: Path, first: Path, second: Path) -> Any:
    """The paired comparison of two files of answers on the rows of `gold` alone."""
    row_ids = {row["row_id"] for row in _read_csv(gold)}
    subsets = []
    for path in (first, second):
        subset = path.with_name(f"{path.stem}.unseen.csv")
        rows = [row for row in _read_csv(path) if row["id"] in row_ids]
        _write_scores(subset, {row["id"]: float(row["score"]) for row in rows})
        subsets.append(subset)
    return lorica.compare({"adapted": subsets[0], "unadapted": subsets[1]}, gold, task="rules").pairs[0]


def _write_scores(path: Path, scores: Mapping[str, float]) -> None:
    with path.open("w", newline="", encoding="utf-8") as csv_file:
        writer = csv.writer(csv_file)
        writer.writerow(("id", "score"))
        writer.writerows(scores.items())


def drill(out: Path, words: Sequence[str]) -> dict[str, float]:
    """Rounds of which the last one has a class turned around, with all guards, and without that of the labels' balance:
    stopped, and is the adapter the last good one's to the byte?"""
    figures: dict[str, float] = {}
    for name, extra in (("all", ()), ("later", ("adapt.max_balance_shift=1",))):
        run_dir = out / f"drill-{name}"
        files = (f"input={out / 'test.csv'}", f"train={out / 'train.csv'}", f"run_dir={run_dir}")
        _run("adapt", "task=rules", *files, *words, "adapt.estimate=off", "adapt.drill=flip_1", *extra)
        result = json.loads((run_dir / "adapt.json").read_text("utf-8"))
        last_good = run_dir / "stages" / result["stage"]
        published = sorted(path for path in Path(result["adapter"]).iterdir() if path.is_file())
        figures[f"drill_{name}_rolled_back"] = float(result["rolled_back"])
        figures[f"drill_{name}_accepted"] = float(sum(report["accepted"] for report in result["rounds"]))
        figures[f"drill_{name}_files_equal"] = float(
            bool(published) and all(file_digest(path) == file_digest(last_good / path.name) for path in published)
        )
        print(f"drill, {name} guards: {result['stopped']}", flush=True)
    return figures


def shift_one_rule(out: Path, unseen: str) -> dict[str, float]:
    """Two members on rules that both know, with the scores of one rule moved up by 5 logits: the overall ROC-AUC of
    their blend before and after, with ranks over all rows and within rules."""
    members = {
        name: {row["id"]: float(row["score"]) for row in _read_csv(out / f"{name}.csv")}
        for name in ("adapted", "unadapted")
    }
    seen = {row["row_id"] for row in _read_csv(out / "test.csv") if not row["row_id"].startswith(f"{unseen}-")}
    gold = out / "seen.csv"
    with gold.open("w", newline="", encoding="utf-8") as csv_file:
        writer = csv.DictWriter(csv_file, COLUMNS)
        writer.writeheader()
        writer.writerows(row for row in _read_csv(out / "test.csv") if row["row_id"] in seen)
    files = []
    for name, scores in members.items():
        plain = {row_id: score for row_id, score in scores.items() if row_id in seen}
        shifted = {row_id: _shift(score, 5.0 * row_id.startswith("insults-")) for row_id, score in plain.items()}
        for suffix, column in (("plain", plain), ("shifted", shifted)):
            _write_scores(out / f"{name}.{suffix}.csv", column)
        files.append((out / f"{name}.plain.csv", out / f"{name}.shifted.csv"))
    figures = {}
    plain_files, shifted_files = ([pair[side] for pair in files] for side in (0, 1))
    blends = (
        ("plain", plain_files, ()),
        ("plain_within", plain_files, ("--within", "rule")),
        ("shifted", shifted_files, ()),
        ("within", shifted_files, ("--within", "rule")),
    )
    for name, members_of, extra in blends:
        output = out / f"blend-{name}.csv"
        _run("ensemble", *map(str, members_of), "--gold", str(gold), *extra, "--output", str(output), "task=rules")
        figures[f"shift_{name}"] = lorica.evaluate(output, gold, task="rules").metrics["roc_auc"].value
    return figures


def _shift(score: float, logits: float) -> float:
    bounded = min(max(score, 1e-9), 1 - 1e-9)
    return 1 / (1 + math.exp(-(math.log(bounded / (1 - bounded)) + logits)))


def main() -> None:
    """Make the tables, adapt, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/adapt_bench"))
    parser.add_argument("--unseen", default="advertising")
    parser.add_argument("--rules", default="advertising,hate,legal,selling,insults,spoilers")
    parser.add_argument("--texts", type=int, default=236)  # as many as there are of the rarest label
    parser.add_argument("--seen-rows", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--drill", action="store_true")
    parser.add_argument("--shift", action="store_true")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    all_rules = read_texts(arguments.data, Path(__file__).parents[1] / "examples" / "rules")
    rules = {name: all_rules[name] for name in arguments.rules.split(",")}
    answering = [word for word in arguments.words if word.startswith(("model", "task.", "engine", "inference"))]
    figures: dict[str, float] = {}
    for unseen in arguments.unseen.split(","):
        out = arguments.out / unseen
        sizes = {"most": arguments.texts, "seen_rows": arguments.seen_rows}
        make_tables(rules, unseen, out, **sizes, seed=arguments.seed)
        if arguments.only_table:
            continue
        for leftover in out.glob("*adapted.csv*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        own = adapt_and_compare(unseen, out, arguments.words, answering)
        own |= drill(out, arguments.words) if arguments.drill else {}
        own |= shift_one_rule(out, unseen) if arguments.shift else {}
        figures |= {f"{unseen}_{key}": value for key, value in own.items()}
    print(" ".join(f"{key}={value:.4g}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
