"""What an adapter holds beside its pairs (modules, biases, tokens), and features that not every engine applies."""

from __future__ import annotations

from typing import Any

from lorica.adapters.config import CONFIG_NAME, TASK_HEADS, AdapterConfig
from lorica.adapters.methods import method_of_names
from lorica.adapters.tensor_map import TensorMap
from lorica.adapters.tensor_names import PREFIX
from lorica.vetting.finding_codes import Severity
from lorica.vetting.findings import Finding, finding
from lorica.vetting.structure.leftovers import alpha_tensors
from lorica.vetting.wording import listed, shown, some

_INPUT_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "shared", "embedding")
_OUTPUT_EMBEDDINGS = ("lm_head", "embed_out", "output")
_HEADS = frozenset(name for names in TASK_HEADS.values() for name in names)
_NORMS = ("norm", "ln_f", "final_layer_norm")
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
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
    names = tuple(config.saved_modules[:_MAX_SAVED_MODULES])
    return bool(names) and any(start.endswith(names) for start in _prefixes(module_path))


def _prefixes(module_path: str) -> list[str]:
    """ "a.b.c" -> "a", "a.b", "a.b.c"; of more than 64 parts, the first 64."""
    components = module_path.split(".", 64)[:64]
    return [".".join(components[: end + 1]) for end in range(len(components))]


def _has_runtime_names(names: tuple[str, ...]) -> bool:
    return all(".modules_to_save." in name for name in names)


def _saved_modules(config: AdapterConfig, tensor_map: TensorMap) -> list[Finding]:
    configured = config.saved_modules[:_MAX_SAVED_MODULES]
    if not configured:
        return []
    stored = [module_path for module_path, names in tensor_map.saved.items() if not _has_runtime_names(names)]
    ends = "".join(f".{start}\n" for module_path in stored for start in _prefixes(module_path))
    not_stored = [name for name in configured if f"{name}\n" not in ends]
    if not not_stored:
        return _saved_by_suffix(configured, ends, stored)
    if any(name not in not_stored for name in config.task_heads):
        not_stored = [name for name in not_stored if name not in config.task_heads]  # a base has one of them
    elif not set(not_stored) & set(config.modules_to_save or ()):
        return _without_head(config, not_stored, tensor_map)
    if not not_stored:
        return []
    inside = [module_path for module_path, names in tensor_map.saved.items() if _has_runtime_names(names)]
    actual = f"no tensors for {listed(not_stored)} of modules_to_save ({listed(configured)})"
    if inside:
        actual += f"; {shown(tensor_map.saved[inside[0]][0])} is a name from memory, not from save_pretrained"
    expected = f"names such as {PREFIX}{not_stored[0]}.weight"
    doubtful = not inside and all(
        _may_not_exist(name, tensor_map, others_stored=len(not_stored) < len(configured)) for name in not_stored
    )
    if doubtful:
        expected += ", unless the base has no such module: PEFT passes over a name that means none"
    facts = {"lost": not_stored, "asked": configured}
    severity: Severity | None = "warn" if doubtful else None
    return [finding("L131", actual, expected=expected, facts=facts, severity=severity)]


