"""Pretrain the embedded base model `lorica_tiny` on two CPU cores; logs, checkpoints and resumes.

    python -m tools.lorica_tiny.pretrain --data ../shared/data --work runs/lorica_tiny --steps 3900
    python -m tools.lorica_tiny.export --work runs/lorica_tiny --to src/lorica/models/lorica_tiny

The same command again continues from the last checkpoint. Every source of chance is seeded by the step, so an
interrupted run sees the same batches as an uninterrupted one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from lorica.models.decoder import Decoder
from lorica.models.families import DecoderConfig
from lorica.models.packed_attention import PackedAttention
from lorica.models.rope_config import RopeScaling
from tools.lorica_tiny import corpus, task_forms, tokenizer

SEED = 20261120
VOCABULARY = 6144
WINDOW = 512  # tokens of one stretch of running text
CHATS = (70_000, 60_000, 40_000)  # of the first mixture, of the tasks' own prompts, and of those with open words
PROMPT_WEIGHT = 0.15  # the loss weight of a chat's prompt tokens against 1 for its answer


@dataclass(frozen=True)
class Stage:
    """What a step sees from `start` on: stretches of text, stretches of copying, tokens of chats of a mixture."""

    start: int
    text_windows: int
    copy_windows: int
    chat_tokens: int
    mixture: int


STAGES = (
    Stage(start=0, text_windows=6, copy_windows=0, chat_tokens=1400, mixture=0),
    # Less text and more of it stories; chats in the tasks' own prompts.
    Stage(start=1500, text_windows=4, copy_windows=0, chat_tokens=2600, mixture=1),
    # Plain text alone teaches a model this small too slowly to look a word up in its prompt; copying does.
    Stage(start=2000, text_windows=2, copy_windows=2, chat_tokens=2600, mixture=1),
    # Closed word lists were learned by heart: answers that can only be looked up.
    Stage(start=3300, text_windows=2, copy_windows=1, chat_tokens=3200, mixture=2),
)

CONFIG = DecoderConfig(
    family="qwen3",
    hidden_size=256,
    intermediate_size=768,
    layers=6,
    heads=8,
    kv_heads=4,
    head_dim=32,
    vocab_size=VOCABULARY,
    max_positions=2048,
    rms_norm_eps=1e-6,
    rope_theta=10_000.0,
    rope_scaling=RopeScaling(),
    tied_embeddings=True,
    qkv_bias=False,
    output_bias=False,
    mlp_bias=False,
    qk_norm=True,
    windows=(None,) * 6,
)


@dataclass(frozen=True)
class Material:
    """text: [N] token ids of each stage's documents; chats: per stage, token ids with the index of the first answer
    token."""

    text: tuple[NDArray[np.uint16], NDArray[np.uint16]]
    held_out: NDArray[np.uint16]
    chats: tuple[list[tuple[list[int], int]], ...]
    digest: str


def stage(step: int) -> Stage:
    """The stage of a step."""
    return [one for one in STAGES if step >= one.start][-1]


def prepare(data: Path, work: Path) -> Material:
    """Build the corpus, train the tokenizer once, and encode everything."""
    docs = corpus.documents(data)
    chats = corpus.chats(data, docs, SEED, CHATS[0])
    forms = task_forms.chats(docs, SEED, CHATS[1])
    lookups = task_forms.open_chats(docs, SEED, CHATS[2])
    folder = work / "model"
    if not (folder / "tokenizer.json").is_file():
        sample = [text for _, text in docs] + ["\n".join(chat) for chat in chats[:8000]]
        tokenizer.save(tokenizer.train(sample, VOCABULARY), folder)
    coder = Tokenizer.from_file(str(folder / "tokenizer.json"))
    order = np.random.default_rng(SEED).permutation(len(docs))
    shuffled = [docs[i] for i in order]
    everything = _encode_text(coder, [text for _, text in shuffled])
    cut = len(everything) - 40 * WINDOW
    held_out = everything[cut:]
    # Formulas teach a model this small little, and stories are rare.
    prose = [
        text for source, text in shuffled[:-60] if "algebra" not in source for _ in range(3 if source == "story" else 1)
    ]
    return Material(
        (everything[:cut], _encode_text(coder, prose)),
        held_out,
        (_encode_chats(coder, chats), _encode_chats(coder, forms), _encode_chats(coder, lookups)),
        corpus.digest(docs, [*chats, *forms, *lookups]),
    )


def _encode_text(coder: Tokenizer, texts: Sequence[str]) -> NDArray[np.uint16]:
    end = coder.token_to_id("<|endoftext|>")
    encoded = coder.encode_batch(list(texts))
    return np.array([token for one in encoded for token in (*one.ids, end)], dtype=np.uint16)


def _encode_chats(coder: Tokenizer, chats: Sequence[corpus.Chat]) -> list[tuple[list[int], int]]:
    prompts = []
    for system, user, _ in chats:
        head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        prompts.append(f"{head}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n")
    heads = coder.encode_batch(prompts)
    tails = coder.encode_batch([f"{answer}<|im_end|>" for *_, answer in chats])
    return [(a.ids + b.ids, len(a.ids)) for a, b in zip(heads, tails, strict=True) if len(a.ids) < 400]


def text_batch(material: Material, step: int) -> Tensor:
    """[windows, WINDOW + 1] token ids; stretches of one epoch do not overlap."""
    text, windows = material.text[min(1, stage(step).mixture)], stage(step).text_windows
    per_epoch = (len(text) - WINDOW - 1) // WINDOW
    rows = []
    for index in range(step * windows, (step + 1) * windows):
        epoch, place = divmod(index, per_epoch)
        rng = np.random.default_rng((SEED, epoch))
        start = int(rng.permutation(per_epoch)[place]) * WINDOW + int(rng.integers(WINDOW))
        start = min(start, len(text) - WINDOW - 1)
        rows.append(text[start : start + WINDOW + 1].astype(np.int64))
    return torch.from_numpy(np.stack(rows))


def text_loss(decoder: Decoder, batch: Tensor) -> Tensor:
    """Mean next-token loss of [B, L + 1] token ids."""
    rows, length = batch.shape[0], batch.shape[1] - 1
    positions = torch.arange(length).repeat(rows)
    hidden = decoder.hidden(batch[:, :-1].reshape(-1), positions, PackedAttention([length] * rows, CONFIG))
    return F.cross_entropy(decoder.logits(hidden).float(), batch[:, 1:].reshape(-1))


def copy_batch(material: Material, step: int) -> tuple[Tensor, Tensor]:
    """(token ids [windows, WINDOW + 1], whether each target can be known [windows, WINDOW]).

    Runs of random tokens of the text, each followed at once by its repetition.
    """
    rng = np.random.default_rng((SEED, 2, step))
    text = material.text[1]
    rows, known = [], []
    for _ in range(stage(step).copy_windows):
        tokens: list[int] = []
        repeated: list[bool] = []
        while len(tokens) <= WINDOW:
            run = text[rng.integers(len(text), size=int(rng.integers(6, 60)))].tolist()
            tokens += run + run
            repeated += [False] * (len(run) + 1) + [True] * (len(run) - 1)
        rows.append(tokens[: WINDOW + 1])
        known.append(repeated[1 : WINDOW + 1])
    return torch.tensor(rows), torch.tensor(known)


def copy_loss(decoder: Decoder, batch: Tensor, known: Tensor) -> Tensor:
    """Mean loss of the repeated tokens."""
    rows, length = batch.shape[0], batch.shape[1] - 1
    attention = PackedAttention([length] * rows, CONFIG)
    hidden = decoder.hidden(batch[:, :-1].reshape(-1), torch.arange(length).repeat(rows), attention)
    chosen = known.reshape(-1)
    return F.cross_entropy(decoder.logits(hidden[chosen]).float(), batch[:, 1:].reshape(-1)[chosen])


def chat_batch(material: Material, step: int) -> list[tuple[list[int], int]]:
    """Chats of about the stage's tokens, of similar length, in an order fixed by the step."""
    rng = np.random.default_rng((SEED, 1, step))
    chats = material.chats[stage(step).mixture]
    pool = [chats[int(i)] for i in rng.integers(len(chats), size=120)]
    pool.sort(key=lambda chat: len(chat[0]))
    start = int(rng.integers(len(pool)))
    chosen: list[tuple[list[int], int]] = []
    total = 0
    for chat in pool[start:] + pool[:start][::-1]:
        if total >= stage(step).chat_tokens:
            break
        chosen.append(chat)
        total += len(chat[0])
    return chosen


