"""Unseen kinds: what happens to the base model that an adapter is run on."""

from __future__ import annotations

import re

import torch
from safetensors.torch import load_file

from tools.fault_kinds.base_copy import Weights, copy_base
from tools.fault_kinds.case import Case, Kind, Level, Site


def half_from_another(site: Site) -> Case:
    """Two downloads mixed: the base's first or last half of the layers comes from another model of equal shape."""
    bundle, base = site.start()
    other = load_file(site.base("S-b" if base.name != "S-b" else "S-a") / "model.safetensors")
    layers = site.rng.choice([(0, 1), (2, 3)])

    def mix(own: Weights) -> Weights:
        for name in own:
            found = re.search(r"\.layers\.(\d+)\.", name)
            if found and int(found[1]) in layers:
                own[name] = other[name]
        return own

    mixed = copy_base(base, site.place / "base", weights=mix)
    return Case(bundle.save(site.place / "adapter"), mixed)


def layers_not_loaded(site: Site) -> Case:
    """Keys did not match when the base was converted: two random layers hold initial random weights."""
    bundle, base = site.start()
    fresh = site.rng.sample(range(4), 2)
    generator = torch.Generator().manual_seed(site.seed)

    def reset(own: Weights) -> Weights:
        for name, tensor in own.items():
            found = re.search(r"\.layers\.(\d+)\.", name)
            if found and int(found[1]) in fresh and tensor.ndim == 2:
                own[name] = (torch.randn(tensor.shape, generator=generator) * 0.02).to(tensor.dtype)
        return own

    return Case(bundle.save(site.place / "adapter"), copy_base(base, site.place / "base", weights=reset))


def embedding_rows_moved(site: Site) -> Case:
    """The base's embedding was re-indexed for another vocabulary: rows moved at random."""
    bundle, base = site.start()
    order = torch.from_numpy(site.numbers.permutation(6144))

    def move(own: Weights) -> Weights:
        return own | {"model.embed_tokens.weight": own["model.embed_tokens.weight"][order]}

    return Case(bundle.save(site.place / "adapter"), copy_base(base, site.place / "base", weights=move))


def never_trained(site: Site) -> Case:
    """The base was created from its config, and no weights were loaded into it."""
    bundle, base = site.start()
    generator = torch.Generator().manual_seed(site.seed)

    def fresh(own: Weights) -> Weights:
        made = {}
        for name, tensor in own.items():
            new = (
                torch.randn(tensor.shape, generator=generator) * 0.02 if tensor.ndim == 2 else torch.ones(tensor.shape)
            )
            made[name] = new.to(tensor.dtype)
        return made

    return Case(bundle.save(site.place / "adapter"), copy_base(base, site.place / "base", weights=fresh))


def other_size(site: Site) -> Case:
    """The base was pruned: some feed-forward channels or a key/value head are gone, layers and width are the same."""
    bundle, base = site.start(targets=3)
    mlp = any("up_proj" in name for name in bundle.tensors)

    def prune(own: Weights) -> Weights:
        for name in own:
            if mlp and name.endswith(("gate_proj.weight", "up_proj.weight")):
                own[name] = own[name][:352]
            elif mlp and name.endswith("down_proj.weight"):
                own[name] = own[name][:, :352]
            elif not mlp and name.endswith(("k_proj.weight", "v_proj.weight")):
                own[name] = own[name][:32]
        return own

    key, value = ("intermediate_size", 352) if mlp else ("num_key_value_heads", 1)
    pruned = copy_base(base, site.place / "base", weights=prune, config=lambda values: values.update({key: value}))
    return Case(bundle.save(site.place / "adapter"), pruned)


def _kind(name: str, level: Level, truth: str, build: object) -> Kind:
    return Kind(name, level, truth, build, unseen=True)  # type: ignore[arg-type]


KINDS = (
    _kind("field-base-half-other", "base", "half of the base's layers belong to another model", half_from_another),
    _kind("field-base-layers-lost", "base", "two layers of the base hold random weights", layers_not_loaded),
    _kind("field-base-embedding", "base", "the base's embedding is in another order", embedding_rows_moved),
    _kind("field-base-untrained", "base", "the base holds random weights", never_trained),
    _kind("field-base-pruned", "base", "the base is narrower inside", other_size),
)
