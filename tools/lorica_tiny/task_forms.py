"""The second chat mixture, for the end of pretraining: exercises in the very prompts that Lorica's tasks write.

Rules on random sentences (topics, words, questions, numbers, speech, length), lettered and short questions on random
stories, word kinds and word forms. All of it is composed from the corpus and from word lists; none of it is a test row.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings
from lorica.tasks.mcq import McqCase
from lorica.tasks.questions import QuestionCase
from lorica.tasks.rules import RulesCase
from tools.lorica_tiny import corpus, exercises

Test = Callable[[str, str], bool]  # (source, sentence) -> whether the sentence breaks the rule

_MANNERS: tuple[tuple[tuple[str, ...], Test], ...] = (
    (("No questions: do not ask anything.", "Do not ask questions."), lambda _, s: "?" in s),
    (("No numbers: do not write digits.", "Posts must not hold numbers."), lambda _, s: bool(re.search(r"\d", s))),
    (("No shouting: do not use exclamation marks.",), lambda _, s: "!" in s),
    (("No direct speech: do not quote what someone said.", "No quotes."), lambda _, s: '"' in s or "“" in s),
    (("Keep it short: write at most ten words.",), lambda _, s: len(s.split()) > 10),
    (("No stories: do not tell tales.", "No tales for children."), lambda source, _: source == "story"),
    (("Do not talk about yourself.", "Do not write about I or me."), lambda _, s: bool(re.search(r"\b(I|my|me)\b", s))),
    (("Do not speak to the reader.", "Do not say you."), lambda _, s: bool(re.search(r"\b[Yy]our?\b", s))),
)


def chats(docs: Sequence[tuple[str, str]], seed: int, count: int) -> list[corpus.Chat]:
    """`count` chats in random order."""
    rng = random.Random(seed)
    sentences = [(source, sentence) for source, text in docs for sentence in corpus.sentences_of(text)]
    words = Counter(word for _, text in docs for word in re.findall(r"[a-z]{3,}", text))
    makers: tuple[tuple[float, Callable[[], corpus.Chat]], ...] = (
        (0.36, lambda: _rule(rng, sentences, words)),
        (0.20, lambda: _lettered(rng, *_story(rng))),
        (0.08, lambda: _lettered(rng, *_kind(rng))),
        (0.22, lambda: _short(rng, *_story(rng)[:2], "reading")),
        (0.08, lambda: _short(rng, *corpus.word_form(rng, words)[1:], "language")),
        (0.06, lambda: _short(rng, *_kind(rng)[:2], "language")),
    )
    found = [make() for share, make in makers for _ in range(int(share * count))]
    rng.shuffle(found)
    return found


def open_chats(docs: Sequence[tuple[str, str]], seed: int, count: int) -> list[corpus.Chat]:
    """`count` chats whose answers must be looked up, in random order: words are any of the corpus, not a short list."""
    rng = random.Random(seed + 1)
    sentences = [(source, sentence) for source, text in docs for sentence in corpus.sentences_of(text)]
    words = Counter(word for _, text in docs for word in re.findall(r"[a-z]{3,}", text))
    common = [word for word, seen in words.items() if seen >= 8 and 3 <= len(word) <= 9]
    prose = [text for source, text in docs if "algebra" not in source]
    makers: tuple[tuple[float, Callable[[], corpus.Chat]], ...] = (
        (0.20, lambda: _short(rng, *exercises.question(rng, exercises.random_pools(rng, common))[:2], "reading")),
        (0.06, lambda: _short(rng, *_story(rng)[:2], "reading")),
        (0.10, lambda: _lettered(rng, *exercises.question(rng, exercises.random_pools(rng, common)))),
        (0.20, lambda: _short(rng, *_gap(rng, prose)[:2], "reading")),
        (0.06, lambda: _lettered(rng, *_gap(rng, prose))),
        (0.10, lambda: _short(rng, *_either(rng), "nature")),
        (0.10, lambda: _short(rng, *corpus.word_form(rng, words)[1:], "language")),
        (0.18, lambda: _rule(rng, sentences, words)),
    )
    found = [make() for share, make in makers for _ in range(int(share * count))]
    rng.shuffle(found)
    return found


def _gap(rng: random.Random, prose: Sequence[str]) -> tuple[str, str, list[str]]:
    """A passage, a part of it with a gap, and the word that stands there."""
    while True:
        found = corpus.sentences_of(rng.choice(prose))
        start = rng.randrange(max(1, len(found) - 2))
        passage = found[start : start + rng.randint(1, 3)]
        tokens = rng.choice(passage or [""]).split()
        places = [i for i, token in enumerate(tokens) if re.fullmatch(r"[A-Za-z]{4,}[.,]?", token)]
        if len(tokens) < 6 or not places:
            continue
        place = rng.choice(places)
        answer = tokens[place].strip(".,")
        left, right = tokens[max(0, place - 5) : place], tokens[place + 1 : place + 4]
        gap = " ".join([*left, "____", *right]).rstrip(".,")
        wrong = [w for w in re.findall(r"[A-Za-z]{4,}", " ".join(passage)) if w.lower() != answer.lower()]
        if len(set(wrong)) >= 3:
            form = rng.choice((f"Which word is missing: {gap}?", f"What fits here: {gap}?", f"{gap}: which word?"))
            return f"{' '.join(passage)} {form}", answer, rng.sample(sorted(set(wrong)), 3)


def _either(rng: random.Random) -> tuple[str, str]:
    """A choice between two words that stand in the question, or between yes and no."""
    right, wrong = rng.sample(sorted(exercises.KINDS.items())[:8], 2)
    member = rng.choice(right[1])
    if rng.random() < 0.4:
        asked, said = rng.choice(((right, "yes"), (wrong, "no")))
        return rng.choice((f"Is {member} {asked[0]}, yes or no?", f"Yes or no: is {member} {asked[0]}?")), said
    pair = [right[0], wrong[0]]
    rng.shuffle(pair)
    return f"Is {member} {pair[0]} or {pair[1]}?", right[0].split()[-1]


def _rule(rng: random.Random, sentences: Sequence[tuple[str, str]], words: Counter[str]) -> corpus.Chat:
    rules, breaks = _law(rng, sentences, words)
    wanted = rng.random() < 0.5
    sample = [rng.choice(sentences) for _ in range(80)]
    bad = [text for source, text in sample if breaks(source, text)]
    good = [text for source, text in sample if not breaks(source, text)]
    if len(bad) < 3 or len(good) < 3:
        return _rule(rng, sentences, words)
    body = (bad if wanted else good)[0]
    style = "structured" if rng.random() < 0.3 else "plain"
    case = RulesCase(body, rng.choice(rules), "", tuple(bad[1:3]), tuple(good[1:3]))
    return _chat(rng, "rules", style, Row("x", case, gold=int(wanted)))


def _law(rng: random.Random, sentences: Sequence[tuple[str, str]], words: Counter[str]) -> tuple[tuple[str, ...], Test]:
    draw = rng.random()
    if draw < 0.45:
        source = rng.choice(sorted(corpus.TOPICS))
        topic = rng.choice(corpus.TOPICS[source])
        same = {name for name in corpus.TOPICS if corpus.TOPICS[name][0] == corpus.TOPICS[source][0]}
        rules = (f"No posts about {topic}.", f"Do not write about {topic}.", f"No {topic}: write about other things.")
        return rules, lambda found, _: found in same
    if draw < 0.6:
        common = [word for word in re.findall(r"[a-z]{4,}", rng.choice(sentences)[1]) if words[word] >= 200] or ["from"]
        word = rng.choice(common)
        bans = (f"Do not use the word {word}.", f"No {word}: do not write about {word}.")
        return bans, lambda _, text: re.search(rf"\b{word}\b", text) is not None
    return rng.choice(_MANNERS)


def _story(rng: random.Random) -> tuple[str, str, list[str]]:
    """(story and question, answer, three wrong answers)."""
    return exercises.question(rng)


def _kind(rng: random.Random) -> tuple[str, str, list[str]]:
    name, members = rng.choice(sorted(exercises.KINDS.items()))
    others = [word for kind, words in exercises.KINDS.items() if kind != name for word in words if word not in members]
    if rng.random() < 0.3:
        odd = rng.choice(others)
        return "Which word does not belong with the others?", odd, rng.sample(members, 3)
    right = rng.choice(members)
    wrong = rng.sample(sorted(set(others)), 3)
    form = rng.choice((f"Which word is {name}?", f"Which of these is {name}?", f"Find {name}."))
    return form, right, wrong


def _lettered(rng: random.Random, question: str, answer: str, wrong: Sequence[str]) -> corpus.Chat:
    options = [answer, *wrong]
    rng.shuffle(options)
    return _chat(rng, "mcq", "", Row("x", McqCase(question, tuple(options)), gold=options.index(answer)))


def _short(rng: random.Random, question: str, answer: str, subject: str) -> corpus.Chat:
    if question.startswith(("Which word", "Which of", "Find")):  # without options it has no answer
        return _lettered(rng, *_kind(rng))
    task = "saq" if rng.random() < 0.75 else "qa"
    return _chat(rng, task, "", Row("x", QuestionCase(question), subject=subject, gold=(answer,)))


def _chat(rng: random.Random, name: str, style: str, row: Row) -> corpus.Chat:
    task = load_task(name, TaskSettings(style=style))
    messages = {message.role: message.content for message in task.render(row)}
    return messages.get("system", ""), messages["user"], task.target(row)
