"""Tokenizer files beside an adapter: do they belong to the base that is named, and were new tokens trained?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lorica.adapters.bases import bases_named
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.vetting.claims.base_names import families
from lorica.vetting.claims.json_values import as_mapping
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


def check_tokenizer(adapter: RawAdapter, tensor_map: TensorMap, claims: list[NamedBase]) -> list[Finding]:
    """Findings L166-L168."""
    claim = next((candidate for candidate in claims if families(candidate.tail)), None)
    findings = []
    if claim is not None and families(claim.tail) <= _JUDGED:
        findings = _foreign(adapter, claim) + _template(adapter, claim)
    return findings + _new_tokens(adapter, tensor_map, claims)


def _tokenizer(adapter: RawAdapter) -> Mapping[str, Any]:
    return as_mapping(adapter.documents.get(_CONFIG))


def _foreign(adapter: RawAdapter, claim: NamedBase) -> list[Finding]:
    tokenizer = _tokenizer(adapter)
    base_families = families(claim.tail)
    foreign_signs = []
    class_name = tokenizer.get("tokenizer_class")
    class_families = _CLASSES.get(class_name.removesuffix("Fast")) if isinstance(class_name, str) else None
    # Llama 3 was published with several classes.
    is_llama3_class = base_families == {"llama3"} and class_families is not None and "llama" in class_families
    if class_families is not None and disjoint(base_families, class_families) and not is_llama3_class:
        foreign_signs.append(f"tokenizer_class {shown(class_name)}")
    first_token = tokenizer.get("bos_token")
    first_token = first_token.get("content") if isinstance(first_token, Mapping) else first_token
    token_families = _BEGINNINGS.get(first_token, frozenset()) if isinstance(first_token, str) else frozenset()
    differs = ("llama3" in token_families) != ("llama3" in base_families)
    if token_families and (differs or disjoint(base_families, token_families)):
        foreign_signs.append(f"first token {shown(first_token)}")
    if not foreign_signs:
        return []
    actual = f"{', '.join(foreign_signs)}; {claim.file} names {shown(claim.text)}"
    return [finding("L166", actual, file=_CONFIG, facts={"signs": foreign_signs, "base": sorted(base_families)})]


def _template(adapter: RawAdapter, claim: NamedBase) -> list[Finding]:
    template = _tokenizer(adapter).get("chat_template")
    if isinstance(template, list):
        template = " ".join(str(entry.get("template")) for entry in template[:16] if isinstance(entry, Mapping))
    if not isinstance(template, str):
        return []
    for marker, template_kind, template_families in _TEMPLATES:
        if marker in template:
            if not disjoint(families(claim.tail), template_families):
                return []
            actual = f"a {template_kind} template; {claim.file} names {shown(claim.text)}"
            return [finding("L168", actual, file=_CONFIG, facts={"template": template_kind})]
    return []


def _new_tokens(adapter: RawAdapter, tensor_map: TensorMap, claims: list[NamedBase]) -> list[Finding]:
    """Ids beyond the base's embedding, for which nothing was trained."""
    matching_bases = next(filter(None, (bases_named(candidate.text) for candidate in claims)), [])
    vocabulary = max((base_shape.vocabulary for base_shape in matching_bases), default=0)
    if not vocabulary or any(module.embedding for module in tensor_map.modules.values()):
        return []
    has_rows = any(
        any(map(tensor_map.shape, tensor_names))
        for module_path, tensor_names in tensor_map.saved.items()
        if "embed" in module_path or "wte" in module_path
    )
    if has_rows or any("trainable_tokens_delta" in tensor_name for tensor_name in tensor_map.tensors):
        return []
    token_ids = _ids(adapter)
    new_tokens = sorted(token for token, number in token_ids.items() if number >= vocabulary)
    if not new_tokens:
        return []
    actual = f"{len(new_tokens)} tokens ({listed(new_tokens, 3)}) have ids beyond the base's {vocabulary} rows"
    return [finding("L167", actual, file=_ADDED, facts={"tokens": len(new_tokens), "vocabulary": vocabulary})]


def _ids(adapter: RawAdapter) -> dict[str, int]:
    added_tokens = as_mapping(adapter.documents.get(_ADDED))
    token_ids = {str(token): number for token, number in added_tokens.items() if type(number) is int}
    for number, entry in as_mapping(_tokenizer(adapter).get("added_tokens_decoder")).items():
        if re.fullmatch("[0-9]{1,9}", str(number)) and isinstance(entry, Mapping):
            token_ids[str(entry.get("content"))] = int(number)
    return token_ids
