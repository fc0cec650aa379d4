"""Layer coverage: does an adapter have tensors for every layer of the base that its config targets?"""

from __future__ import annotations

from pathlib import Path

from lorica.adapters.fingerprint import leaves_no_layer_out, locate_module
from lorica.adapters.folder import AdapterFolder
from lorica.errors import AdapterError, LoricaError
from lorica.models.base_folder import BaseFolder
from lorica.models.weight_files import weight_headers


def check_layer_coverage(adapter_name: str, adapter: AdapterFolder, base: BaseFolder) -> None:
    """PEFT adapts every layer that has the targets, so an adapter that ends before the last was trained on a shallower
    model, or lost layers on its way here.

    Nothing is said where the config may choose layers, or the base's tensors cannot be listed. Raises AdapterError.
    """
    if not leaves_no_layer_out(adapter.config) or adapter.config.other.get("layer_replication"):
        return
    locations = [locate_module(module) for module in adapter.modules()]
    adapted_depth = max((location.layer + 1 for location in locations if location.layer is not None), default=0)
    adapted_slots = {location.slot for location in locations if location.layer is not None}
    base_layers = {layer_index for layer_index, slot in _base_layer_slots(base.path) if slot in adapted_slots}
    beyond = {layer_index for layer_index in base_layers if layer_index >= adapted_depth}
    if beyond:
        raise AdapterError(
            f"adapter {adapter_name!r} ({adapter.path}) has layers 0 to {adapted_depth - 1} only; "
            f"the base has {max(beyond) + 1}, and its config leaves none out: "
            "it was trained on another base, or lost layers",
            fix=f"use the base it was trained on; look at it with `lorica check {adapter.path} --base {base.path}`",
        )


def _base_layer_slots(base: Path) -> set[tuple[int, str]]:
    """(layer, kind of module) of every weight of the base's decoder."""
    try:
        tensor_names = [tensor_name for header in weight_headers(base).values() for tensor_name in header.tensors]
    except (LoricaError, OSError):
        return set()
    locations = [locate_module(tensor_name.rpartition(".")[0]) for tensor_name in tensor_names]
    return {
        (location.layer, location.slot)
        for location in locations
        if location.layer is not None and not location.in_modality_tower
    }
