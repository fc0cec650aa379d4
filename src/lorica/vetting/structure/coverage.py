"""Does an adapter cover what its config targets: targets, layers, and shapes alike from layer to layer?"""

from __future__ import annotations

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.tensor_map import TensorMap, module_path
from lorica.vetting.claims.base_names import family, has_mixed_layers, has_uniform_layers
from lorica.vetting.findings import Finding, Severity, finding
from lorica.vetting.structure.layers import check_layers, layers_text
from lorica.vetting.structure.target_spec import (
    TargetSpec,
    ends_with,
    is_default_target,
    read_expression,
    suffixes,
)
from lorica.vetting.wording import listed, shown, some

_INPUTS = ("q_proj", "k_proj", "v_proj")
_LLAMA_MLP = ("gate_proj", "up_proj", "down_proj")
# Modules that stand in other families where Llama's have o_proj.
_OTHER_OUTPUTS = ("dense", "out_proj", "fc1", "fc2")


def check_coverage(target_spec: TargetSpec | None, tensor_map: TensorMap) -> list[Finding]:
    """Findings about targets, layers and pattern keys."""
    if not tensor_map.modules:
        return []
    if target_spec is None:
        return check_layers(None, tensor_map)
    findings = _untargeted_modules(target_spec, tensor_map) + _targets_without_tensors(target_spec, tensor_map)
    findings += check_layers(target_spec, tensor_map) + _layers_to_transform(target_spec, tensor_map)
    return findings + _pattern_keys(target_spec, tensor_map) + _undecided_expressions(target_spec, tensor_map)


def _untargeted_modules(target_spec: TargetSpec, tensor_map: TensorMap) -> list[Finding]:
    """Modules that PEFT would not adapt."""
    config = target_spec.config
    outside = list(tensor_map.modules)
    if config.target_modules is None and not config.other.get("target_parameters"):
        if is_default_target(tensor_map):
            module_names = sorted({module.target for module in tensor_map.modules.values()})
            actual = f"no target_modules; the tensors adapt {listed(module_names)}"
            return [finding("L140", actual, file=CONFIG_NAME, facts={"kinds": module_names})]
    else:
        untargeted = (False, None) if config.target_modules is None else (False,)
        outside = [module_path for module_path in outside if target_spec.targeted(module_path) in untargeted]
    if not outside:
        return []
    module_names = sorted({tensor_map.modules[module_path].target for module_path in outside})
    targets = config.target_modules
    target_text = "none" if targets is None else shown(targets) if isinstance(targets, str) else listed(targets, 10)
    restriction = f", in {layers_text(target_spec.layers)}" if target_spec.layers else ""
    if config.exclude_modules:
        restriction += ", but exclude_modules"
    actual = f"{some(outside, len(tensor_map.modules))} ({listed(module_names)})"
    facts = {"modules": len(outside), "of": len(tensor_map.modules), "kinds": module_names}
    expected = f"modules of target_modules: {target_text}{restriction}"
    return [finding("L123", actual, expected=expected, file=CONFIG_NAME, facts=facts)]


def _targets_without_tensors(target_spec: TargetSpec, tensor_map: TensorMap) -> list[Finding]:
    """Targets by name for which the file holds nothing."""
    config = target_spec.config
    targets = config.target_modules
    if isinstance(targets, str):
        path_names = None if targets == "all-linear" else read_expression(targets)
        path_ends = path_names.ends if path_names else ()
        target_names = [target.removeprefix(".") for end_kind, target in path_ends if end_kind != "whole"]
    else:
        target_names = list(targets or ())
    adapted = {suffix for tensor_path in tensor_map.modules for suffix in suffixes(module_path(tensor_path))}
    excluded = config.exclude_modules if isinstance(config.exclude_modules, list) else []
    left_out = frozenset([*excluded, *config.saved_modules])
    without_tensors = [
        target for target in dict.fromkeys(target_names) if target not in adapted and not ends_with(target, left_out)
    ]
    if not without_tensors:
        return []
    adapted_base = _Base(target_spec, tensor_map)
    severities = {target: adapted_base.lacks(target) for target in without_tensors}
    certain = [target for target, severity in severities.items() if severity == "reject"]
    actual = f"no tensors for {listed(without_tensors)}, which target_modules names"
    if certain:
        module_names = sorted({module.target for module in tensor_map.modules.values()})
        actual += f"; bases with {listed(module_names, 4)} have {listed(certain)}"
    severity: Severity = "reject" if certain else "warn" if "warn" in severities.values() else "note"
    return [finding("L124", actual, severity=severity, facts={"targets": without_tensors[:64], "sure": certain[:64]})]


