"""What an adapter holds beside its pairs (modules, biases, tokens), and features that not every engine applies."""

from __future__ import annotations

from typing import Any

from lorica.adapters.config import BASE_CHANGING_INIT, CONFIG_NAME, TASK_HEADS, AdapterConfig
from lorica.adapters.methods import method_of_names
from lorica.adapters.tensor_map import TensorMap
from lorica.adapters.tensor_names import PREFIX
from lorica.encoder_families import ENCODER_FAMILIES
from lorica.vetting.claims.json_values import as_mapping
from lorica.vetting.findings import Finding, Severity, finding
from lorica.vetting.structure.leftovers import alpha_tensors
from lorica.vetting.wording import listed, shown, some

_INPUT_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "shared", "embedding")
_OUTPUT_EMBEDDINGS = ("lm_head", "embed_out", "output")
_HEADS = frozenset(name for names in TASK_HEADS.values() for name in names)
_NORMS = ("norm", "ln_f", "final_layer_norm")
# Nobody saves more kinds of modules.
_MAX_SAVED_MODULES = 64
_CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")


def check_extras(config: AdapterConfig | None, tensor_map: TensorMap) -> list[Finding]:
    """Findings about everything that is stored or asked for beside the pairs."""
    if config is None or method_of_names(tensor_map.tensors) is not None:
        return []
    findings = _saved_modules(config, tensor_map) + _full_parameters(config, tensor_map) + _tokens(config, tensor_map)
    if tensor_map.copies:
        actual = some(tensor_map.copies, len(tensor_map.tensors), "tensors")
        findings.append(finding("L146", actual, facts={"tensors": list(tensor_map.copies[:64])}))
    return findings + _features(config, tensor_map)


def _is_saved_module(config: AdapterConfig, module_path: str) -> bool:
    """Whether modules_to_save covers this path: PEFT takes every module whose path ends with one of the names."""
    saved_names = tuple(config.saved_modules[:_MAX_SAVED_MODULES])
    return bool(saved_names) and any(prefix.endswith(saved_names) for prefix in _prefixes(module_path))


def _prefixes(module_path: str) -> list[str]:
    """ "a.b.c" -> "a", "a.b", "a.b.c"; of more than 64 parts, the first 64."""
    components = module_path.split(".", 64)[:64]
    return [".".join(components[: last_index + 1]) for last_index in range(len(components))]


def _has_runtime_names(tensor_names: tuple[str, ...]) -> bool:
    return all(".modules_to_save." in tensor_name for tensor_name in tensor_names)


def _saved_modules(config: AdapterConfig, tensor_map: TensorMap) -> list[Finding]:
    configured = config.saved_modules[:_MAX_SAVED_MODULES]
    if not configured:
        return []
    stored = [module_path for module_path, names in tensor_map.saved.items() if not _has_runtime_names(names)]
    prefix_lines = "".join(f".{prefix}\n" for module_path in stored for prefix in _prefixes(module_path))
    not_stored = [saved_name for saved_name in configured if f"{saved_name}\n" not in prefix_lines]
    if not not_stored:
        return _saved_by_suffix(configured, prefix_lines, stored)
    if any(saved_name not in not_stored for saved_name in config.task_heads):
        # A base has one of them.
        not_stored = [saved_name for saved_name in not_stored if saved_name not in config.task_heads]
    elif not set(not_stored) & set(config.modules_to_save or ()):
        return _without_head(config, not_stored, tensor_map)
    if not not_stored:
        return []
    from_memory = _from_memory(tensor_map)
    actual = f"no tensors for {listed(not_stored)} of modules_to_save ({listed(configured)}){from_memory}"
    expected = f"names such as {PREFIX}{not_stored[0]}.weight"
    others_stored = len(not_stored) < len(configured)
    may_not_exist = (_may_not_exist(saved_name, tensor_map, others_stored=others_stored) for saved_name in not_stored)
    doubtful = not from_memory and all(may_not_exist)
    if doubtful:
        expected += ", unless the base has no such module: PEFT passes over a name that means none"
    facts = {"lost": not_stored, "asked": configured}
    severity: Severity | None = "warn" if doubtful else None
    return [finding("L131", actual, expected=expected, facts=facts, severity=severity)]


def _from_memory(tensor_map: TensorMap) -> str:
    """That parameters stand under the names they have in memory, "" where none does."""
    first_names = next(filter(_has_runtime_names, tensor_map.saved.values()), None)
    return f"; {shown(first_names[0])} is a name from memory, not from save_pretrained" if first_names else ""


