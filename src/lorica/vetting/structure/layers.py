"""Is every layer there? A base's layers are alike unless its architecture mixes them or the config leaves some out."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.tensor_map import TensorMap, split_layer
from lorica.vetting.claims.base_names import has_mixed_layers, has_uniform_layers
from lorica.vetting.findings import Finding, finding
from lorica.vetting.structure.target_spec import TargetSpec, may_select_layers
from lorica.vetting.wording import numbers, shown

# More layers, or more ways of filling them, than any model has: such a file is not looked at layer by layer.
_MAX_LAYERS, _MAX_PATTERNS = 1024, 64
_MAX_TEMPLATES = 2000


Templates = dict[str, frozenset[int]]
"""Path with "*" for the layer -> the layers that have it."""


def layer_stacks(tensor_map: TensorMap) -> dict[str, Templates]:
    """The repeated layers, by container ("model.layers")."""
    layers_by_template: dict[str, dict[str, set[int]]] = {}
    for module_path, module in tensor_map.modules.items():
        if module.layer is not None:
            container, template = split_layer(module_path)
            layers_by_template.setdefault(container, {}).setdefault(template, set()).add(module.layer)
    return {
        container: {template: frozenset(present_layers) for template, present_layers in templates.items()}
        for container, templates in layers_by_template.items()
    }


def layers_text(numbers_of_layers: Collection[int]) -> str:
    """ "layer 3", "layers 0-11, 13"."""
    return f"layer{'s' if len(numbers_of_layers) > 1 else ''} {numbers(numbers_of_layers)}"


def check_layers(target_spec: TargetSpec | None, tensor_map: TensorMap) -> list[Finding]:
    """Findings L125 and L126: layers that lack a module which others have, and nothing explains it."""
    stacks = layer_stacks(tensor_map)
    holes: dict[str, dict[str, list[int]]] = {}
    periodic_templates: dict[str, frozenset[int]] = {}
    for container, templates in stacks.items():
        for template, missing in _missing_layers(target_spec, templates).items():
            if _is_periodic(templates[template], missing):
                periodic_templates[template] = templates[template]
            else:
                holes.setdefault(container, {})[template] = missing
    if holes:
        return [_hole_finding(holes, stacks)]
    if not periodic_templates:
        return []
    base_name = (target_spec.config.base_model_name_or_path or "") if target_spec else ""
    template, present_layers = next(iter(periodic_templates.items()))
    actual = f"{shown(template)} in {layers_text(present_layers)} only"
    facts = {"templates": len(periodic_templates), "layers": sorted(present_layers)[:512]}
    if has_mixed_layers(base_name):
        return [finding("L126", actual, severity="note", facts=facts)]
    uniform = has_uniform_layers(base_name)
    return [finding("L125" if uniform else "L126", actual, severity="reject" if uniform else "warn", facts=facts)]


def _missing_layers(target_spec: TargetSpec | None, stack: Templates) -> dict[str, list[int]]:
    """Template -> layers that lack it, though the config wants it there and the layer has nothing else instead."""
    templates_by_layers: dict[frozenset[int], list[str]] = {}
    for template, present_layers in stack.items():
        templates_by_layers.setdefault(present_layers, []).append(template)
    present = frozenset[int]().union(*templates_by_layers)
    if max(present) >= _MAX_LAYERS or len(templates_by_layers) > _MAX_PATTERNS:
        absent_layers = sorted(frozenset(range(min(max(present) + 1, _MAX_LAYERS))) - present)
        return {next(iter(stack)): absent_layers} if absent_layers else {}
    missing_layers: dict[str, list[int]] = {}
    for present_layers, templates in templates_by_layers.items():
        missing = [
            layer
            for layer in range(max(present) + 1)
            if layer not in present_layers and not _is_replaced(templates_by_layers, present_layers, layer)
        ]
        for template in templates[: _MAX_TEMPLATES // max(1, len(missing) // 8)] if missing else ():
            targeted = [layer for layer in missing if _is_targeted(target_spec, template.replace("*", str(layer)))]
            leading = targeted == list(range(len(targeted))) and len(targeted) <= 3
            # The first layers of some mixtures of experts are dense.
            if targeted and not (leading and "expert" in template):
                missing_layers[template] = targeted
    return missing_layers


def _is_replaced(layer_sets: Collection[frozenset[int]], present_layers: frozenset[int], layer: int) -> bool:
    """Whether this layer has modules of its own kind instead: hybrid bases, and dense layers among experts."""
    return any(layer in layer_set and not layer_set & present_layers for layer_set in layer_sets)


def _is_targeted(target_spec: TargetSpec | None, module_path: str) -> bool:
    """Whether the config asks for a module that the file lacks."""
    if target_spec is None:
        return True
    config, is_targeted = target_spec.config, target_spec.targeted(module_path)
    if is_targeted is not None:
        return is_targeted
    if config.layers_to_transform not in (None, []):
        return False
    # An expression without a number cannot tell layers apart.
    expressions = (config.target_modules, config.exclude_modules)
    return not any(isinstance(expression, str) and may_select_layers(expression) for expression in expressions)


def _is_periodic(present_layers: frozenset[int], missing: Sequence[int]) -> bool:
    """Whether layers repeat in equal steps, as in bases with attention in every fourth layer."""
    layers_repeat = len(present_layers) >= 3 and _equal_step(sorted(present_layers)) > 1
    return layers_repeat or (len(missing) >= 2 and _equal_step(missing) >= 3)


def _equal_step(layer_numbers: Sequence[int]) -> int:
    """The step between neighbours, 0 where they differ."""
    steps = {following - previous for previous, following in itertools.pairwise(layer_numbers)}
    return steps.pop() if len(steps) == 1 else 0


def _hole_finding(holes: dict[str, dict[str, list[int]]], stack_of: dict[str, Templates]) -> Finding:
    sentences, facts = [], {}
    for container, templates in list(holes.items())[:8]:
        present = frozenset[int]().union(*stack_of[container].values())
        empty_layers = sorted({layer for missing in templates.values() for layer in missing} - present)
        if empty_layers:
            sentences.append(f"no tensors in {layers_text(empty_layers)} of {shown(container)}")
        without_tensors = set(empty_layers)
        partial = {
            template: lacking_layers
            for template, missing in templates.items()
            if (lacking_layers := [layer for layer in missing if layer not in without_tensors])
        }
        if partial:
            template, lacking_layers = next(iter(partial.items()))
            remainder = f" (and {len(partial) - 1} more modules)" if len(partial) > 1 else ""
            sentences.append(f"{shown(template)} is missing in {layers_text(lacking_layers)}{remainder}")
        facts[container] = {"empty": empty_layers[:512], "partial": dict(list(partial.items())[:16])}
    last_layer = max(map(max, stack_of[next(iter(holes))].values()))
    expected = f"every target in each of the layers 0-{last_layer}, as nothing in {CONFIG_NAME} leaves one out"
    return finding("L125", "; ".join(sentences), expected=expected, facts={"missing": facts})
