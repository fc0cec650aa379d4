"""Are check, diagnosis, alignment and canaries right on a real base? Own adapters on it and on six variants of it.

    python bench/real_base.py [--base FOLDER] [--out runs/real_base] [--adapters DIR ...] [--full N]

The variants: fine-tuned further, rounded to 8 and 4 bits, with 5% noise (relatives), the same function with its hidden
units in another order, and the same shape drawn anew (strangers). Own adapters are trained on the shipped examples
unless folders of them are given (the first must have a passport); every one is aligned with every base, and the first N
are checked and diagnosed whole, with their passport and without. Lines are kept in OUT/results.jsonl: a run that was
stopped goes on. Ends with one line of key=value figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor

import lorica
from lorica.adapters.config import read_adapter_config
from lorica.adapters.header import read_header
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import map_tensors
from lorica.models.base_folder import BaseFolder
from lorica.models.packed_attention import PackedAttention
from lorica.models.weights import load_decoder
from lorica.prompts.encoder import Encoder
from lorica.vetting.base.alignment import align, collect_subspaces

Weights = dict[str, Tensor]
WEIGHTS_NAME = "model.safetensors"
STRANGERS = ("permuted", "reinitialised")
# The repository's own prose, to fine-tune on: nobody else's text is needed.
_TEXTS = sorted((Path(__file__).resolve().parents[1] / "docs").glob("*.md"))
_UPDATES, _RATE, _TOKENS = 40, 1e-4, 256
_EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "rules" / "posts.csv"
RECIPES = {
    "all-r8": ("lora.r=8", "lora.alpha=16", "lora.target_modules=all-linear", "training.learning_rate=1e-4"),
    "qv-r8": ("lora.r=8", "lora.alpha=16", "lora.target_modules=[q_proj,v_proj]", "training.learning_rate=2e-4"),
    "attention-r2": ("lora.r=2", "lora.alpha=4", "training.learning_rate=1e-4"),
    "all-r32": ("lora.r=32", "lora.alpha=32", "lora.target_modules=all-linear", "training.learning_rate=2e-5"),
}


def permuted(weights: Weights, head_dim: int) -> Weights:
    """The same function: coordinates of the residual stream, of each feed-forward layer and, inside heads, of values in
    another order."""
    generator = torch.Generator().manual_seed(5)
    hidden = weights["model.norm.weight"].shape[0]
    stream = torch.randperm(hidden, generator=generator)
    result: Weights = {}
    for name, weight in weights.items():
        if weight.ndim == 1 or name.rsplit(".", 2)[-2] in ("o_proj", "down_proj"):
            result[name] = weight[stream]
        else:
            result[name] = weight[:, stream]
    for prefix in {name.split("self_attn.")[0] for name in weights if "self_attn.v_proj" in name}:
        gate, up, down = (f"{prefix}mlp.{module}_proj.weight" for module in ("gate", "up", "down"))
        inner = torch.randperm(result[gate].shape[0], generator=generator)
        result[gate], result[up], result[down] = result[gate][inner], result[up][inner], result[down][:, inner]
        values, outputs = f"{prefix}self_attn.v_proj.weight", f"{prefix}self_attn.o_proj.weight"
        kv_heads, heads = result[values].shape[0] // head_dim, result[outputs].shape[1] // head_dim
        inside = [torch.randperm(head_dim, generator=generator) for _ in range(kv_heads)]
        group = heads // kv_heads
        result[values] = result[values][torch.cat([head * head_dim + inside[head] for head in range(kv_heads)])]
        order = torch.cat([head * head_dim + inside[head // group] for head in range(heads)])
        result[outputs] = result[outputs][:, order]
    return result


def rounded(weights: Weights, bits: int) -> Weights:
    """Every row of a matrix on `2^bits - 1` evenly spaced levels."""

    def on_levels(weight: Tensor) -> Tensor:
        step: Tensor = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        return torch.round(weight / step) * step

    return {name: on_levels(weight) if weight.ndim == 2 else weight for name, weight in weights.items()}


def with_noise(weights: Weights, share: float) -> Weights:
    """Each matrix with normal noise of `share` of its root mean square."""
    generator = torch.Generator().manual_seed(6)
    return {
        name: weight + share * weight.square().mean().sqrt() * torch.randn(weight.shape, generator=generator)
        if weight.ndim == 2
        else weight
        for name, weight in weights.items()
    }


def reinitialised(weights: Weights) -> Weights:
    """Matrices drawn anew."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(weight.shape, generator=generator) * 0.02 if weight.ndim == 2 else weight
        for name, weight in weights.items()
    }