def _may_not_exist(saved_name: str, tensor_map: TensorMap, *, others_stored: bool) -> bool:
    """Whether bases with such layers lack a module of this name: "embed_tokens" where layers are "h.0", or, where
    `others_stored`, a name that is neither an embedding's nor a head's."""
    last_component = saved_name.rsplit(".", 1)[-1]
    if last_component in _INPUT_EMBEDDINGS:
        path_text = "\n".join(f".{module_path}" for module_path in tensor_map.modules)
        return (".h." in path_text and last_component not in ("wte", "word_embeddings")) or (
            ".layers." in path_text and last_component == "wte"
        )
    return others_stored and last_component not in (*_OUTPUT_EMBEDDINGS, *_HEADS, *_NORMS)


def _without_head(config: AdapterConfig, head_names: list[str], tensor_map: TensorMap) -> list[Finding]:
    """The config leaves the head to PEFT, which makes one for the task, and nothing is stored of it."""
    actual = f"no tensors for {' or '.join(head_names)}, which PEFT keeps for {config.task_type} by itself"
    actual += _from_memory(tensor_map)
    expected = f"names such as {PREFIX}{head_names[-1]}.weight: without them the head stays as it was initialised"
    facts = {"lost": head_names, "asked": []}
    # Without its head an encoder answers nothing; what else has a head may have it in the base.
    severity: Severity | None = None if _on_encoder(config, tensor_map) else "warn"
    return [finding("L131", actual, expected=expected, facts=facts, severity=severity)]


def _on_encoder(config: AdapterConfig, tensor_map: TensorMap) -> bool:
    """Whether it is a classifier on one of the encoders that Lorica knows, as far as its modules tell."""
    targets = {target for family in ENCODER_FAMILIES.values() for target in family.lora_targets}
    return config.task_type == "SEQ_CLS" and any(path.rsplit(".", 1)[-1] in targets for path in tensor_map.modules)


def _saved_by_suffix(configured: list[str], prefix_lines: str, stored: list[str]) -> list[Finding]:
    """PEFT goes by the ending: "norm" means every layer's input_layernorm, too. Where nothing is called exactly so, the
    module that was meant (model.norm) is probably the one that was lost."""
    suffix_only = [saved_name for saved_name in configured if f".{saved_name}\n" not in prefix_lines]
    if not suffix_only:
        return []
    actual = f"no module is called exactly {listed(suffix_only)}; stored are {shown(stored[0])} and others that end so"
    expected = f"names such as {PREFIX}model.{suffix_only[0]}.weight, unless only the others were meant"
    facts = {"lost": suffix_only, "asked": configured}
    return [finding("L131", actual, expected=expected, facts=facts, severity="warn")]


def _full_parameters(config: AdapterConfig, tensor_map: TensorMap) -> list[Finding]:
    """Whole parameters that neither modules_to_save nor bias nor an adapted embedding explains."""
    biases, parameters = [], []
    alphas = set(alpha_tensors(tensor_map).values())
    for module_path, parameter_names in tensor_map.saved.items():
        if _is_saved_module(config, module_path):
            continue
        is_embedding = module_path.rsplit(".", 1)[-1] in (*_INPUT_EMBEDDINGS, *_OUTPUT_EMBEDDINGS)
        for parameter in parameter_names:
            last_component = parameter.rsplit(".", 1)[-1]
            is_trained_token = last_component == "trainable_tokens_delta"
            if parameter in alphas or is_trained_token or not parameter.startswith("base_model."):
                continue
            if last_component == "bias":
                biases += [parameter] if config.bias == "none" else []
            elif not (".base_layer." in parameter and module_path in tensor_map.modules and is_embedding):
                parameters.append((module_path, parameter))
    findings = []
    if biases:
        actual = f'{some(biases, None, "bias tensors")}, and "bias" is "none"'
        findings.append(finding("L135", actual, file=CONFIG_NAME, facts={"n": len(biases)}))
    if not parameters:
        return findings
    module_names = {module_path.rsplit(".", 1)[-1] for module_path, _ in parameters}
    tensor_names = [parameter for _, parameter in parameters]
    inputs, outputs = module_names & set(_INPUT_EMBEDDINGS), module_names & set(_OUTPUT_EMBEDDINGS)
    # save_pretrained(save_embedding_layers=True) stores both, where the model has both.
    resized = module_names == inputs | outputs and inputs and (outputs or config.task_type not in ("CAUSAL_LM", None))
    facts: dict[str, Any] = {"tensors": len(tensor_names), "kinds": sorted(module_names)}
    if resized:
        row_count = tensor_map.shape(tensor_names[0])[0] if tensor_map.shape(tensor_names[0]) else 0
        actual = f"{listed(sorted(module_names))}, {row_count} rows"
        return [*findings, finding("L133", actual, facts=facts | {"rows": row_count})]
    saved_text = listed(config.saved_modules or ["nothing"])
    actual = f"{some(tensor_names, len(tensor_map.tensors), 'tensors')}, and modules_to_save names {saved_text}"
    return [*findings, finding("L132", actual, file=CONFIG_NAME, facts=facts)]


