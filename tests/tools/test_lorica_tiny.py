"""The embedded model: exercises that have their answer, stages in order, weights of the promised size."""

from __future__ import annotations

import random
import re

from tools.lorica_tiny import corpus, exercises, task_forms
from tools.lorica_tiny.pretrain import CONFIG, STAGES, learning_rate, stage

from lorica.models.families import read_decoder_config
from lorica.models.locate import locate_model
from lorica.prompts.encoder import Encoder
from lorica.records import Message

DOCS = [
    ("chemistry", "Atoms react when heat is added to them slowly. The gas expands in 3 warm tubes of glass. " * 12),
    ("psychology", "Memory fades when people sleep too little at night. Do children dream more than adults do? " * 12),
    ("story", "The old fox walked home through the dark wood! She said that the river was cold today. " * 12),
]


def test_the_answer_stands_in_the_story_and_the_wrong_ones_are_wrong() -> None:
    rng = random.Random(1)
    words = [f"word{letter}x" for letter in "abcdefghijklmnopqrstuvwxyz"]
    for pools in (exercises.SIMPLE, exercises.random_pools(rng, words)):
        for _ in range(200):
            text, answer, wrong = exercises.question(rng, pools)
            assert answer.removesuffix("s").split()[-1] in text
            assert answer not in wrong
            assert len(wrong) == 3


def test_random_pools_hold_names_with_capitals() -> None:
    pools = exercises.random_pools(random.Random(2), [f"w{i}" for i in range(40)])
    assert all(name[0].isupper() for name in pools.names)
    assert len(pools.foods) == 12


def test_every_chat_has_a_question_and_an_answer() -> None:
    docs = [(source, re.sub(r"(\w+) ", r"\1s \1ed \1 ", text) + text) for source, text in DOCS]
    for made in (task_forms.chats(docs, 3, 60), task_forms.open_chats(docs * 4, 3, 60)):
        assert len(made) >= 50
        assert all(user.strip() and answer.strip() for _, user, answer in made)
    assert corpus.digest(docs, made) != corpus.digest(docs, made[:-1])


def test_the_stages_follow_each_other() -> None:
    assert [stage(one.start) for one in STAGES] == list(STAGES)
    assert stage(STAGES[1].start - 1) == STAGES[0]
    assert [one.start for one in STAGES] == sorted(one.start for one in STAGES)
    rates = [learning_rate(step, 1000) for step in range(1000)]
    assert max(rates) == 1.0
    assert rates[-1] < 0.01


def test_the_folder_is_what_the_tool_makes() -> None:
    folder = locate_model("embedded:lorica_tiny", environ={})
    assert (folder / "model.safetensors").stat().st_size <= 16_000_000
    assert read_decoder_config(folder) == CONFIG
    card = (folder / "README.md").read_text("utf-8")
    assert re.search(r"sha256:[0-9a-f]{64}", card)
    assert "## Loss curve" in card
    encoder = Encoder.load(folder)
    assert encoder.render([Message("user", "Hi")]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
