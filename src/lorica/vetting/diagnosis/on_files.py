"""Experiments on files alone: training record, pairing of factors, tokenizer beside the adapter, answers that exist."""

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
from lorica.vetting.claims.json_values import training_manifest
from lorica.vetting.diagnosis import likelihoods
from lorica.vetting.diagnosis.finding_likelihoods import from_findings
from lorica.vetting.diagnosis.inputs import Context
from lorica.vetting.diagnosis.posterior import Evidence, outcome
from lorica.vetting.score_columns import read_scores
from lorica.vetting.score_findings import check_scores
from lorica.vetting.wording import shown


def fingerprint(context: Context) -> list[Evidence]:
    """Which bases of the shipped table its shapes fit, and whether the one that its config names is among them."""
    base_match, config = context.match, context.specimen.config
    if base_match is None or context.layout is None or context.inputs.base is not None:
        return []
    base_name = config.base_model_name_or_path if config is not None else None
    named_bases = bases_named(base_name, loosely=False) if base_name else []
    if not named_bases or not base_match.candidates:
        return []
    shapes = shapes_of(context.layout, config)
    if any(not misfit_reasons(shapes, known_base) for known_base in named_bases):
        sentence = f"its shapes are those of {shown(base_name, 60)}, which its config names"
        return [outcome("fingerprint", sentence, "fingerprint", {"wrong_size": -3.0})]
    sentence = describe_match(shapes, base_match, named_bases)
    return [outcome("fingerprint", sentence, "L1.wrong_size", {"wrong_size": 5.0})]


def compare_record(context: Context) -> list[Evidence]:
    """What `training.json` holds, where the adapter and its base are still the same: L160 and L345 say what is not."""
    evidence = []
    record = training_manifest(context.specimen.documents)
    is_recorded = any(record_key.startswith("lora.") for record_key in record)
    differs = any(finding.code == "L160" for finding in context.findings)
    if is_recorded and context.specimen.config is not None and not differs:
        # The scale is then that of training, whatever another one would do on these rows.
        unchanged = {"altered": -2.0, "over_scaled": -6.0, "under_scaled": -6.0, "not_applied": -1.0}
        sentence = "the config is the one it was trained with"
        evidence.append(outcome("record.same", sentence, "record.config", unchanged))
    if _is_trained_on(record.get("digest.base"), context.inputs.base):
        weights = {"wrong_base": -8.0, "wrong_size": -8.0, "wrong_revision": -7.0, "tokenizer_mismatch": -1.0}
        sentence = "the base is the very one it was trained on"
        evidence.append(outcome("record.base", sentence, "base.identity", weights))
    return evidence


def _is_trained_on(recorded_digest: Any, base_folder: Path | None) -> bool:
    try:
        return base_folder is not None and BaseFolder(base_folder).digest == recorded_digest
    except (LoricaError, OSError):
        return False


def match_halves(context: Context) -> list[Evidence]:
    """Whether lora_A and lora_B of each module were trained together."""
    pairing = None if context.numbers is None else context.numbers.pairing
    if pairing is None:
        return []
    weights = likelihoods.partner_weights(pairing.pairs, pairing.own_correlation, len(pairing.mismatched))
    if not weights:
        return []
    sentence = f"the halves of its {pairing.pairs} pairs belong together (correlation {pairing.own_correlation:.2f})"
    if weights.get("broken_weights", 0) > 0:
        module, partner = next(iter(pairing.mismatched.items()))
        sentence = f"in {len(pairing.mismatched)} of {pairing.pairs} pairs lora_A belongs to the lora_B of another "
        sentence += f"module (correlation {pairing.mismatched_correlation:.2f}): "
        sentence += f"{shown(module, 60)} to {shown(partner, 60)}, for one"
    return [outcome("partners", sentence, "partners", weights)]


def compare_tokenizers(context: Context) -> list[Evidence]:
    """The base's tokenizer as its training must have numbered it, and against the one that was saved with the
    adapter."""
    base_folder, folder = context.inputs.base, context.specimen.folder
    base_tokenizer = None if base_folder is None else _tokenizer(base_folder)
    if base_folder is None or base_tokenizer is None or not folder.is_dir():
        return []
    evidence = []
    base_tokens = _tokens(base_folder)
    ascending = _ascending_merges(base_tokenizer, base_tokens)
    if weights := likelihoods.token_order_weights(ascending):
        out_of_order = f"the numbers of {1 - ascending:.0%} of its tokens are out of order"
        sentence = f"the base's tokenizer was changed: {out_of_order}"
        evidence.append(outcome("tokenizer.order", sentence, "tokenizer", weights))
    tokenizer = _tokenizer(folder)
    if tokenizer == base_tokenizer or (tokenizer is not None and _encodes_alike(folder, base_folder)):
        sentence = "its tokenizer is the base's"
        evidence.append(outcome("tokenizer", sentence, "tokenizer", {"tokenizer_mismatch": -6.0}))
    elif tokenizer is not None:
        evidence.append(_other_tokenizer(_tokens(folder), base_tokens))
    return evidence


