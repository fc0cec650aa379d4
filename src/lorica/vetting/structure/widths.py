"""Do the widths of all modules belong to one model? What layers add to the residual stream is as wide as it is."""

from __future__ import annotations

from collections import Counter

from lorica.adapters.tensor_map import LoraModule, TensorMap, split_layer
from lorica.vetting.findings import Finding, finding
from lorica.vetting.structure.target_spec import TargetSpec
from lorica.vetting.wording import listed, numbers, shown

# Of the modules of one layer in families that name them so: which read the residual stream, which write to it.
_READ = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"}
_WRITE = {"self_attn.o_proj", "mlp.down_proj"}


def check_widths(target_spec: TargetSpec | None, tensor_map: TensorMap, usable: list[LoraModule]) -> list[Finding]:
    """Findings about widths that contradict each other, and about layers that differ from the others. usable: pairs of
    sound shapes."""
    factor_pairs = [
        module
        for module in usable
        if module.layer is not None
        and len(tensor_map.shape(module.a)) == 2
        and not (target_spec and target_spec.of_parameters(module.path))
    ]
    findings = _residual(tensor_map, factor_pairs) + _feed_forward(tensor_map, factor_pairs)
    return findings[:1] or _odd_layers(tensor_map, factor_pairs)


def _residual(tensor_map: TensorMap, factor_pairs: list[LoraModule]) -> list[Finding]:
    for container in dict.fromkeys(split_layer(module.path)[0] for module in factor_pairs):
        widths: dict[int, list[str]] = {}
        for module in factor_pairs:
            module_container, template = split_layer(module.path)
            if module_container != container:
                continue
            inner_name = template.removeprefix(f"{container}.*.")
            if inner_name in _READ:
                widths.setdefault(tensor_map.shape(module.a)[1], []).append(module.path)
            elif inner_name in _WRITE:
                widths.setdefault(tensor_map.shape(module.b)[0], []).append(module.path)
        if len(widths) > 1:
            by_count = sorted(widths.items(), key=lambda width_and_paths: -len(width_and_paths[1]))
            rarest_width, (rare_module, *_) = by_count[-1]
            actual = " and ".join(f"hidden size {width} in {len(paths)} modules" for width, paths in by_count[:3])
            actual += f"; {rarest_width} in {shown(rare_module)}"
            facts = {"widths": {str(width): len(module_paths) for width, module_paths in by_count}}
            return [finding("L117", actual, expected="one hidden size", facts=facts)]
    return []


def _feed_forward(tensor_map: TensorMap, factor_pairs: list[LoraModule]) -> list[Finding]:
    """gate and up give what down takes, in each layer and each expert."""
    inner_widths: dict[str, dict[str, int]] = {}
    for module in factor_pairs:
        parent, _, module_name = module.path.rpartition(".")
        if module_name in ("gate_proj", "up_proj"):
            inner_widths.setdefault(parent, {})[module_name] = tensor_map.shape(module.b)[0]
        elif module_name == "down_proj":
            inner_widths.setdefault(parent, {})[module_name] = tensor_map.shape(module.a)[1]
    mismatches = {parent: widths for parent, widths in inner_widths.items() if len(set(widths.values())) > 1}
    if not mismatches:
        return []
    parent, widths = next(iter(mismatches.items()))
    actual = f"feed-forward of {len(mismatches)} of {len(inner_widths)} layers, {shown(parent)}: "
    actual += ", ".join(f"{module_name} {width}" for module_name, width in sorted(widths.items()))
    facts = {"layers": len(mismatches), "of": len(inner_widths), **widths}
    return [finding("L117", actual, expected="one inner width", facts=facts)]


def _odd_layers(tensor_map: TensorMap, factor_pairs: list[LoraModule]) -> list[Finding]:
    """Kinds of modules whose shape differs in a single layer or two; bases of mixed layers differ in many."""
    shapes: dict[str, dict[int, tuple[int, int]]] = {}
    for module in factor_pairs:
        _, template = split_layer(module.path)
        module_shape = tensor_map.shape(module.a)[1], tensor_map.shape(module.b)[0]
        shapes.setdefault(template, {})[module.layer or 0] = module_shape
    layers_by_template: dict[str, list[int]] = {}
    expected = ""
    for template, layers in shapes.items():
        usual_shape, usual_count = Counter(layers.values()).most_common(1)[0]
        odd_layers = sorted(layer for layer, module_shape in layers.items() if module_shape != usual_shape)
        if odd_layers and len(odd_layers) <= max(1, len(layers) // 16) and usual_count > len(odd_layers):
            layers_by_template[template] = odd_layers
            expected = expected or f"{list(usual_shape)}, as in the other layers"
    if not layers_by_template:
        return []
    template, odd_layers = next(iter(layers_by_template.items()))
    module_shape = shapes[template][odd_layers[0]]
    layers_text = f"{listed(layers_by_template, 3)}: layers {numbers(odd_layers)}"
    actual = f"{layers_text} have (inputs, outputs) {list(module_shape)}"
    facts = {"templates": dict(list(layers_by_template.items())[:16])}
    return [finding("L118", actual, expected=expected, facts=facts)]
