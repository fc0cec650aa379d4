"""Level 1, claims: what config, card, records and names say, against each other and against the tensors.

Nothing is looked up outside the adapter's folder, except shapes in the shipped table of bases.
"""

from __future__ import annotations

import re
from typing import Any

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.fingerprint import Match
from lorica.adapters.layout import Layout
from lorica.adapters.methods import FORMATS, method_of_config, method_of_names
from lorica.adapters.specimen import Specimen
from lorica.vetting.claims.bases import check_named_base
from lorica.vetting.claims.cards import Card, read_card
from lorica.vetting.claims.evidence import check_evidence, training_evidence
from lorica.vetting.claims.families import families, quantised, sizes
from lorica.vetting.claims.named_bases import Named, billions, difference, disjoint, named_bases, same_size
from lorica.vetting.claims.own_runs import check_own_run
from lorica.vetting.claims.settings import check_settings
from lorica.vetting.claims.tokenizers import check_tokenizer
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import listed, shown

_KNOWN_PEFT = (0, 21)
# Weights in these formats are other weights; 4-bit loading by bitsandbytes rounds the public ones.
_OTHER_WEIGHTS = ("gptq", "awq", "gguf", "exl2", "int4", "int8", "fp8")
_GENERIC = re.compile(r"(?:adapters?|best|last|final|lora|output|outputs|checkpoint-\d+|step-\d+|[0-9a-f]{40})")


def check_claims(specimen: Specimen, layout: Layout, match: Match | None) -> list[Finding]:
    """Findings L150-L199. match: which bases of the table fit the tensors' shapes, None when that is not known."""
    card = read_card(specimen.card)
    bases = named_bases(specimen, card)
    tool = method_of_names(layout.tensors)
    found = _bases(specimen, bases, foreign=tool is not None and tool[0] in FORMATS)
    found += _names(specimen, card, bases) + _config(specimen)
    found += check_settings(specimen, layout, card)
    found += check_evidence(specimen, training_evidence(specimen)) + check_own_run(specimen)
    if method_of_config(specimen.raw_config or {}) is None and layout.modules:
        found += check_named_base(specimen, layout, bases, match)
        found += check_tokenizer(specimen, layout, bases)
    return found


def _bases(specimen: Specimen, bases: list[Named], *, foreign: bool) -> list[Finding]:
    """Ids of the base model, against each other. foreign: of another tool, whose config names its base otherwise."""
    found = []
    own = next((each for each in bases if each.place == CONFIG_NAME), None)
    of_peft = specimen.raw_config is not None and method_of_config(specimen.raw_config) is None and not foreign
    if own is None and of_peft:
        others = f"; {_says(bases)}" if bases else ""
        seen = f"base_model_name_or_path is missing or empty{others}"
        found.append(finding("L156", seen, expected="the base's id", file=CONFIG_NAME))
    if own is not None and own.is_path:
        found.append(finding("L157", shown(own.text), file=CONFIG_NAME, facts={"base": own.text[:300]}))
    reasons: dict[str, tuple[Named, Named]] = {}
    for i, one in enumerate(bases):
        for other in bases[i + 1 :]:
            # Several bases of one card (a merge) are one claim: it agrees if any of them does.
            if one.place == other.place:
                continue
            differ = [difference(one, each) for each in bases if each.place == other.place]
            if all(differ):
                reasons.setdefault(differ[0], (one, other))
    for why in ("family", "size", "name"):
        if why in reasons:
            one, other = reasons[why]
            seen = _says([one, other])
            facts = {"differ": why, "names": [one.text[:200], other.text[:200]], "places": [one.place, other.place]}
            found.append(finding("L150", seen, expected="one base everywhere", file=other.place, facts=facts))
            return found + _variants(bases)
    if "variant" in reasons:
        one, other = reasons["variant"]
        found.append(finding("L153", _says([one, other]), expected="one of them", file=other.place))
    return found + _variants(bases)


def _variants(bases: list[Named]) -> list[Finding]:
    """Quantised copies of the base."""
    kinds = {each.place: quantised(each.tail) for each in bases if each.tells}
    named = sorted({kind for kind in kinds.values() if kind})
    if not named:
        return []
    differ = len(set(kinds.values())) > 1 and any(kind in _OTHER_WEIGHTS for kind in named)
    places = ", ".join(f"{kind or 'not quantised'} in {place}" for place, kind in kinds.items())
    expected = "one variant everywhere" if differ else "the variant it was trained on when it is used"
    return [
        finding(
            "L154",
            f"the base is named as {places}",
            expected=expected,
            file=next(iter(kinds)),
            severity="warn" if differ else None,
            facts={"variants": kinds},
        )
    ]


