"""The text that the embedded base model is pretrained on: textbook sections, stories, and chats made from them.

The chat mixture teaches the form of the tasks, never the tasks' own test rows: cloze questions with lettered options,
yes/no questions on a text's topic, little reading exercises, word forms, and the books' short-answer questions.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tools.lorica_tiny import exercises

Chat = tuple[str, str, str]  # system (or ""), user, assistant


def documents(data: Path) -> list[tuple[str, str]]:
    """(source, text) of every English document, in a fixed order."""
    found = []
    for path in sorted((data / "openstax" / "modules").glob("*.jsonl.gz")):
        book = path.name.removesuffix(".jsonl.gz")
        found += [(book, f"{row['title']}\n{_tidy(row['text'])}") for row in _rows(path)]
    found += [
        ("story", f"{row['title']}\n{_tidy(row['text'])}")
        for row in _rows(data / "stories" / "stories.jsonl.gz")
        if row["lang"] == "en"
    ]
    return found


def digest(docs: Sequence[tuple[str, str]], chats: Sequence[Chat]) -> str:
    """sha256 over everything the model sees."""
    state = hashlib.sha256()
    for item in (*docs, *chats):
        state.update(json.dumps(item, ensure_ascii=False).encode())
    return "sha256:" + state.hexdigest()


def chats(data: Path, docs: Sequence[tuple[str, str]], seed: int, count: int) -> list[Chat]:
    """About `count` chats of the mixture, in random order."""
    rng = random.Random(seed)
    sentences = [(source, sentence) for source, text in docs for sentence in sentences_of(text)]
    words = Counter(word for _, text in docs for word in re.findall(r"[a-z]{3,}", text))
    makers: tuple[tuple[float, Callable[[], Chat]], ...] = (
        (0.24, lambda: _cloze(rng, sentences, words)),
        (0.16, lambda: _topic(rng, sentences)),
        (0.08, lambda: _mention(rng, sentences, words)),
        (0.28, lambda: exercises.reading(rng)),
        (0.12, lambda: word_form(rng, words)),
        (0.12, lambda: _next_sentence(rng, docs)),
    )
    found: list[Chat] = []
    for share, make in makers:
        found += [make() for _ in range(int(share * count))]
    for row in _rows(data / "openstax" / "saq.jsonl"):
        if row["subject"] == "algebra":  # formulae, which a model this small only learns to garble
            continue
        found.append((rng.choice(("", f"Subject: {row['subject']}.")), row["question"], row["answer"]))
    rng.shuffle(found)
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    content = path.read_bytes()
    for line in (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines():
        yield json.loads(line)


def _tidy(text: str) -> str:
    # Headings and runs of blank lines carry nothing a small model can use.
    return re.sub(r"\n\s*\n+", "\n", re.sub(r"^#+ *", "", text, flags=re.M)).strip()


def sentences_of(text: str) -> list[str]:
    """Whole sentences of 30 to 220 characters."""
    found = re.split(r"(?<=[.!?])\s+", text.replace("\n", " "))
    return [s for s in found if 30 <= len(s) <= 220 and s[0].isupper() and s[-1] in ".!?"]


def _letters(rng: random.Random, right: str, wrong: Sequence[str]) -> tuple[str, str]:
    """The options as lettered lines, and the letter of the right one."""
    options = [right, *wrong]
    rng.shuffle(options)
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCDE", options, strict=False))
    return lines, "ABCDE"[options.index(right)]


def _cloze(rng: random.Random, sentences: Sequence[tuple[str, str]], words: Counter[str]) -> Chat:
    while True:
        _, sentence = rng.choice(sentences)
        candidates = [w for w in re.findall(r"\b[a-z]{4,}\b", sentence) if 5 <= words[w] <= 4000]
        if candidates:
            break
    right = rng.choice(candidates)
    near = [w for w in rng.sample(list(words), 60) if words[w] >= 5 and w not in sentence and len(w) > 3]
    gap = re.sub(rf"\b{right}\b", "____", sentence)
    lines, letter = _letters(rng, right, near[:3])
    if rng.random() < 0.35:
        return "", f"Fill the gap with one word.\n{gap}", right
    ask = rng.choice(("Which word fits the gap?", "Choose the right word.", "Answer with the letter."))
    return "Answer with the letter of the right option.", f"{gap}\n{ask}\n{lines}", letter


TOPICS = {
    "chemistry": ("chemistry", "atoms and reactions"),
    "college-algebra": ("mathematics", "algebra"),
    "prealgebra": ("mathematics", "numbers"),
    "philosophy": ("philosophy", "ideas and arguments"),
    "psychology": ("psychology", "the mind"),
    "sociology": ("society", "sociology"),
    "us-history": ("history", "the history of America"),
    "story": ("a story", "a tale for children"),
}


def _topic(rng: random.Random, sentences: Sequence[tuple[str, str]]) -> Chat:
    source, sentence = rng.choice(sentences)
    truth = rng.random() < 0.5
    others = [name for name in TOPICS if TOPICS[name][0] != TOPICS[source][0]]
    topic = rng.choice(TOPICS[source if truth else rng.choice(others)])
    form = rng.choice(
        (
            f"Rule: do not write about {topic}.\nPost: {sentence}\nDoes the post break the rule? Answer Yes or No.",
            f"Is this about {topic}?\n{sentence}\nAnswer Yes or No.",
            f"Text: {sentence}\nQuestion: is the text about {topic}?",
        )
    )
    return rng.choice(("", "Answer Yes or No.")), form, "Yes" if truth else "No"


def _mention(rng: random.Random, sentences: Sequence[tuple[str, str]], words: Counter[str]) -> Chat:
    _, sentence = rng.choice(sentences)
    inside = [w for w in re.findall(r"\b[a-z]{4,}\b", sentence) if words[w] >= 5]
    truth = bool(inside) and rng.random() < 0.5
    word = rng.choice(inside) if truth else rng.choice([w for w in rng.sample(list(words), 30) if w not in sentence])
    form = f"Rule: do not use the word {word}.\nPost: {sentence}\nDoes the post break the rule? Answer Yes or No."
    return "", form, "Yes" if truth else "No"


def word_form(rng: random.Random, words: Counter[str]) -> Chat:
    """A question for the plural, the past tense or another form that the corpus itself holds."""
    endings = {
        "s": ("What is the plural of '{}'?", "Write the plural of {}.", "One {}, two ...?"),
        "ed": ("What is the past tense of '{}'?", "Today I {}. Yesterday I ...?"),
        "ing": ("What is the -ing form of '{}'?", "I {}. Now I am ...?"),
        "er": ("What do you call someone who can {}?",),
        "ly": ("What is the adverb of '{}'?",),
    }
    while True:
        word = rng.choice(list(words)) if rng.random() < 0.02 else rng.choice(_forms(words))
        ending = rng.choice(("s", "s", "ed", "ed", "ing", "er", "ly"))
        if words[word + ending] >= 3:
            return "", rng.choice(endings[ending]).format(word), word + ending


_FORMS: dict[int, list[str]] = {}


def _forms(words: Counter[str]) -> list[str]:
    if id(words) not in _FORMS:
        _FORMS[id(words)] = [w for w in words if words[w] >= 5 and any(words[w + e] >= 3 for e in ("s", "ed", "ing"))]
    return _FORMS[id(words)]


def _next_sentence(rng: random.Random, docs: Sequence[tuple[str, str]]) -> Chat:
    while True:
        _, text = rng.choice(docs)
        found = sentences_of(text)
        if len(found) > 4:
            start = rng.randrange(len(found) - 2)
            return "", f"Continue: {found[start]}", found[start + 1]
