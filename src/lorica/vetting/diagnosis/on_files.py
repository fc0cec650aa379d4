"""Experiments on the files alone: the training record, the pairing of factors, the tokenizer beside the adapter."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from lorica.adapters.bases import bases_named
from lorica.adapters.fingerprint import describe_match, misfit_reasons, shapes_of
from lorica.errors import LoricaError
from lorica.models.base_folder import BaseFolder
from lorica.models.families import read_json_object
from lorica.vetting.base.fit_text import MAX_TOKENIZER, read_tokenizer_files
from lorica.vetting.diagnosis import likelihoods
from lorica.vetting.diagnosis.inputs import Context
from lorica.vetting.diagnosis.posterior import Evidence, outcome
from lorica.vetting.numbers.factor_pairing import pair_factors
from lorica.vetting.wording import shown


def fingerprint(context: Context) -> list[Evidence]:
    """Which bases of the shipped table its shapes fit, and whether the one that its config names is among them."""
    match, config = context.match, context.specimen.config
    if match is None or context.layout is None or context.inputs.base is not None:
        return []
    name = config.base_model_name_or_path if config is not None else None
    bases = bases_named(name, loosely=False) if name else []
    if not bases or not match.candidates:
        return []
    shapes = shapes_of(context.layout, config)
    if any(not misfit_reasons(shapes, base) for base in bases):
        text = f"its shapes are those of {shown(name, 60)}, which its config names"
        return [outcome("fingerprint", text, "fingerprint", {"wrong_size": -3.0})]
    return [outcome("fingerprint", describe_match(shapes, match, bases), "L1.wrong_size", {"wrong_size": 5.0})]


def compare_record(context: Context) -> list[Evidence]:
    """What `training.json` holds, where the adapter and its base are still the same: L160 and L345 say what is not."""
    evidence = []
    recorded = any(key.startswith("lora.") for key in context.record)
    if recorded and context.specimen.config is not None and "L160" not in {item.code for item in context.findings}:
        # The scale is then that of training, whatever another one would do on these rows.
        unchanged = {"altered": -2.0, "over_scaled": -6.0, "under_scaled": -6.0, "not_applied": -1.0}
        text = "the config is the one it was trained with"
        evidence.append(outcome("record.same", text, "record.config", unchanged))
    if _is_trained_on(context.record.get("digest.base"), context.inputs.base):
        weights = {"wrong_base": -8.0, "wrong_size": -8.0, "wrong_revision": -7.0, "tokenizer_mismatch": -1.0}
        text = "the base is the very one it was trained on"
        evidence.append(outcome("record.base", text, "base.identity", weights))
    return evidence


def _is_trained_on(digest: Any, base: Path | None) -> bool:
    try:
        return base is not None and BaseFolder(base).digest == digest
    except (LoricaError, OSError):
        return False


def match_halves(context: Context) -> list[Evidence]:
    """Whether lora_A and lora_B of each module were trained together."""
    if context.layout is None or context.specimen.weights is None:
        return []
    try:
        pairing = pair_factors(context.specimen.weights, context.layout)
    except (LoricaError, ValueError, OSError):
        return []
    weights = likelihoods.partner_weights(pairing.pairs, pairing.own_correlation, len(pairing.mismatched))
    if not weights:
        return []
    text = f"the halves of its {pairing.pairs} pairs belong together (correlation {pairing.own_correlation:.2f})"
    if weights.get("broken_weights", 0) > 0:
        module, partner = next(iter(pairing.mismatched.items()))
        text = (
            f"in {len(pairing.mismatched)} of {pairing.pairs} pairs lora_A belongs to the lora_B of another module "
            f"(correlation {pairing.mismatched_correlation:.2f}): {shown(module, 60)} to {shown(partner, 60)}, for one"
        )
    return [outcome("partners", text, "partners", weights)]


def compare_tokenizers(context: Context) -> list[Evidence]:
    """The base's tokenizer as its training must have numbered it, and against the one that was saved with the
    adapter."""
    base, folder = context.inputs.base, context.specimen.folder
    base_tokenizer = None if base is None else _tokenizer(base)
    if base is None or base_tokenizer is None or not folder.is_dir():
        return []
    evidence = []
    base_tokens = _tokens(base)
    ascending = _ascending_merges(base_tokenizer, base_tokens)
    if weights := likelihoods.token_order_weights(ascending):
        text = f"the base's tokenizer was changed: the numbers of {1 - ascending:.0%} of its tokens are out of order"
        evidence.append(outcome("tokenizer.order", text, "tokenizer", weights))
    tokenizer = _tokenizer(folder)
    if tokenizer == base_tokenizer:
        text = "its tokenizer is the base's"
        evidence.append(outcome("tokenizer", text, "tokenizer", {"tokenizer_mismatch": -6.0}))
    elif tokenizer is not None:
        evidence.append(_other_tokenizer(_tokens(folder), base_tokens))
    return evidence


def _other_tokenizer(tokens: dict[str, int], base_tokens: dict[str, int]) -> Evidence:
    added = [token for token in tokens if token not in base_tokens]
    moved = sum(base_tokens.get(token, number) != number for token, number in tokens.items())
    lost = sum(token not in tokens for token in base_tokens)
    if not (added or moved or lost):
        text = "its tokenizer splits or normalises text otherwise than the base's"
        return outcome("tokenizer", text, "tokenizer", {"tokenizer_mismatch": 4.0, "healthy": -2.0})
    first = f" (first {shown(added[0], 60)})" if added else ""
    counts = f"{len(added)} tokens more, {lost} fewer, {moved} with another number{first}"
    weights = {"tokenizer_mismatch": 6.0, "healthy": -4.0, "hard_task": -2.0}
    return outcome("tokenizer", f"its tokenizer is not the base's: {counts}", "tokenizer", weights)


def _tokenizer(folder: Path) -> dict[str, Any] | None:
    """tokenizer.json without truncation and padding, which are habits of a trainer and change no token."""
    path = folder / "tokenizer.json"
    try:
        if not path.is_file() or path.stat().st_size > MAX_TOKENIZER:
            return None
        tokenizer = read_json_object(path)
    except (LoricaError, OSError, RecursionError):
        return None
    return {key: value for key, value in tokenizer.items() if key not in ("truncation", "padding", "version")}


def _tokens(folder: Path) -> dict[str, int]:
    words = read_tokenizer_files(folder)
    return {**(words.vocabulary or {}), **words.added}


def _ascending_merges(tokenizer: dict[str, Any], tokens: dict[str, int]) -> float:
    """Share of neighbouring merges of a BPE tokenizer whose tokens' numbers ascend; 1 for other kinds."""
    model = tokenizer.get("model")
    merges = model.get("merges") if isinstance(model, dict) else None
    if not isinstance(merges, list) or len(merges) < 100:
        return 1.0
    pairs = ("".join(merge) if isinstance(merge, list) else str(merge).replace(" ", "", 1) for merge in merges)
    numbers = [tokens[token] for token in pairs if token in tokens]
    ascents = [second >= first for first, second in pairwise(numbers)]
    return sum(ascents) / len(ascents) if ascents else 1.0
