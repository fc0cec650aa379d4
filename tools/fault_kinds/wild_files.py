"""Unseen kinds of the second round: what trainers, savers and converters leave in an adapter's folder.

Written before their author had read a check, a code, a hypothesis' experiments or any result. Each is told of in the
issues of PEFT, TRL, DeepSpeed, vLLM, Unsloth, MLX or llama.cpp. The folder alone suffices to recognise them. The right
causes stand in KINDS and are argued in each docstring.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np

from tools.fault_kinds.bundle import WEIGHTS, Bundle, Floats, Raw, encode, write_config, write_tensors
from tools.fault_kinds.case import Case, Kind, Site


def scale_of(config: dict[str, object]) -> float:
    """lora_alpha / r, or lora_alpha / sqrt(r) with rsLoRA."""
    rank = float(config["r"])  # type: ignore[arg-type]
    return float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)  # type: ignore[arg-type]


def partitioned_away(site: Site) -> Case:
    """DeepSpeed ZeRO-3 without gathering: tensors of shape [0], or a file of no tensors at all.

    The values are lost: parts are missing, and what there is is no adapter that can be read.
    """
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    names = sorted(bundle.tensors)
    gone = set(names if site.seed % 2 else site.rng.sample(names, len(names) // 2))
    tensors: dict[str, Raw] = {}
    for name, array in bundle.tensors.items():
        tensors[name] = ("F32", (0,), b"") if name in gone else encode(array, "F32")
    write_tensors(folder / WEIGHTS, {} if site.seed % 3 == 0 else tensors)
    return Case(folder, base)


def flat_shard(site: Site) -> Case:
    """FSDP's local state dict: every tensor is flat, and one worker's part of it alone.

    A part is missing, and no reader knows a factor of one dimension.
    """
    bundle, base = site.start()
    workers = site.rng.choice([2, 4])
    mine = site.rng.randrange(workers)
    bundle.tensors = {
        name: np.ascontiguousarray(np.array_split(array.ravel(), workers)[mine])
        for name, array in bundle.tensors.items()
    }
    return Case(bundle.save(site.place / "adapter"), base)


def full_difference(site: Site) -> Case:
    """An extractor wrote tuned minus base for every module, and never decomposed it to low rank.

    It is another kind of adapter than its config says; a loader of LoRA drops all of it.
    """
    bundle, base = site.start()
    ending = site.rng.choice(["diff", "delta", "weight", "lora_delta.weight"])
    scale = np.float32(scale_of(bundle.config))
    bundle.tensors = {
        f"{module}.{ending}": scale
        * (bundle.tensors[f"{module}.lora_B.weight"] @ bundle.tensors[f"{module}.lora_A.weight"])
        for module in bundle.modules()
    }
    return Case(bundle.save(site.place / "adapter"), base)


_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def fused_names(site: Site) -> Case:
    """A server's layout: q, k, v in one qkv_proj, gate and up in one; the config still names the single ones.

    The names lead nowhere in the base that the config means; or it is an adapter for another layout.
    """
    bundle, base = site.start()
    made: dict[str, Floats] = {}
    left = set(bundle.modules())
    for module in bundle.modules():
        path, _, last = module.rpartition(".")
        whole = next((new for new, parts in _FUSED.items() if last in parts), "")
        if not whole or module not in left:
            continue
        some = [f"{path}.{part}" for part in _FUSED[whole] if f"{path}.{part}" in left]
        left -= set(some)
        firsts = [bundle.tensors[f"{one}.lora_A.weight"] for one in some]
        seconds = [bundle.tensors[f"{one}.lora_B.weight"] for one in some]
        ranks = [one.shape[0] for one in firsts]
        second = np.zeros((sum(one.shape[0] for one in seconds), sum(ranks)), np.float32)
        row = column = 0
        for one, rank in zip(seconds, ranks, strict=True):
            second[row : row + one.shape[0], column : column + rank] = one
            row, column = row + one.shape[0], column + rank
        made |= {f"{path}.{whole}.lora_A.weight": np.concatenate(firsts), f"{path}.{whole}.lora_B.weight": second}
    kept = {name: array for name, array in bundle.tensors.items() if name.split(".lora_")[0] in left}
    bundle.tensors = made | kept
    return Case(bundle.save(site.place / "adapter"), base)


def wrapper_inside(site: Site) -> Case:
    """A wrapper's name in the middle of every path: activation checkpointing, FSDP, regional compiling, an adapter
    put upon an adapter. Loaders that look for the plain path drop them all."""
    bundle, base = site.start()
    pattern, new = site.rng.choice(
        [
            (r"(\.layers\.\d+)\.", r"\1._checkpoint_wrapped_module."),
            (r"(\.layers\.\d+)\.", r"\1._fsdp_wrapped_module."),
            (r"(\.layers\.\d+)\.", r"\1._orig_mod."),
            (r"(_proj)\.", r"\1.base_layer."),
            (r"(_proj)\.", r"\1.linear."),
        ]
    )
    bundle.tensors = {re.sub(pattern, new, name, count=1): array for name, array in bundle.tensors.items()}
    return Case(bundle.save(site.place / "adapter"), base)


def mlx_config(site: Site) -> Case:
    """The tensors were converted from MLX to PEFT's names and layout; adapter_config.json is still MLX's.

    By its config it is another tool's adapter, or no PEFT config at all.
    """
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    config = {
        "adapter_path": "adapters",
        "batch_size": site.rng.choice([1, 2, 4]),
        "fine_tune_type": "lora",
        "iters": site.rng.randint(100, 2000),
        "lora_parameters": {"rank": bundle.config["r"], "scale": scale_of(bundle.config), "dropout": 0.0},
        "model": bundle.config["base_model_name_or_path"],
        "num_layers": 4,
    }
    write_config(folder, config)
    return Case(folder, base)


def relabelled_adalora(site: Site) -> Case:
    """An AdaLoRA adapter (A, B and singular values E) whose config was made to say LORA, so that a server takes it.

    Another method; its E and its names without .weight are not applied; and the config was edited.
    """
    bundle, base = site.start()
    made: dict[str, Floats] = {}
    for module in bundle.modules():
        first, second = (bundle.tensors[f"{module}.lora_{part}.weight"] for part in "AB")
        values = site.numbers.uniform(0.05, 2.0, (first.shape[0], 1)).astype(np.float32)
        made |= {f"{module}.lora_A": first / values, f"{module}.lora_B": second, f"{module}.lora_E": values}
    bundle.tensors = made
    return Case(bundle.save(site.place / "adapter"), base)


def packed_four_bits(site: Site) -> Case:
    """Saved from a model quantised as a whole: the factors are packed 4-bit numbers with their scales beside them.

    Whole and consistent, but of a kind that no loader of adapters reads.
    """
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    which = site.rng.choice(["nf4", "fp4"])
    levels = np.linspace(-1, 1, 16).astype(np.float32)
    state = np.frombuffer(json.dumps({"quant_type": which, "blocksize": 64, "dtype": "bfloat16"}).encode(), np.uint8)
    tensors: dict[str, Raw] = {}
    for name, array in bundle.tensors.items():
        blocks = array.reshape(-1, 64)
        most = np.maximum(np.abs(blocks).max(axis=1), 1e-12)
        near = np.abs((blocks / most[:, None])[..., None] - levels).argmin(axis=-1).astype(np.uint8).ravel()
        packed = (near[0::2] << 4) | near[1::2]
        tensors[name] = ("U8", (packed.size, 1), packed.tobytes())
        tensors[f"{name}.absmax"] = encode(most.astype(np.float32), "F32")
        tensors[f"{name}.quant_map"] = encode(levels, "F32")
        tensors[f"{name}.quant_state.bitsandbytes__{which}"] = ("U8", state.shape, state.tobytes())
    write_tensors(folder / WEIGHTS, tensors)
    return Case(folder, base)


def two_in_one_file(site: Site) -> Case:
    """A preference trainer saved the policy's adapter and the reference's in one file, by their names.

    No loader takes such names; or: a file of two adapters is not what is supported.
    """
    bundle, base = site.start()
    second = site.rng.choice(["reference", "ref", "old_policy"])
    made: dict[str, Floats] = {}
    for name, array in bundle.tensors.items():
        moved = array + site.numbers.normal(0, array.std() * 0.1 + 1e-6, array.shape).astype(np.float32)
        made[name.replace(".weight", ".default.weight")] = array
        made[name.replace(".weight", f".{second}.weight")] = moved
    bundle.tensors = made
    return Case(bundle.save(site.place / "adapter"), base)


def alphas_left_over(site: Site) -> Case:
    """Converted from kohya's format: each module's alpha is still a tensor, the config has the converter's default.

    The tensors contradict the config's scaling, whichever way; and a tensor of alpha is not applied by loaders.
    """
    bundle, base = site.start()
    true = np.float32(bundle.config["lora_alpha"])
    bundle.config["lora_alpha"] = site.rng.choice([one for one in (1, 2, 8, 64, 128) if one != int(true)])
    for module in bundle.modules():
        bundle.tensors[f"{module}.alpha"] = np.array(true, np.float32)
    return Case(bundle.save(site.place / "adapter"), base)


_GGUF = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_names(site: Site) -> Case:
    """llama.cpp's names in safetensors: read from a GGUF adapter and written as they were.

    Another tool's adapter; its names are not applied.
    """
    bundle, base = site.start()
    made: dict[str, Floats] = {}
    for name, array in bundle.tensors.items():
        found = re.search(r"layers\.(\d+)\.(.+)\.lora_([AB])\.weight", name)
        assert found is not None
        made[f"blk.{found[1]}.{_GGUF[found[2]]}.weight.lora_{found[3].lower()}"] = array
    bundle.tensors = made
    return Case(bundle.save(site.place / "adapter"), base)


def read_scale(bundle: Bundle) -> np.float32:
    """The factor on B @ A of an adapter without patterns."""
    return np.float32(scale_of(bundle.config))


def _kind(name: str, truth: str, build: Callable[[Site], Case], *causes: str) -> Kind:
    return Kind(f"wild-{name}", "files", truth, build, unseen=True, causes=frozenset(causes))


KINDS = (
    _kind("zero3-empty", "tensors were saved without their values", partitioned_away, "incomplete", "unreadable"),
    _kind("fsdp-flat", "one worker's flat part of every tensor",
          flat_shard, "incomplete", "unreadable", "unsupported"),
    _kind("full-difference", "whole differences of weights, no factors", full_difference, "unsupported", "not_applied"),
    _kind("fused-names", "q, k, v and gate, up are fused, the config's are not",
          fused_names, "not_applied", "unsupported"),
    _kind("wrapper-inside", "a wrapper's name inside every path", wrapper_inside, "not_applied"),
    _kind("mlx-config", "MLX's config beside PEFT's tensors", mlx_config, "unsupported", "unreadable"),
    _kind("relabelled-adalora", "AdaLoRA, and its config says LoRA",
          relabelled_adalora, "unsupported", "not_applied", "altered"),
    _kind("packed-4bit", "factors are packed 4-bit numbers", packed_four_bits, "unsupported", "unreadable"),
    _kind("two-in-one", "two adapters in one file", two_in_one_file, "not_applied", "unsupported"),
    _kind("alphas-left", "tensors of alpha contradict the config",
          alphas_left_over, "altered", "over_scaled", "under_scaled", "unsupported"),
    _kind("gguf-names", "llama.cpp's names", gguf_names, "unsupported", "not_applied"),
)  # fmt: skip
