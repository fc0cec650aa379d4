"""A mended copy of an adapter that no engine takes: if it works, what was mended is what is wrong.

The adapter itself is never touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.header import TensorInfo, header_bytes
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import LoraModule, TensorMap
from lorica.adapters.tensor_names import tensor_name
from lorica.errors import AdapterError

# What keeps a config's targets from being applied, or asks for parts that a mended copy does not have.
_RESTRICTING = ("exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save")

# Which tensors of the original stand where in the copy: new name -> (old name, whether to transpose it).
Plan = Mapping[str, tuple[str, bool]]


@dataclass(frozen=True)
class Repair:
    """A mended copy, and what was done to it. renamed: pairs whose names changed. retargeted: whether the config's
    targets were other ones. turned: pairs that lay transposed. reranked: whether the config had other ranks. halves:
    modules of which one half is missing. foreign: pairs that belong to no layer of the base. pairs: pairs of the copy.
    """

    folder: Path
    pairs: int
    renamed: int
    retargeted: bool
    turned: int
    reranked: bool
    halves: int
    foreign: int


def repaired(
    specimen: RawAdapter, layout: TensorMap, modules: Mapping[str, tuple[int, int]], folder: Path
) -> Repair | None:
    """A copy with the names, targets and ranks that its tensors ought to have on a base with these linear layers.

    modules: the base's paths -> (out_features, in_features). Wrappers' prefixes are taken off, factors that lie
    transposed are turned, halves without their other half and whole saved parameters are left out, and the config's
    targets and rank patterns follow the tensors. None when no pair of it belongs to the base.
    """
    plan: dict[str, tuple[str, bool]] = {}
    ranks: dict[str, int] = {}
    renamed = 0
    for factors in layout.pairs:
        target = _belongs(factors.path, modules)
        turned = None if target is None else _turned(layout, factors, modules[target])
        if target is None or turned is None or target in ranks:
            continue
        names = tensor_name(target, "lora_A"), tensor_name(target, "lora_B")
        renamed += names[0] != factors.a
        plan |= {names[0]: (factors.a, turned), names[1]: (factors.b, turned)}
        ranks[target] = layout.shape(factors.a)[1 if turned else 0]
    if not plan:
        return None
    before = dict(specimen.raw_config or {})
    usual = before.get("r", 8) if before.get("r") in ranks.values() else max(ranks.values())
    targets = sorted({path.rsplit(".", 1)[1] for path in ranks})
    patterns = {"^" + path: rank for path, rank in ranks.items() if rank != usual}
    plain = {key: value for key, value in before.items() if key not in _RESTRICTING}
    config = plain | {"peft_type": "LORA", "r": usual, "target_modules": targets, "rank_pattern": patterns}
    config_before = specimen.config
    return Repair(
        folder=_rearranged(specimen, layout, plan, folder, config | {"use_dora": False, "bias": "none"}),
        pairs=len(ranks),
        renamed=renamed,
        retargeted=config_before is not None and any(config_before.targets(path) is False for path in ranks),
        turned=sum(turned for _, turned in plan.values()) // 2,
        reranked=config_before is not None and bool(patterns) and not config_before.rank_pattern,
        halves=len(layout.modules) - len(layout.pairs),
        foreign=len(layout.pairs) - len(ranks),
    )


def _rearranged(specimen: RawAdapter, layout: TensorMap, plan: Plan, folder: Path, config: Mapping[str, Any]) -> Path:
    """A copy whose tensors are those of the original under other names."""
    if specimen.weights is None:
        raise AdapterError(f"{specimen.given}: has no weights that can be read", fix="see `lorica check`")
    shapes = {}
    for name, (source, turn) in plan.items():
        info = layout.tensors[source]
        shapes[name] = (info.dtype, info.shape[::-1] if turn else info.shape)
    head, order = header_bytes(shapes, {"format": "pt"})
    folder.mkdir(parents=True)
    with specimen.weights.open("rb") as source_file, (folder / WEIGHTS_NAME).open("wb") as target:
        target.write(head)
        for name in order:
            source, turn = plan[name]
            info = layout.tensors[source]
            source_file.seek(info.start)
            raw = source_file.read(info.stop - info.start)
            target.write(_transposed(raw, info) if turn else raw)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder


def _belongs(path: str, modules: Mapping[str, tuple[int, int]]) -> str | None:
    """The base's module that a path means once everything in front of its layers is left aside."""
    if path in modules:
        return path
    ends = [module for module in modules if path.endswith("." + module)]
    if ends:
        return max(ends, key=len)
    names = path.split(".")
    for start in range(len(names)):
        tail = ".".join(names[start:])
        hits = [module for module in modules if module == tail or module.endswith("." + tail)]
        if len(hits) == 1:
            return hits[0]
    return None


def _turned(layout: TensorMap, factors: LoraModule, shape: tuple[int, int]) -> bool | None:
    """Whether a pair lies transposed; None when it fits the layer neither way."""
    a, b = layout.shape(factors.a), layout.shape(factors.b)
    if len(a) != 2 or len(b) != 2:
        return None
    out_features, in_features = shape
    if a[1] == in_features and b[0] == out_features and a[0] == b[1]:
        return False
    return True if a[0] == in_features and b[1] == out_features and a[1] == b[0] else None


def _transposed(raw: bytes, info: TensorInfo) -> bytes:
    import numpy as np

    rows, columns = info.shape
    width = len(raw) // (rows * columns)
    turned = np.frombuffer(raw, dtype=f"V{width}").reshape(rows, columns).T
    return np.ascontiguousarray(turned).tobytes()
