"""Every engine by name, and what the configuration may ask of it before it is loaded. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EngineEntry:
    """factory: `module:function`, an `engines.base.EngineFactory`, imported when the engine is loaded. quantized: it
    computes in int8 and the like. merges: it is an `engines.base.MergingEngine`. runs_model: see `EngineInfo`. trainer:
    `module:function`, a `commands.trainers.MakeTrainer` of what it answers with, imported when it trains; "" for none.
    answers: the answer types of tasks (`tasks.base.AnswerType`) that it can give; without "text" it generates none.
    style: the style of prompts that it is asked in, where a task has it, "" for any. tokenizer: the folder that spells
    its prompts in place of the base's, which then is no language model and answers nothing alone. has_base: whether its
    answers come of a base model's weights at all.
    """

    factory: str
    trainer: str = ""
    quantized: bool = False
    merges: bool = False
    runs_model: bool = True
    answers: tuple[str, ...] = ("score", "option", "text")
    style: str = ""
    tokenizer: str = ""
    has_base: bool = True

    @property
    def writes(self) -> bool:
        """Whether it is a language model: it writes text, and every word has a probability. Others score the choices
        they were trained on, and nothing else."""
        return "text" in self.answers


SEGMENTS = "segments"
"""The style of a prompt whose messages are the segments of an encoder's input, and the format that joins them."""

TEXT_BYTES = "embedded:text_bytes"
"""The tokenizer whose tokens are bytes, for engines that read texts instead of tokens."""

LONGEST_TEXT = 1 << 20
"""Bytes of a row, where nothing but memory bounds them."""

ENGINES = {
    "native": EngineEntry(
        "lorica.engines.native.engine:load_native",
        trainer="lorica.commands.train_decoder:make_trainer",
        quantized=True,
        merges=True,
    ),
    "transformers": EngineEntry("lorica.engines.transformers:load_transformers"),
    "encoder": EngineEntry(
        "lorica.engines.encoder_engine:load_encoder",
        trainer="lorica.commands.train_classifier:make_trainer",
        answers=("score",),
        style=SEGMENTS,
    ),
    "tfidf": EngineEntry(
        "lorica.shallow.shallow_engine:load_tfidf_engine",
        trainer="lorica.commands.train_shallow:make_trainer",
        answers=("score", "option"),
        style=SEGMENTS,
        tokenizer=TEXT_BYTES,
        has_base=False,
    ),
    "centroids": EngineEntry(
        "lorica.shallow.shallow_engine:load_centroids_engine",
        trainer="lorica.commands.train_shallow:make_trainer",
        answers=("score",),
        style=SEGMENTS,
        tokenizer=TEXT_BYTES,
    ),
    "fake": EngineEntry("lorica.engines.fake:load_fake", quantized=True, runs_model=False),
}


def styles_for(engine_name: str, styles: Sequence[str]) -> list[str]:
    """Of a task's styles those that an engine may be asked in: `SEGMENTS` are read by encoders alone."""
    return [style for style in styles if style != SEGMENTS or ENGINES[engine_name].style == SEGMENTS]
