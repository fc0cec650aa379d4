"""Where an adapter names its base model, and whether two names mean the same one."""

from __future__ import annotations

import itertools
import json
import re

import msgspec

from lorica.adapters.bases import normalise_base_id
from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.raw_adapter import RawAdapter
from lorica.vetting.claims.base_names import families, is_instruction_tuned, sizes
from lorica.vetting.claims.cards import card_bases
from lorica.vetting.claims.json_values import as_mapping, training_manifest

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
        stated_path = self.text.strip().replace("\\", "/").rstrip("/")
        cached = re.search(r"models--[^/]{0,200}?--([^/]{1,200})", stated_path)
        return cached[1] if cached else stated_path.rsplit("/", 1)[-1]

    @property
    def is_path(self) -> bool:
        """Whether it is a place in a file system and not an id."""
        stated_text = self.text.strip()
        is_anchored = re.match(r"[/.~\\]|[A-Za-z]:[\\/]", stated_text) is not None
        return is_anchored or stated_text.count("/") > 1 or "\\" in stated_text

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
    documents = {file_name: as_mapping(document) for file_name, document in adapter.documents.items()}
    raw_config, arguments = adapter.raw_config or {}, documents.get("args.json", {})
    manifest = training_manifest(documents)
    passport_base = as_mapping(documents.get("lorica.json", {}).get("base"))
    argument_keys = ("model_name_or_path", "model", "model_id", "base_model")
    places = [
        (CONFIG_NAME, _text(raw_config.get("base_model_name_or_path"))),
        *(("README.md", card_base) for card_base in card_bases(adapter.card)),
        ("training.json", _decoded(manifest.get("lora.base_model_name_or_path"))),
        ("lorica.json", _text(passport_base.get("name"))),
        *(("args.json", _text(arguments.get(argument_key))) for argument_key in argument_keys),
        ("config.json", _text(documents.get("config.json", {}).get("_name_or_path"))),
        (_TOKENIZER, _text(documents.get(_TOKENIZER, {}).get("name_or_path"))),
    ]
    return [NamedBase(file_name, base_text) for file_name, base_text in dict.fromkeys(places) if base_text.strip()]


def difference(first_base: NamedBase, second_base: NamedBase) -> str:
    """In what two names differ: "family", "size", "variant" (tuned or not), "name"; "" when they may be the same."""
    if not first_base.is_informative or not second_base.is_informative or first_base.plain == second_base.plain:
        return ""
    if disjoint(families(first_base.tail), families(second_base.tail)):
        return "family"
    if not same_size(sizes(first_base.tail), sizes(second_base.tail)):
        return "size"
    untuned_names = [_TUNED.sub("", named_base.plain) for named_base in (first_base, second_base)]
    if untuned_names[0] == untuned_names[1]:
        return "variant" if is_instruction_tuned(first_base.tail) != is_instruction_tuned(second_base.tail) else ""
    if first_base.plain.startswith(second_base.plain) or second_base.plain.startswith(first_base.plain):
        return ""  # "mistral-7b" is short for "mistral-7b-v0.1"
    # A folder may be called after what is in it; only two ids are two names.
    return "" if first_base.is_path or second_base.is_path else "name"


def disjoint(first_words: frozenset[str], second_words: frozenset[str]) -> bool:
    """Whether two sets of families share none; a family's older name ("qwen") agrees with all of its line."""
    if not first_words or not second_words:
        return False
    return not any(
        first.startswith(second) or second.startswith(first)
        for first, second in itertools.product(first_words, second_words)
    )


def same_size(first_sizes: tuple[str, ...], second_sizes: tuple[str, ...]) -> bool:
    """Whether some size of one is some size of the other, within 12%; True where either has none."""
    # Nobody agrees on the total of "8x7b".
    first_billions, second_billions = (
        [float(size[:-1]) / (1000 if size.endswith("m") else 1) for size in size_words if "x" not in size]
        for size_words in (first_sizes, second_sizes)
    )
    size_pairs = list(itertools.product(first_billions, second_billions))
    return not size_pairs or any(abs(first - second) <= 0.12 * max(first, second) for first, second in size_pairs)


def _decoded(json_value: object) -> str:
    if not isinstance(json_value, str) or len(json_value) > 4096:
        return ""
    try:
        return _text(json.loads(json_value))
    except (ValueError, RecursionError):
        return json_value


def _text(json_value: object) -> str:
    return json_value[:1024] if isinstance(json_value, str) else ""
