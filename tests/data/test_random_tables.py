"""Random tables of the world: read as they were meant, or refused; never silently otherwise."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.data.test_column_names import SPELLINGS

from lorica.data.read import read_rows
from lorica.errors import LoricaError
from lorica.records import Row
from lorica.tasks import load_task

TABLES = 400
HEADER = ["row_id", "body", "rule", "rule_violation"]
BODIES = [
    "a quiet walk", "buy, now", 'she said "no"', '"Buy my boots', 'the end"', '"Quoted entirely"', '"no", she said',
    "two\nlines", "one, two\nthree, four", "a\tb", "C:\\dir\\", 'a \\"quoted\\" word', "x;y", "5\" pipe", "Ünïcödé 😀",
    "# a comment", "-1/2", "=1+1", "a\\", '""', "it's", "a|b", "007", "NA", "1,0", "\u2028", "no-break\u00a0space",
    "a,b\nc,d", "1,x,r,0\n2,y,r,1", "[1, 2]", "row_id", "body, rule",
]  # fmt: skip
WAYS = [
    "mark", "marks", "utf-16", "latin-1", "gz", "nul", "trailing", "blank", "comment", "joined", "joined unended",
    "joined mark", "mixed ends", "no end", "stray quote", "lost quote",
]  # fmt: skip
IDS: list[Callable[[int], str]] = [str, lambda i: f"q-{i}", lambda i: f"{i:03d}", lambda i: f"{i}.5"]
Record = dict[str, str]


class Draw:
    """One random table: what was meant, and the file that somebody made of it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        name = self.random.choice(IDS)
        tame = self.random.random() < 0.3
        bodies = BODIES[:1] if tame else BODIES
        self.meant: list[Record] = [
            {"row_id": name(i), "body": f"{self.random.choice(bodies)}" + (f" {i}" if tame else ""),
             "rule": self.random.choice(["No ads", "Be kind, always"]), "rule_violation": str(i % 2)}
            for i in range(1, self.random.randint(2, 9))
        ]  # fmt: skip
        self.header = list(HEADER)
        self.suffix = ""
        self.done: list[str] = []
        self.accepted: list[list[Record]] = [self.meant]

    def make(self) -> bytes:
        """The bytes of the file."""
        kinds = [self._written] * 3 + [self._raw] * 2 + [self._json] * 2 + [self._by_hand]
        kind = self.random.choice(kinds)
        if self.random.random() < 0.12:
            at, spelling = self.random.randrange(4), self.random.choice(sorted(SPELLINGS))
            self.header[at] = SPELLINGS[spelling](self.header[at])
            self.done.append(f"header: {spelling}")
        text = kind()
        self.done.append(kind.__name__)
        return self._spoilt(text)

    def _cells(self) -> list[list[str]]:
        return [self.header, *([record[name] for name in HEADER] for record in self.meant)]

    def _written(self) -> str:
        """By the standard library's writer."""
        self.suffix = self.random.choice([".csv", ".tsv"])
        out = io.StringIO(newline="")
        style = self.random.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
        end = self.random.choice(["\n", "\r\n"])
        mark = self._mark()
        csv.writer(out, delimiter=mark, quoting=style, lineterminator=end).writerows(self._cells())  # type: ignore[arg-type]
        return out.getvalue()

    def _mark(self) -> str:
        own = "," if self.suffix == ".csv" else "\t"
        return self.random.choice([own, own, own, own, ",", ";", "\t", "|"])

    def _raw(self) -> str:
        """Without any quoting, line breaks and delimiters in texts taken out."""
        self.suffix = self.random.choice([".csv", ".tsv", ".tsv"])
        mark = "," if self.suffix == ".csv" else "\t"
        for record in self.meant:
            for name in HEADER:
                record[name] = record[name].replace("\n", " ").replace(mark, " ")
        text = "".join(mark.join(cells) + "\n" for cells in self._cells())
        if mark == ",":  # there, the standard's reading is right as well, so long as it merges nothing
            try:
                rows = list(csv.DictReader(io.StringIO(text), strict=True))
                rows = [dict(zip(HEADER, row.values(), strict=False)) for row in rows]
            except csv.Error:
                return text
            if len(rows) == len(self.meant):
                self.accepted.append(rows)
        return text

    def _by_hand(self) -> str:
        """In another dialect: quotes escaped by a backslash, or behind spaces."""
        self.suffix = ".csv"
        escape, gap = self.random.choice([("\\", ""), ('"', " "), ("\\", " ")])
        quoted = ['"' + cell.replace('"', escape + '"') + '"' for cells in self._cells() for cell in cells]
        return "".join(f",{gap}".join(quoted[i : i + 4]) + "\n" for i in range(0, len(quoted), 4))

    def _json(self) -> str:
        """JSON lines or an array, numbers spelt in any way, a key spelt otherwise in one record."""
        self.suffix = self.random.choice([".jsonl", ".json"])
        lines = []
        for record in self.meant:
            named = dict(zip(self.header, record.values(), strict=True))
            if self.random.random() < 0.1:
                key = self.random.choice(self.header)
                named = {SPELLINGS["camel case"](k) if k == key else k: v for k, v in named.items()}
                self.done.append("a key spelt otherwise")
            text = json.dumps(named, ensure_ascii=self.random.random() < 0.5)
            number = record["row_id"]
            if number.isdigit() and not number.startswith("0") and self.random.random() < 0.5:
                spelt = self.random.choice([number, f"{number}.0", f"{number}e0"])
                text = text.replace(f'"{number}"', spelt, 1)
            lines.append(text)
        return "\n".join(lines) + "\n" if self.suffix == ".jsonl" else "[" + ",\n".join(lines) + "]"

    def _spoilt(self, text: str) -> bytes:
        """What happens to files on their way."""
        way = self.random.choice([""] * 12 + WAYS)
        self.done.append(way)
        lines = text.split("\n")
        if way == "trailing":
            mark = "," if self.suffix == ".csv" else "\t"
            text = "\n".join(line + mark if line else line for line in lines)
        elif way == "blank" and self.suffix != ".json" and not any("\n" in r["body"] for r in self.meant):
            text = "\n\n".join(lines)
        elif way == "comment" and not any("\n" in r["body"] for r in self.meant):
            text = "\n".join([*lines[:2], "# made by hand", *lines[2:]])
        elif way.startswith("joined"):
            mark = "\ufeff" if way == "joined mark" else ""
            text = (text.rstrip("\n") if way == "joined unended" else text) + mark + text
            self.accepted = []  # the same ids twice
        elif way == "mixed ends" and not any("\n" in r["body"] for r in self.meant):
            text = "".join(line + self.random.choice(["\n", "\r\n"]) for line in text.split("\n") if line)
        elif way == "no end":
            text = text.rstrip("\r\n") if "\n" not in self.meant[-1]["body"] else text
        elif way in ("stray quote", "lost quote") and self.suffix in (".csv", ".tsv"):
            text = self._damaged(text, way)
        return self._encoded(text, way)

    def _damaged(self, text: str, way: str) -> str:
        """One quote more or less: what was meant cannot be known, only that no row may vanish."""
        places = [i for i, c in enumerate(text) if (c == '"' if way == "lost quote" else c in ",\t;|")]
        if not places:
            return text
        at = self.random.choice(places)
        self.accepted = []
        return text[:at] + text[at + 1 :] if way == "lost quote" else text[: at + 1] + '"' + text[at + 1 :]

    def _encoded(self, text: str, way: str) -> bytes:
        data = text.encode("utf-16" if way == "utf-16" else "utf-8")
        if way == "latin-1":
            data = text.encode("latin-1", "ignore")
            if text != data.decode("latin-1"):
                self.accepted = []
        if way in ("mark", "marks"):
            data = b"\xef\xbb\xbf" * (1 if way == "mark" else 2) + data
        if way == "nul":
            data = data[:-3] + b"\0" + data[-3:]
        if way == "gz":
            self.suffix += ".gz"
            data = gzip.compress(data)
        return data


