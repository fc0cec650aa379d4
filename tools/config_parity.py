"""The native engine against transformers on one model folder: equal, refused by name, or silently different."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lorica.engines.native.engine import NativeEngine
from lorica.errors import LoricaError
from lorica.models.base_folder import BaseFolder
from lorica.models.cpu.cpu_decoder import CpuDecoder
from lorica.models.packed_attention import PackedAttention
from lorica.models.weights import load_decoder
from lorica.records import ScoreChoices
from tools.config_kinds import VOCABULARY

TOLERANCE = 1e-4
TOKENS = 72  # more than any window or original length drawn


@dataclass(frozen=True)
class Result:
    """kind: equal, refused, different; reference_refused: by transformers alone; random: transformers made weights up.

    changes: what was edited. gap: largest difference of log-probabilities. said: the refusal.
    """

    kind: str
    changes: tuple[str, ...]
    gap: float = 0.0
    said: str = ""


def compare(folder: Path, changes: tuple[str, ...]) -> Result:
    """The native engine against transformers on one folder."""
    tokens = torch.randint(0, VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(0))
    try:
        ours, scored = native(folder, tokens)
    except LoricaError as error:
        return Result("refused", changes, said=str(error))
    try:
        theirs, made_up = reference(folder, tokens)
    except Exception as error:
        said = " ".join(str(error).split())
        return Result("reference_refused", changes, said=f"{type(error).__name__}: {said[:200]}")
    if made_up:
        return Result("random", changes, said=", ".join(made_up[:3]))
    gap = float((ours - theirs).abs().max())
    if scored is not None:
        gap = max(gap, float((scored - theirs[len(theirs) // 3 - 1]).abs().max()))
    return Result("equal" if gap <= TOLERANCE else "different", changes, gap)


def native(folder: Path, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities at every position [T, V] by the decoder, and at the end of a third of them [V] by the engine;
    None where the model has fewer positions."""
    decoder = load_decoder(BaseFolder(folder), dtype=torch.float32)
    with torch.inference_mode():
        hidden = decoder.hidden(tokens, torch.arange(len(tokens)), PackedAttention([len(tokens)], decoder.config))
        everywhere = decoder.logits(hidden).log_softmax(-1)
    positions, rows = decoder.config.max_positions, len(decoder.model.embed_tokens.weight)
    prompt = tuple(tokens[: len(tokens) // 3].tolist())
    if positions < len(prompt) + 1 or rows != VOCABULARY:
        return everywhere, None
    engine = NativeEngine(CpuDecoder(decoder, "float32"))
    output = engine.run([ScoreChoices("row", prompt, tuple((token,) for token in range(VOCABULARY)))])[0]
    return everywhere, torch.tensor(output.logprobs)


def reference(folder: Path, tokens: Tensor) -> tuple[Tensor, list[str]]:
    """As transformers has it: log-probabilities [T, V], and the weights that it filled with random numbers."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, told = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        with torch.inference_mode():
            logits = model.eval()(tokens[None], use_cache=False).logits[0]
    return logits.log_softmax(-1), sorted(told["missing_keys"])
