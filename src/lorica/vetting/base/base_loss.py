"""Does a base model itself make sense of plain text? Damaged weights and foreign tokenizers do not."""

from __future__ import annotations

import math
from pathlib import Path

from lorica.engines.base import Engine
from lorica.models.base_folder import BaseFolder
from lorica.prompts.encoder import Encoder
from lorica.records import ScoreChoices
from lorica.vetting.base.sample_text import SAMPLE_TEXTS
from lorica.vetting.findings import Finding, finding

# Plain texts that the base is asked to go on with, tokens of each, and how many of these it is given.
_TEXTS, _TEXT_TOKENS, _LEAD = 12, 96, 16
# Of the loss of guessing evenly. Sound bases of tools/zoo have 0.59 to 0.70, with untrained weights 1.00, with layers
# of another model up to 1.01, with permuted tokens 1.21 to 1.24.
MAX_LOSS_RATIO = 0.95


def base_loss(engine: Engine, encoder: Encoder, base_folder: Path) -> float | None:
    """The base's loss on plain text over that of guessing evenly; NaN for an output that is no number, None where it
    cannot be told. Raises EngineError and PromptError."""
    vocabulary_size = BaseFolder(base_folder).config.get("vocab_size")
    token_sequences = [encoder.encode_choice(sample_text)[:_TEXT_TOKENS] for sample_text in SAMPLE_TEXTS[:_TEXTS]]
    requests = [
        ScoreChoices(str(number), tokens[:_LEAD], (tokens[_LEAD:],))
        for number, tokens in enumerate(token_sequences)
        if len(tokens) > 2 * _LEAD
    ]
    outputs = engine.run(requests)
    if not isinstance(vocabulary_size, int) or vocabulary_size < 2 or not outputs:
        return None
    if any(output.error for output in outputs):
        return math.nan if all("not a number" in output.error for output in outputs) else None
    token_count = sum(len(request.choices[0]) for request in requests)
    return -sum(output.logprobs[0] for output in outputs) / token_count / math.log(vocabulary_size)


def check_base_loss(loss_ratio: float | None) -> list[Finding]:
    """A warning where the base predicts plain text no better than guessing."""
    if loss_ratio is None or loss_ratio < MAX_LOSS_RATIO:
        return []
    if math.isnan(loss_ratio):
        return [finding("L316", "its output on plain text is not a number")]
    actual = f"its loss on plain text is {loss_ratio:.2f} times that of guessing evenly"
    return [finding("L316", actual, expected="0.3 to 0.8 for a trained model", facts={"ratio": loss_ratio})]