def _tokens(config: AdapterConfig, tensor_map: TensorMap) -> list[Finding]:
    """Rows of trained tokens against trainable_token_indices."""
    stored = {
        module_path.removesuffix(".token_adapter"): tensor_name
        for module_path, tensor_names in tensor_map.saved.items()
        for tensor_name in tensor_names
        if tensor_name.rsplit(".", 1)[-1] == "trainable_tokens_delta"
    }
    token_indices = config.other.get("trainable_token_indices")
    by_module = {"": token_indices} if isinstance(token_indices, list) else as_mapping(token_indices)
    expected_rows = {
        str(module_name): len(token_ids) if isinstance(token_ids, list) else None
        for module_name, token_ids in by_module.items()
    }
    configured = listed(module_name or "the embedding" for module_name in expected_rows) if token_indices else "none"
    configured = f"trainable_token_indices names {configured}"
    facts: dict[str, Any] = {"stored": len(stored), "asked": sorted(expected_rows)}
    if stored and not token_indices:
        actual = f"rows of trained tokens in {listed(stored)}, and {configured}: PEFT drops them without a word"
        expected = "trainable_token_indices as in training"
        return [finding("L134", actual, expected=expected, file=CONFIG_NAME, facts=facts)]
    if token_indices and not stored:
        actual = f"{configured}, and the file holds no trained rows: PEFT fails to load it"
        return [finding("L134", actual, expected="trainable_tokens_delta tensors", facts=facts)]
    for module_path, tensor_name in stored.items():
        row_count = tensor_map.shape(tensor_name)[0] if tensor_map.shape(tensor_name) else 0
        counts = (count for module_suffix, count in expected_rows.items() if module_path.endswith(module_suffix))
        wanted_rows = next(counts, None)
        if wanted_rows is not None and wanted_rows != row_count:
            tokens_text = f"{wanted_rows} tokens in trainable_token_indices"
            actual = f"{row_count} trained rows for {shown(module_path)}, {tokens_text}"
            facts["rows"] = row_count
            return [finding("L134", actual, expected=f"{wanted_rows} rows", file=CONFIG_NAME, facts=facts)]
    return []


def _features(config: AdapterConfig, tensor_map: TensorMap) -> list[Finding]:
    unsupported = [reason for reason in config.unsupported() if not reason.startswith("init_lora_weights")]
    unsupported = [shown(reason, 120) for reason in unsupported if "is a regular expression" not in reason]
    if any(module.embedding for module in tensor_map.modules.values()):
        unsupported.append("the embedding is adapted")
    if any(len(tensor_map.shape(module.a)) > 2 for module in tensor_map.modules.values()):
        unsupported.append("convolutions are adapted")
    findings = []
    # What is on an encoder is never for the native engine, and the encoders' applies whatever PEFT does.
    if unsupported and not _on_encoder(config, tensor_map):
        findings.append(finding("L136", "; ".join(unsupported), file=CONFIG_NAME, facts={"features": len(unsupported)}))
    initialisation = config.init_lora_weights
    if isinstance(initialisation, str) and initialisation.startswith(BASE_CHANGING_INIT):
        actual = f"init_lora_weights is {shown(initialisation)!r}: the base's weights were changed in training"
        findings.append(finding("L137", actual, file=CONFIG_NAME, facts={"init": initialisation[:40]}))
    module_names = sorted({module.target for module in tensor_map.modules.values()})
    if config.other.get("fan_in_fan_out") is True and module_names and not set(module_names) & set(_CONV1D):
        actual = f"fan_in_fan_out is true for {listed(module_names)}"
        findings.append(finding("L139", actual, file=CONFIG_NAME, facts={"kinds": module_names}))
    return findings
