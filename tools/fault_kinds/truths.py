"""The right names for the unseen kinds, given after they were committed. Where two names are right, the reason is here.

A name is right when a person who acts on it mends the fault. "altered" is right where an edit of the config is the
fault; "unreadable" and "unsupported" both are where the file is something else than an adapter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools.fault_kinds.bundle import CONFIG
from tools.fault_kinds.case import Case, Kind

_TRUTHS: dict[str, tuple[str, ...]] = {
    "field-page-for-weights": ("unreadable",),
    "field-page-for-config": ("unreadable",),
    "field-left-compressed": ("unreadable",),
    "field-line-ends": ("unreadable",),
    "field-decoded-as-text": ("unreadable",),
    "field-config-utf16": ("unreadable",),
    "field-unfinished": ("unreadable", "incomplete"),  # no whole file is there: both say "get it again"
    "field-resumed-from-start": ("unreadable",),
    "field-tail-zero": ("broken_weights", "unreadable"),  # constant values, or a file cut short: both are literally so
    "field-bad-sectors": ("broken_weights",),
    "field-high-bits": ("broken_weights",),
    "field-shard-missing": ("incomplete", "unreadable"),
    "field-whole-model": ("unsupported", "unreadable"),  # "no LoRA adapter", or "no adapter at all"
    "field-base-config": ("unsupported", "unreadable"),
    "field-config-of-another": ("altered", "not_applied", "incomplete"),  # by what the other config lacks or adds
    "field-key-misspelt": ("altered", "unsupported", "unreadable"),  # the last two where the method's key is gone
    "field-targets-string": ("not_applied", "altered"),
    "field-wrong-type": ("unreadable", "altered"),
    "field-merged-by-update": ("not_applied", "altered"),
    "field-tensor-dropped": ("incomplete",),
    "field-int8-no-scales": ("broken_weights", "unsupported"),  # garbled values, or a kind that is not applied
    "field-component-renamed": ("not_applied",),
    "field-layers-from-one": ("not_applied", "wrong_size"),  # from outside: a base of more layers
    "field-layers-stacked": ("wrong_size", "not_applied", "broken_weights"),  # they are copies, too
    "field-factors-swapped": ("unreadable", "unsupported"),  # a foreign file, or another tool's kind
    "field-factors-transposed": ("unreadable", "unsupported"),
    "field-shape-trimmed": ("unreadable", "incomplete", "broken_weights"),  # a part of a tensor is missing
    "field-wrong-sixteen": ("broken_weights",),
    "field-big-endian": ("broken_weights",),
    "field-cast-overflow": ("broken_weights",),
    "field-cast-underflow": ("no_effect",),
    "field-some-b-zero": ("incomplete", "no_effect"),
    "field-some-unscaled": ("broken_weights", "over_scaled"),
    "field-fresh-a": ("broken_weights", "incomplete"),
    "field-contents-permuted": ("broken_weights",),
    "field-layers-reversed": ("broken_weights", "not_applied"),  # names that lead to the wrong layers
    "field-channels-permuted": ("broken_weights",),
    "field-noise": ("broken_weights",),
    "field-subtracted": ("inverted", "broken_weights"),
    "field-b-of-another": ("broken_weights", "wrong_base"),
    "field-base-half-other": ("wrong_base", "wrong_revision"),
    "field-base-layers-lost": ("wrong_base", "wrong_revision"),
    "field-base-embedding": ("tokenizer_mismatch", "wrong_base"),  # its ids mean other tokens
    "field-base-untrained": ("wrong_base",),
    "field-base-pruned": ("wrong_size",),
}


def causes_of(kind: Kind, case: Case) -> frozenset[str]:
    """The right names of a case, causes of `lorica/vetting/findings.toml`."""
    if kind.causes or not kind.unseen:
        return kind.causes
    if kind.name == "field-key-changed":
        return frozenset({"altered", *_edit(json.loads((case.path / CONFIG).read_text("utf-8")), case.path)})
    if kind.name == "field-case-changed":
        config = json.loads((case.path / CONFIG).read_text("utf-8"))
        return frozenset({"not_applied", "altered"} if config["peft_type"] == "LORA" else {"unsupported"})
    return frozenset(_TRUTHS[kind.name])


def _edit(config: dict[str, Any], folder: Path) -> set[str]:
    """What an edited key leads to, besides its being altered."""
    if config["peft_type"] != "LORA":
        return {"unsupported"}
    if config["use_dora"] or config["modules_to_save"]:
        return {"incomplete"}
    if config["layers_to_transform"]:
        return {"not_applied"}
    return {"not_applied", "incomplete"} if not config["rank_pattern"] else set()
