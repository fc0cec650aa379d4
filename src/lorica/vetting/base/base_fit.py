"""L3 by files alone: do an adapter's shapes, names and claims fit a base model's folder? Few of its tensors are read.

The headers of the base's weights say which modules there are and how wide; where they do not (quantised weights, a
config without weights) its config.json does, for the families of the table of bases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.fingerprint import (
    AdapterShapes,
    leaves_no_layer_out,
    locate_module,
    match_bases,
    pair_widths,
    shapes_of,
    vocabulary_reason,
)
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.module_roles import WIDTHS, module_role
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import LoraModule, TensorMap
from lorica.models.families import FAMILIES
from lorica.vetting.base.base_modules import BaseModel, read_base
from lorica.vetting.base.fit_identity import check_identity
from lorica.vetting.base.fit_text import check_text
from lorica.vetting.base.pissa import check_pissa
from lorica.vetting.base.repeated_layers import repeated_layers
from lorica.vetting.base.stored_matrices import stored_matrices
from lorica.vetting.findings import Finding, Severity, finding
from lorica.vetting.wording import listed, numbers, shown, some

_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "shared")
_HEADS = ("lm_head", "embed_out", "output_layer")
# Layers that a task puts on top of a base, outside its repeated layers.
_TASK_HEADS = ("score", "classifier", "pre_classifier", "pooler", "qa_outputs", "v_head", "summary", "head")
# One and the same layer, whole or in parts: what fused modules are called, and what their parts are.
_QKV, _FUSED_QKV = (
    ("q_proj", "k_proj", "v_proj"),
    ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack", "wqkv"),
)
_FUSED = {
    **dict.fromkeys(_QKV, _FUSED_QKV),
    **dict.fromkeys(_FUSED_QKV, _QKV),
    **dict.fromkeys(("gate_proj", "up_proj"), ("gate_up_proj", "dense_h_to_4h")),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_INSIDE = "language_model"  # of a vision-language model, in the paths of its text layers


def check_fit(adapter: RawAdapter, tensor_map: TensorMap, base_folder: Path) -> list[Finding]:
    """Everything that a base model's files say about an adapter. Raises ModelError for a folder that is no whole
    base model."""
    base_model = read_base(base_folder)
    shapes = shapes_of(tensor_map, adapter.config)
    findings: list[Finding] = []
    if not base_model.modules:
        findings.append(finding("L309", f"{shown(base_model.folder.name)} holds config.json and no *.safetensors"))
    findings += _FitCheck(adapter, tensor_map, base_model, shapes).findings()
    findings += check_identity(adapter, base_model) + check_text(adapter, tensor_map, base_model)
    if any(problem.severity == "reject" for problem in findings):
        return findings
    return findings + check_pissa(adapter, tensor_map, stored_matrices(base_model.folder))


class _Placement(msgspec.Struct, frozen=True):
    """Where a module of the adapter stands in the base. path: "" when nowhere. moved: under another prefix."""

    path: str
    widths: tuple[int, int] | None = None
    moved: bool = False


class _FitCheck:
    """One adapter against one base. Everything found is summed up over modules."""

    def __init__(
        self, adapter: RawAdapter, tensor_map: TensorMap, base_model: BaseModel, shapes: AdapterShapes
    ) -> None:
        self.adapter, self.tensor_map, self.model, self.shapes = adapter, tensor_map, base_model, shapes
        self.containers = {module_path.rpartition(".")[0] for module_path in base_model.modules}
        self.by_tail: dict[tuple[bool, str], str] = {}
        for module_path in base_model.modules:
            self.by_tail.setdefault(_tail(module_path), module_path)

    def findings(self) -> list[Finding]:
        modules = [module for module in self.tensor_map.modules.values() if module.a or module.b]
        beyond_depth = [module for module in modules if self._beyond(module)]
        within = [module for module in modules if not self._beyond(module)]
        placements = {module.path: self._place(module) for module in within}
        absent = [module for module in within if not placements[module.path].path]
        task_heads = [module.path for module in absent if module.layer is None and module.target in _TASK_HEADS]
        findings = self._layers(beyond_depth, len(modules)) + _heads(task_heads)
        findings += self._absent([module for module in absent if module.path not in task_heads], modules)
        findings += self._widths([(module, placements[module.path]) for module in within])
        findings += self._moved([module for module in within if placements[module.path].moved], len(modules))
        if not beyond_depth:
            findings += self._covered(within)
        findings += self._saved()
        placed = any(placement.path for placement in placements.values()) or beyond_depth
        if modules and not placed and not findings:
            findings.append(finding("L310", f"{len(modules)} modules, such as {shown(modules[0].path)}"))
        return findings

    def _beyond(self, module: LoraModule) -> bool:
        location = locate_module(module.path)
        is_layer = location.layer is not None and not location.in_modality_tower
        return is_layer and 0 < self.model.layers <= (location.layer or 0)

    def _place(self, module: LoraModule) -> _Placement:
        """Look a module up by its path, else by its place in the layers under another prefix."""
        module_path = ".".join(component for component in module.path.split(".") if component != "base_layer")
        base_modules = self.model.modules
        if not base_modules:  # without weights: only a family that is known can lack a module
            shape = self.model.shape
            is_there = shape is None or shape.widths(locate_module(module.path).slot) is not None
            return _Placement(module_path, self._by_config(module)) if is_there else _Placement("")
        if module_path in base_modules:
            return _Placement(module_path, base_modules[module_path] or self._by_config(module))
        if module_path in self.containers or module_path.rpartition(".")[2] == "experts":
            return _Placement(module_path)  # parameters of a module, such as experts in one tensor
        base_path = self.by_tail.get(_tail(module_path))
        if base_path is not None:
            widths = base_modules[base_path] or self._by_config(module)
            return _Placement(base_path, widths, moved=self._is_lost(module_path, base_path))
        if module_path.rpartition(".")[2] in _HEADS:  # tied: the embedding is the head
            embedding = (base_modules[name] for name in base_modules if name.rpartition(".")[2] in _EMBEDDINGS)
            return _Placement(module_path, next(embedding, None))
        return _Placement("")

    def _by_config(self, module: LoraModule) -> tuple[int, int] | None:
        location = locate_module(module.path)
        if self.model.shape is None or location.in_modality_tower:
            return None
        widths = self.model.shape.widths(location.slot)
        return None if widths is None or "vocabulary" in (widths[0][0], widths[1][0]) else (widths[0][1], widths[1][1])

    def _is_lost(self, module_path: str, base_path: str) -> bool:
        """Whether loaders would not find the module: checkpoints of older families leave out the model's own name;
        those of the families below are as they are. Those of vision-language models are renamed while loading, but the
        language model inside keeps a name of its own."""
        if self.model.text is not self.model.config:
            return _INSIDE in base_path.split(".") and _INSIDE not in module_path.split(".")
        if self.model.family not in FAMILIES:
            return False
        bare_path = base_path.removeprefix("model.")
        return module_path not in (bare_path, f"model.{bare_path}")

    def _layers(self, beyond_depth: list[LoraModule], module_count: int) -> list[Finding]:
        if not beyond_depth:
            return []
        adapter_layers, base_layers = self.shapes.layers_at_least, self.model.layers
        beyond = some([module.path for module in beyond_depth], module_count)
        actual = f"it adapts {adapter_layers} layers; the base has {base_layers} (beyond them: {beyond})"
        facts = {"adapter_layers": adapter_layers, "base_layers": base_layers, "modules": len(beyond_depth)}
        return [self._misfit("L302", actual, f"at most {base_layers} layers", facts)]

    def _misfit(
        self, code: str, actual: str, expected: str, facts: dict[str, Any], severity: Severity | None = None
    ) -> Finding:
        """What the base that the adapter's shapes fit would mend."""
        matching_bases = match_bases(self.shapes)
        fix = f"use the base model it was trained on; by its shapes it {matching_bases.text}"
        fix += ", or copy the adapter again if layers were lost" if code == "L303" else ""
        fix = fix if matching_bases.candidates else ""
        return finding(code, actual, expected=expected, fix=fix, file=WEIGHTS_NAME, facts=facts, severity=severity)

    def _absent(self, absent: list[LoraModule], modules: list[LoraModule]) -> list[Finding]:
        if not absent:
            return []
        module_names = sorted({module.target for module in absent})
        base_names = {module_path.rpartition(".")[2] for module_path in self.model.modules}
        fused_twins = sorted(
            {fused for module_name in module_names for fused in _FUSED.get(module_name, ()) if fused in base_names}
        )
        actual = f"{listed(module_names)}: {some([module.path for module in absent], len(modules))}"
        actual += f"; the base has {listed(fused_twins)} in their place" if fused_twins else ""
        facts = {"kinds": module_names, "modules": len(absent), "of": len(modules), "fused": bool(fused_twins)}
        return [self._misfit("L300", actual, f"modules of a {shown(self.model.family)} model", facts)]

    def _widths(self, placed: list[tuple[LoraModule, _Placement]]) -> list[Finding]:
        mismatches: dict[str, list[int]] = {}
        module_paths: list[str] = []
        for module, placement in placed:
            if placement.widths is None:
                continue
            turned = module.embedding and placement.path in self.model.modules
            base_widths = placement.widths[::-1] if turned else placement.widths
            if module.target in _EMBEDDINGS + _HEADS:  # rows are judged with those saved
                base_widths = (0, base_widths[1]) if module.embedding else (base_widths[0], 0)
            adapter_widths = pair_widths(self.tensor_map, module, self.adapter.config)
            for side_index, (adapter_width, base_width) in enumerate(zip(adapter_widths, base_widths, strict=True)):
                if adapter_width and base_width and adapter_width != base_width:
                    mismatches.setdefault(self._label(module, side_index), [adapter_width, base_width])
                    module_paths.append(module.path)
        if not mismatches:
            return []
        differs = (f"{label} {ours}, not {theirs}" for label, (ours, theirs) in list(mismatches.items())[:4])
        misfitting = list(dict.fromkeys(module_paths))
        actual = f"{', '.join(differs)} (in {some(misfitting, len(placed))})"
        facts = {"widths": mismatches, "modules": len(misfitting)}
        return [self._misfit("L301", actual, f"the widths of {shown(self.model.folder.name)}", facts)]

    def _label(self, module: LoraModule, side_index: int) -> str:
        shape, slot = self.model.shape, locate_module(module.path).slot
        side_names = None if shape is None else module_role(shape.scheme, slot)
        side_name = side_names[side_index] if side_names else ""
        return WIDTHS.get(side_name) or f"{shown(module.target)}'s {'output' if side_index else 'input'}"

    def _moved(self, moved_modules: list[LoraModule], module_count: int) -> list[Finding]:
        if not moved_modules:
            return []
        theirs = self.by_tail[_tail(moved_modules[0].path)]
        actual = some([module.path for module in moved_modules], module_count)
        facts = {"modules": len(moved_modules), "path": moved_modules[0].path, "expected": theirs}
        return [finding("L304", actual, expected=f"as in the base: {shown(theirs)}", file=WEIGHTS_NAME, facts=facts)]

    def _covered(self, modules: list[LoraModule]) -> list[Finding]:
        """Does the adapter end before the base's last layers, in every kind of module at once?"""
        config, layer_count = self.adapter.config, self.shapes.layers_at_least
        if not layer_count or layer_count >= self.model.layers:
            return []
        if config and (config.layers_to_transform not in (None, []) or config.other.get("layer_replication")):
            return []
        slots = {locate_module(module.path).slot for module in modules}
        beyond: set[int] = set()
        for location in map(locate_module, self.model.modules):
            if location.slot in slots and not location.in_modality_tower and (location.layer or 0) >= layer_count:
                beyond.add(location.layer or 0)
        if not self.model.modules and self.model.shape is not None and not self.model.shape.hybrid:
            beyond = set(range(layer_count, self.model.layers))
        if not beyond:
            return []
        certain = leaves_no_layer_out(config)
        actual = f"it adapts layers 0 to {layer_count - 1}; the base has {self.model.layers}"
        if not certain:
            actual += " (its config may choose layers)" if config is not None else " (it has no config)"
        facts = {"adapter_layers": layer_count, "base_layers": self.model.layers, "certain": certain}
        if repeated := repeated_layers(self.model.folder):
            actual += f", of which {numbers(repeated)} are copies of earlier ones"
            facts["repeated_layers"] = len(repeated)
        expected = f"layers {numbers(beyond)}, too, or layers_to_transform in {CONFIG_NAME}"
        severity: Severity = "reject" if certain else "warn" if config is None else "note"
        return [self._misfit("L303", actual, expected, facts, severity)]

    def _saved(self) -> list[Finding]:
        shapes: list[tuple[str, tuple[int, ...], tuple[int, int]]] = []
        unknown = []
        for module_path, tensor_names in self.tensor_map.saved.items():
            module_name = module_path.rpartition(".")[2]
            widths = self._place(LoraModule(path=module_path, layer=None, target=module_name)).widths
            if widths is None:
                unknown += [module_path] if self.model.modules and module_path not in self.model.modules else []
                continue
            base_shape = widths[::-1]
            for tensor_name in tensor_names:
                saved_shape = self.tensor_map.shape(tensor_name)
                if len(saved_shape) != 2 or not tensor_name.endswith(".weight"):
                    continue
                has_rows = module_name in _EMBEDDINGS + _HEADS  # of the vocabulary, which are judged apart
                if saved_shape[1] != base_shape[1] or (not has_rows and saved_shape != base_shape):
                    shapes.append((module_path, saved_shape, base_shape))
        return self._rows() + _other_shapes(shapes) + _heads(unknown)

    def _rows(self) -> list[Finding]:
        """Rows of an embedding or a head, saved or adapted, against the base's vocabulary."""
        adapter_rows, base_rows = self.shapes.vocabulary, self.model.vocabulary
        if not adapter_rows or not base_rows or adapter_rows == base_rows:
            return []
        reason = vocabulary_reason(adapter_rows, base_rows)
        actual = f"{adapter_rows} rows of the vocabulary; the base has {base_rows}"
        expected = f"{base_rows} rows, or the tokens that were added in training"
        facts = {"adapter_rows": adapter_rows, "base_rows": base_rows, "explained": not reason}
        severity: Severity = "reject" if reason else "warn"
        return [finding("L305", actual, expected=expected, file=WEIGHTS_NAME, facts=facts, severity=severity)]


def _other_shapes(shapes: list[tuple[str, tuple[int, ...], tuple[int, int]]]) -> list[Finding]:
    if not shapes:
        return []
    module_path, saved_shape, base_shape = shapes[0]
    actual = f"the saved {shown(module_path)} is {list(saved_shape)} (of {len(shapes)} such)"
    facts = {"saved": module_path, "shape": list(saved_shape), "base": list(base_shape)}
    return [finding("L301", actual, expected=f"{list(base_shape)}", file=WEIGHTS_NAME, facts=facts)]


def _heads(unknown: list[str]) -> list[Finding]:
    return [finding("L315", listed(unknown), file=WEIGHTS_NAME)] if unknown else []


def _tail(module_path: str) -> tuple[bool, str]:
    """Equal for modules that differ in prefix only."""
    slot_place = locate_module(module_path)
    return slot_place.in_modality_tower, slot_place.tail
