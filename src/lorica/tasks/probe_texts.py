"""Neutral texts that ship with Lorica, asked through a task's own prompt to see what an adapter does: nobody's data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from lorica.tasks.base import CanaryRecord

_FOLDER = Path(__file__).parent / "probes"

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
    ("Which schema has three sides?", ("a triangle", "a circle", "a square", "a line")),
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


def labelled_records(file_name: str) -> list[dict[str, Any]]:
    """The records with gold of a file in `probes/`, for the behaviour checks."""
    json_lines = (_FOLDER / f"{file_name}.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(json_line) for json_line in json_lines]


def question_canaries(*, with_options: bool) -> list[CanaryRecord]:
    """The shipped questions, each asked with its options, or scored by them as candidates for a written answer."""
    canaries = []
    for record_index, (question, options) in enumerate(QUESTIONS):
        record: dict[str, Any] = {"id": f"probe-{record_index}", "question": question}
        if with_options:
            shift = record_index % len(options)  # the right answer in another place for each question
            record["options"] = [*options[shift:], *options[:shift]]
        canaries.append(CanaryRecord(record, options))
    return canaries


def rule_canaries() -> list[CanaryRecord]:
    """The shipped posts, each with a rule and examples that have nothing to do with it."""
    canaries = []
    for record_index, post_text in enumerate(POSTS):
        rule_text, breaking_examples, keeping_examples = RULES[record_index % len(RULES)]
        record = {"row_id": f"probe-{record_index}", "body": post_text, "rule": rule_text}
        record |= {"positive_example_1": breaking_examples, "negative_example_1": keeping_examples}
        canaries.append(CanaryRecord(record, ("1.0", "0.0", "0.5"), rule_text))
    return canaries
