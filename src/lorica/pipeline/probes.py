"""Neutral texts that ship with Lorica, asked through a task's own prompt to see what an adapter does: nobody's data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorica.data.read import rows_from_memory
from lorica.errors import PromptError
from lorica.models.limits import read_limits
from lorica.prompts.encoder import Encoder
from lorica.records import Message, Row
from lorica.tasks.base import Task

# A probe is short; a prompt beyond this is a mistake of the template.
MAX_PROBE_TOKENS = 768

# Rule, a post that breaks it, a post that keeps it.
RULES = (
    ("No advertising or self-promotion.", "Use my code at the checkout and save half!", "Which tent is light enough?"),
    ("Be kind: no insults.", "You are a fool and everyone knows it.", "I see it differently, and here is why."),
    ("Stay on topic: this group is about gardening.", "Who won the match last night?", "My beans have brown leaves."),
    ("No medical advice.", "Stop taking the pills and drink this tea.", "My appointment is on Monday."),
    ("No spoilers without a warning.", "The brother turns out to be the thief.", "I liked the music of the film."),
    ("No personal data.", "She lives at 4 Mill Lane, ask for Ann.", "A neighbour told me about it."),
)
POSTS = (
    "Buy two lamps today and get the third one for free, link in my profile!",
    "Does anybody know how deep tulip bulbs should be planted?",
    "Only an idiot would water them at noon.",
    "The new bridge opens on Saturday at nine.",
    "My cousin has the same rash; she put vinegar on it and it went away.",
    "In the last chapter the captain burns the ship.",
    "I baked bread for the first time, and it did not rise.",
    "Call me on 555 0199 and ask for the blue bicycle.",
    "Thank you all, the answer about the fence was very helpful.",
    "Earn 300 a day from home, no experience needed, message me.",
    "The photo shows our street after the rain.",
    "Please be quiet, nobody asked you.",
    "How often should a cat see the vet?",
    "Win a free phone now, click here before midnight!!!",
    "The team trains on Tuesdays and Thursdays.",
    "I disagree with the article, but it is well written.",
    "Your garden is ugly and so is your house.",
    "We moved the meeting to room twelve.",
    "Take three of these instead of one and you will sleep.",
    "Has anyone repaired this kind of pump before?",
    "Follow my channel for daily tips and discounts.",
    "The library lends tools as well as books.",
    "It was the gardener all along, what an ending!",
    "Snow is expected above six hundred metres.",
    "These people should all go back to where they came from.",
    "I painted the door green and the gate white.",
    "Cheap watches, original brands, worldwide shipping.",
    "Could you explain the second step again?",
    "My landlord's name is Peter Hill and this is his number.",
    "The soup needs salt and a little more time.",
)
# Question, four answers of which the first is right; asked with the options, and as candidates for a short answer.
QUESTIONS = (
    ("How many legs does a spider have?", ("eight", "six", "four", "ten")),
    ("Which season follows winter?", ("spring", "autumn", "summer", "night")),
    ("What do bees make?", ("honey", "milk", "silk", "wool")),
    ("Which of these is a metal?", ("iron", "glass", "wood", "paper")),
    ("What is the opposite of hot?", ("cold", "warm", "dry", "loud")),
    ("Where do fish live?", ("in water", "in trees", "in the sand", "in caves")),
    ("Which number comes after nine?", ("ten", "eight", "twelve", "seven")),
    ("What do we call frozen water?", ("ice", "steam", "oil", "salt")),
    ("Which animal barks?", ("a dog", "a cat", "a cow", "a hen")),
    ("What colour is grass?", ("green", "blue", "red", "white")),
    ("Which planet do we live on?", ("Earth", "Mars", "Venus", "Jupiter")),
    ("What does a clock show?", ("the time", "the weather", "the price", "the way")),
    ("Which tool cuts wood?", ("a saw", "a spoon", "a brush", "a rope")),
    ("How many days has a week?", ("seven", "five", "ten", "twelve")),
    ("What falls from clouds?", ("rain", "stones", "leaves", "dust")),
    ("Which part of a plant is under the ground?", ("the root", "the flower", "the leaf", "the fruit")),
    ("What do people read in a library?", ("books", "shoes", "plates", "coins")),
    ("Which shape has three sides?", ("a triangle", "a circle", "a square", "a line")),
    ("What is used to write on a blackboard?", ("chalk", "butter", "water", "thread")),
    ("Where does the sun rise?", ("in the east", "in the west", "in the north", "in the south")),
    ("Which of these flies?", ("an eagle", "a horse", "a snake", "a frog")),
    ("What do we breathe?", ("air", "sand", "light", "sound")),
    ("Which month comes first in the year?", ("January", "March", "June", "December")),
    ("What does a farmer grow in a field?", ("wheat", "bricks", "cars", "clouds")),
    ("Which of these is the largest?", ("an elephant", "a mouse", "a rabbit", "an ant")),
    ("What keeps rain off our heads?", ("an umbrella", "a ladder", "a mirror", "a candle")),
    ("Who heals the sick?", ("a doctor", "a baker", "a tailor", "a sailor")),
    ("What do we use to see far away?", ("a telescope", "a hammer", "a kettle", "a pillow")),
    ("Which meal is eaten in the morning?", ("breakfast", "dinner", "supper", "lunch")),
    ("What is a young cat called?", ("a kitten", "a puppy", "a foal", "a calf")),
)
_SCORES = ("1.0", "0.0", "0.5")
_NUMBER_PROBES, _NUMBER_LENGTH, _NUMBER_CHOICES = 24, 24, 4


@dataclass(frozen=True)
class Probe:
    """One question to base and adapter. messages: the prompt before the template. prompt, choices: token ids; texts:
    the choices in words. group: what it has in common with others, so that a choice of probes can be diverse.
    """

    id: str
    messages: tuple[Message, ...]
    texts: tuple[str, ...]
    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    group: str = ""


def shipped_probes(task: Task | None, encoder: Encoder, base: Path) -> list[Probe]:
    """The shipped texts as prompts of a task, or without one as plain questions to a chat.

    A prompt that the base's template or positions cannot hold is left out. Raises PromptError when none is left.
    """
    found, problem = [], ""
    for number, (messages, texts, group) in enumerate(_plain() if task is None else _asked(task)):
        try:
            found.append(_probe(f"probe-{number + 1}", messages, texts, group, encoder, base))
        except PromptError as error:
            problem = error.message
    if not found:
        raise PromptError(f"no probe can be asked of {base}: {problem}", fix="correct model.chat_template")
    return found


def number_probes(base: Path) -> list[Probe]:
    """Prompts of token ids spread over the base's vocabulary: no text, no tokenizer, always possible."""
    vocabulary = read_limits(base).vocabulary or 32
    width = _NUMBER_LENGTH + _NUMBER_CHOICES
    state, found = 12345, []
    for number in range(_NUMBER_PROBES):
        tokens = []
        for _ in range(width):
            state = (1103515245 * state + 12345) % 2**31
            tokens.append((state >> 8) % vocabulary)
        choices = tuple(dict.fromkeys(tokens[_NUMBER_LENGTH:]))
        found.append(
            Probe(
                id=f"numbers-{number + 1}",
                messages=(),
                texts=tuple(str(token) for token in choices),
                prompt=tuple(tokens[:_NUMBER_LENGTH]),
                choices=tuple((token,) for token in choices),
            )
        )
    return found