def _plain(row: Row) -> tuple[str, str, str, str]:
    case = row.case
    return row.id, case.body, case.rule, str(row.gold)  # type: ignore[attr-defined]


def _expected(records: list[Record]) -> list[tuple[str, str, str, str]]:
    return [(r["row_id"], r["body"].strip(), r["rule"].strip(), r["rule_violation"]) for r in records]


def test_random_tables_are_read_as_meant_or_refused(tmp_path: Path) -> None:
    shapes = load_task("rules").schemas
    outcomes: Counter[str] = Counter()
    for seed in range(TABLES):
        table = Draw(seed)
        data = table.make()
        path = tmp_path / f"{seed}{table.suffix}"
        path.write_bytes(data)
        try:
            found = [_plain(row) for row in read_rows(path, shapes)]
        except LoricaError:
            outcomes["refused"] += 1
            continue
        if table.accepted:
            assert found in [_expected(records) for records in table.accepted], (seed, table.done, data)
            outcomes["read"] += 1
        else:  # a damaged one that can be read: as the standard library does, and no row is gone
            ids = [record["row_id"] for record in table.meant]
            assert [row_id.strip('"') for row_id, *_ in found] == ids, (seed, table.done, data)
            outcomes["read though damaged"] += 1
    counts = ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items()))
    print(f"{TABLES} tables: {counts}, silently different 0")
    # Neither refuses everything nor lets everything through.
    assert outcomes["read"] > TABLES / 4
    assert outcomes["refused"] > TABLES / 10


@pytest.mark.parametrize("seed", range(3))
def test_a_drawn_table_is_the_same_again(seed: int) -> None:
    assert Draw(seed).make() == Draw(seed).make()
