"""Experiments on the files alone: the training record, the halves' partners, the tokenizer beside the adapter."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from lorica.adapters.fingerprint import describe, fits, named, shapes_of
from lorica.admission.provenance import base_digest
from lorica.errors import LoricaError
from lorica.models.families import read_json_object
from lorica.vetting.diagnosis import likelihoods
from lorica.vetting.diagnosis.inputs import Context
from lorica.vetting.diagnosis.posterior import Evidence
from lorica.vetting.numbers.factor_pairing import find_partners

# A larger tokenizer.json than any in use; beyond it the file is not compared.
_MAX_TOKENIZER_BYTES = 64 * 1024 * 1024
_SETTINGS = ("target_modules", "r", "rank_pattern", "alpha_pattern", "use_dora", "modules_to_save", "bias", "revision")


def fingerprint(context: Context) -> list[Evidence]:
    """Which bases of the shipped table its shapes fit, and whether the one that its config names is among them."""
    match, config = context.match, context.specimen.config
    if match is None or context.layout is None or context.inputs.base is not None:
        return []
    name = config.base_model_name_or_path if config is not None else None
    claimed = named(name, loosely=False) if name else []
    if not claimed or not match.candidates:
        return []
    shapes = shapes_of(context.layout, config)
    if any(not fits(shapes, base) for base in claimed):
        text = f"its shapes are those of {_short(name)}, which its config names"
        return [_evidence("fingerprint", text, "fingerprint", {"wrong_size": -3.0})]
    return [_evidence("fingerprint", describe(shapes, match, claimed), "L1.wrong_size", {"wrong_size": 5.0})]


def compare_record(context: Context) -> list[Evidence]:
    """The config beside the adapter against the config it was trained with, as `training.json` holds it."""
    record, now = context.record, context.specimen.raw_config
    if not record or now is None:
        return []
    changed = {key: (old, now.get(key)) for key, old in _trained_config(record).items() if not _same(old, now.get(key))}
    found = _scale_changes(context, changed)
    for key in _SETTINGS:
        if key in changed and key not in ("r", "alpha_pattern"):
            old, new = changed[key]
            found.append(_evidence(f"record.{key}", f"trained with {key} {_short(old)}, the config says {_short(new)}",
                                   "record.config", _CHANGED.get(key, {"altered": 3.0, "healthy": -3.0})))  # fmt: skip
    if not changed:
        # The scale is then that of training, whatever another one would do on these rows.
        unchanged = {"altered": -2.0, "over_scaled": -6.0, "under_scaled": -6.0, "not_applied": -1.0}
        found.append(_evidence("record.same", "the config is the one it was trained with", "record.config", unchanged))
    return [*found, *_digests(context, record)]


# What a changed key means for the loaded adapter.
_CHANGED: dict[str, dict[str, float]] = {
    "target_modules": {"not_applied": 4.0, "altered": 2.0, "healthy": -3.0},
    "rank_pattern": {"altered": 4.0, "incomplete": 1.0, "healthy": -3.0},
    "use_dora": {"incomplete": 3.0, "altered": 2.5, "healthy": -3.0},
    "modules_to_save": {"incomplete": 3.0, "not_applied": 2.0, "altered": 2.0, "healthy": -3.0},
    "revision": {"wrong_revision": 3.0, "healthy": -1.0},
}


def _scale_changes(context: Context, changed: dict[str, tuple[Any, Any]]) -> list[Evidence]:
    """alpha, r, rsLoRA and alpha_pattern together decide one thing: the scale."""
    config = context.specimen.config
    if config is None or not changed.keys() & {"lora_alpha", "r", "use_rslora", "alpha_pattern"}:
        return []
    then = {key: old for key, (old, _) in changed.items()}
    rank, alpha = then.get("r", config.r), then.get("lora_alpha", config.lora_alpha)
    rslora = then.get("use_rslora", config.use_rslora)
    if not all(isinstance(each, int | float) and each > 0 for each in (rank, alpha)):
        return []
    before = alpha / (rank**0.5 if rslora else rank)
    after = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    said = ", ".join(f"{key} {_short(old)} -> {_short(new)}" for key, (old, new) in sorted(changed.items())
                     if key in ("lora_alpha", "r", "use_rslora", "alpha_pattern"))  # fmt: skip
    ratio = after / before
    if "alpha_pattern" in changed and 0.99 < ratio < 1.01:
        ratio = _pattern_ratio(then["alpha_pattern"], alpha, config.alpha_pattern)
    text = f"the update is {ratio:.3g} times as large as in training ({said})"
    return [_evidence("record.scale", text, "record.config", likelihoods.ratio_weights(ratio))]


def _pattern_ratio(then: Any, alpha: float, now: dict[str, int | float]) -> float:
    """How much larger alpha has become in the module whose own alpha changed most, on a logarithmic scale."""
    before = {key: value for key, value in (then if isinstance(then, dict) else {}).items() if value}
    ratios = [now.get(key, alpha) / before.get(key, alpha) for key in {*before, *now}]
    return max(ratios, key=lambda ratio: max(ratio, 1 / ratio), default=1.0)


def _digests(context: Context, record: dict[str, Any]) -> list[Evidence]:
    """The base that the record names against the base that was given."""
    trained, base = record.get("digest.base"), context.inputs.base
    if not isinstance(trained, str) or base is None:
        return []
    try:
        same = base_digest(base) == trained
    except (LoricaError, OSError):
        return []
    if same:
        weights = {"wrong_base": -8.0, "wrong_size": -8.0, "wrong_revision": -7.0, "tokenizer_mismatch": -1.0}
        return [_evidence("record.base", "the base is the very one it was trained on", "base.identity", weights)]
    weights = {"wrong_revision": 4.0, "wrong_base": 3.5, "wrong_size": 2.0, "healthy": -2.5, "hard_task": -2.5}
    text = "the base's weights are not those it was trained on (their digests differ)"
    return [_evidence("record.base", text, "base.identity", weights)]


def match_halves(context: Context) -> list[Evidence]:
    """Whether lora_A and lora_B of each module were trained together."""
    if context.layout is None or context.specimen.weights is None:
        return []
    try:
        found = find_partners(context.specimen.weights, context.layout)
    except (LoricaError, ValueError, OSError):
        return []
    weights = likelihoods.partner_weights(found.judged, found.own, len(found.torn))
    if not weights:
        return []
    text = f"the halves of its {found.judged} pairs belong together (correlation {found.own:.2f})"
    if weights.get("broken_weights", 0) > 0:
        module, partner = next(iter(found.torn.items()))
        text = (
            f"in {len(found.torn)} of {found.judged} pairs lora_A belongs to the lora_B of another module "
            f"(correlation {found.others:.2f}): {_short(module)} to {_short(partner)}, for one"
        )
    return [_evidence("partners", text, "partners", weights)]


def compare_tokenizers(context: Context) -> list[Evidence]:
    """The tokenizer and template saved beside the adapter against the base's."""
    base, folder = context.inputs.base, context.specimen.folder
    if base is None or not folder.is_dir():
        return []
    found = []
    mine, theirs = _tokenizer(folder), _tokenizer(base)
    ascending = 1.0 if theirs is None else _ascending(theirs)
    if weights := likelihoods.token_order_weights(ascending):
        text = f"the base's tokenizer was changed: the numbers of {1 - ascending:.0%} of its tokens are out of order"
        found.append(_evidence("tokenizer.order", text, "tokenizer", weights))
    if mine is not None and theirs is not None:
        found.append(_vocabularies(mine, theirs))
    added = context.specimen.documents.get("added_tokens.json")
    size = context.base_config.get("vocab_size")
    beyond = [k for k, v in added.items() if isinstance(v, int) and isinstance(size, int) and v >= size] \
        if isinstance(added, dict) else []  # fmt: skip
    if beyond:
        text = f"added_tokens.json holds {len(beyond)} tokens beyond the base's vocabulary of {size}"
        found.append(_evidence("tokenizer.added", text, "tokenizer", {"tokenizer_mismatch": 4.0, "healthy": -3.0}))
    template, own = _template(folder), _template(base)
    if template and own and template != own:
        text = "the chat template beside the adapter is not the base's"
        weights = {"prompt_mismatch": 2.5, "tokenizer_mismatch": 0.5, "healthy": -1.0}
        found.append(_evidence("tokenizer.template", text, "template", weights))
    return found


