"""What the zoo is trained on: text and chats for the bases, rows of the task `rules` for the adapters.

From ../shared/data where it is there; else everything from examples/, which makes weaker bases.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lorica.models.locate import locate_model
from tools.lorica_tiny import corpus, task_forms
from tools.zoo.places import root

HERE = Path(__file__).resolve().parents[2]
SHARED = HERE.parent / "shared" / "data"
RULE = "No unsolicited advertising."
TRAIN_ROWS, HELD_OUT_ROWS = 600, 330
_CHATS = (4000, 6000)  # of the general mixture, and in the tasks' own prompts
_TEXT_TOKENS = 1_600_000

Chats = list[tuple[list[int], int]]  # (token ids, index of the first answer token)


@dataclass(frozen=True)
class Material:
    """text: [N] token ids of running text. chats: to pretrain on. other: chats of another kind, to fine-tune on."""

    text: NDArray[np.uint16]
    chats: Chats
    other: Chats


def tokenizer_folder() -> Path:
    """The embedded model, whose tokenizer and template all bases share."""
    return locate_model("embedded:lorica_tiny", environ={})


def material() -> Material:
    """Encoded once, kept in <root>/corpus."""
    place = root() / "corpus"
    if not (place / "chats.json").is_file():
        _encode(place)
    kept = json.loads((place / "chats.json").read_text("utf-8"))
    return Material(np.load(place / "text.npy"), kept["chats"], kept["other"])


def _encode(place: Path) -> None:
    docs = corpus.documents(SHARED) if SHARED.is_dir() else _example_documents()
    rng = random.Random(7)
    rng.shuffle(docs)
    coder = Tokenizer.from_file(str(tokenizer_folder() / "tokenizer.json"))
    end = coder.token_to_id("<|endoftext|>")
    tokens: list[int] = []
    for start in range(0, len(docs), 64):
        for one in coder.encode_batch([text for _, text in docs[start : start + 64]]):
            tokens += [*one.ids, 0 if end is None else end]
        if len(tokens) > _TEXT_TOKENS:
            break
    chats = corpus.chats(SHARED, docs, 7, _CHATS[0]) if SHARED.is_dir() else []
    chats += task_forms.chats(docs, 7, _CHATS[1])
    rng.shuffle(chats)
    place.mkdir(parents=True, exist_ok=True)
    np.save(place / "text.npy", np.array(tokens[:_TEXT_TOKENS], dtype=np.uint16))
    kept = {"chats": _encode_chats(coder, chats), "other": _encode_chats(coder, _other_chats())}
    _write(place / "chats.json", json.dumps(kept))


def _encode_chats(coder: Tokenizer, chats: Sequence[corpus.Chat]) -> Chats:
    heads = []
    for system, user, _ in chats:
        head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        heads.append(f"{head}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n")
    before = coder.encode_batch(heads)
    after = coder.encode_batch([f"{answer}<|im_end|>" for *_, answer in chats])
    return [(a.ids + b.ids, len(a.ids)) for a, b in zip(before, after, strict=True) if len(a.ids) < 300]


def _other_chats() -> list[corpus.Chat]:
    """Chats of a kind the bases are not pretrained on: multiple-choice and reading questions."""
    found: list[corpus.Chat] = []
    for path in (SHARED / "openstax" / "mcq.jsonl", HERE / "examples" / "mcq" / "questions.jsonl"):
        if not path.is_file():
            continue
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            options = row["options"] if isinstance(row.get("options"), list) else [row[letter] for letter in "ABCD"]
            lines = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCDE", options, strict=False))
            found.append(("", f"{row['question']}\n{lines}", str(row["answer"])))
    reading = SHARED / "xquad" / "xquad.en.json"
    if reading.is_file():
        for article in json.loads(reading.read_text("utf-8"))["data"]:
            for part in article["paragraphs"]:
                found += [("", one["question"], one["answers"][0]["text"]) for one in part["qas"]]
    return found


def _example_documents() -> list[tuple[str, str]]:
    found = []
    for kind in ("mcq", "saq"):
        for line in (HERE / "examples" / kind / "questions.jsonl").read_text("utf-8").splitlines():
            found.append(("story", " ".join(str(value) for value in json.loads(line).values())))
    with (HERE / "examples" / "rules" / "posts.csv").open(encoding="utf-8", newline="") as file:
        found += [("story", row["body"]) for row in csv.DictReader(file)]
    for path in sorted((HERE / "docs").glob("*.md")):
        found += [("chemistry", part) for part in path.read_text("utf-8").split("\n## ")]
    return found


def build_rows() -> None:
    """Write rows/train.jsonl, held_out.jsonl and held_out.csv."""
    place = root() / "rows"
    if (place / "held_out.csv").is_file():
        return
    place.mkdir(parents=True, exist_ok=True)
    found = _spam() if SHARED.is_dir() else _posts()
    random.Random(11).shuffle(found)
    held = min(HELD_OUT_ROWS, len(found) // 3)
    _write(place / "train.jsonl", _lines(found[held : held + TRAIN_ROWS]))
    _write(place / "held_out.jsonl", _lines(found[:held]))
    with (place / "held_out.new").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(found[0]))
        writer.writeheader()
        writer.writerows(found[:held])
    (place / "held_out.new").replace(place / "held_out.csv")


def _spam() -> list[dict[str, str]]:
    """A quarter is spam: of the 2,000 messages only 236 are, so ham is thinned."""
    messages = [json.loads(line) for line in (SHARED / "sms_spam" / "messages.jsonl").read_text("utf-8").splitlines()]
    spam = [row for row in messages if row["label"] == "spam"]
    ham = [row for row in messages if row["label"] != "spam"]
    chosen = spam + random.Random(5).sample(ham, min(len(ham), TRAIN_ROWS + HELD_OUT_ROWS - len(spam)))
    return [
        {
            "row_id": str(row["id"]),
            "body": row["text"],
            "rule": RULE,
            "rule_violation": str(int(row["label"] == "spam")),
        }
        for row in chosen
    ]


def _posts() -> list[dict[str, str]]:
    with (HERE / "examples" / "rules" / "posts.csv").open(encoding="utf-8", newline="") as file:
        return [{key: row[key] for key in ("row_id", "body", "rule", "rule_violation")} for row in csv.DictReader(file)]


def _lines(found: Sequence[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)


def _write(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text, "utf-8")
    new.replace(path)
