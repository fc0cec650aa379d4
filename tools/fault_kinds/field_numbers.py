"""Unseen kinds: what conversions, merges and casts do to an adapter's names, shapes and numbers."""

from __future__ import annotations

import re

import numpy as np

from tools.fault_kinds.bundle import WEIGHTS, Bundle, Floats, encode, read_bundle, write_tensors
from tools.fault_kinds.case import Case, Kind, Level, Site


def component_renamed(site: Site) -> Case:
    """A converter renames one component of every path, or leaves one out."""
    bundle, base = site.start()
    renames = {
        "layers": ["blocks", "h", "layer"],
        "self_attn": ["attention", "attn", ""],
        "mlp": ["feed_forward", "ffn", ""],
        "model.model": ["transformer", "model.decoder", "module"],
    }
    known = [part for part in sorted(renames) if any(f".{part}." in name for name in bundle.tensors)]
    old = site.rng.choice(known)
    new = site.rng.choice(renames[old])
    tensors = {}
    for name, array in bundle.tensors.items():
        tensors[name.replace(f".{old}.", f".{new}." if new else ".", 1)] = array
    bundle.tensors = tensors
    return Case(bundle.save(site.place / "adapter"), base)


def layers_from_one(site: Site) -> Case:
    """A converter counts layers from 1."""
    bundle, base = site.start()
    bundle.tensors = {
        re.sub(r"\.layers\.(\d+)\.", lambda found: f".layers.{int(found[1]) + 1}.", name): array
        for name, array in bundle.tensors.items()
    }
    return Case(bundle.save(site.place / "adapter"), base)


def layers_stacked(site: Site) -> Case:
    """For a depth-upscaled merge, some layers' tensors were copied to further layers: more than the base has."""
    bundle, base = site.start()
    again = site.rng.sample(range(4), site.rng.randint(1, 3))
    for i, layer in enumerate(again):
        for name in [name for name in bundle.tensors if f".layers.{layer}." in name and ".layers.4" not in name]:
            bundle.tensors[name.replace(f".layers.{layer}.", f".layers.{4 + i}.")] = bundle.tensors[name].copy()
    return Case(bundle.save(site.place / "adapter"), base)


def factors_swapped(site: Site) -> Case:
    """A converter calls the first factor B and the second A."""
    bundle, base = site.start()
    swap = {"lora_A": "lora_B", "lora_B": "lora_A"}
    bundle.tensors = {
        re.sub(r"lora_[AB]", lambda found: swap[found[0]], name): array for name, array in bundle.tensors.items()
    }
    return Case(bundle.save(site.place / "adapter"), base)


def factors_transposed(site: Site) -> Case:
    """A converter writes both factors in the other layout, [in, r] and [r, out]."""
    bundle, base = site.start()
    bundle.tensors = {name: np.ascontiguousarray(array.T) for name, array in bundle.tensors.items()}
    return Case(bundle.save(site.place / "adapter"), base)


def shape_trimmed(site: Site) -> Case:
    """A slice one to seven too short in one tensor; the header was written from it, so that both agree."""
    bundle, base = site.start()
    name = site.rng.choice(sorted(bundle.tensors))
    array = bundle.tensors[name]
    axis = site.rng.randrange(2)
    left = array.shape[axis] - min(site.rng.randint(1, 7), array.shape[axis] - 1)
    bundle.tensors[name] = np.ascontiguousarray(array[:left] if axis == 0 else array[:, :left])
    return Case(bundle.save(site.place / "adapter"), base)