def _vocabularies(mine: dict[str, Any], theirs: dict[str, Any]) -> Evidence:
    if mine == theirs:
        text, weights = "its tokenizer is the base's", {"tokenizer_mismatch": -6.0}
        return _evidence("tokenizer", text, "tokenizer", weights)
    tokens, known = _tokens(mine), _tokens(theirs)
    more = [token for token in tokens if token not in known]
    moved = sum(1 for token, number in tokens.items() if known.get(token, number) != number)
    lost = sum(1 for token in known if token not in tokens)
    if not (more or moved or lost):
        text = "its tokenizer splits or normalises text otherwise than the base's"
        return _evidence("tokenizer", text, "tokenizer", {"tokenizer_mismatch": 4.0, "healthy": -2.0})
    text = f"its tokenizer is not the base's: {len(more)} tokens more, {lost} fewer, {moved} with another number" + (
        f" (first {_short(more[0])})" if more else ""
    )
    return _evidence("tokenizer", text, "tokenizer", {"tokenizer_mismatch": 6.0, "healthy": -4.0, "hard_task": -2.0})


def _tokenizer(folder: Path) -> dict[str, Any] | None:
    path = folder / "tokenizer.json"
    try:
        if not path.is_file() or path.stat().st_size > _MAX_TOKENIZER_BYTES:
            return None
        whole = read_json_object(path)
    except (LoricaError, OSError, RecursionError):
        return None
    # Truncation and padding are habits of a trainer, and change no token.
    return {key: value for key, value in whole.items() if key not in ("truncation", "padding", "version")}