class _Base:
    """What the adapted modules say of the base. kinds: of modules in layers. targets: names the config gives."""

    def __init__(self, target_spec: TargetSpec, tensor_map: TensorMap) -> None:
        targets = target_spec.config.target_modules
        self.name = target_spec.config.base_model_name_or_path or ""
        self.kinds = {module.target for module in tensor_map.modules.values() if module.layer is not None}
        self.targets = set(targets if isinstance(targets, list) else ())
        self.llama = any(".self_attn." in module_path for module_path in tensor_map.modules)
        self.plain_layers = any(
            ".layers." in f".{module_path}" and ".decoder." not in module_path for module_path in tensor_map.modules
        )

    def lacks(self, target: str) -> Severity:
        """How sure it is that the base has modules of this name, so that their tensors were lost."""
        module_name, module_names = target.rsplit(".", 1)[-1], self.kinds
        attention = module_names & set(_INPUTS)
        if module_name in _INPUTS and attention:
            return "reject"
        if (module_name in _LLAMA_MLP and "gate_proj" in module_names) or (
            module_name == "down_proj" and "up_proj" in module_names
        ):
            return "note" if has_mixed_layers(self.name) else "reject"
        if module_name == "o_proj" and attention and self.llama:
            other_outputs = (module_names | self.targets) & set(_OTHER_OUTPUTS)
            return "reject" if self.plain_layers and not other_outputs else "note"
        if module_name in (*_INPUTS, "o_proj", *_LLAMA_MLP) and self.llama:
            traits = family(self.name)
            if (traits is not None and not traits.uniform) or module_names == {"o_proj", "down_proj"}:
                return "note"  # Phi-3 and its kin have qkv_proj and gate_up_proj instead
            return "reject" if has_uniform_layers(self.name) else "note" if has_mixed_layers(self.name) else "warn"
        return "warn" if module_name in ("lm_head", "embed_tokens") and has_uniform_layers(self.name) else "note"


def _layers_to_transform(target_spec: TargetSpec, tensor_map: TensorMap) -> list[Finding]:
    present = {module.layer for module in tensor_map.modules.values() if module.layer is not None}
    # What lies between the layers that are there is a hole, L125.
    missing = sorted(layer for layer in target_spec.layers - present if not present or layer > max(present))
    if not missing:
        return []
    actual = f"no tensors in {layers_text(missing)}; there are {layers_text(present)}"
    facts = {"missing": missing[:512], "present": sorted(present)[:512]}
    return [finding("L127", actual, expected=layers_text(target_spec.layers), file=CONFIG_NAME, facts=facts)]


def _pattern_keys(target_spec: TargetSpec, tensor_map: TensorMap) -> list[Finding]:
    useless, unread, key_count = [], [], 0
    for pattern_name, patterns in (("rank_pattern", target_spec.ranks), ("alpha_pattern", target_spec.alphas)):
        unmatched, unknown = patterns.unmatched(tensor_map.modules.keys())
        # Keys may name parameters ("gate_up_proj") whose tensors stand under their module's name ("experts").
        last_components = {key: key.rsplit(".", 1)[-1].rstrip("$)") for key in unmatched}
        useless += [
            f"{pattern_name} {key}"
            for key, component in last_components.items()
            if not any(f".{parameter}".endswith(f".{component}") for parameter in target_spec.parameters)
        ]
        unread += [f"{pattern_name} {pattern_key}" for pattern_key in unknown]
        key_count += len(patterns.values)
    findings = []
    if useless:
        actual = f"{listed(useless)} of {key_count} keys mean no adapted module"
        findings.append(finding("L129", actual, file=CONFIG_NAME, facts={"keys": useless[:64]}))
    if unread:
        findings.append(finding("L130", listed(unread), file=CONFIG_NAME, facts={"keys": unread[:64]}))
    return findings


def _undecided_expressions(target_spec: TargetSpec, tensor_map: TensorMap) -> list[Finding]:
    config, unread = target_spec.config, []
    for option, value in (("target_modules", config.target_modules), ("exclude_modules", config.exclude_modules)):
        if isinstance(value, str) and value and value != "all-linear" and read_expression(value) is None:
            unread.append(f"{option} {shown(value, 60)}")
    if not unread:
        return []
    undecided = [module_path for module_path in tensor_map.modules if target_spec.targeted(module_path) is None]
    if not undecided:
        return []
    actual = f"{'; '.join(unread)}: whether it means {some(undecided, len(tensor_map.modules))} is not known"
    facts = {"expressions": len(unread), "modules": len(undecided), "of": len(tensor_map.modules)}
    return [finding("L128", actual, file=CONFIG_NAME, facts=facts)]
