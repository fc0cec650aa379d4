"""Does a base make sense of plain text? The embedded one does, and with its tokens out of order it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch")

from lorica.engines.base import OnDone, OnOutputs
from lorica.engines.native.engine import NativeEngine
from lorica.models.base_folder import BaseFolder
from lorica.models.locate import locate_model
from lorica.models.weights import load_decoder
from lorica.prompts.encoder import Encoder
from lorica.records import Output, Request
from lorica.vetting.base.base_loss import base_loss, check_base_loss


@pytest.fixture
def base() -> Path:
    return locate_model("embedded:lorica_tiny", environ={})


def test_a_sound_base_predicts_text(base: Path) -> None:
    ratio = base_loss(NativeEngine(load_decoder(BaseFolder(base))), Encoder.load(base), base)
    assert ratio is not None
    assert ratio < 0.8
    assert check_base_loss(ratio) == []


def test_tokens_out_of_order_make_no_sense(base: Path) -> None:
    decoder = load_decoder(BaseFolder(base))
    table = decoder.model.embed_tokens.weight.data
    table.copy_(table.flip(0))  # tied: reads and writes every token as another
    (found,) = check_base_loss(base_loss(NativeEngine(decoder), Encoder.load(base), base))
    assert found.code == "L316"
    assert found.facts["ratio"] > 0.95


def test_no_number_is_named(base: Path) -> None:
    class Broken(NativeEngine):
        def run(
            self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
        ) -> list[Output]:
            return [Output(each.id, finish="error", error="the model's output is not a number") for each in requests]

    ratio = base_loss(Broken(load_decoder(BaseFolder(base))), Encoder.load(base), base)
    assert ratio is not None
    assert math.isnan(ratio)
    assert [each.code for each in check_base_loss(ratio)] == ["L316"]
    assert check_base_loss(None) == []
