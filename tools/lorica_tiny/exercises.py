"""Little reading exercises, composed at random: a story of one to four facts, and a question that one fact answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Word lists read better as words than as one string a line.
# ruff: noqa: E501, SIM905
_NAMES = (
    "Ada Amir Bela Bruno Carla Chen Dora Emil Esra Fay Goran Hana Igor Ines Jamal Joy Kofi Lars Lea Luca Mara Milo Nadia "
    "Nils Olga Omar Pablo Petra Quinn Rosa Rui Sana Sven Tara Tomas Uma Vera Wanda Yara Yusuf Zoe Zora Mina Leo Max Sara "
    "Nina Paul Eva Ali Maya Jan Lily Sam Anna Ben Tom Kate Peter Mary Jack Rani Ravi Meena Gita Raju"
).split()
_THINGS = (
    "ball book boat bell box cup coat clock coin drum doll fan flag fork gift hat jar key kite knife lamp letter map mat "
    "mirror mug net pan pen pencil pie plate pot ring rope rug sack scarf shell shoe sock spoon stick stone stool toy "
    "umbrella vase violin wheel whistle apple banana basket blanket bottle bucket bun cake candle chair"
).split()
_COLOURS = "red blue green yellow black white brown orange purple pink grey golden silver".split()
_PLACES = (
    "garden kitchen forest market school river house tent barn cave shop station library park attic cellar tower field "
    "beach harbour bakery hall village castle yard meadow bridge hut temple hospital"
).split()
_SPOTS = "table bed chair shelf cupboard drawer basket bench tree wall window door box bag sofa cart".split()
_ANIMALS = (
    "cat dog fox hen goat cow duck frog owl crow mouse rabbit horse sheep pig lion bear wolf deer snake turtle parrot "
    "monkey elephant tiger camel donkey goose bee ant"
).split()
_NUMBERS = "two three four five six seven eight nine ten eleven twelve twenty".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_VERBS = "sang danced slept cried laughed shouted waited worked played rested".split()
_JOBS = "baker teacher farmer doctor sailor painter nurse driver cook tailor singer gardener".split()
_FOODS = "bread rice soup fish cheese mango corn beans honey eggs noodles salad porridge".split()

KINDS = {
    "a name": _NAMES,
    "a colour": _COLOURS,
    "a place": _PLACES,
    "an animal": _ANIMALS,
    "a number": _NUMBERS,
    "a day": _DAYS,
    "a job": _JOBS,
    "a food": _FOODS,
    "something people do": _VERBS,
}


@dataclass(frozen=True)
class Pools:
    """The words that stories are made of: closed lists of simple words, or random words that can only be copied."""

    names: list[str]
    things: list[str]
    colours: list[str]
    places: list[str]
    spots: list[str]
    animals: list[str]
    numbers: list[str]
    days: list[str]
    verbs: list[str]
    jobs: list[str]
    foods: list[str]


SIMPLE = Pools(_NAMES, _THINGS, _COLOURS, _PLACES, _SPOTS, _ANIMALS, _NUMBERS, _DAYS, _VERBS, _JOBS, _FOODS)


def random_pools(rng: random.Random, words: Sequence[str]) -> Pools:
    """Pools of 12 random words each; names begin with a capital letter."""
    drawn = [rng.sample(words, 12) for _ in range(11)]
    return Pools([word.capitalize() for word in drawn[0]], *drawn[1:])


Fact = tuple[str, list[tuple[str, str, list[str]]]]  # sentence, [(question, answer, other answers of the kind)]


def _fact(rng: random.Random, name: str, pools: Pools) -> Fact:
    thing, colour, place, spot = (rng.choice(x) for x in (pools.things, pools.colours, pools.places, pools.spots))
    animal, number, day, food = (rng.choice(x) for x in (pools.animals, pools.numbers, pools.days, pools.foods))
    job, verb = rng.choice(pools.jobs), rng.choice(pools.verbs)
    facts = [
        *_things(rng, pools, name, thing, colour, place, spot, day),
        *_numbers_and_jobs(rng, pools, name, animal, number, place, job, food),
        (
            f"The {animal} {verb} in the {place}, and {name} watched it.",
            [
                (f"Where was the {animal}?", f"in the {place}", [f"in the {p}" for p in pools.places]),
                ("Which animal is in the story?", animal, pools.animals),
                (f"Who watched the {animal}?", name, pools.names),
            ],
        ),
        (
            f"{name} gave the {thing} to {rng.choice(pools.names)}.",
            [(f"What did {name} give away?", f"the {thing}", [f"the {t}" for t in pools.things])],
        ),
    ]
    return rng.choice(facts)


def _things(
    rng: random.Random, pools: Pools, name: str, thing: str, colour: str, place: str, spot: str, day: str
) -> list[Fact]:
    return [
        (
            rng.choice((f"{name} has a {colour} {thing}.", f"The {thing} of {name} is {colour}.")),
            [
                (f"What colour is the {thing}?", colour, pools.colours),
                (f"Who has the {colour} {thing}?", name, pools.names),
            ],
        ),
        (
            rng.choice((f"{name} went to the {place} on {day}.", f"On {day}, {name} walked to the {place}.")),
            [
                (f"Where did {name} go?", f"to the {place}", [f"to the {p}" for p in pools.places]),
                (f"When did {name} go to the {place}?", f"on {day}", [f"on {d}" for d in pools.days]),
                (f"Who went to the {place}?", name, pools.names),
            ],
        ),
        (
            rng.choice((f"{name} put the {thing} under the {spot}.", f"The {thing} is under the {spot}, said {name}.")),
            [(f"Where is the {thing}?", f"under the {spot}", [f"under the {s}" for s in pools.spots])],
        ),
    ]


def _numbers_and_jobs(
    rng: random.Random, pools: Pools, name: str, animal: str, number: str, place: str, job: str, food: str
) -> list[Fact]:
    seen = (f"{name} saw {number} {animal}s in the {place}.", f"In the {place} {name} counted {number} {animal}s.")
    return [
        (
            rng.choice(seen),
            [
                (f"How many {animal}s did {name} see?", number, pools.numbers),
                (f"What animals did {name} see?", f"{animal}s", [f"{a}s" for a in pools.animals]),
            ],
        ),
        (
            rng.choice((f"{name} is a {job}.", f"{name} works as a {job}.")),
            [(f"What is {name}'s job?", job, pools.jobs), (f"Who is the {job}?", name, pools.names)],
        ),
        (
            rng.choice((f"{name} ate {food} in the {place}.", f"For lunch {name} ate {food}.")),
            [(f"What did {name} eat?", food, pools.foods), (f"Who ate {food}?", name, pools.names)],
        ),
    ]


def question(rng: random.Random, pools: Pools = SIMPLE) -> tuple[str, str, list[str]]:
    """(story and question, answer, three wrong answers): stories hold rivals, so that the right fact must be found."""
    names = rng.sample(pools.names, rng.randint(1, 4))
    facts = [_fact(rng, name, pools) for name in names]
    asked, answer, others = rng.choice(rng.choice(facts)[1])
    story = " ".join(sentence for sentence, _ in facts)
    rivals = [other for other in others if other != answer and other in story][:2]
    wrong = rivals + rng.sample([other for other in others if other not in (answer, *rivals)], 3 - len(rivals))
    return rng.choice((f"{story}\n{asked}", f"{story} {asked}")), answer, wrong


def reading(rng: random.Random) -> tuple[str, str, str]:
    """(system, user, assistant): a short-answer or a lettered question on a random story."""
    pools = SIMPLE
    names = rng.sample(pools.names, rng.randint(1, 4))
    facts = [_fact(rng, name, pools) for name in names]
    question, answer, others = rng.choice(rng.choice(facts)[1])
    story = " ".join(sentence for sentence, _ in facts)
    if rng.random() < 0.5:
        system = rng.choice(("", "Answer the question in a few words.", "Subject: reading. Give a short answer."))
        return system, rng.choice((f"{story}\n{question}", f"{story} {question}")), answer
    options = [answer, *rng.sample([other for other in others if other != answer], 3)]
    rng.shuffle(options)
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    system = rng.choice(("", "Answer with the letter of the right option."))
    return system, f"{story} {question}\n{lines}", "ABCD"[options.index(answer)]