def tuned(base: Path) -> Weights:
    """All weights trained further on the documentation."""
    decoder = load_decoder(BaseFolder(base), dtype=torch.float32).requires_grad_(True)
    encoder, optimizer = Encoder.load(base), torch.optim.AdamW(decoder.parameters(), lr=_RATE)
    for update in range(_UPDATES):
        text = _TEXTS[update % len(_TEXTS)].read_text("utf-8")
        tokens = torch.tensor(encoder.encode_choice(text[1500 * (update // len(_TEXTS)) :][:1500])[:_TOKENS])
        attention = PackedAttention([len(tokens)], decoder.config)
        logits = decoder.logits(decoder.hidden(tokens, torch.arange(len(tokens)), attention))
        torch.nn.functional.cross_entropy(logits[:-1], tokens[1:]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return {name: weight.detach() for name, weight in decoder.state_dict().items() if name != "lm_head.weight"}


def make_variants(base: Path, out: Path) -> dict[str, Path]:
    """Name -> folder of the base and its variants, those that are not there yet made."""
    weights = load_file(base / WEIGHTS_NAME)
    head_dim = BaseFolder(base).decoder_config.head_dim
    makers: dict[str, Callable[[], Weights]] = {
        "permuted": lambda: permuted(weights, head_dim),
        "reinitialised": lambda: reinitialised(weights),
        "tuned": lambda: tuned(base),
        "rounded-8": lambda: rounded(weights, 8),
        "rounded-4": lambda: rounded(weights, 4),
        "noise-5": lambda: with_noise(weights, 0.05),
    }
    folders = {"own": base}
    for name, make in makers.items():
        folders[name] = out / "bases" / name
        if not (folders[name] / WEIGHTS_NAME).is_file():
            folders[name].mkdir(parents=True, exist_ok=True)
            for file in base.iterdir():
                if file.suffix in (".json", ".jinja"):
                    shutil.copyfile(file, folders[name] / file.name)
            contents = {path: weight.contiguous() for path, weight in make().items()}
            save_file(contents, folders[name] / WEIGHTS_NAME, metadata={"format": "pt"})
    return folders


def train_adapters(base: Path, out: Path) -> list[Path]:
    """Own adapters of several ranks and targets after 40 updates, those that are not there yet trained."""
    folders = []
    for name, overrides in RECIPES.items():
        settings = ["training.batch_size=4", "training.gradient_accumulation_steps=1", "training.epochs=1"]
        settings += ["training.val_ratio=0", "training.max_seq_length=160", "training.resume=true"]
        config = dict(override.split("=", 1) for override in (*settings, *overrides))
        run = lorica.train(_first_rows(out, 160), out / "adapters" / name, task="rules", base=base, settings=config)
        folders += [result.folder for result in run.adapters.values()]
    return folders


def _first_rows(out: Path, count: int) -> Path:
    rows = out / "rows.csv"
    rows.parent.mkdir(parents=True, exist_ok=True)
    rows.write_text("\n".join(_EXAMPLES.read_text("utf-8").splitlines()[: count + 1]) + "\n", "utf-8")
    return rows


def without_passport(folder: Path, out: Path) -> Path:
    """A copy of the two files that make an adapter, as it may be downloaded."""
    bare = out / "bare" / adapter_name(folder)
    bare.mkdir(parents=True, exist_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text("utf-8")) | {"base_model_name_or_path": "base"}
    (bare / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    shutil.copyfile(folder / "adapter_model.safetensors", bare / "adapter_model.safetensors")
    return bare


def adapter_name(folder: Path) -> str:
    """Short and unique: the run's, and of a checkpoint its step."""
    names = [part for part in folder.resolve().parts if part not in ("rules", "checkpoints", "last")]
    return "-".join(names[-2:] if folder.name.startswith("step") else names[-1:])


def alignment_of(folder: Path, base: Path) -> dict[str, Any]:
    """Score, information and decision of one adapter on one base."""
    weights = folder / "adapter_model.safetensors"
    config, header = read_adapter_config(folder), read_header(weights)
    adapter = RawAdapter(
        name=folder.name, given=folder, kind="folder", folder=folder, weights=weights, config=config, header=header
    )
    result = align(adapter, map_tensors(header), collect_subspaces(base))
    return {"score": result.score, "information": result.information, "decided": result.decided}


def verdict_of(folder: Path, base: Path) -> dict[str, Any]:
    """What `lorica check` says of one adapter on one base."""
    (checked,) = lorica.check(folder, base=base).adapters
    canaries = [finding for finding in checked.findings if finding.code.startswith("L37")]
    return {
        "status": checked.status,
        "codes": [f"{finding.code} {finding.severity}" for finding in checked.findings if finding.severity != "note"],
        "canaries": [f"{finding.code} {finding.severity}: {finding.seen}" for finding in canaries],
    }


def diagnosis_of(folder: Path, base: Path) -> dict[str, Any]:
    """What `lorica diagnose` says of it, with its word of certainty."""
    diagnosis = lorica.diagnose(folder, base=base)
    return {"cause": diagnosis.cause, "title": diagnosis.title, "certainty": diagnosis.certainty}


def results(variants: dict[str, Path], adapters: list[Path], full: int, out: Path) -> Iterator[dict[str, Any]]:
    """One entry for each adapter on each base; those of an earlier run are read again."""
    log = out / "results.jsonl"
    done = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []
    entries = {(entry["base"], entry["adapter"], entry["work"]): entry for entry in done}
    for base_name, base in variants.items():
        works: list[tuple[str, Path, Callable[[Path, Path], dict[str, Any]]]] = []
        works += [("alignment", adapter, alignment_of) for adapter in adapters]
        for adapter in adapters[:full]:
            bare = without_passport(adapter, out)
            works += [("check", adapter, verdict_of), ("check-bare", bare, verdict_of)]
            works += [("diagnose", adapter, diagnosis_of), ("diagnose-bare", bare, diagnosis_of)]
        for work, adapter, ask in works:
            key = base_name, adapter_name(adapter), work
            if key not in entries:
                entries[key] = {"base": key[0], "adapter": key[1], "work": work} | ask(adapter, base)
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entries[key]) + "\n")
            yield entries[key]


def main() -> None:
    """Make what is missing, ask everything, and print the table and the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="a base as safetensors")
    parser.add_argument("--out", type=Path, default=Path("runs/real_base"))
    parser.add_argument("--adapters", type=Path, nargs="*", default=[])
    parser.add_argument("--full", type=int, default=1, help="adapters to check and diagnose whole")
    arguments = parser.parse_args()
    variants = make_variants(arguments.base, arguments.out)
    adapters = arguments.adapters or train_adapters(arguments.base, arguments.out)
    scores: dict[str, list[float]] = {}
    wrong = 0
    for entry in results(variants, adapters, arguments.full, arguments.out):
        print(" ".join(f"{key}={value}" for key, value in entry.items()), flush=True)
        if entry["work"] == "alignment":
            scores.setdefault(entry["base"], []).append(entry["score"])
            wrong += entry["decided"] == ("match" if entry["base"] in STRANGERS else "mismatch")
    related = [name not in STRANGERS for name, values in scores.items() for _ in values]
    auc = roc_auc_score(related, [score for values in scores.values() for score in values])
    spans = " ".join(
        f"{name}.lowest={min(values):.3g} {name}.highest={max(values):.3g}" for name, values in scores.items()
    )
    print(f"bench=real_base adapters={len(adapters)} alignment_auc={auc:.4f} wrong_decisions={wrong} {spans}")


if __name__ == "__main__":
    main()