def bytes_of_other_sixteen(site: Site) -> Case:
    """bfloat16 bytes labelled float16, as by a loader that knows only one 16-bit type."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    raw = {name: encode(array, "BF16") for name, array in bundle.tensors.items()}
    write_tensors(folder / WEIGHTS, {name: ("F16", shape, data) for name, (_, shape, data) in raw.items()})
    return Case(folder, base)


def big_endian(site: Site) -> Case:
    """Written on, or for, a big-endian machine."""
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    tensors = {name: ("F32", array.shape, array.astype(">f4").tobytes()) for name, array in bundle.tensors.items()}
    write_tensors(folder / WEIGHTS, tensors)
    return Case(folder, base)


def cast_overflowed(site: Site) -> Case:
    """A loss scale of 2**20 still in one factor of random modules when it was cast to float16."""
    bundle, base = site.start()
    names = bundle.names("lora_B")
    for name in site.rng.sample(names, site.rng.randint(1, len(names))):
        bundle.tensors[name] = bundle.tensors[name] * np.float32(2.0**26)
    return Case(bundle.save(site.place / "adapter", "F16"), base)


def cast_underflowed(site: Site) -> Case:
    """B divided by a loss scale twice, then cast to float16: all of it rounds to zero."""
    bundle, base = site.start()
    for name in bundle.names("lora_B"):
        bundle.tensors[name] = bundle.tensors[name] * np.float32(site.rng.uniform(1e-10, 1e-9))
    return Case(bundle.save(site.place / "adapter", "F16"), base)


def some_b_zero(site: Site) -> Case:
    """A sharded save gathered only some ranks' parts: B is zero in a random third to two thirds of the modules."""
    bundle, base = site.start()
    names = bundle.names("lora_B")
    for name in site.rng.sample(names, max(1, int(len(names) * site.rng.uniform(0.34, 0.67)))):
        bundle.tensors[name] = np.zeros_like(bundle.tensors[name])
    return Case(bundle.save(site.place / "adapter"), base)


def some_without_scale(site: Site) -> Case:
    """Stored per tensor in 8 bits with a scale; the scale of a random quarter to half of the Bs was not applied."""
    bundle, base = site.start()
    names = bundle.names("lora_B")
    for name in site.rng.sample(names, max(1, int(len(names) * site.rng.uniform(0.25, 0.5)))):
        array = bundle.tensors[name]
        bundle.tensors[name] = array * np.float32(448 / abs(array).max())
    return Case(bundle.save(site.place / "adapter"), base)


def first_factor_fresh(site: Site) -> Case:
    """B was restored from the checkpoint, A was initialised anew."""
    bundle, base = site.start()
    for name in bundle.names("lora_A"):
        bound = 1 / bundle.tensors[name].shape[1] ** 0.5
        fresh = site.numbers.uniform(-bound, bound, bundle.tensors[name].shape)
        bundle.tensors[name] = fresh.astype(np.float32)
    return Case(bundle.save(site.place / "adapter"), base)


def contents_permuted(site: Site) -> Case:
    """Names were sorted in one order and data in another: contents moved at random among tensors of equal shape."""
    bundle, base = site.start(targets=4)
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, array in sorted(bundle.tensors.items()):
        shapes.setdefault(array.shape, []).append(name)
    for names in shapes.values():
        moved = site.numbers.permutation(len(names))
        held = [bundle.tensors[name] for name in names]
        for name, i in zip(names, moved, strict=True):
            bundle.tensors[name] = held[int(i)]
    return Case(bundle.save(site.place / "adapter"), base)


def layers_reversed(site: Site) -> Case:
    """Layers filled from the last to the first."""
    bundle, base = site.start()
    bundle.tensors = {
        re.sub(r"\.layers\.(\d+)\.", lambda found: f".layers.{3 - int(found[1])}.", name): array
        for name, array in bundle.tensors.items()
    }
    return Case(bundle.save(site.place / "adapter"), base)


def channels_permuted(site: Site) -> Case:
    """An exporter for another runtime reordered output channels: the rows of every B by one order per shape."""
    bundle, base = site.start()
    orders: dict[int, np.ndarray] = {}
    for name in bundle.names("lora_B"):
        rows = bundle.tensors[name].shape[0]
        order = orders.setdefault(rows, site.numbers.permutation(rows))
        bundle.tensors[name] = np.ascontiguousarray(bundle.tensors[name][order])
    return Case(bundle.save(site.place / "adapter"), base)


