"""Where an adapter names its base model, and whether two names mean the same one."""

from __future__ import annotations

import json
import re

import msgspec

from lorica.adapters.bases import normalise_base_id
from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.raw_adapter import RawAdapter
from lorica.vetting.claims.base_names import families, is_instruction_tuned, sizes
from lorica.vetting.claims.cards import card_bases
from lorica.vetting.claims.json_values import as_mapping

_TUNED = re.compile(r"-(?:instruct|it|chat|sft|dpo)(?=-|$)")
_TOKENIZER = "tokenizer_config.json"
# A tokenizer may be of a repository of its own: "gemma-tokenizer-chatml" is no model.
_OF_TOKENIZER = re.compile(r"(?:^|[-_.])tokeni[sz]ers?(?:[-_.]|$)", re.I)
# Names of folders that say nothing about what is in them.
_EMPTY = re.compile(
    r"(?:base|model|models|merged|final|output|outputs|out|checkpoint|checkpoints|pretrained|weights|snapshot|best|last|"
    r"adapter|adapters|lora|tmp|test|[0-9a-f]{7,64}|checkpoint-\d+|main|latest|local|\d+)?"
)


class NamedBase(msgspec.Struct, frozen=True):
    """A base model as one file names it. text: as it is written there."""

    file: str
    text: str

    @property
    def plain(self) -> str:
        """The model's own name, without publisher, path and quantisation."""
        return normalise_base_id(self.text)

    @property
    def tail(self) -> str:
        """The last part of a path or id; of a cache's folder, the repository."""
        path = self.text.strip().replace("\\", "/").rstrip("/")
        cached = re.search(r"models--[^/]{0,200}?--([^/]{1,200})", path)
        return cached[1] if cached else path.rsplit("/", 1)[-1]

    @property
    def is_path(self) -> bool:
        """Whether it is a place in a file system and not an id."""
        text = self.text.strip()
        return bool(re.match(r"[/.~\\]|[A-Za-z]:[\\/]", text)) or text.count("/") > 1 or "\\" in text

    @property
    def is_informative(self) -> bool:
        """Whether the name says anything of which model it is."""
        if self.file == _TOKENIZER and _OF_TOKENIZER.search(self.tail):
            return False
        if families(self.tail) or sizes(self.tail):
            return True
        return not self.is_path and "/" in self.text and not _EMPTY.fullmatch(self.plain)


def named_bases(adapter: RawAdapter) -> list[NamedBase]:
    """Every place that names the base, the config first where it does."""
    bases = []
    raw = adapter.raw_config or {}
    bases.append(NamedBase(CONFIG_NAME, _text(raw.get("base_model_name_or_path"))))
    bases += [NamedBase("README.md", base) for base in card_bases(adapter.card)]
    documents = adapter.documents
    manifest = as_mapping(as_mapping(documents.get("training.json")).get("manifest"))
    written = manifest.get("lora.base_model_name_or_path")
    bases.append(NamedBase("training.json", _decoded(written)))
    bases.append(
        NamedBase("lorica.json", _text(as_mapping(as_mapping(documents.get("lorica.json")).get("base")).get("name")))
    )
    arguments = as_mapping(documents.get("args.json"))
    for key in ("model_name_or_path", "model", "model_id", "base_model"):
        bases.append(NamedBase("args.json", _text(arguments.get(key))))
    bases.append(NamedBase("config.json", _text(as_mapping(documents.get("config.json")).get("_name_or_path"))))
    bases.append(NamedBase(_TOKENIZER, _text(as_mapping(documents.get(_TOKENIZER)).get("name_or_path"))))
    return list({(base.file, base.text): base for base in bases if base.text.strip()}.values())


def difference(first: NamedBase, second: NamedBase) -> str:
    """In what two names differ: "family", "size", "variant" (tuned or not), "name"; "" when they may be the same."""
    if not first.is_informative or not second.is_informative or first.plain == second.plain:
        return ""
    if disjoint(families(first.tail), families(second.tail)):
        return "family"
    if not same_size(sizes(first.tail), sizes(second.tail)):
        return "size"
    bare = [_TUNED.sub("", name.plain) for name in (first, second)]
    if bare[0] == bare[1]:
        return "variant" if is_instruction_tuned(first.tail) != is_instruction_tuned(second.tail) else ""
    if first.plain.startswith(second.plain) or second.plain.startswith(first.plain):
        return ""  # "mistral-7b" is short for "mistral-7b-v0.1"
    # A folder may be called after what is in it; only two ids are two names.
    return "" if first.is_path or second.is_path else "name"


def disjoint(first: frozenset[str], second: frozenset[str]) -> bool:
    """Whether two sets of families share none; a family's older name ("qwen") agrees with all of its line."""
    if not first or not second:
        return False
    return not any(a.startswith(b) or b.startswith(a) for a in first for b in second)


def same_size(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Whether some size of one is some size of the other, within 12%; True where either has none."""
    pairs = [(billions(a), billions(b)) for a in first for b in second]
    comparable = [(a, b) for a, b in pairs if a is not None and b is not None]
    return not comparable or any(abs(a - b) <= 0.12 * max(a, b) for a, b in comparable)


def billions(size: str) -> float | None:
    """ "1.5b" -> 1.5, "500m" -> 0.5; None for "8x7b", whose total nobody agrees on."""
    if "x" in size:
        return None
    return float(size[:-1]) / (1000 if size.endswith("m") else 1)


def _decoded(value: object) -> str:
    if not isinstance(value, str) or len(value) > 4096:
        return ""
    try:
        return _text(json.loads(value))
    except (ValueError, RecursionError):
        return value


def _text(value: object) -> str:
    return value[:1024] if isinstance(value, str) else ""
