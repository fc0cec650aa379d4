"""Tokenizer files beside an adapter: do they belong to the base that is named, and were new tokens trained?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorica.adapters.bases import bases_named
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.vetting.claims.base_names import families
from lorica.vetting.claims.named_bases import NamedBase, disjoint
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import listed, shown

_CONFIG = "tokenizer_config.json"
_ADDED = "added_tokens.json"
# Families that are judged at all: of the others, several kinds of tokenizers are in use.
_JUDGED = frozenset(
    ("llama", "llama3", "mistral", "qwen2", "qwen2.5", "qwen3", "qwen1.5", "gemma", "gemma2", "gemma3", "gpt2", "phi3")
)
_CLASSES = {
    "Qwen2Tokenizer": frozenset(("qwen",)),
    "GemmaTokenizer": frozenset(("gemma",)),
    "LlamaTokenizer": frozenset(("llama", "mistral", "phi3")),
    "GPT2Tokenizer": frozenset(("gpt2", "phi")),
}
# First tokens by which a tokenizer's family is known.
_BEGINNINGS = {
    "<|begin_of_text|>": frozenset(("llama3",)),
    "<bos>": frozenset(("gemma",)),
    "<s>": frozenset(("llama", "mistral", "phi3")),
}
# What a chat template writes -> (its kind, families whose own templates are of this kind).
_TEMPLATES = (
    ("<|start_header_id|>", "Llama 3", frozenset(("llama3",))),
    ("<start_of_turn>", "Gemma", frozenset(("gemma",))),
    ("<|im_start|>", "ChatML", frozenset(("qwen",))),
    ("[INST]", "[INST]", frozenset(("mistral", "llama"))),
)


def check_tokenizer(adapter: RawAdapter, tensor_map: TensorMap, bases: list[NamedBase]) -> list[Finding]:
    """Findings L166-L168."""
    base = next((candidate for candidate in bases if families(candidate.tail)), None)
    findings = []
    if base is not None and families(base.tail) <= _JUDGED:
        findings = _foreign(adapter, base) + _template(adapter, base)
    return findings + _new_tokens(adapter, tensor_map, bases)


def _tokenizer(adapter: RawAdapter) -> Mapping[str, Any]:
    value = adapter.documents.get(_CONFIG)
    return value if isinstance(value, Mapping) else {}


def _foreign(adapter: RawAdapter, base: NamedBase) -> list[Finding]:
    tokenizer = _tokenizer(adapter)
    base_families = families(base.tail)
    signs = []
    class_name = tokenizer.get("tokenizer_class")
    class_families = _CLASSES.get(class_name.removesuffix("Fast")) if isinstance(class_name, str) else None
    # Llama 3 was published with several classes.
    is_llama3_class = base_families == {"llama3"} and class_families is not None and "llama" in class_families
    if class_families is not None and disjoint(base_families, class_families) and not is_llama3_class:
        signs.append(f"tokenizer_class {shown(class_name)}")
    first = tokenizer.get("bos_token")
    first = first.get("content") if isinstance(first, Mapping) else first
    token_families = _BEGINNINGS.get(first, frozenset()) if isinstance(first, str) else frozenset()
    differs = ("llama3" in token_families) != ("llama3" in base_families)
    if token_families and (differs or disjoint(base_families, token_families)):
        signs.append(f"first token {shown(first)}")
    if not signs:
        return []
    actual = f"{', '.join(signs)}; {base.file} names {shown(base.text)}"
    facts = {"signs": signs, "base": sorted(base_families)}
    return [finding("L166", actual, expected="the base's own tokenizer", file=_CONFIG, facts=facts)]


def _template(adapter: RawAdapter, base: NamedBase) -> list[Finding]:
    template = _tokenizer(adapter).get("chat_template")
    if isinstance(template, list):
        template = " ".join(str(entry.get("template")) for entry in template[:16] if isinstance(entry, Mapping))
    if not isinstance(template, str):
        return []
    for marker, template_kind, template_families in _TEMPLATES:
        if marker in template:
            if not disjoint(families(base.tail), template_families):
                return []
            actual = f"a {template_kind} template; {base.file} names {shown(base.text)}"
            return [finding("L168", actual, file=_CONFIG, facts={"template": template_kind})]
    return []


def _new_tokens(adapter: RawAdapter, tensor_map: TensorMap, bases: list[NamedBase]) -> list[Finding]:
    """Ids beyond the base's embedding, for which nothing was trained."""
    matching_bases = next(filter(None, (bases_named(candidate.text) for candidate in bases)), [])
    vocabulary = max((base.vocabulary for base in matching_bases), default=0)
    if not vocabulary or any(module.embedding for module in tensor_map.modules.values()):
        return []
    rows = [
        tensor_map.shape(name)
        for path, names in tensor_map.saved.items()
        for name in names
        if "embed" in path or "wte" in path
    ]
    if any(rows) or any("trainable_tokens_delta" in name for name in tensor_map.tensors):
        return []
    ids = _ids(adapter)
    new = sorted(token for token, number in ids.items() if number >= vocabulary)
    if not new:
        return []
    actual = f"{len(new)} tokens ({listed(new, 3)}) have ids beyond the base's {vocabulary} rows"
    facts = {"tokens": len(new), "vocabulary": vocabulary}
    return [finding("L167", actual, expected="trained embeddings for them", file=_ADDED, facts=facts)]


def _ids(adapter: RawAdapter) -> dict[str, int]:
    token_ids: dict[str, int] = {}
    added = adapter.documents.get(_ADDED)
    if isinstance(added, Mapping):
        token_ids |= {str(token): number for token, number in added.items() if type(number) is int}
    decoder = _tokenizer(adapter).get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        for number, entry in decoder.items():
            if str(number).isascii() and str(number).isdigit() and len(str(number)) < 10 and isinstance(entry, Mapping):
                token_ids[str(entry.get("content"))] = int(number)
    return token_ids
