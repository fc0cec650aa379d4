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
from lorica.adapters.header import header_bytes
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.stored_tensors import of_header, read_stored
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
    modules of which one half is missing. foreign: pairs that belong to no layer of the base.
    """

    folder: Path
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
    tensor_plan: dict[str, tuple[str, bool]] = {}
    rank_of_module: dict[str, int] = {}
    renamed = 0
    for factors in layout.pairs:
        target = _belongs(factors.path, modules)
        turned = None if target is None else _turned(layout, factors, modules[target])
        if target is None or turned is None or target in rank_of_module:
            continue
        tensor_names = tensor_name(target, "lora_A"), tensor_name(target, "lora_B")
        renamed += tensor_names[0] != factors.a
        tensor_plan |= {tensor_names[0]: (factors.a, turned), tensor_names[1]: (factors.b, turned)}
        rank_of_module[target] = layout.shape(factors.a)[1 if turned else 0]
    if not tensor_plan:
        return None
    config = {key: value for key, value in (specimen.raw_config or {}).items() if key not in _RESTRICTING}
    usual_rank = config["r"] if config.get("r") in rank_of_module.values() else max(rank_of_module.values())
    rank_patterns = {f"^{module_path}": rank for module_path, rank in rank_of_module.items() if rank != usual_rank}
    target_names = sorted({module_path.rsplit(".", 1)[1] for module_path in rank_of_module})
    config |= {"peft_type": "LORA", "r": usual_rank, "target_modules": target_names, "rank_pattern": rank_patterns}
    config |= {"use_dora": False, "bias": "none"}
    config_before = specimen.config
    untargeted = config_before is not None and any(config_before.targets(path) is False for path in rank_of_module)
    return Repair(
        folder=_rearranged(specimen, layout, tensor_plan, folder, config),
        renamed=renamed,
        retargeted=untargeted,
        turned=sum(turned for _, turned in tensor_plan.values()) // 2,
        reranked=config_before is not None and bool(rank_patterns) and not config_before.rank_pattern,
        halves=len(layout.modules) - len(layout.pairs),
        foreign=len(layout.pairs) - len(rank_of_module),
    )


def _rearranged(
    specimen: RawAdapter, layout: TensorMap, tensor_plan: Plan, folder: Path, config: Mapping[str, Any]
) -> Path:
    """A copy whose tensors are those of the original under other names."""
    if specimen.weights is None:
        raise AdapterError(f"{specimen.given}: has no weights that can be read", fix="see `lorica check`")
    tensors = {}
    for new_name, (source_name, is_turned) in tensor_plan.items():
        stored = of_header(layout.tensors[source_name])
        tensors[new_name] = stored.transposed() if is_turned else stored
    shapes = {new_name: (stored.dtype, stored.shape) for new_name, stored in tensors.items()}
    header, tensor_order = header_bytes(shapes, {"format": "pt"})
    folder.mkdir(parents=True)
    with specimen.weights.open("rb") as source_file, (folder / WEIGHTS_NAME).open("wb") as target_file:
        target_file.write(header)
        for new_name in tensor_order:
            target_file.write(read_stored(source_file, specimen.weights, tensors[new_name]))
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder


def _belongs(tensor_path: str, modules: Mapping[str, tuple[int, int]]) -> str | None:
    """The base's module that a path means once everything in front of its layers is left aside."""
    if tensor_path in modules:
        return tensor_path
    suffix_modules = [module for module in modules if tensor_path.endswith("." + module)]
    if suffix_modules:
        return max(suffix_modules, key=len)
    path_names = tensor_path.split(".")
    for start in range(len(path_names)):
        path_tail = ".".join(path_names[start:])
        matching_modules = [module for module in modules if module == path_tail or module.endswith("." + path_tail)]
        if len(matching_modules) == 1:
            return matching_modules[0]
    return None


def _turned(layout: TensorMap, factors: LoraModule, module_shape: tuple[int, int]) -> bool | None:
    """Whether a pair lies transposed; None when it fits the layer neither way."""
    a_shape, b_shape = layout.shape(factors.a), layout.shape(factors.b)
    if len(a_shape) != 2 or len(b_shape) != 2:
        return None
    out_features, in_features = module_shape
    if a_shape[1] == in_features and b_shape[0] == out_features and a_shape[0] == b_shape[1]:
        return False
    return True if a_shape[0] == in_features and b_shape[1] == out_features and a_shape[1] == b_shape[0] else None