def _tokens(tokenizer: dict[str, Any]) -> dict[str, int]:
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    found: dict[str, int] = {}
    if isinstance(vocabulary, dict):
        found |= {token: number for token, number in vocabulary.items() if isinstance(number, int)}
    elif isinstance(vocabulary, list):
        found |= {str(entry[0]): number for number, entry in enumerate(vocabulary) if isinstance(entry, list) and entry}
    for entry in tokenizer.get("added_tokens") or []:
        if isinstance(entry, dict) and isinstance(entry.get("id"), int):
            found[str(entry.get("content"))] = entry["id"]
    return found


def _ascending(tokenizer: dict[str, Any]) -> float:
    """Share of neighbouring merges of a BPE tokenizer whose tokens' numbers ascend; 1 for other kinds."""
    model = tokenizer.get("model")
    merges = model.get("merges") if isinstance(model, dict) else None
    if not isinstance(merges, list) or len(merges) < 100:
        return 1.0
    known = _tokens(tokenizer)
    pairs = (each if isinstance(each, list) else str(each).split(" ", 1) for each in merges)
    numbers = [known[token] for token in map("".join, pairs) if token in known]
    steps = [second >= first for first, second in pairwise(numbers)]
    return sum(steps) / len(steps) if steps else 1.0


def _template(folder: Path) -> str:
    try:
        path = folder / "chat_template.jinja"
        if path.is_file():
            return path.read_text("utf-8").strip()
        value = read_json_object(folder / "tokenizer_config.json").get("chat_template")
    except (LoricaError, OSError, UnicodeDecodeError, RecursionError):
        return ""
    return value.strip() if isinstance(value, str) else ""


def _trained_config(record: dict[str, Any]) -> dict[str, Any]:
    """The values under `lora.` of a manifest; each is JSON in a text."""
    found = {}
    for key, text in record.items():
        if key.startswith("lora.") and isinstance(text, str):
            try:
                found[key.removeprefix("lora.")] = json.loads(text)
            except ValueError:
                continue
    return found


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        return sorted(map(str, old)) == sorted(map(str, new))
    return old == new or (not old and not new)


def _short(value: object) -> str:
    text = ascii(value) if not isinstance(value, str) else ascii(value)[1:-1]
    return text if len(text) <= 60 else text[:57] + "..."


def _evidence(name: str, text: str, group: str, weights: dict[str, float]) -> Evidence:
    return Evidence(id=name, text=text, source=name.split(".")[0], group=group, weights=weights)
