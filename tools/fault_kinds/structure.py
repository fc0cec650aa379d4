"""Seen kinds of parts 2 and 4: names, shapes, config and claims against each other; numbers. Found from files alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from tools.fault_kinds.bundle import Bundle, read_bundle
from tools.fault_kinds.case import Case, Kind, Site
from tools.fault_kinds.trained import trained

_QWEN = "Qwen/Qwen2.5-1.5B-Instruct"


def _edit(change: Callable[[Site, Bundle], None], *, targets: int = 1) -> Callable[[Site], Case]:
    def build(site: Site) -> Case:
        bundle, base = site.start(targets=targets)
        change(site, bundle)
        return Case(bundle.save(site.place / "adapter"), base)

    return build


def _from_training(name: str, seed: int, change: Callable[[Site, Bundle], None]) -> Callable[[Site], Case]:
    """From a healthy trained variant; there is one of each, on the base that its number says."""

    def build(site: Site) -> Case:
        base = ("S-a", "S-b", "S-a-tuned")[seed % 3]
        bundle = read_bundle(trained(name, base, seed))
        change(site, bundle)
        return Case(bundle.save(site.place / "adapter"), site.base(base))

    return build


def _renamed(pattern: str, to: str) -> Callable[[Site, Bundle], None]:
    def change(site: Site, bundle: Bundle) -> None:
        bundle.tensors = {re.sub(pattern, to, name, count=1): array for name, array in bundle.tensors.items()}

    return change


def _half_pairs(site: Site, bundle: Bundle) -> None:
    part = site.rng.choice(["lora_A", "lora_B"])
    names = bundle.names(part)
    for name in site.rng.sample(names, site.rng.randint(1, len(names) // 2)):
        del bundle.tensors[name]


def _layers_gone(site: Site, bundle: Bundle) -> None:
    gone = site.rng.choice([0, 1, 2])  # the last one's loss shows beside the base alone
    bundle.tensors = {name: array for name, array in bundle.tensors.items() if f".layers.{gone}." not in name}


def _target_dropped(site: Site, bundle: Bundle) -> None:
    bundle.config["target_modules"] = list(bundle.config["target_modules"])
    bundle.config["target_modules"].pop(site.rng.randrange(len(bundle.config["target_modules"])))


def _rank_changed(site: Site, bundle: Bundle) -> None:
    bundle.config["r"] = site.rng.choice([one for one in (4, 8, 16, 32, 64) if one != bundle.config["r"]])


def _pattern_lost(site: Site, bundle: Bundle) -> None:
    bundle.config["rank_pattern"] = {}


def _layers_limited(site: Site, bundle: Bundle) -> None:
    bundle.config["layers_to_transform"] = sorted(site.rng.sample(range(4), 2))
    bundle.config["layers_pattern"] = "layers"


def _method(site: Site, bundle: Bundle) -> None:
    """Tensors and config of another method."""
    which = ("IA3", "LOHA", "LOKR", "VERA", "PROMPT_TUNING")[site.seed % 5]
    bundle.config = {
        "peft_type": which,
        "base_model_name_or_path": bundle.config["base_model_name_or_path"],
        "target_modules": bundle.config["target_modules"],
        "r": bundle.config["r"],
        "task_type": "CAUSAL_LM",
    }
    if which == "PROMPT_TUNING":
        bundle.config |= {"num_virtual_tokens": 8, "token_dim": 128}
        bundle.tensors = {"prompt_embeddings": np.ones((8, 128), np.float32)}
        return
    parts = {
        "IA3": ("ia3_l", None), "LOHA": ("hada_w1_a", "hada_w1_b"), "LOKR": ("lokr_w1", "lokr_w2"),
        "VERA": ("vera_lambda_d", "vera_lambda_b"),
    }[which]  # fmt: skip
    made = {}
    for name, array in bundle.tensors.items():
        new = parts[0] if "lora_A" in name else parts[1]
        if new is not None:
            made[re.sub(r"lora_[AB]\.weight", new, name)] = array
    bundle.tensors = made


def _other_tool(site: Site, bundle: Bundle) -> None:
    """The tensors of MLX, AdapterHub or kohya under a PEFT config."""
    made = {}
    for name, array in bundle.tensors.items():
        bare = name.removeprefix("base_model.model.")
        if site.seed % 3 == 0:
            new, value = re.sub(r"lora_([AB])\.weight", lambda found: f"lora_{found[1].lower()}", bare), array.T
        elif site.seed % 3 == 1:
            new, value = re.sub(r"lora_([AB])\.weight", r"loras.task.lora_\1", bare), array
        else:
            path, part = bare.split(".lora_")
            new = "lora_te_" + path.replace(".", "_") + (".lora_down.weight" if part[0] == "A" else ".lora_up.weight")
            value = array
        made[new] = np.ascontiguousarray(value)
    bundle.tensors = made


def _claims_other(site: Site, bundle: Bundle) -> None:
    bundle.config["base_model_name_or_path"] = site.rng.choice(
        [_QWEN, "meta-llama/Llama-3.2-1B-Instruct", "mistralai/Mistral-7B-v0.3", "Qwen/Qwen3-4B", "google/gemma-2-2b"]
    )


def _card_differs(site: Site) -> Case:
    """The card names one base, the config another, the folder's name a third size: no shape can tell."""
    bundle, base = site.start()
    named, carded, folder = site.rng.choice(
        [
            ("meta-llama/Llama-2-7b-hf", "mistralai/Mistral-7B-v0.1", "news-7b"),
            ("Qwen/Qwen3-4B", "Qwen/Qwen2.5-1.5B", "rules-1.5b-lora"),
            ("google/gemma-2-2b", "google/gemma-2-9b", "gemma-2-9b-rules"),
        ]
    )
    bundle.config["base_model_name_or_path"] = named
    place = bundle.save(site.place / folder)
    (place / "README.md").write_text(f"---\nbase_model: {carded}\nlibrary_name: peft\n---\n# Rules\n", "utf-8")
    return Case(place, base)