def _says(bases: list[Named]) -> str:
    return ", ".join(f"{each.place} names {shown(each.text)}" for each in bases[:6])


def _names(specimen: Specimen, card: Card, bases: list[Named]) -> list[Finding]:
    """Size and family words of folder, card and data sets, against the named base."""
    base = next((each for each in bases if sizes(each.tail) or families(each.tail)), None)
    if base is None:
        return []
    places = _places(specimen, card)
    found = []
    wrong = {place: text for place, text in places.items() if not same_size(sizes(text), sizes(base.tail))}
    if card.parameters is not None and card.trainable is not None and not wrong:
        # What PEFT prints for the whole model gives the base's size away.
        size = (card.parameters - card.trainable) / 1e9
        claimed = [each for each in map(billions, sizes(base.tail)) if each]
        if claimed and size > 0 and not any(0.6 < size / each < 1.6 for each in claimed):
            wrong["README.md"] = f"all params {card.parameters}"
    if wrong:
        seen = f"{base.place} names {shown(base.text)}; " + _in(wrong)
        facts: dict[str, Any] = {
            "base": list(sizes(base.tail)),
            "places": {key: list(sizes(text)) for key, text in wrong.items()},
        }
        found.append(finding("L151", seen, expected="one size everywhere", file=base.place, facts=facts))
    other = {place: text for place, text in places.items() if disjoint(families(base.tail), families(text, shortest=4))}
    if other:
        seen = f"{base.place} names {shown(base.text)}; " + _in(other)
        facts = {
            "base": sorted(families(base.tail)),
            "places": {key: sorted(families(text, 4)) for key, text in other.items()},
        }
        found.append(finding("L152", seen, expected="one family everywhere", file=base.place, facts=facts))
    return found or _mentioned(card, base)


def _places(specimen: Specimen, card: Card) -> dict[str, str]:
    """Names that may hold words about the base: of the folder, the repository in a cache, the card, the data sets."""
    parts = [part for part in specimen.given.parts[-2:] if part not in ("..", ".", "/")]
    own = specimen.name if not _GENERIC.fullmatch(specimen.name.lower()) else ""
    if not own and parts:
        own = parts[-1] if not _GENERIC.fullmatch(parts[-1].lower()) else parts[0]
    cached = re.search(r"models--[^/]{0,200}?--([^/]{1,200})", specimen.given.as_posix())
    places = {"the folder's name": own}
    if cached:
        places["the repository's name"] = cached[1]
    if card.title:
        places["the card's title"] = card.title.rsplit("/", 1)[-1]
    # A data set made with a model is called after it; other numbers in its name are its own.
    datasets = [name.rsplit("/", 1)[-1] for name in card.datasets]
    telling = [name for name in datasets if families(name, 4) and sizes(name)]
    if telling:
        places["the card's data set"] = telling[0]
    return {place: text for place, text in places.items() if text}


def _in(texts: dict[str, str]) -> str:
    return ", ".join(f"{place} says {shown(text)}" for place, text in texts.items())


def _mentioned(card: Card, base: Named) -> list[Finding]:
    """Ids in the card's text, none of which has the base's size."""
    ids = [word for word in card.mentions if families(word, 4) and sizes(word)]
    if not ids or not sizes(base.tail):
        return []
    kin = [word for word in ids if not disjoint(families(base.tail), families(word))]
    if not kin or any(same_size(sizes(word), sizes(base.tail)) for word in ids):
        return []
    seen = f"{base.place} names {shown(base.text)}; the card speaks of {listed(kin, 3)} only"
    facts = {"base": list(sizes(base.tail)), "card": kin[:8]}
    return [finding("L151", seen, expected="one size everywhere", file="README.md", severity="note", facts=facts)]


def _config(specimen: Specimen) -> list[Finding]:
    """Revision, task and version, as the config states them."""
    raw, found = specimen.raw_config or {}, []
    revision = raw.get("revision")
    if isinstance(revision, str) and revision not in ("", "main"):
        found.append(
            finding("L155", f"revision {shown(revision)}", file=CONFIG_NAME, facts={"revision": revision[:100]})
        )
    task = raw.get("task_type")
    if isinstance(task, str) and task != "CAUSAL_LM":
        found.append(finding("L158", f"task_type {shown(task)}", file=CONFIG_NAME, facts={"task": task[:40]}))
    version = raw.get("peft_version")
    hit = re.match(r"(\d{1,4})\.(\d{1,4})", version) if isinstance(version, str) else None
    if hit and (int(hit[1]), int(hit[2])) > _KNOWN_PEFT:
        found.append(finding("L159", f"peft_version {shown(version)}", file=CONFIG_NAME))
    return found