def _encodes_alike(folder: Path, base_folder: Path) -> bool:
    """Whether two tokenizers differ only in how they are written: newer libraries write merges as pairs."""
    from lorica.prompts.tokenizer_folder import tokenizer_digest  # tokenizers take 0.1 s to import

    try:
        return tokenizer_digest(folder) == tokenizer_digest(base_folder)
    except (LoricaError, OSError):
        return False


def _other_tokenizer(tokens: dict[str, int], base_tokens: dict[str, int]) -> Evidence:
    added_tokens = [token for token in tokens if token not in base_tokens]
    moved_count = sum(base_tokens.get(token, number) != number for token, number in tokens.items())
    lost_count = sum(token not in tokens for token in base_tokens)
    if not (added_tokens or moved_count or lost_count):
        sentence = "its tokenizer splits or normalises text otherwise than the base's"
        return outcome("tokenizer", sentence, "tokenizer", {"tokenizer_mismatch": 4.0, "healthy": -2.0})
    first_added = f" (first {shown(added_tokens[0], 60)})" if added_tokens else ""
    changes = f"{len(added_tokens)} tokens more, {lost_count} fewer, {moved_count} with another number{first_added}"
    weights = {"tokenizer_mismatch": 6.0, "healthy": -4.0, "hard_task": -2.0}
    return outcome("tokenizer", f"its tokenizer is not the base's: {changes}", "tokenizer", weights)


def _tokenizer(folder: Path) -> dict[str, Any] | None:
    """tokenizer.json without truncation and padding, which are habits of a trainer and change no token."""
    tokenizer_path = folder / "tokenizer.json"
    try:
        if not tokenizer_path.is_file() or tokenizer_path.stat().st_size > MAX_TOKENIZER:
            return None
        tokenizer = read_json_object(tokenizer_path)
    except (LoricaError, OSError, RecursionError):
        return None
    habits = ("truncation", "padding", "version")
    return {name: value for name, value in tokenizer.items() if name not in habits}


def _tokens(folder: Path) -> dict[str, int]:
    tokenizer_words = read_tokenizer_files(folder)
    return {**(tokenizer_words.vocabulary or {}), **tokenizer_words.added}


def _ascending_merges(tokenizer: dict[str, Any], tokens: dict[str, int]) -> float:
    """Share of neighbouring merges of a BPE tokenizer whose tokens' numbers ascend; 1 for other kinds."""
    model_fields = tokenizer.get("model")
    merges = model_fields.get("merges") if isinstance(model_fields, dict) else None
    if not isinstance(merges, list) or len(merges) < 100:
        return 1.0
    pairs = (pair if isinstance(pair, list) else str(pair).split(" ", 1) for pair in merges)
    merged_texts = ("".join(map(str, pair)) for pair in pairs)
    token_numbers = [tokens[token] for token in merged_texts if token in tokens]
    ascents = [next_number >= number for number, next_number in pairwise(token_numbers)]
    return sum(ascents) / len(ascents) if ascents else 1.0


def judge_answers(context: Context) -> list[Evidence]:
    """The file given with --answers: a result file of Lorica's, or any table with a column of scores.

    Raises DataError where the file cannot be read.
    """
    answers_path = context.inputs.answers
    if answers_path is None:
        return []
    gold_labels = {row.id: row.gold for row in context.inputs.rows if isinstance(row.gold, int) and row.gold in (0, 1)}
    health, findings = check_scores(read_scores(answers_path, gold=gold_labels or None))
    context.add(findings)
    evidence = from_findings(findings)
    if not any(weight > 0 for evidence_item in evidence for weight in evidence_item.weights.values()):
        sentence = f"the {health.n} scores of {answers_path.name} are healthy: {health.unique} distinct, "
        sentence += f"deviation {health.std:.2g}"
        weights = {"parser_fallbacks": -5.0, "generation_settings": -4.0, "ignores_input": -3.0, "hard_labels": -2.0}
        evidence.append(outcome("answers", sentence, "answers", weights))
    elif any(finding.severity != "note" and finding.code != "L469" for finding in findings):
        # Scores at chance are what a hard task gives. Else, whatever the adapter is worth: these answers were doubted,
        # and rightly.
        weights = {"healthy": -5.0, "hard_task": -4.0}
        sentence = f"the scores of {answers_path.name} are not healthy, whatever the adapter is worth"
        evidence.append(outcome("answers", sentence, "answers", weights))
    return evidence
