"""Are the tensors named as PEFT's loader expects them? What it does not expect it drops, mostly without a word."""

from __future__ import annotations

import re
from typing import Any

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.methods import FORMATS, METHODS, method_of_config, method_of_names
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.adapters.tensor_names import PREFIX
from lorica.vetting.claims.base_names import is_multimodal
from lorica.vetting.findings import Finding, Severity, finding
from lorica.vetting.structure.target_spec import TargetSpec
from lorica.vetting.wording import listed, shown, some

# Parts of a path that training wrappers leave in a state dict.
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning or DeepSpeed",
    "base_model": "PEFT, twice",
}
_DOUBLED = re.compile(r"model\.model\.(?:layers|h|embed_tokens|norm)(?:\.|$)")
# Every model with a head keeps its layers in an inner model: "model.layers", "transformer.h", "gpt_neox.layers".
_BARE = re.compile(r"(?:layers|h)\.\d+\.")
_FACTOR = re.compile(r"\.lora_[AB]|lora_embedding")
_LANGUAGE = re.compile(r"(?:^|\.)(?:language_model|text_model|llm)\.")


def check_naming(adapter: RawAdapter, target_spec: TargetSpec | None, tensor_map: TensorMap) -> list[Finding]:
    """Findings about the method, the prefixes and the adapter names in tensor names."""
    strangers = _method(adapter, tensor_map)
    if strangers and (not tensor_map.modules or strangers[0].code != "L103"):
        return strangers
    findings = strangers + _prefix(tensor_map) + _wrappers(target_spec, tensor_map)
    findings += _language_model(adapter, tensor_map) + _headless_names(adapter, tensor_map) + _adapter_names(tensor_map)
    if tensor_map.strange and not strangers:
        actual = some(tensor_map.strange, len(tensor_map.tensors), "tensors")
        actual += ": neither LoRA factors nor parameters of the base model"
        facts = {"tensors": len(tensor_map.strange), "first": tensor_map.strange[0]}
        severity: Severity | None = "reject" if any("lora" in name.lower() for name in tensor_map.strange) else None
        findings.append(finding("L109", actual, severity=severity, facts=facts))
    return findings


def _method(adapter: RawAdapter, tensor_map: TensorMap) -> list[Finding]:
    claimed = method_of_config(adapter.raw_config or {})
    named_method = method_of_names(tensor_map.tensors)
    has_pairs = bool(tensor_map.pairs)
    if claimed is not None:
        method_key, method = claimed
        if has_pairs and method_key not in ("ADALORA", "HIRA", "PEANUT", "LILY") and named_method is None:
            strange = "" if method_key in METHODS or method_key in FORMATS else ", which PEFT 0.21 does not know"
            pairs_text = f"{len(tensor_map.pairs)} modules have LoRA pairs"
            actual = f"{CONFIG_NAME} says {shown(method.title)}{strange}, and {pairs_text}"
            expected = "peft_type LORA with LoRA pairs"
            suggested_fix = 'if it is LoRA, write "peft_type": "LORA"' if strange else ""
            config_facts = {"config": method_key, "tensors": "LORA"}
            return [finding("L103", actual, expected=expected, fix=suggested_fix, file=CONFIG_NAME, facts=config_facts)]
        actual = f"it is {shown(method.title)} ({len(tensor_map.tensors)} tensors); Lorica reads LoRA as PEFT saves it"
        facts: dict[str, Any] = {"method": method_key}
        return [finding(_method_code(method_key), actual, fix=method.reader, file=CONFIG_NAME, facts=facts)]
    if named_method is None:
        return []
    method_key, method, tensor_count = named_method
    first_tensor = next(tensor_name for tensor_name in tensor_map.tensors if method_of_names([tensor_name]))
    weights_name = WEIGHTS_NAME if adapter.weights is None else adapter.weights.name
    named_text = f"{tensor_count} of {len(tensor_map.tensors)} tensors are named as in {method.title}"
    actual = f"{named_text}, such as {shown(first_tensor)}"
    facts = {"method": method_key, "tensors": tensor_count}
    if adapter.raw_config is not None and method_key not in FORMATS:
        actual = f"{CONFIG_NAME} says LORA, and {actual}"
        return [finding("L103", actual, expected="LoRA pairs", fix=method.reader, file=weights_name, facts=facts)]
    return [finding(_method_code(method_key), actual, fix=method.reader, file=weights_name, facts=facts)]


def _method_code(method_key: str) -> str:
    return "L102" if method_key in FORMATS else "L101"


def _prefix(tensor_map: TensorMap) -> list[Finding]:
    if not tensor_map.unprefixed:
        return []
    # "base_model.layers..." lacks PEFT's second part; "module.base_model.model..." stands behind a wrapper.
    wrappers = {"module", *_WRAPPERS} - {"base_model"}
    without_prefix = [name for name in tensor_map.unprefixed if name.split(".")[0] not in wrappers]
    if not without_prefix:
        return []
    actual = some(without_prefix, len(tensor_map.tensors), "tensors")
    facts = {"tensors": len(without_prefix), "of": len(tensor_map.tensors), "first": without_prefix[0]}
    return [finding("L104", actual, facts=facts)]


