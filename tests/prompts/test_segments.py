"""Segments of an encoder's input: the ids of transformers' tokenizer, marks that users write, and what is cut."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from tests.encoders import KINDS, tokenizer_of

from lorica.errors import PromptError
from lorica.prompts.encoder import Encoder
from lorica.records import Message

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "tokenizers"
FAMILIES = sorted({model_type for model_type, _ in KINDS.values()})
TEXTS = [
    "Rule: no advertising",
    "Win 1,000 pounds, now!",
    "  spaces  and\ttabs ",
    "Ünïcode 猫 ﬁ",
    "[SEP] </s> <s> [CLS]",
]


def encoder_of(tokenizer: Any, folder: Path) -> Encoder:
    tokenizer.save_pretrained(folder)
    return Encoder.load(folder, chat_template="segments")


def ids(encoder: Encoder, *texts: str, max_tokens: int = 512, truncate: str = "error") -> tuple[int, ...]:
    messages = [Message("user", text, ((0, len(text)),) if text else ()) for text in texts]
    return encoder.encode(messages, max_tokens=max_tokens, truncate=truncate).tokens


def plain_ids(tokenizer: Any, *texts: str) -> tuple[int, ...]:
    """As transformers has them, where a mark that a text holds is no mark."""
    return tuple(tokenizer(*texts, split_special_tokens=True)["input_ids"])


def check_pairs(tokenizer: Any, encoder: Encoder) -> None:
    marks = {tokenizer.sep_token_id, tokenizer.cls_token_id}
    spelt = [number for number in plain_ids(tokenizer, TEXTS[-1])[1:-1] if number in marks]
    # A Unigram vocabulary has its marks as pieces, too, which transformers takes them for.
    texts = TEXTS[:-1] if spelt else TEXTS
    assert marks.isdisjoint(ids(encoder, TEXTS[-1])[1:-1])
    for first in texts:
        assert ids(encoder, first) == plain_ids(tokenizer, first), first
        for second in texts:
            assert ids(encoder, first, second) == plain_ids(tokenizer, first, second), (first, second)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_and_two_segments_are_what_transformers_makes_of_them(family: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(family)
    check_pairs(tokenizer, encoder_of(tokenizer, tmp_path))


def _unpacked(name: str, folder: Path) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"the folder shared/data/tokenizers/{name} is not beside the repository")
    folder.mkdir()
    for path in (SHARED / name).iterdir():
        if path.suffix == ".gz":
            (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        else:
            shutil.copy(path, folder)
    return folder


def test_real_vocabularies(tmp_path: Path) -> None:
    import json

    import transformers

    bert = transformers.AutoTokenizer.from_pretrained(_unpacked("bert-base-uncased", tmp_path / "bert"))
    check_pairs(bert, encoder_of(bert, tmp_path / "saved"))
    gpt2 = _unpacked("gpt2", tmp_path / "gpt2")
    vocabulary = json.loads((gpt2 / "vocab.json").read_text())
    marks = {mark: len(vocabulary) + number for number, mark in enumerate(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))}
    merges = [tuple(line.split(" ")) for line in (gpt2 / "merges.txt").read_text().splitlines() if " " in line[1:]]
    merges = [pair for pair in merges if not pair[0].startswith("#version")]
    roberta = transformers.RobertaTokenizer(vocab=vocabulary | marks, merges=merges)
    check_pairs(roberta, encoder_of(roberta, tmp_path / "roberta"))


@pytest.mark.parametrize("family", FAMILIES)
def test_more_segments_are_joined_in_the_same_way(family: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(family)
    encoder = encoder_of(tokenizer, tmp_path)
    first, second, third = [*TEXTS[:2], "late"]
    pair = ids(encoder, first, second)
    tail = ids(encoder, second, third)[len(ids(encoder, second)) - 1 :]  # behind the second text
    assert ids(encoder, first, second, third) == pair[:-1] + tail
    assert encoder.end_of_turn == pair[-1] == tokenizer.sep_token_id
    assert encoder.choice_positions(((1, 2, 3), (4,))) == 0


@pytest.mark.parametrize("truncate", ["middle", "left", "right"])
def test_what_does_not_fit_is_cut_to_the_last_token_and_counted(truncate: str, tmp_path: Path) -> None:
    encoder = encoder_of(tokenizer_of("bert"), tmp_path)
    rule, post = "Rule: no advertising", "late sorry " * 100
    whole = ids(encoder, rule, post)
    encoded = encoder.encode(
        [Message("user", rule), Message("user", post, ((0, len(post)),))], max_tokens=64, truncate=truncate
    )
    assert 62 <= len(encoded.tokens) <= 64  # three dots are tokens of their own
    assert encoded.dropped == len(whole) - len(encoded.tokens)
    assert encoded.tokens[: len(ids(encoder, rule))] == ids(encoder, rule)
    with pytest.raises(PromptError, match="max_tokens is 64"):
        ids(encoder, rule, post, max_tokens=64)


def test_a_tokenizer_that_joins_no_pairs_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("modernbert")
    tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(PromptError, match="puts no mark between two texts"):
        encoder_of(tokenizer, tmp_path)
