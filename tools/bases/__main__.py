"""Build src/lorica/adapters/bases.csv from the shapes beside this file, and hold it against other sources.

    python -m tools.bases [--check ../shared/data/base_models/architectures.csv]

shapes.csv has one line per shape with the models that have it (`name=alias=alias`, separated by spaces); labels.csv
says which model a source's own label means, with nothing after the last comma when it means no public model. Shapes are
facts of published config.json files. With --check each number of the other table is compared with ours: what it lacks
counts as unknown, and any contradiction that is not listed in `disputes.csv`, with its reason, is an error.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from lorica.adapters.bases import COLUMNS, TABLE, BaseShape, all_bases, bases_named, normalise_base_id
from lorica.adapters.module_roles import SCHEME_OF, scheme_of

HERE = Path(__file__).parent
DEFAULT_CHECK = HERE.parents[1].parent / "shared/data/base_models/architectures.csv"
# Rows of a tokenizer, not of the padded embedding, are what some sources state.
PADDING = 1024


def build() -> list[list[str]]:
    """The shipped table's rows, header first. Raises SystemExit naming a line that cannot be right."""
    rows, seen = [list(COLUMNS)], set()
    for number, line in enumerate(_lines(HERE / "shapes.csv"), 2):
        shape = [line[column] for column in COLUMNS[1:-1]]
        _check_line(number, line)
        for names in line["names"].split():
            name, *aliases = names.split("=")
            if name in seen:
                raise SystemExit(f"shapes.csv:{number}: {name} is there twice")
            seen.add(name)
            rows.append([name, *shape, " ".join(aliases)])
    return rows


def _check_line(number: int, line: dict[str, str]) -> None:
    size = {key: int(line[key] or 0) for key in ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn")}
    where = f"shapes.csv:{number}: {line['names'][:40]}"
    if not size["hidden"] or not size["layers"]:
        raise SystemExit(f"{where}: no hidden size or layers")
    if size["heads"] and (size["heads"] % size["kv_heads"] or not size["head_dim"]):
        raise SystemExit(f"{where}: {size['heads']} heads, {size['kv_heads']} of them for keys and values")
    if line["tied"] not in ("yes", "no", ""):
        raise SystemExit(f"{where}: tied is {line['tied']!r}")


def compare(path: Path) -> tuple[int, list[str]]:
    """(rows of another table that name a model of ours, what contradicts ours or is missing)."""
    labels = {(line["source"], line["label"]): line["model"] for line in _lines(HERE / "labels.csv")}
    disputes = {(line["source"], line["model"]) for line in _lines(HERE / "disputes.csv")}
    problems, agreed = [], 0
    for line in _lines(path):
        where = f"{line['source']}: {line['model']}"
        base = find(labels.get((line["source"], line["model"]), line["model"]))
        if base is None:
            if (line["source"], line["model"]) not in disputes:
                problems.append(f"{where}: not in our table")
            continue
        differs = differences(line, base)
        if differs and (line["source"], line["model"]) not in disputes:
            problems.append(f"{where}: {', '.join(differs)} ({base.name})")
        agreed += not differs
    return agreed, problems


def find(label: str) -> BaseShape | None:
    """The one row that a label means exactly; publishers may be written with "_"."""
    wanted = label.replace("_", "/", 1) if label.count("_") and "/" not in label else label
    for each in (label, wanted):
        rows = [base for base in all_bases() if each in (base.name, *base.aliases)] or bases_named(each, loosely=False)
        if rows:
            return rows[0]
    return None


def differences(line: dict[str, str], base: BaseShape) -> list[str]:
    """What a row of architectures.csv states otherwise than ours."""
    ours = {
        "hidden_size": base.hidden,
        "num_layers": base.layers,
        "num_heads": base.heads,
        "num_kv_heads": base.kv_heads,
        "head_dim": base.head_dim,
        "intermediate_size": base.ffn,
        "num_experts": base.experts,
    }
    found = [
        f"{key} {line[key]}, ours {value}"
        for key, value in ours.items()
        if line[key] and int(line[key]) and value and int(line[key]) != value
    ]
    if line["vocab_size"] and base.vocabulary and abs(int(line["vocab_size"]) - base.vocabulary) > PADDING:
        found.append(f"vocab_size {line['vocab_size']}, ours {base.vocabulary}")
    return found


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def main() -> None:
    """Write the table, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, default=DEFAULT_CHECK, help="a table of the same facts")
    arguments = parser.parse_args()
    rows = build()
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    bases = all_bases()
    unlisted = sorted({base.family for base in bases if base.family not in SCHEME_OF})
    names = {normalise_base_id(name) for base in bases for name in (base.name, *base.aliases)}
    print(f"{len(bases)} models, {len(names)} names, families read as Llama's: {', '.join(unlisted)}")
    print(f"schemes in use: {', '.join(sorted({scheme_of(base.family) for base in bases}))}")
    if arguments.check.is_file():
        agreed, problems = compare(arguments.check)
        print("\n".join(problems))
        print(f"models={len(bases)} names={len(names)} rows_agreed={agreed} problems={len(problems)}")
        sys.exit(bool(problems))
    print(f"models={len(bases)} names={len(names)}")


if __name__ == "__main__":
    main()
