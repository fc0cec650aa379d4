"""What an adapter holds beside its pairs (modules, biases, tokens), and features that not every engine applies."""

from __future__ import annotations

from typing import Any

from lorica.adapters.config import CONFIG_NAME, TASK_HEADS, AdapterConfig
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.layout import Layout
from lorica.adapters.methods import method_of_names
from lorica.adapters.names import PREFIX
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
_MOST_KEPT = 64
_CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")


def check_extras(config: AdapterConfig | None, layout: Layout) -> list[Finding]:
    """Findings about everything that is stored or asked for beside the pairs."""
    if config is None or method_of_names(layout.tensors) is not None:
        return []
    found = _kept_modules(config, layout) + _whole(config, layout) + _tokens(config, layout)
    if layout.copies:
        seen = some(layout.copies, len(layout.tensors), "tensors")
        found.append(finding("L146", seen, file=WEIGHTS_NAME, facts={"tensors": list(layout.copies[:64])}))
    return found + _features(config, layout)


def _asked(config: AdapterConfig, path: str) -> bool:
    """Whether modules_to_save covers this path: PEFT takes every module whose path ends with one of the names."""
    names = tuple(config.saved_modules[:_MOST_KEPT])
    return bool(names) and any(start.endswith(names) for start in _starts(path))


def _starts(path: str) -> list[str]:
    """ "a.b.c" -> "a", "a.b", "a.b.c"; of more than 64 parts, the first 64."""
    parts = path.split(".", 64)[:64]
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _in_memory(names: tuple[str, ...]) -> bool:
    return all(".modules_to_save." in name for name in names)


def _kept_modules(config: AdapterConfig, layout: Layout) -> list[Finding]:
    asked = config.saved_modules[:_MOST_KEPT]
    if not asked:
        return []
    stored = [path for path, names in layout.saved.items() if not _in_memory(names)]
    ends = "".join(f".{start}\n" for path in stored for start in _starts(path))
    lost = [name for name in asked if f"{name}\n" not in ends]
    if not lost:
        return _kept_by_ending(asked, ends, stored)
    if any(name not in lost for name in config.task_heads):
        lost = [name for name in lost if name not in config.task_heads]  # a base has one of them
    elif not set(lost) & set(config.modules_to_save or ()):
        return _without_head(config, lost, layout)
    if not lost:
        return []
    inside = [path for path, names in layout.saved.items() if _in_memory(names)]
    seen = f"no tensors for {listed(lost)} of modules_to_save ({listed(asked)})"
    if inside:
        seen += f"; {shown(layout.saved[inside[0]][0])} is a name from memory, not from save_pretrained"
    expected = f"names such as {PREFIX}{lost[0]}.weight"
    doubtful = not inside and all(_may_not_exist(name, layout, others=len(lost) < len(asked)) for name in lost)
    if doubtful:
        expected += ", unless the base has no such module: PEFT passes over a name that means none"
    facts = {"lost": lost, "asked": asked}
    severity: Severity | None = "warn" if doubtful else None
    return [finding("L131", seen, expected=expected, file=WEIGHTS_NAME, facts=facts, severity=severity)]


