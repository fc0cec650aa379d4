"""Tiny base models: pretrained from a seed, fine-tuned, or rounded to few bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lorica.models.base_folder import BaseFolder
from lorica.models.decoder import Decoder
from lorica.models.families import DecoderConfig, read_decoder_config
from lorica.models.packed_attention import Attention, PackedAttention
from lorica.models.weights import load_decoder
from tools.lorica_tiny.pretrain import CONFIG, PROMPT_WEIGHT, optimisers
from tools.zoo.material import Chats, Material, tokenizer_folder

Log = Callable[[str], None]

SHAPES: dict[str, DecoderConfig] = {
    "S": replace(
        CONFIG,
        family="llama",
        qk_norm=False,
        hidden_size=128,
        intermediate_size=384,
        layers=4,
        heads=4,
        kv_heads=2,
        windows=(None,) * 4,
    ),
    "M": CONFIG,
}
_TEXT = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_WINDOW = 192  # tokens of one stretch of text
_MIXTURE = {4: (5, 900), 6: (3, 500)}  # layers -> stretches of text and tokens of chats in a step


class _Float32Attention:
    """Attention alone in float32: on a CPU, torch's bfloat16 kernel is slower for short rows."""

    def __init__(self, inner: Attention) -> None:
        self._inner = inner

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As `Attention.attend`."""
        with torch.autocast("cpu", enabled=False):
            return self._inner.attend(layer, query.float(), key.float(), value.float())


def pretrain(shape: DecoderConfig, material: Material, *, seed: int, steps: int, log: Log) -> Decoder:
    """A base of its own: initial weights, windows of text and chats are all drawn by the seed."""
    torch.manual_seed(seed)
    decoder = Decoder(shape)
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 2:
            narrow = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(parameter, std=0.02 / (2 * shape.layers) ** 0.5 if narrow else 0.02)
    rng = np.random.default_rng(seed)
    _learn(
        decoder,
        optimisers(decoder),
        lambda: _mixed(material, rng, *_MIXTURE[shape.layers]),
        steps=steps,
        warmup=50,
        log=log,
    )
    return decoder


def fine_tune(folder: Path, chats: Chats, *, seed: int, steps: int, rate: float, log: Log) -> Decoder:
    """All weights of a base trained further on chats of another kind, with AdamW."""
    decoder = load_decoder(BaseFolder(folder), dtype=torch.float32)
    decoder.requires_grad_(True)
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=rate, weight_decay=0.01)
    _learn(decoder, [optimiser], lambda: _draw(chats, rng, 1600), steps=steps, warmup=20, log=log)
    return decoder


def rounded(folder: Path, bits: int, group: int = 64) -> dict[str, Tensor]:
    """The weights of a base, its linear layers rounded to signed integers of `bits` bits per group of inputs."""
    found: dict[str, Tensor] = load_file(folder / "model.safetensors")
    most = 2 ** (bits - 1) - 1
    for name, tensor in found.items():
        if name.endswith("_proj.weight"):
            parts = tensor.float().reshape(tensor.shape[0], -1, group)
            step = parts.abs().amax(-1, keepdim=True).clamp_min(1e-8) / most
            found[name] = ((parts / step).round() * step).flatten(1).to(tensor.dtype)
    return found


def save_base(folder: Path, weights: dict[str, Tensor], shape: DecoderConfig) -> None:
    """bf16 weights, config.json, tokenizer and template."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in sorted(weights.items())}
    kept.pop("lm_head.weight", None)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    for name in _TEXT:
        shutil.copyfile(tokenizer_folder() / name, folder / name)
    config = json.loads((tokenizer_folder() / "config.json").read_text("utf-8"))
    config |= {
        "architectures": [{"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[shape.family]],
        "model_type": shape.family,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    if read_decoder_config(folder) != shape:
        raise AssertionError(f"{folder}: config.json does not say the shape it was trained in")


def _learn(
    decoder: Decoder,
    found: list[torch.optim.Optimizer],
    draw: Callable[[], Chats],
    *,
    steps: int,
    warmup: int,
    log: Log,
) -> None:
    peaks = [one.param_groups[0]["lr"] for one in found]
    recent = 0.0
    for step in range(steps):
        factor = min(1.0, (step + 1) / warmup) * min(1.0, (steps - step) / (0.5 * steps))
        for one, peak in zip(found, peaks, strict=True):
            one.param_groups[0]["lr"] = peak * factor
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = _loss(decoder, draw())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(decoder.parameters(), 2.0)
        for one in found:
            one.step()
            one.zero_grad(set_to_none=True)
        recent = loss.item() if not recent else 0.95 * recent + 0.05 * loss.item()
        if (step + 1) % 50 == 0:
            log(f"step {step + 1}/{steps} loss {recent:.3f}")


def _loss(decoder: Decoder, batch: Chats) -> Tensor:
    """Mean next-token loss; prompt tokens of chats weigh less than their answers."""
    lengths = [len(tokens) - 1 for tokens, _ in batch]
    inputs = torch.tensor([token for tokens, _ in batch for token in tokens[:-1]])
    targets = torch.tensor([token for tokens, _ in batch for token in tokens[1:]])
    positions = torch.cat([torch.arange(length) for length in lengths])
    answer = torch.cat([torch.arange(1, len(tokens)) >= start for tokens, start in batch])
    attention = _Float32Attention(PackedAttention(lengths, decoder.config))
    hidden = decoder.hidden(inputs, positions, attention)
    losses = F.cross_entropy(decoder.logits(hidden).float(), targets, reduction="none")
    weights = torch.where(answer, 1.0, PROMPT_WEIGHT)
    return (losses * weights).sum() / weights.sum()


def _mixed(material: Material, rng: np.random.Generator, windows: int, chat_tokens: int) -> Chats:
    starts: Iterable[int] = rng.integers(len(material.text) - _WINDOW - 1, size=windows)
    text = [(material.text[start : start + _WINDOW + 1].astype(int).tolist(), 0) for start in starts]
    return text + _draw(material.chats, rng, chat_tokens)


def _draw(chats: Chats, rng: np.random.Generator, tokens: int) -> Chats:
    """Chats of about `tokens` tokens in all and of similar length."""
    pool = sorted((chats[int(i)] for i in rng.integers(len(chats), size=80)), key=lambda chat: len(chat[0]))
    start = int(rng.integers(len(pool)))
    chosen: Chats = []
    for tokens_and_start in pool[start:] + pool[:start][::-1]:
        if sum(len(one) for one, _ in chosen) >= tokens:
            break
        chosen.append(tokens_and_start)
    return chosen