def _numbers(value: float) -> Callable[[Site, Bundle], None]:
    def change(site: Site, bundle: Bundle) -> None:
        for name in site.rng.sample(sorted(bundle.tensors), site.rng.randint(1, 3)):
            array = bundle.tensors[name]
            for _ in range(site.rng.randint(1, 20)):
                array[site.rng.randrange(array.shape[0]), site.rng.randrange(array.shape[1])] = value

    return change


def _b_times(factor: float) -> Callable[[Site, Bundle], None]:
    def change(site: Site, bundle: Bundle) -> None:
        for name in bundle.names("lora_B"):
            bundle.tensors[name] = bundle.tensors[name] * np.float32(factor)

    return change


def _constant(site: Site, bundle: Bundle) -> None:
    part = site.rng.choice(["lora_A", "lora_B"])
    for name in bundle.names(part):
        bundle.tensors[name] = np.full_like(bundle.tensors[name], 0.01)


def _saturated(site: Site, bundle: Bundle) -> None:
    limit = np.float32(np.abs(np.concatenate([one.ravel() for one in bundle.tensors.values()])).mean() / 2)
    for name in bundle.names("lora_B"):
        bundle.tensors[name] = np.where(bundle.tensors[name] >= 0, 65504, -65504).astype(np.float32) * (limit > 0)


def _layer_outlier(site: Site, bundle: Bundle) -> None:
    name = site.rng.choice(bundle.names("lora_B"))
    bundle.tensors[name] = bundle.tensors[name] * np.float32(site.rng.choice([300, 1000, 3000]))


def _layer_copied(site: Site, bundle: Bundle) -> None:
    for name in bundle.tensors:
        bundle.tensors[name] = bundle.tensors[re.sub(r"\.layers\.\d+\.", ".layers.0.", name)].copy()