def row_probes(task: Task, rows: Sequence[Row], encoder: Encoder, base: Path) -> list[Probe]:
    """A user's rows as probes. Generated answers become choices: the gold answer, and shipped ones beside it."""
    others = (_SCORES if task.name == "rules" else tuple(options[0] for _, options in QUESTIONS[:3]), "")[0]
    found = []
    for number, row in enumerate(rows):
        texts = task.choices(row)
        if texts is None:
            gold = () if row.gold is None else (task.target(row),)
            texts = tuple(dict.fromkeys((*gold, *others)))[:4]
        try:
            found.append(_probe(f"row-{number + 1}", task.render(row), texts, row.group or row.subject, encoder, base))
        except PromptError:
            continue  # too long for a canary
    return found


def _probe(
    name: str, messages: Sequence[Message], texts: Sequence[str], group: str, encoder: Encoder, base: Path
) -> Probe:
    choices = tuple(encoder.encode_choice(text) for text in texts)
    room = min(MAX_PROBE_TOKENS, read_limits(base).positions or MAX_PROBE_TOKENS)
    prompt = encoder.encode(messages, max_tokens=room - max(map(len, choices)), truncate="error").tokens
    return Probe(name, tuple(messages), tuple(texts), prompt, choices, group)


def _plain() -> list[tuple[tuple[Message, ...], tuple[str, ...], str]]:
    asked = [((Message("user", question),), options, "question") for question, options in QUESTIONS]
    said = [((Message("user", post),), ("Yes", "No", "Thank you", "Why?"), "post") for post in POSTS]
    return [*asked, *said]


def _asked(task: Task) -> list[tuple[tuple[Message, ...], tuple[str, ...], str]]:
    if task.name == "rules":
        records: list[dict[str, object]] = [_rule_record(number, post) for number, post in enumerate(POSTS)]
        candidates: list[tuple[str, ...]] = [_SCORES for _ in records]
    else:
        records = [
            {"id": f"probe-{number}", "question": question, "options": _turned(options, number)}
            for number, (question, options) in enumerate(QUESTIONS)
        ]
        if task.name != "mcq":
            records = [{key: record[key] for key in ("id", "question")} for record in records]
        candidates = [options for _, options in QUESTIONS]
    rows = rows_from_memory(records, task.shapes)
    groups = [record.get("rule", "") for record in records]
    return [
        (task.render(row), task.choices(row) or texts, str(group))
        for row, texts, group in zip(rows, candidates, groups, strict=True)
    ]


def _rule_record(number: int, post: str) -> dict[str, object]:
    rule, breaking, keeping = RULES[number % len(RULES)]
    record = {"row_id": f"probe-{number}", "body": post, "rule": rule}
    return {**record, "positive_example_1": breaking, "negative_example_1": keeping}


def _turned(options: Sequence[str], number: int) -> list[str]:
    """The right answer in another place for each question."""
    turn = number % len(options)
    return [*options[turn:], *options[:turn]]
