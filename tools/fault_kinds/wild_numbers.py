"""Unseen kinds of the second round: merges, prunings and conversions that leave a plausible adapter that acts wrongly.

Written before their author had read a check or any result; found with the base and labelled rows. The right causes are
argued in each docstring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from tools import zoo
from tools.fault_kinds.bundle import Bundle, Floats, read_bundle
from tools.fault_kinds.case import BASES, Case, Kind, Site
from tools.fault_kinds.trained import trained
from tools.fault_kinds.wild_files import read_scale

# Trained for other kinds with the same ranks and targets.
_FURTHER = {"S-a": (("few-steps", 21),), "S-b": (("regex", 4), ("gaussian-start", 19), ("many-epochs", 22))}


def _folds(site: Site) -> tuple[list[Bundle], Path]:
    """(three or more runs with one rank and one set of targets on a base or its relatives, the base's own first; the
    base)."""
    start = BASES[site.seed % len(BASES)]
    family = "S-b" if start == "S-b" else "S-a"
    known = [one for one in zoo.adapters() if one.rank == 8 and set(one.targets) == {"q_proj", "v_proj"}]
    kin = [one for one in known if one.base.startswith(family)]
    site.used = next(one for one in kin if one.base == start)
    rest = [one.folder for one in kin if one != site.used]
    rest += [trained(plan, family, seed) for plan, seed in _FURTHER[family]]
    chosen = [site.used.folder, *site.rng.sample(rest, site.rng.randint(2, len(rest)))]
    return [read_bundle(folder) for folder in chosen], site.base(start)


def averaged_factors(site: Site) -> Case:
    """Folds merged by averaging A with A and B with B: the mean of products is not the product of means.

    What is left of each run's update is about 1/n of its share (too small), and the rest is a mixture that no run
    learned (broken).
    """
    bundles, base = _folds(site)
    mean = bundles[0]
    for name in mean.tensors:
        mean.tensors[name] = np.mean([one.tensors[name] for one in bundles], axis=0).astype(np.float32)
    return _saved(site, mean, base)


def summed_rslora(site: Site) -> Case:
    """PEFT's add_weighted_adapter (combination "cat", weights of 1) on folds with rsLoRA: scales are baked into B, r
    and alpha become the sum of ranks, and use_rslora is copied, so that the update is the folds' sum, not their mean,
    times the root of the new rank: far too large."""
    bundles, base = _folds(site)
    merged = bundles[0]
    rank = sum(int(one.config["r"]) for one in bundles)
    for name in sorted(merged.tensors):
        axis = 0 if ".lora_A." in name else 1
        parts = [one.tensors[name] * (1 if axis == 0 else read_scale(one)) for one in bundles]
        merged.tensors[name] = np.ascontiguousarray(np.concatenate(parts, axis=axis))
    merged.config |= {"r": rank, "lora_alpha": rank, "use_rslora": True}
    return _saved(site, merged, base)


def principal_parts(site: Site) -> Case:
    """A PiSSA adapter that was not converted to LoRA: it holds the principal part of each weight, too, and is meant
    for the base without that part. On the whole base, that part counts twice.

    The update is far too large; the base is not the one it was trained on, but a relative of it.
    """
    bundle, base = site.start()
    own = load_file(base / "model.safetensors")
    scale = read_scale(bundle)
    for module in bundle.modules():
        weight = own[module.removeprefix("base_model.model.") + ".weight"].float()
        first, second = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        rank = bundle.tensors[first].shape[0]
        left, size, right = torch.linalg.svd(weight, full_matrices=False)
        root = size[:rank].sqrt()
        principal = (left[:, :rank] * root).numpy() / scale
        bundle.tensors[first] = np.concatenate([(root[:, None] * right[:rank]).numpy(), bundle.tensors[first]])
        bundle.tensors[second] = np.ascontiguousarray(np.concatenate([principal, bundle.tensors[second]], axis=1))
    grown = 2**0.5 if bundle.config.get("use_rslora") else 2  # the scale stays as it was
    bundle.config |= {"r": bundle.config["r"] * 2, "lora_alpha": bundle.config["lora_alpha"] * grown}
    return Case(bundle.save(site.place / "adapter"), base)


def layers_down_by_one(site: Site) -> Case:
    """Renumbered for a base without its first block, or by a converter that counts from 1: layer k's tensors stand at
    k - 1, the first layer's are lost, and the last layer has none.

    Its tensors do not lead to their layers (not applied where they should be); a layer is missing; from outside, it is
    an adapter for a base of fewer layers.
    """
    bundle, base = site.start()
    lost = site.rng.choice([1, 1, 2])
    made: dict[str, Floats] = {}
    for name, array in bundle.tensors.items():
        layer = int(name.split(".layers.")[1].split(".")[0])
        if layer >= lost:
            made[name.replace(f".layers.{layer}.", f".layers.{layer - lost}.")] = array
    return _saved(site, replace(bundle, tensors=made), base)


def heads_in_order_of_workers(site: Site) -> Case:
    """Gathered from tensor-parallel workers in the wrong order: blocks of output channels have each other's places,
    in every B alike. Its values are garbled."""
    bundle, base = site.start()
    workers = site.rng.choice([2, 4])
    order = list(range(workers))
    while order == sorted(order):
        site.rng.shuffle(order)
    for name in bundle.names("lora_B"):
        parts = np.split(bundle.tensors[name], workers)
        bundle.tensors[name] = np.concatenate([parts[i] for i in order])
    return _saved(site, bundle, base)


def rank_order(site: Site) -> Case:
    """A tool that trims ranks sorted the rows of A by their size, and not the columns of B.

    Every pair's halves do not belong together: its values are garbled.
    """
    bundle, base = site.start()
    for name in bundle.names("lora_A"):
        order = np.argsort(-np.linalg.norm(bundle.tensors[name], axis=1))
        if (order == np.arange(order.size)).mean() > 0.5:  # sorted already
            order = np.roll(order, 1 + site.rng.randrange(order.size - 1))
        bundle.tensors[name] = np.ascontiguousarray(bundle.tensors[name][order])
    return Case(bundle.save(site.place / "adapter"), base)


def dropped_unscaled(site: Site) -> Case:
    """DARE on each factor, and what is kept was not scaled up: 80 to 95% of the numbers are zero.

    A part of the weights is gone (broken), and what is left is an update far too small, down to none.
    """
    share = site.rng.uniform(0.8, 0.95)
    return _each(site, lambda array: array * (site.numbers.random(array.shape) > share))


def _each(site: Site, change: Callable[[Floats], Floats]) -> Case:
    bundle, base = site.start()
    made = {name: change(array).astype(np.float32) for name, array in bundle.tensors.items()}
    return _saved(site, replace(bundle, tensors=made), base)


def _saved(site: Site, bundle: Bundle, base: Path) -> Case:
    return Case(bundle.save(site.place / "adapter"), base)


def _kind(name: str, truth: str, build: Callable[[Site], Case], *causes: str) -> Kind:
    return Kind(f"wild-{name}", "behaviour", truth, build, unseen=True, causes=frozenset(causes))


KINDS = (
    _kind("averaged-factors", "folds merged factor by factor", averaged_factors, "broken_weights", "under_scaled"),
    _kind("summed-rslora", "folds summed, and scaled by the root of the rank", summed_rslora, "over_scaled"),
    _kind("principal-parts", "PiSSA's adapter on the whole base",
          principal_parts, "over_scaled", "wrong_revision", "wrong_base"),
    _kind("layers-down-by-one", "each layer's tensors stand one or two layers too low",
          layers_down_by_one, "not_applied", "incomplete", "wrong_size"),
    _kind("rank-order", "the ranks of A are in another order than B's", rank_order, "broken_weights"),
    _kind("workers-order", "output channels gathered in the wrong order", heads_in_order_of_workers, "broken_weights"),
    _kind("dropped-unscaled", "most numbers were dropped, the rest not scaled up",
          dropped_unscaled, "broken_weights", "under_scaled", "no_effect"),
)  # fmt: skip
