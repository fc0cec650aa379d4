"""Write `examples/mcq` (forms of verbs) and `examples/saq` (short messages, each with a question about a fact).

    python -m tools.example_rows

Each task has three files. No verb, name, town, thing or place of a file stands in another file of the task, so that
answers cannot be learned by heart; days, numbers, colours and vehicles are short lists that all files share.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SEED = 20261130
FILES = ("questions", "validation", "test")

# Word lists read better as words than as one string a line.
# ruff: noqa: SIM905
TRAINING_VERBS = (
    "add allow answer ask bark burn call chase chew cook copy count crash cry deliver drop drown earn enjoy enter "
    "explain fill finish fry gather happen harvest help hunt iron jail join knock land laugh like listen load look "
    "love marry miss open pack pinch play point pour press pull reach repair rescue rest roll row rub rush search "
    "seem shop smell smile snore snow sort spell splash stamp start taste thank tie touch treat warn wash waste watch "
    "wave wipe wonder wrap zip"
).split()
VALIDATION_VERBS = (
    "borrow brush check dance dress end fold kiss mend move nod pray rain return serve shout sigh sneeze stay stop "
    "study test trust turn weigh work"
).split()
TEST_VERBS = (
    "admire agree appear applaud arrest arrive bathe beg belong blame blink boast bounce breathe bury camp carve "
    "change claim clap collapse complain confess connect cough crawl cure damage decide defend delay demand deny "
    "destroy discover doubt drag drift drip escape excuse expect fail fetch float flow force frighten glance glow "
    "grab groan growl guard guide hate heal heat howl imagine invent invite judge juggle lick manage march measure "
    "mention murmur need obey own peel please praise prepare pretend promise protect punish race raise refuse relax "
    "remain remember remind remove repeat reply report ruin scratch scrub shiver slip soak squeeze stretch suffer "
    "suggest support surprise surround swallow tap tease tremble trick type unlock vanish wander whistle wink yawn"
).split()
NAMES = (
    "Ada Adam Ali Alice Anna Ben Bruno Carla Chen Clara Dan Dora Ella Emil Emma Eva Felix Finn Gita Grace Hana Hugo "
    "Igor Ines Ivan Jack Jamal James Jim Joy Julia Kate Kim Kofi Lars Lea Lena Leo Lily Luca Lucy Luke Mara Mark Max "
    "Maya Mia Milo Molly Nadia Nick Nils Nina Nora Olga Omar Oscar Owen Paul Peter Petra Quinn Rani Ravi Rosa Ruth "
    "Sam Sara Simon Sophie Sven Tara Tim Tom Uma Vera Wanda Yara Yusuf Zoe"
).split()
TOWNS = (
    "Accra Amman Athens Bergen Berlin Bogota Boston Bristol Cairo Chicago Cork Dallas Delhi Denver Dover Dublin "
    "Exeter Florence Geneva Glasgow Hamburg Havana Houston Kiev Leeds Lima Lisbon London Madrid Manila Miami Milan "
    "Munich Nairobi Naples Oslo Oxford Paris Prague Quito Rome Seattle Sofia Sydney Tokyo Tunis Turin Venice Vienna "
    "Warsaw York Zurich"
).split()
THINGS = (
    "bag ball basket bell blanket book boot bottle bowl bucket candle cap chain chair clock coat coin cup doll drum "
    "fan flag flute fork glove hammer hat jacket jar kettle key kite ladder lamp letter map mirror mug necklace "
    "parcel pen pencil pillow plate pot purse ring rope rug sack shoe shovel sock spoon stick stool suitcase sweater "
    "ticket towel toy umbrella vase violin wallet wheel whistle"
).split()
PLACES = (
    "attic bakery bank barn beach bridge cafe castle cave cellar church cinema college farm field forest garage "
    "garden hall harbour hospital hotel house kitchen lake library market meadow mill museum office park port river "
    "school shop square stable stadium station street temple theatre tower tunnel village wood yard zoo"
).split()
COLOURS = "red blue green yellow black white brown orange purple pink grey golden".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NUMBERS = "two three four five six seven eight nine ten eleven twelve twenty".split()
VEHICLES = "train bus boat taxi plane tram bicycle ferry".split()

Words = Mapping[str, Sequence[str]]
Question = tuple[str, str]  # the question, its answer


_VOWELS = "aeiou"
_DOUBLED = set("beg clap drag drip drop grab hop hug nod plan rub scrub shop skip slip stir stop tap wrap zip".split())


def verb_forms(verb: str) -> tuple[str, str, str]:
    """The third person, the past tense and the -ing form of a regular verb."""
    if verb.endswith("ie"):
        return verb + "s", verb + "d", verb[:-2] + "ying"
    if verb.endswith("e"):
        return verb + "s", verb + "d", verb[:-1] + "ing"
    if verb.endswith("y") and verb[-2] not in _VOWELS:
        return verb[:-1] + "ies", verb[:-1] + "ied", verb + "ing"
    stem = verb + verb[-1] if verb in _DOUBLED else verb
    return verb + ("es" if verb.endswith(("sh", "ch", "ss", "x")) else "s"), stem + "ed", stem + "ing"


def _about_verb(rng: random.Random, verb: str) -> list[tuple[str, str, list[str]]]:
    """A question for each form: the question, the right form, the other forms and the verb itself."""
    forms = verb_forms(verb)
    wordings = (
        (f"Every day I {verb}. Every day she what?", f"I {verb}, and he what?"),
        (f"Today I {verb}. Yesterday I what?", f"What is the past tense of {verb}?"),
        (f"Often I {verb}. Now I am what?", f"What is the -ing form of {verb}?"),
    )
    return [
        (rng.choice(wording), form, [other for other in (verb, *forms) if other != form])
        for wording, form in zip(wordings, forms, strict=True)
    ]


def _asked(rng: random.Random, messages: Sequence[str], questions: Sequence[Question]) -> Question:
    """One of the wordings of a message, and one of the questions about it."""
    message = rng.choice(messages)
    question, answer = rng.choice(questions)
    return f"{message} {question}", answer


def _order(rng: random.Random, words: Words) -> Question:
    buyer, receiver = rng.sample(words["names"], 2)
    thing, colour, number = (rng.choice(words[kind]) for kind in ("things", "colours", "numbers"))
    messages = (
        f"{buyer} orders {number} {colour} {thing}s for {receiver}.",
        f"Order by {buyer}: {number} {colour} {thing}s for {receiver}.",
        f"For {receiver}: {number} {colour} {thing}s, ordered by {buyer}.",
        f"{receiver} gets {number} {colour} {thing}s that {buyer} orders.",
    )
    questions = (
        ("Who orders?", buyer),
        (f"Who gets the {thing}s?", receiver),
        (f"How many {thing}s?", number),
        (f"What colour are the {thing}s?", colour),
    )
    return _asked(rng, messages, questions)


def _trip(rng: random.Random, words: Words) -> Question:
    start, end = rng.sample(words["towns"], 2)
    traveller, vehicle, day = (rng.choice(words[kind]) for kind in ("names", "vehicles", "days"))
    messages = (
        f"{traveller} goes from {start} to {end} by {vehicle} on {day}.",
        f"On {day} {traveller} goes to {end} from {start} by {vehicle}.",
        f"By {vehicle} {traveller} goes from {start} to {end} on {day}.",
        f"From {start} {traveller} goes by {vehicle} to {end} on {day}.",
    )
    questions = (
        ("Who goes?", traveller),
        (f"From where does {traveller} go?", start),
        (f"To where does {traveller} go?", end),
        ("By what?", vehicle),
        ("On which day?", day),
    )
    return _asked(rng, messages, questions)


def _loss(rng: random.Random, words: Words) -> Question:
    owner, finder = rng.sample(words["names"], 2)
    thing, colour, spot = (rng.choice(words[kind]) for kind in ("things", "colours", "places"))
    messages = (
        f"{owner} lost {_article(colour)} {colour} {thing} in the {spot}. {finder} found it.",
        f"{finder} found {_article(colour)} {colour} {thing} in the {spot}. {owner} lost it.",
        f"In the {spot} {finder} found the {colour} {thing} that {owner} lost.",
        f"The {colour} {thing} that {owner} lost in the {spot} was found by {finder}.",
    )
    questions = (
        ("Who lost it?", owner),
        ("Who found it?", finder),
        ("In which place was it?", spot),
        (f"What colour is the {thing}?", colour),
    )
    return _asked(rng, messages, questions)


MESSAGES: Mapping[str, Callable[[random.Random, Words], Question]] = {
    "orders": _order,
    "trips": _trip,
    "lost": _loss,
}
WORD_SHARES = (0.5, 0.15, 0.35)  # of each list of words, in each file
SAQ_ROWS = (130, 40, 80)  # of each subject, in each file


def divided(words: Sequence[str], shares: Sequence[float], seed: int) -> list[list[str]]:
    """The words in random order, divided into consecutive parts of about these shares."""
    shuffled = list(words)
    random.Random(seed).shuffle(shuffled)
    ends = [0, *(round(sum(shares[: index + 1]) * len(words)) for index in range(len(shares)))]
    return [shuffled[start:end] for start, end in itertools.pairwise(ends)]


def _article(colour: str) -> str:
    return "an" if colour == "orange" else "a"


def _drawn_words(file_index: int) -> Words:
    """The words that the messages of a file are made of."""
    lists = {"names": NAMES, "towns": TOWNS, "things": THINGS, "places": PLACES}
    own_words = {kind: divided(members, WORD_SHARES, SEED)[file_index] for kind, members in lists.items()}
    return own_words | {"colours": COLOURS, "days": DAYS, "numbers": NUMBERS, "vehicles": VEHICLES}


def mcq_rows() -> list[list[dict[str, object]]]:
    """The rows of each file, three of each verb; each letter is right as often as the others."""
    files = []
    for file_name, verbs in zip(FILES, (TRAINING_VERBS, VALIDATION_VERBS, TEST_VERBS), strict=True):
        rng = random.Random(f"{SEED} mcq {file_name}")
        questions = [question for verb in verbs for question in _about_verb(rng, verb)]
        letters = list(itertools.islice(itertools.cycle("ABCD"), len(questions)))
        rng.shuffle(questions)
        rng.shuffle(letters)
        rows: list[dict[str, object]] = []
        for rank, ((question, answer, wrong), letter) in enumerate(zip(questions, letters, strict=True), 1):
            options = rng.sample(wrong, len(wrong))
            options.insert("ABCD".index(letter), answer)
            row_id = f"mcq-{file_name}-{rank:03}"
            rows.append({"id": row_id, "subject": "verbs", "question": question, "options": options, "answer": letter})
        files.append(rows)
    return files


def saq_rows() -> list[list[dict[str, object]]]:
    """The rows of each file, no question twice."""
    files: list[list[dict[str, object]]] = []
    for file_index, row_count in enumerate(SAQ_ROWS):
        rng = random.Random(SEED + 10 + file_index)
        words = _drawn_words(file_index)
        questions: dict[str, tuple[str, str]] = {}
        for subject, make in MESSAGES.items():
            goal = len(questions) + row_count
            while len(questions) < goal:
                question, answer = make(rng, words)
                questions.setdefault(question, (subject, answer))
        shuffled = list(questions.items())
        rng.shuffle(shuffled)
        files.append(
            [
                {"id": f"saq-{FILES[file_index]}-{rank:03}", "subject": subject, "question": question, "answer": answer}
                for rank, (question, (subject, answer)) in enumerate(shuffled, 1)
            ]
        )
    return files


def main() -> None:
    """Write all six files."""
    for task_name, files in (("mcq", mcq_rows()), ("saq", saq_rows())):
        for file_name, rows in zip(FILES, files, strict=True):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (EXAMPLES / task_name / f"{file_name}.jsonl").write_text(lines, "utf-8")


if __name__ == "__main__":
    main()
