"""The prompts that are shipped, and other versions of rows: shuffled texts, swapped examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from lorica.data.read import read_rows
from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings
from lorica.tasks.chats import ChatCase
from lorica.tasks.mcq import McqCase
from lorica.tasks.questions import QuestionCase
from lorica.tasks.rules import RulesCase

_FOLDER = Path(__file__).parent / "probes"
# Whose own probes stand in for those of a task that has none.
_STAND_INS = {"qa": "saq"}
TASKS = ("rules", "mcq", "saq")


def shipped_rows(task: str) -> list[Row]:
    """The probes of a task, all with gold. For `rules` each two are a pair: a post that breaks the rule, one that
    does not."""
    name = _STAND_INS.get(task, task)
    return list(read_rows(_FOLDER / f"{name}.jsonl", load_task(name, TaskSettings()).shapes))


def common_words() -> list[str]:
    """Words and signs that answers begin with."""
    return (_FOLDER / "words.txt").read_text("utf-8").split()


def chosen_rows(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """At most `count` rows, drawn evenly from each gold label, in the order of the file."""
    if len(rows) <= count:
        return list(rows)
    random = np.random.default_rng(seed)
    kinds: dict[object, list[int]] = {}
    for place in random.permutation(len(rows)).tolist():
        gold = rows[place].gold
        kinds.setdefault(gold if isinstance(gold, int) else gold is None, []).append(place)
    drawn: list[int] = []
    while len(drawn) < count:
        for members in kinds.values():
            if members and len(drawn) < count:
                drawn.append(members.pop())
    return [rows[place] for place in sorted(drawn)]


def with_shuffled_texts(rows: Sequence[Row], seed: int) -> list[Row]:
    """Each row with the text of another: what is left tells how much an answer owes to it. Gold stays."""
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    # Each row takes the text of the next in a random circle, so that none keeps its own.
    giver = {place: order[(turn + 1) % len(order)] for turn, place in enumerate(order)}
    return [_with_text(row, rows[giver[place]]) for place, row in enumerate(rows)]


def with_swapped_examples(rows: Sequence[Row]) -> list[Row]:
    """Rows of `rules` that have examples of both kinds, with the two exchanged; the others are left out."""
    found = []
    for row in rows:
        case = row.case
        if isinstance(case, RulesCase) and case.breaking and case.allowed:
            swapped = msgspec.structs.replace(case, breaking=case.allowed, allowed=case.breaking)
            found.append(msgspec.structs.replace(row, case=swapped))
    return found


def _with_text(row: Row, other: Row) -> Row:
    mine, theirs = row.case, other.case
    if isinstance(mine, RulesCase) and isinstance(theirs, RulesCase):
        case: msgspec.Struct = msgspec.structs.replace(mine, body=theirs.body)
    elif isinstance(mine, McqCase) and isinstance(theirs, McqCase):
        case = msgspec.structs.replace(mine, question=theirs.question, passage=theirs.passage, listed=False)
    elif isinstance(mine, QuestionCase) and isinstance(theirs, QuestionCase):
        case = msgspec.structs.replace(mine, question=theirs.question, passage=theirs.passage)
    elif isinstance(mine, ChatCase) and isinstance(theirs, ChatCase):
        case = theirs
    else:
        case = mine
    return msgspec.structs.replace(row, case=case)