def _wrappers(target_spec: TargetSpec | None, tensor_map: TensorMap) -> list[Finding]:
    paths_by_wrapper: dict[str, list[str]] = {}
    for module_path in (*tensor_map.modules, *tensor_map.saved):
        if reason := _wrapper(target_spec, tensor_map, module_path):
            paths_by_wrapper.setdefault(reason, []).append(module_path)
    if not paths_by_wrapper:
        return []
    wrapped_paths = [module_path for module_paths in paths_by_wrapper.values() for module_path in module_paths]
    module_count = len(tensor_map.modules) + len(tensor_map.saved)
    actual = f"{listed(paths_by_wrapper)} in the names of {some(wrapped_paths, module_count)}"
    facts: dict[str, Any] = {"modules": len(wrapped_paths), "of": module_count}
    facts |= {"wrappers": {reason: len(module_paths) for reason, module_paths in paths_by_wrapper.items()}}
    return [finding("L105", actual, facts=facts)]


def _wrapper(target_spec: TargetSpec | None, tensor_map: TensorMap, module_path: str) -> str:
    """What is wrapped around a module by its path, and by whom; "" for nothing."""
    first_component, *inner_components = module_path.split(".")
    if first_component == "module":
        return "module (DistributedDataParallel)"
    # A module that is not prefixed by PEFT's name and only begins with "base_model" is L104's.
    is_unprefixed = first_component == "base_model" and not _is_prefixed(tensor_map, module_path)
    for component in inner_components if is_unprefixed else (first_component, *inner_components):
        if component in _WRAPPERS:
            return f"{component} ({_WRAPPERS[component]})"
    if _DOUBLED.match(module_path):
        return "model.model (a model inside a model)"
    is_layer = module_path.endswith(".base_layer") and module_path in tensor_map.modules
    # Several parameters of one module (target_parameters) are told apart by `base_layer` levels.
    of_parameters = "expert" in module_path if target_spec is None else target_spec.of_parameters(module_path)
    if is_layer and not of_parameters:
        return "base_layer (an adapted layer adapted again)"
    return ""


def _is_prefixed(tensor_map: TensorMap, module_path: str) -> bool:
    module = tensor_map.modules.get(module_path)
    tensor_names = (module.a, module.b, *module.more) if module is not None else tensor_map.saved.get(module_path, ())
    return any(tensor_name.startswith(PREFIX) for tensor_name in tensor_names if tensor_name)


def _language_model(adapter: RawAdapter, tensor_map: TensorMap) -> list[Finding]:
    inside = [module_path for module_path in tensor_map.modules if _LANGUAGE.search(module_path)]
    base_name = adapter.config.base_model_name_or_path if adapter.config else None
    if not inside or (base_name and is_multimodal(base_name)):
        return []
    multimodal = is_multimodal(base_name) if base_name else None
    actual = f"{some(inside, len(tensor_map.modules))} lie inside a larger model; the named base is "
    actual += shown(base_name or "not named") + (", which reads text only" if multimodal is False else "")
    facts = {"modules": len(inside), "of": len(tensor_map.modules), "base": base_name or ""}
    return [finding("L106", actual, severity="reject" if multimodal is False else None, facts=facts)]


def _headless_names(adapter: RawAdapter, tensor_map: TensorMap) -> list[Finding]:
    """Names that begin with the layers themselves: those of a model without a head (AutoModel), or a lost part."""
    bare_paths = [module_path for module_path in tensor_map.modules if _BARE.match(module_path)]
    task_type = adapter.config.task_type if adapter.config else None
    if not bare_paths or tensor_map.unprefixed or task_type == "FEATURE_EXTRACTION":
        return []
    bare_text = some(bare_paths, len(tensor_map.modules))
    actual = f"{bare_text}: the names lack the model inside the model; task_type is {shown(task_type)}"
    facts = {"modules": len(bare_paths), "of": len(tensor_map.modules), "task": task_type or ""}
    severity: Severity | None = "reject" if task_type is not None else None
    return [finding("L143", actual, severity=severity, facts=facts)]


def _adapter_names(tensor_map: TensorMap) -> list[Finding]:
    duplicate_paths = [
        module_path
        for module_path, module in tensor_map.modules.items()
        if any(_FACTOR.search(tensor_name) and not tensor_name.endswith(".bias") for tensor_name in module.more)
    ]
    if len(tensor_map.adapters) > 1 or (tensor_map.adapters and duplicate_paths):
        actual = f"adapter names {listed(tensor_map.adapters)} in tensor names; "
        actual += f"{len(duplicate_paths)} modules have a factor several times"
        return [finding("L108", actual, facts={"adapters": list(tensor_map.adapters), "modules": len(duplicate_paths)})]
    if duplicate_paths:
        actual = some(duplicate_paths, len(tensor_map.modules))
        return [finding("L141", actual, facts={"n": len(duplicate_paths)})]
    if tensor_map.adapters:
        adapter_name = tensor_map.adapters[0]
        named_tensors = [tensor_name for tensor_name in tensor_map.tensors if f".{adapter_name}" in tensor_name]
        shown_tensors = some(named_tensors, len(tensor_map.tensors), "tensors")
        actual = f"the adapter's name {shown(adapter_name)!r} in {shown_tensors}"
        return [finding("L107", actual, facts={"adapter": adapter_name, "tensors": len(named_tensors)})]
    return []
