"""The mass of choices against transformers' softmax over the whole vocabulary, in both engines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorica.engines import load_engine
from lorica.engines.base import EngineSettings
from lorica.models.base_folder import BaseFolder
from lorica.models.locate import locate_model
from lorica.prompts.encoder import Encoder
from lorica.records import Message, ScoreChoices
from lorica.tasks.base import choice_mass

TEXTS = ("Does it rain? Answer Yes or No.", "Which letter is right?\nA. tea\nB. milk", "the Cat")
CHOICES = (("Yes", "No"), ("A", "B"), ("Yes, surely", "No", "Perhaps tomorrow"))


@pytest.fixture(scope="module")
def base() -> Path:
    return locate_model("embedded:lorica_tiny", environ={})


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("template", ["auto", "plain"])
def test_the_mass_is_that_of_the_whole_vocabulary(base: Path, engine: str, template: str) -> None:
    from transformers import AutoModelForCausalLM

    encoder = Encoder.load(base, chat_template=template)
    requests = []
    for number, (text, choices) in enumerate(zip(TEXTS, CHOICES, strict=True)):
        prompt = encoder.encode([Message("user", text)], max_tokens=256, truncate="error").tokens
        requests.append(ScoreChoices(str(number), prompt, tuple(map(encoder.encode_choice, choices))))
    outputs = load_engine(engine, BaseFolder(base), EngineSettings(dtype="float32", device="cpu")).run(requests)
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32).eval()
    for request, output in zip(requests, outputs, strict=True):
        expected = 0.0
        for choice in request.choices:
            with torch.inference_mode():
                logits = model(torch.tensor([request.prompt + choice])).logits[0].double()
            probabilities = logits.softmax(-1)[len(request.prompt) - 1 : -1]
            expected += float(
                torch.tensor([row[token] for row, token in zip(probabilities, choice, strict=True)]).prod()
            )
        assert choice_mass(output.logprobs) == pytest.approx(expected, rel=1e-3, abs=1e-7)
        assert 0 < expected <= 1