def _may_not_exist(name: str, tensor_map: TensorMap, *, others_stored: bool) -> bool:
    """Whether bases with such layers lack a module of this name: "embed_tokens" where layers are "h.0", or, where
    `others` were stored, a name that is neither an embedding's nor a head's."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf in _INPUT_EMBEDDINGS:
        containers = [
            layer_container
            for layer_container in ("h", "layers")
            if any(f".{layer_container}." in f".{module_path}" for module_path in tensor_map.modules)
        ]
        return ("h" in containers and leaf not in ("wte", "word_embeddings")) or (
            "layers" in containers and leaf == "wte"
        )
    return others_stored and leaf not in (*_OUTPUT_EMBEDDINGS, *_HEADS, *_NORMS)


def _without_head(config: AdapterConfig, heads: list[str], tensor_map: TensorMap) -> list[Finding]:
    """The config leaves the head to PEFT, which makes one for the task, and nothing is stored of it."""
    actual = f"no tensors for {' or '.join(heads)}, which PEFT keeps for {config.task_type} by itself"
    inside = [module_path for module_path, names in tensor_map.saved.items() if _has_runtime_names(names)]
    if inside:
        actual += f"; {shown(tensor_map.saved[inside[0]][0])} is a name from memory, not from save_pretrained"
    expected = f"names such as {PREFIX}{heads[-1]}.weight: without them the head stays as it was initialised"
    facts = {"lost": heads, "asked": []}
    return [finding("L131", actual, expected=expected, facts=facts, severity="warn")]


def _saved_by_suffix(configured: list[str], ends: str, stored: list[str]) -> list[Finding]:
    """PEFT goes by the ending: "norm" means every layer's input_layernorm, too. Where nothing is called exactly so, the
    module that was meant (model.norm) is probably the one that was lost."""
    vague = [name for name in configured if f".{name}\n" not in ends]
    if not vague:
        return []
    actual = f"no module is called exactly {listed(vague)}; stored are {shown(stored[0])} and others that end so"
    expected = f"names such as {PREFIX}model.{vague[0]}.weight, unless only the others were meant"
    facts = {"lost": vague, "asked": configured}
    return [finding("L131", actual, expected=expected, facts=facts, severity="warn")]


def _full_parameters(config: AdapterConfig, tensor_map: TensorMap) -> list[Finding]:
    """Whole parameters that neither modules_to_save nor bias nor an adapted embedding explains."""
    biases, parameters = [], []
    alphas = set(alpha_tensors(tensor_map).values())
    for module_path, names in tensor_map.saved.items():
        if _is_saved_module(config, module_path):
            continue
        for name in names:
            leaf = name.rsplit(".", 1)[-1]
            if name in alphas or leaf == "trainable_tokens_delta" or name.startswith("base_model.") is False:
                continue
            if leaf == "bias":
                biases += [name] if config.bias == "none" else []
            elif not (".base_layer." in name and module_path in tensor_map.modules and _is_embedding(module_path)):
                parameters.append((module_path, name))
    findings = []
    if biases:
        actual = f'{some(biases, None, "bias tensors")}, and "bias" is "none"'
        findings.append(
            finding("L135", actual, expected='"bias": "all" or "lora_only"', file=CONFIG_NAME, facts={"n": len(biases)})
        )
    if not parameters:
        return findings
    module_names = {module_path.rsplit(".", 1)[-1] for module_path, _ in parameters}
    tensor_names = [name for _, name in parameters]
    inputs, outputs = module_names & set(_INPUT_EMBEDDINGS), module_names & set(_OUTPUT_EMBEDDINGS)
    # save_pretrained(save_embedding_layers=True) stores both, where the model has both.
    resized = module_names == inputs | outputs and inputs and (outputs or config.task_type not in ("CAUSAL_LM", None))
    facts: dict[str, Any] = {"tensors": len(tensor_names), "kinds": sorted(module_names)}
    if resized:
        rows = tensor_map.shape(tensor_names[0])[0] if tensor_map.shape(tensor_names[0]) else 0
        actual = f"{listed(sorted(module_names))}, {rows} rows"
        return [*findings, finding("L133", actual, facts=facts | {"rows": rows})]
    saved = listed(config.saved_modules or ["nothing"])
    actual = f"{some(tensor_names, len(tensor_map.tensors), 'tensors')}, and modules_to_save names {saved}"
    return [*findings, finding("L132", actual, expected="only what the config names", file=CONFIG_NAME, facts=facts)]


def _is_embedding(module_path: str) -> bool:
    return module_path.rsplit(".", 1)[-1] in (*_INPUT_EMBEDDINGS, *_OUTPUT_EMBEDDINGS)


def _tokens(config: AdapterConfig, tensor_map: TensorMap) -> list[Finding]:
    """Rows of trained tokens against trainable_token_indices."""
    stored = {
        module_path.removesuffix(".token_adapter"): name
        for module_path, names in tensor_map.saved.items()
        for name in names
        if name.rsplit(".", 1)[-1] == "trainable_tokens_delta"
    }
    token_indices = config.other.get("trainable_token_indices")
    expected_rows: dict[str, int | None] = {}
    if isinstance(token_indices, list):
        expected_rows = {"": len(token_indices)}
    elif isinstance(token_indices, dict):
        expected_rows = {str(name): len(ids) if isinstance(ids, list) else None for name, ids in token_indices.items()}
    configured = listed(name or "the embedding" for name in expected_rows) if token_indices else "none"
    configured = f"trainable_token_indices names {configured}"
    facts: dict[str, Any] = {"stored": len(stored), "asked": sorted(expected_rows)}
    if stored and not token_indices:
        actual = f"rows of trained tokens in {listed(stored)}, and {configured}: PEFT drops them without a word"
        return [
            finding("L134", actual, expected="trainable_token_indices as in training", file=CONFIG_NAME, facts=facts)
        ]
    if token_indices and not stored:
        actual = f"{configured}, and the file holds no trained rows: PEFT fails to load it"
        return [finding("L134", actual, expected="trainable_tokens_delta tensors", facts=facts)]
    for module_path, name in stored.items():
        rows = tensor_map.shape(name)[0] if tensor_map.shape(name) else 0
        want = next((count for key, count in expected_rows.items() if not key or module_path.endswith(key)), None)
        if want is not None and want != rows:
            actual = f"{rows} trained rows for {shown(module_path)}, {want} tokens in trainable_token_indices"
            return [finding("L134", actual, expected=f"{want} rows", file=CONFIG_NAME, facts=facts | {"rows": rows})]
    return []


def _features(config: AdapterConfig, tensor_map: TensorMap) -> list[Finding]:
    uses = [reason for reason in config.unsupported() if not reason.startswith("init_lora_weights")]
    uses = [shown(reason, 120) for reason in uses if "is a regular expression" not in reason]
    if any(module.embedding for module in tensor_map.modules.values()):
        uses.append("the embedding is adapted")
    if any(len(tensor_map.shape(module.a)) > 2 for module in tensor_map.modules.values()):
        uses.append("convolutions are adapted")
    findings = []
    if uses:
        findings.append(finding("L136", "; ".join(uses), file=CONFIG_NAME, facts={"features": len(uses)}))
    how = config.init_lora_weights
    if isinstance(how, str) and how.startswith(_BASE_CHANGING):
        actual = f"init_lora_weights is {shown(how)!r}: the base's weights were changed in training"
        findings.append(finding("L137", actual, file=CONFIG_NAME, facts={"init": how[:40]}))
    module_names = sorted({module.target for module in tensor_map.modules.values()})
    if config.other.get("fan_in_fan_out") is True and module_names and not set(module_names) & set(_CONV1D):
        actual = f"fan_in_fan_out is true for {listed(module_names)}"
        expected = "only for the Conv1D layers of GPT-2 and its kin (c_attn, c_proj, c_fc)"
        findings.append(finding("L139", actual, expected=expected, file=CONFIG_NAME, facts={"kinds": module_names}))
    return findings