def _drop(part: str) -> Callable[[Site, Bundle], None]:
    def change(site: Site, bundle: Bundle) -> None:
        bundle.tensors = {name: array for name, array in bundle.tensors.items() if part not in name}

    return change


def _set(key: str, value: object) -> Callable[[Site, Bundle], None]:
    def change(site: Site, bundle: Bundle) -> None:
        bundle.config[key] = value

    return change


def _kind(name: str, truth: str, build: Callable[[Site], Case], *causes: str) -> Kind:
    return Kind(name, "files", truth, build, causes=frozenset(causes))


_WRAPPERS = ("base_model.model.language_model.", "base_model.model.model.model.", "", "_orig_mod.base_model.model.")


def _wrapped(site: Site, bundle: Bundle) -> None:
    old = r"^base_model\.model\.model\." if site.seed % 4 == 1 else r"^base_model\.model\."
    _renamed(old, _WRAPPERS[site.seed % 4])(site, bundle)


# Edits of the config are "altered" as well as what they lead to. A claim about the base is the wrong base's: what the
# shapes refute is a wrong size; of equal shapes, either.
KINDS = (
    _kind("half-pairs", "A or B of some modules is gone", _edit(_half_pairs), "incomplete"),
    _kind("layer-missing", "one layer's tensors are gone", _edit(_layers_gone), "incomplete"),
    _kind("target-dropped", "a target is gone from the config",
          _edit(_target_dropped, targets=2), "not_applied", "altered"),
    _kind("rank-changed", "r is not the tensors'", _edit(_rank_changed), "altered"),
    _kind("rank-pattern-lost", "rank_pattern is gone", _from_training("rank-pattern", 10, _pattern_lost), "altered"),
    _kind("layers-limited", "layers_to_transform leaves trained layers out",
          _edit(_layers_limited), "not_applied", "altered"),
    _kind("wrapper-prefix", "a wrapper's prefix, or none", _edit(_wrapped), "not_applied"),
    _kind("adapter-in-names", "the adapter's name in names",
          _edit(_renamed(r"\.weight$", ".default.weight")), "not_applied"),
    _kind("other-method", "an adapter of another method", _edit(_method), "unsupported"),
    _kind("other-tool", "tensors as another tool writes them", _edit(_other_tool), "unsupported", "not_applied"),
    _kind("named-other-base", "the named base has other widths", _edit(_claims_other), "wrong_size"),
    _kind("claims-conflict", "config, card and folder name different bases", _card_differs, "wrong_size", "wrong_base"),
    _kind("dora-magnitudes-lost", "use_dora without magnitudes",
          _from_training("dora", 8, _drop("magnitude")), "incomplete", "altered"),
    _kind("dora-flag-lost", "magnitudes without use_dora",
          _from_training("dora", 8, _set("use_dora", False)), "altered", "incomplete"),
    _kind("saved-module-lost", "modules_to_save without tensors",
          _from_training("head-saved", 13, _drop("norm.weight")), "incomplete"),
    _kind("saved-not-named", "tensors of modules_to_save, which the config does not name",
          _from_training("head-saved", 13, _set("modules_to_save", None)), "altered", "not_applied"),
    _kind("nan", "NaN in some tensors", _edit(_numbers(float("nan"))), "broken_weights"),
    _kind("infinite", "infinity in some tensors", _edit(_numbers(float("inf"))), "broken_weights"),
    _kind("zero-b", "all of B is zero", _edit(_b_times(0.0)), "no_effect"),
    _kind("near-zero-b", "B is next to zero", _edit(_b_times(1e-9)), "no_effect", "under_scaled"),
    _kind("constant", "a factor is constant", _edit(_constant), "broken_weights"),
    _kind("saturated", "B stands at the limits of float16", _edit(_saturated), "broken_weights", "over_scaled"),
    _kind("layer-outlier", "one module is far larger", _edit(_layer_outlier), "broken_weights", "over_scaled"),
    _kind("layers-copied", "all layers are the first's copy", _edit(_layer_copied), "broken_weights"),
)  # fmt: skip