def chat_loss(decoder: Decoder, batch: Sequence[tuple[list[int], int]]) -> tuple[Tensor, Tensor]:
    """(training loss with weighted prompt tokens, mean loss of the answers alone)."""
    lengths = [len(tokens) - 1 for tokens, _ in batch]
    inputs = torch.tensor([token for tokens, _ in batch for token in tokens[:-1]])
    targets = torch.tensor([token for tokens, _ in batch for token in tokens[1:]])
    positions = torch.cat([torch.arange(length) for length in lengths])
    answer = torch.cat([torch.arange(1, len(tokens)) >= start for tokens, start in batch])
    hidden = decoder.hidden(inputs, positions, PackedAttention(lengths, CONFIG))
    losses = F.cross_entropy(decoder.logits(hidden).float(), targets, reduction="none")
    weights = torch.where(answer, 1.0, PROMPT_WEIGHT)
    return (losses * weights).sum() / weights.sum(), losses[answer].mean().detach()


def learning_rate(step: int, steps: int) -> float:
    """Warm-up, plateau, then linear decay over the last half; a fraction of the peak."""
    return min(1.0, (step + 1) / 100) * min(1.0, (steps - step) / (0.5 * steps))


def optimisers(decoder: Decoder) -> list[torch.optim.Optimizer]:
    """Muon (https://kellerjordan.github.io/posts/muon) for the layers' matrices, AdamW for the rest."""
    matrices = [p for p in decoder.model.layers.parameters() if p.ndim == 2]
    rest = [decoder.model.embed_tokens.weight, *(p for p in decoder.parameters() if p.ndim == 1)]
    return [
        torch.optim.Muon(matrices, lr=4e-3, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def run(data: Path, work: Path, steps: int) -> None:
    """Train to `steps`, resuming from work/state.safetensors where it exists."""
    work.mkdir(parents=True, exist_ok=True)
    material = prepare(data, work)
    size = {
        "digest": material.digest,
        "text_tokens": [len(text) for text in material.text],
        "chats": [len(chats) for chats in material.chats],
    }
    (work / "corpus.json").write_text(json.dumps(size))
    print(size, flush=True)
    torch.manual_seed(SEED)
    decoder = Decoder(CONFIG)
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 2:
            scale = 0.02 / (2 * CONFIG.layers) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            nn.init.normal_(parameter, std=scale)
    found = optimisers(decoder)
    peaks = [group["lr"] for one in found for group in one.param_groups]
    start = _restore(work, decoder, found)
    began = time.time()
    for step in range(start, steps):
        for one, peak in zip(found, peaks, strict=True):
            one.param_groups[0]["lr"] = peak * learning_rate(step, steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            text = text_loss(decoder, text_batch(material, step))
        text.backward()  # type: ignore[no-untyped-call]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            chat, answers = chat_loss(decoder, chat_batch(material, step))
        chat.backward()  # type: ignore[no-untyped-call]
        copied = None
        if stage(step).copy_windows:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                copied = copy_loss(decoder, *copy_batch(material, step))
            copied.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(decoder.parameters(), 2.0)
        for one in found:
            one.step()
            one.zero_grad(set_to_none=True)
        if (step + 1) % 20 == 0:
            entry = {
                "step": step + 1,
                "text_loss": round(text.item(), 4),
                "chat_loss": round(chat.item(), 4),
                "answer_loss": round(answers.item(), 4),
                "copy_loss": None if copied is None else round(copied.item(), 4),
                "grad_norm": round(norm.item(), 3),
                "seconds": round(time.time() - began, 1),
            }
            if (step + 1) % 100 == 0 or step + 1 == steps:
                entry["held_out_loss"] = round(_held_out(decoder, material), 4)
                _save(work, decoder, found, step + 1)
            with (work / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
            print(entry, flush=True)


@torch.no_grad()
def _held_out(decoder: Decoder, material: Material) -> float:
    rows = material.held_out[: 38 * WINDOW + 1].astype(np.int64)
    batches = [torch.from_numpy(rows[i * WINDOW : (i + 1) * WINDOW + 1])[None] for i in range(38)]
    return sum(text_loss(decoder, torch.cat(batches[i : i + 2])).item() for i in range(0, 38, 2)) / 19


def _save(work: Path, decoder: Decoder, found: Sequence[torch.optim.Optimizer], step: int) -> None:
    state = {f"model.{name}": p.detach().clone() for name, p in decoder.named_parameters()}
    for which, one in enumerate(found):
        for index, entry in one.state_dict()["state"].items():
            for key, value in entry.items():
                state[f"optimiser.{which}.{index}.{key}"] = torch.as_tensor(value).clone()
    state["step"] = torch.tensor(step)
    save_file(state, work / "state.new")
    (work / "state.new").replace(work / "state.safetensors")


def _restore(work: Path, decoder: Decoder, found: Sequence[torch.optim.Optimizer]) -> int:
    path = work / "state.safetensors"
    if not path.is_file():
        return 0
    state = load_file(path)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            parameter.copy_(state[f"model.{name}"])
    for which, one in enumerate(found):
        packed = one.state_dict()
        for name, value in state.items():
            kind, *where = name.split(".")
            if kind == "optimiser" and int(where[0]) == which:
                packed["state"].setdefault(int(where[1]), {})[where[2]] = value
        one.load_state_dict(packed)
    print(f"resumed at step {int(state['step'])}", flush=True)
    return int(state["step"])


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with openstax/ and stories/")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, logs and the result")
    parser.add_argument("--steps", type=int, default=3900)
    arguments = parser.parse_args()
    run(arguments.data, arguments.work, arguments.steps)


if __name__ == "__main__":
    main()