def _may_not_exist(name: str, layout: Layout, *, others: bool) -> bool:
    """Whether bases with such layers lack a module of this name: "embed_tokens" where layers are "h.0", or, where
    `others` were stored, a name that is neither an embedding's nor a head's."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf in _INPUT_EMBEDDINGS:
        called = [kind for kind in ("h", "layers") if any(f".{kind}." in f".{path}" for path in layout.modules)]
        return ("h" in called and leaf not in ("wte", "word_embeddings")) or ("layers" in called and leaf == "wte")
    return others and leaf not in (*_OUTPUT_EMBEDDINGS, *_HEADS, *_NORMS)


def _without_head(config: AdapterConfig, heads: list[str], layout: Layout) -> list[Finding]:
    """The config leaves the head to PEFT, which makes one for the task, and nothing is stored of it."""
    seen = f"no tensors for {' or '.join(heads)}, which PEFT keeps for {config.task_type} by itself"
    inside = [path for path, names in layout.saved.items() if _in_memory(names)]
    if inside:
        seen += f"; {shown(layout.saved[inside[0]][0])} is a name from memory, not from save_pretrained"
    expected = f"names such as {PREFIX}{heads[-1]}.weight: without them the head stays as it was initialised"
    facts = {"lost": heads, "asked": []}
    return [finding("L131", seen, expected=expected, file=WEIGHTS_NAME, facts=facts, severity="warn")]


def _kept_by_ending(asked: list[str], ends: str, stored: list[str]) -> list[Finding]:
    """PEFT goes by the ending: "norm" means every layer's input_layernorm, too. Where nothing is called exactly so, the
    module that was meant (model.norm) is probably the one that was lost."""
    vague = [name for name in asked if f".{name}\n" not in ends]
    if not vague:
        return []
    seen = f"no module is called exactly {listed(vague)}; stored are {shown(stored[0])} and others that end so"
    expected = f"names such as {PREFIX}model.{vague[0]}.weight, unless only the others were meant"
    facts = {"lost": vague, "asked": asked}
    return [finding("L131", seen, expected=expected, file=WEIGHTS_NAME, facts=facts, severity="warn")]


def _whole(config: AdapterConfig, layout: Layout) -> list[Finding]:
    """Whole parameters that neither modules_to_save nor bias nor an adapted embedding explains."""
    biases, parameters = [], []
    alphas = set(alpha_tensors(layout).values())
    for path, names in layout.saved.items():
        if _asked(config, path):
            continue
        for name in names:
            leaf = name.rsplit(".", 1)[-1]
            if name in alphas or leaf == "trainable_tokens_delta" or name.startswith("base_model.") is False:
                continue
            if leaf == "bias":
                biases += [name] if config.bias == "none" else []
            elif not (".base_layer." in name and path in layout.modules and _is_embedding(path)):
                parameters.append((path, name))
    found = []
    if biases:
        seen = f'{some(biases, None, "bias tensors")}, and "bias" is "none"'
        found.append(
            finding("L135", seen, expected='"bias": "all" or "lora_only"', file=CONFIG_NAME, facts={"n": len(biases)})
        )
    if not parameters:
        return found
    kinds = {path.rsplit(".", 1)[-1] for path, _ in parameters}
    whole = [name for _, name in parameters]
    inputs, outputs = kinds & set(_INPUT_EMBEDDINGS), kinds & set(_OUTPUT_EMBEDDINGS)
    # save_pretrained(save_embedding_layers=True) stores both, where the model has both.
    resized = kinds == inputs | outputs and inputs and (outputs or config.task_type not in ("CAUSAL_LM", None))
    facts: dict[str, Any] = {"tensors": len(whole), "kinds": sorted(kinds)}
    if resized:
        rows = layout.shape(whole[0])[0] if layout.shape(whole[0]) else 0
        seen = f"{listed(sorted(kinds))}, {rows} rows"
        return [*found, finding("L133", seen, file=WEIGHTS_NAME, facts=facts | {"rows": rows})]
    saved = listed(config.saved_modules or ["nothing"])
    seen = f"{some(whole, len(layout.tensors), 'tensors')}, and modules_to_save names {saved}"
    return [*found, finding("L132", seen, expected="only what the config names", file=CONFIG_NAME, facts=facts)]


def _is_embedding(path: str) -> bool:
    return path.rsplit(".", 1)[-1] in (*_INPUT_EMBEDDINGS, *_OUTPUT_EMBEDDINGS)


def _tokens(config: AdapterConfig, layout: Layout) -> list[Finding]:
    """Rows of trained tokens against trainable_token_indices."""
    stored = {
        path.removesuffix(".token_adapter"): name
        for path, names in layout.saved.items()
        for name in names
        if name.rsplit(".", 1)[-1] == "trainable_tokens_delta"
    }
    asked = config.other.get("trainable_token_indices")
    wanted: dict[str, int | None] = {}
    if isinstance(asked, list):
        wanted = {"": len(asked)}
    elif isinstance(asked, dict):
        wanted = {str(name): len(ids) if isinstance(ids, list) else None for name, ids in asked.items()}
    says = (
        f"trainable_token_indices names {'none' if not asked else listed(name or 'the embedding' for name in wanted)}"
    )
    facts: dict[str, Any] = {"stored": len(stored), "asked": sorted(wanted)}
    if stored and not asked:
        seen = f"rows of trained tokens in {listed(stored)}, and {says}: PEFT drops them without a word"
        return [finding("L134", seen, expected="trainable_token_indices as in training", file=CONFIG_NAME, facts=facts)]
    if asked and not stored:
        seen = f"{says}, and the file holds no trained rows: PEFT fails to load it"
        return [finding("L134", seen, expected="trainable_tokens_delta tensors", file=WEIGHTS_NAME, facts=facts)]
    for path, name in stored.items():
        rows = layout.shape(name)[0] if layout.shape(name) else 0
        want = next((count for key, count in wanted.items() if not key or path.endswith(key)), None)
        if want is not None and want != rows:
            seen = f"{rows} trained rows for {shown(path)}, {want} tokens in trainable_token_indices"
            return [finding("L134", seen, expected=f"{want} rows", file=CONFIG_NAME, facts=facts | {"rows": rows})]
    return []


def _features(config: AdapterConfig, layout: Layout) -> list[Finding]:
    uses = [reason for reason in config.unsupported() if not reason.startswith("init_lora_weights")]
    uses = [shown(reason, 120) for reason in uses if "is a regular expression" not in reason]
    if any(each.embedding for each in layout.modules.values()):
        uses.append("the embedding is adapted")
    if any(len(layout.shape(each.a)) > 2 for each in layout.modules.values()):
        uses.append("convolutions are adapted")
    found = []
    if uses:
        found.append(finding("L136", "; ".join(uses), file=CONFIG_NAME, facts={"features": len(uses)}))
    how = config.init_lora_weights
    if isinstance(how, str) and how.startswith(_BASE_CHANGING):
        seen = f"init_lora_weights is {shown(how)!r}: the base's weights were changed in training"
        found.append(finding("L137", seen, file=CONFIG_NAME, facts={"init": how[:40]}))
    kinds = sorted({each.kind for each in layout.modules.values()})
    if config.other.get("fan_in_fan_out") is True and kinds and not set(kinds) & set(_CONV1D):
        seen = f"fan_in_fan_out is true for {listed(kinds)}"
        expected = "only for the Conv1D layers of GPT-2 and its kin (c_attn, c_proj, c_fc)"
        found.append(finding("L139", seen, expected=expected, file=CONFIG_NAME, facts={"kinds": kinds}))
    return found
