"""Unseen kinds of the second round: the base is in another form than the adapter's. Found with the base, without rows.

Written before their author had read a check or any result; the right causes are argued in each docstring. A base that
no longer predicts plain text shows that by itself, and one in another basis shows by where the adapter's rows point.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tools.fault_kinds.base_copy import Weights, copy_base
from tools.fault_kinds.case import Case, Kind, Site

Config = dict[str, Any]


def vocabulary_resized(site: Site) -> Case:
    """Trained on a base with added or padded tokens; the whole embedding was saved with the adapter and does not fit.

    The tokenizer of training had other tokens; by shape, the base has another size.
    """
    bundle, base = site.start()
    own = load_file(base / "model.safetensors")["model.embed_tokens.weight"].float()
    more = site.rng.choice([1, 2, 8, 64, 256])
    fresh = torch.randn((more, own.shape[1]), generator=torch.Generator().manual_seed(site.seed)) * own.std()
    bundle.tensors["base_model.model.model.embed_tokens.weight"] = torch.cat([own, fresh]).numpy()
    bundle.config["modules_to_save"] = ["embed_tokens"]
    return Case(bundle.save(site.place / "adapter"), base)


def averaged(site: Site) -> Case:
    """A merge by averaging: the base's weights and those of an unrelated model of equal shapes, 35 to 65%.

    Neither the base nor a working relative of it: wrong base, or wrong variant of it.
    """
    bundle, base = site.start()
    other = load_file(site.base("S-b" if base.name != "S-b" else "S-a") / "model.safetensors")
    share = site.rng.uniform(0.35, 0.65)

    def mix(own: Weights) -> Weights:
        return {
            name: (one.float() * share + other[name].float() * (1 - share)).to(one.dtype) for name, one in own.items()
        }

    return _on(site, bundle.save(site.place / "adapter"), base, mix)


def rotated(site: Site) -> Case:
    """Rotated for quantisation (QuaRot, SpinQuant): norms folded in and the hidden space turned by an orthogonal
    matrix. The base answers as before; an adapter for the unturned base acts in a wrong basis.

    Its hidden space is unrelated to that of training (wrong base); it descends from the right one (wrong variant).
    """
    bundle, base = site.start()
    generator = torch.Generator().manual_seed(site.seed)
    turn = torch.linalg.qr(torch.randn((128, 128), generator=generator))[0]

    def change(own: Weights) -> Weights:
        made: Weights = {}
        for name, one in own.items():
            tensor = one.float()
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
                tensor = tensor * own[_norm(name, "input_layernorm")].float() @ turn
            elif name.endswith(("gate_proj.weight", "up_proj.weight")):
                tensor = tensor * own[_norm(name, "post_attention_layernorm")].float() @ turn
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                tensor = turn.T @ tensor
            elif name == "model.embed_tokens.weight":
                made["lm_head.weight"] = (tensor * own["model.norm.weight"].float() @ turn).to(one.dtype)
                tensor = tensor @ turn
            else:
                tensor = torch.ones_like(tensor)
            made[name] = tensor.to(one.dtype)
        return made

    def say(values: Config) -> None:
        values["tie_word_embeddings"] = False

    return _on(site, bundle.save(site.place / "adapter"), base, change, say)


def _norm(name: str, which: str) -> str:
    return re.sub(r"(\.layers\.\d+)\..*", rf"\1.{which}.weight", name)


def norms_offset(site: Site) -> Case:
    """Converted by the rule of Gemma, whose norms are stored as their difference from 1; this family's are not.

    The base is broken: to its user, it is not the adapter's base, or not that variant of it.
    """
    bundle, base = site.start()
    step = site.rng.choice([-1.0, 1.0])

    def change(own: Weights) -> Weights:
        return {
            name: (one.float() + step).to(one.dtype) if name.endswith("norm.weight") else one
            for name, one in own.items()
        }

    return _on(site, bundle.save(site.place / "adapter"), base, change)


def rotary_order(site: Site) -> Case:
    """Converted back from GGUF or Meta's format without undoing the order of rotary channels in q and k.

    As above: the base is broken, and it is another base or variant than in training.
    """
    bundle, base = site.start()
    which = site.rng.choice([("q_proj", "k_proj"), ("q_proj", "k_proj"), ("k_proj",)])

    def change(own: Weights) -> Weights:
        for name, one in own.items():
            if name.endswith(tuple(f"{part}.weight" for part in which)):
                heads = one.shape[0] // 32
                own[name] = one.reshape(heads, 2, 16, one.shape[1]).transpose(1, 2).reshape(one.shape)
        return own

    return _on(site, bundle.save(site.place / "adapter"), base, change)


def stacked(site: Site) -> Case:
    """A depth-upscaled relative (a "passthrough" merge): the base's own layers, some of them repeated.

    It has more layers than the adapter's base (wrong size), and it is made from it (wrong variant).
    """
    bundle, base = site.start()
    order = site.rng.choice([[0, 1, 2, 1, 2, 3], [0, 1, 2, 3, 2, 3], [0, 1, 1, 2, 3], [0, 0, 1, 1, 2, 2, 3, 3]])

    def change(own: Weights) -> Weights:
        made = {name: one for name, one in own.items() if ".layers." not in name}
        for new, old in enumerate(order):
            mark = f".layers.{old}."
            made |= {name.replace(mark, f".layers.{new}."): one.clone() for name, one in own.items() if mark in name}
        return made

    def say(values: Config) -> None:
        values["num_hidden_layers"] = len(order)

    return _on(site, bundle.save(site.place / "adapter"), base, change, say)


def wrapped(site: Site) -> Case:
    """The base is the multimodal model that has this language model inside: every path is longer by a component.

    The adapter's names match nothing there; or: take the language model alone, which is the right base.
    """
    bundle, base = site.start()
    kind, architecture, prefix = site.rng.choice(
        [
            ("llava", "LlavaForConditionalGeneration", "language_model."),
            ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", "model.language_model."),
            ("mllama", "MllamaForConditionalGeneration", "language_model."),
        ]
    )

    def change(own: Weights) -> Weights:
        bare = "model." if prefix.startswith("model.") else ""
        made = {prefix + name.removeprefix(bare): one for name, one in own.items()}
        eye = torch.randn((64, 3, 14, 14), generator=torch.Generator().manual_seed(site.seed)) * 0.02
        return made | {"model.visual.patch_embed.proj.weight": eye.to(torch.bfloat16)}

    def say(values: Config) -> None:
        inner = {key: value for key, value in values.items() if value is not None}
        values.clear()
        values |= {
            "architectures": [architecture],
            "model_type": kind,
            "text_config": inner,
            "vision_config": {"hidden_size": 64, "num_attention_heads": 4, "patch_size": 14, "image_size": 224},
            "torch_dtype": "bfloat16",
        }

    return _on(site, bundle.save(site.place / "adapter"), base, change, say)


def fused(site: Site) -> Case:
    """The base was converted to a layout with q, k, v in one matrix and gate, up in another, as Phi-3's.

    The adapter's q_proj, v_proj, gate_proj, up_proj are not there; to its user, it is another base.
    """
    bundle, base = site.start()

    def change(own: Weights) -> Weights:
        made = {name: one for name, one in own.items() if not re.search(r"\.(q|k|v|gate|up)_proj\.", name)}
        for layer in range(4):
            path = f"model.layers.{layer}"
            parts = [own[f"{path}.self_attn.{one}_proj.weight"] for one in "qkv"]
            made[f"{path}.self_attn.qkv_proj.weight"] = torch.cat(parts)
            made[f"{path}.mlp.gate_up_proj.weight"] = torch.cat(
                [own[f"{path}.mlp.{one}_proj.weight"] for one in ("gate", "up")]
            )
        return made

    def say(values: Config) -> None:
        values.update({"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]})

    return _on(site, bundle.save(site.place / "adapter"), base, change, say)


def _on(
    site: Site,
    adapter: Path,
    base: Path,
    weights: Callable[[Weights], Weights],
    config: Callable[[Config], None] | None = None,
) -> Case:
    return Case(adapter, copy_base(base, site.place / "base", weights=weights, config=config))


def _kind(name: str, truth: str, build: Callable[[Site], Case], *causes: str) -> Kind:
    return Kind(f"wild-{name}", "base", truth, build, unseen=True, causes=frozenset(causes))


KINDS = (
    _kind("vocabulary-resized", "its saved embedding has more tokens than the base",
          vocabulary_resized, "tokenizer_mismatch", "wrong_size"),
    _kind("base-averaged", "the base is an average with an unrelated model", averaged, "wrong_base", "wrong_revision"),
    _kind("base-rotated", "the base's hidden space is turned", rotated, "wrong_base", "wrong_revision"),
    _kind("base-norms-offset", "the base's norms are off by one", norms_offset, "wrong_base", "wrong_revision"),
    _kind("base-rotary-order", "the base's rotary channels are in another order",
          rotary_order, "wrong_base", "wrong_revision"),
    _kind("base-stacked", "the base repeats some of its layers", stacked, "wrong_size", "wrong_revision"),
    _kind("base-wrapped", "the base is inside a multimodal model", wrapped, "not_applied", "wrong_base", "wrong_size"),
    _kind("base-fused", "the base has fused projections", fused, "not_applied", "wrong_base", "wrong_size"),
)  # fmt: skip