def noise_added(site: Site) -> Case:
    """Noise far above the signal, as from a wrong privacy budget: 4 to 8 times B's own spread."""
    bundle, base = site.start()
    for name in bundle.names("lora_B"):
        array = bundle.tensors[name]
        noise = site.numbers.normal(0, array.std() * site.rng.uniform(4, 8), array.shape)
        bundle.tensors[name] = (array + noise).astype(np.float32)
    return Case(bundle.save(site.place / "adapter"), base)


def subtracted(site: Site) -> Case:
    """A script for task vectors took the difference the wrong way round."""
    bundle, base = site.start()
    for name in bundle.names("lora_B"):
        bundle.tensors[name] = -bundle.tensors[name]
    return Case(bundle.save(site.place / "adapter"), base)


def second_factor_of_another(site: Site) -> Case:
    """A from one run and B from another of equal shapes: two downloads into one folder."""
    info = site.info()
    bundle = read_bundle(info.folder)
    bundle.tensors |= _second_factors(bundle, site, info.base)
    return Case(bundle.save(site.place / "adapter"), site.base(info.base))


def _second_factors(bundle: Bundle, site: Site, base: str) -> dict[str, Floats]:
    from tools import zoo  # the adapters of the other bases have equal shapes

    other = "S-b" if base != "S-b" else "S-a"
    for one in zoo.adapters():
        if one.base == other:
            tensors = read_bundle(one.folder).tensors
            if {n: a.shape for n, a in tensors.items()} == {n: a.shape for n, a in bundle.tensors.items()}:
                return {name: array for name, array in tensors.items() if ".lora_B." in name}
    raise LookupError(f"no adapter of equal shapes on {other}: is the zoo whole? python -m tools.zoo")


def _kind(name: str, level: Level, truth: str, build: object) -> Kind:
    return Kind(name, level, truth, build, unseen=True)  # type: ignore[arg-type]


KINDS = (
    _kind("field-component-renamed", "base", "a component of every path is renamed", component_renamed),
    _kind("field-layers-from-one", "base", "layers are counted from 1", layers_from_one),
    _kind("field-layers-stacked", "base", "layers beyond the base's last", layers_stacked),
    _kind("field-factors-swapped", "files", "A is called B and B is called A", factors_swapped),
    _kind("field-factors-transposed", "files", "both factors are transposed", factors_transposed),
    _kind("field-shape-trimmed", "files", "one tensor is a few rows or columns short", shape_trimmed),
    _kind("field-wrong-sixteen", "files", "bfloat16 bytes labelled float16", bytes_of_other_sixteen),
    _kind("field-big-endian", "files", "numbers are byte-swapped", big_endian),
    _kind("field-cast-overflow", "files", "numbers overflowed in a cast", cast_overflowed),
    _kind("field-cast-underflow", "files", "all of B underflowed to zero in a cast", cast_underflowed),
    _kind("field-some-b-zero", "files", "B is zero in part of the modules", some_b_zero),
    _kind("field-some-unscaled", "files", "part of the Bs is hundreds of times too large", some_without_scale),
    _kind("field-fresh-a", "behaviour", "A was not restored", first_factor_fresh),
    _kind("field-contents-permuted", "behaviour", "contents moved among tensors of equal shape", contents_permuted),
    _kind("field-layers-reversed", "behaviour", "layers in reverse order", layers_reversed),
    _kind("field-channels-permuted", "behaviour", "output channels in another order", channels_permuted),
    _kind("field-noise", "behaviour", "noise far above the signal", noise_added),
    _kind("field-subtracted", "behaviour", "the update has the wrong sign", subtracted),
    _kind("field-b-of-another", "behaviour", "B belongs to another run", second_factor_of_another),
)
