"""The passport against the files it speaks of, and against a base model's folder. No torch; nothing is believed.

Adapters that Lorica trained before there were passports carry `training.json`, which is checked as far as it goes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.effective_settings import effective_settings, plain_name
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.header import Header
from lorica.adapters.passport import FEWEST_CANARIES, PASSPORT_NAME, Passport, to_passport
from lorica.adapters.passport_facts import (
    DECISIVE,
    changed_settings,
    content_digest,
    file_sha256,
    name_changes,
)
from lorica.adapters.raw_adapter import OWN_MODELS, RawAdapter
from lorica.adapters.registry import TRAINING_RECORD
from lorica.engine_table import ENGINES
from lorica.errors import AdapterError, LoricaError
from lorica.vetting.claims.json_values import as_mapping, as_real, training_manifest
from lorica.vetting.findings import Finding, Severity, finding
from lorica.vetting.wording import shown

_BASE_NAME = "base_model_name_or_path"
# A gap below this says that the adapter changes nothing, in nats.
_NO_GAP = 1e-5
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_LARGEST_TOKENIZER = 1 << 27  # bytes of these that are read


def check_passport(
    specimen: RawAdapter, base_folder: Path | None, *, full: bool = False, earlier: Sequence[Finding] = ()
) -> list[Finding]:
    """The passport against the adapter's files and, where a folder is given, against that base model.

    full: read the base's weight files as a whole where the passport holds their digests. earlier: what was found
    before; a passport that is no JSON or no file is not named twice. Never raises for what is in the files. Without a
    passport: a note, and what training.json says.
    """
    if specimen.kind == "file":
        return []  # a single file carries nothing beside it
    own_engine = ENGINES.get(specimen.engine_name)
    if own_engine is not None and not own_engine.has_base:
        base_folder = None  # whatever base is given, it answers without
    record_findings = _another_record(specimen)
    if PASSPORT_NAME not in specimen.files and PASSPORT_NAME not in specimen.documents:
        training_findings = _check_record(specimen, base_folder) + record_findings
        missing = finding("L340", f"no {PASSPORT_NAME}", file=PASSPORT_NAME)
        return training_findings if specimen.kind == "checkpoint" else [missing, *training_findings]
    if PASSPORT_NAME not in specimen.documents:
        named_earlier = any(finding.file == PASSPORT_NAME for finding in earlier)
        return [] if named_earlier else [finding("L341", "it is not readable as JSON", file=PASSPORT_NAME)]
    try:
        passport = to_passport(specimen.documents[PASSPORT_NAME])
    except AdapterError as error:
        return [finding("L341", shown(error.message, 200), file=PASSPORT_NAME)]
    findings = _against_files(specimen, passport) + record_findings + _inside(passport)
    findings += _own_tokenizer(specimen, passport)
    if base_folder is not None:
        findings += _against_base(specimen, passport, base_folder, full=full)
    return findings


def _against_files(specimen: RawAdapter, passport: Passport) -> list[Finding]:
    recorded_facts, findings, same_meaning = passport.adapter, [], []
    config = specimen.folder / CONFIG_NAME
    if specimen.raw_config is not None and config.is_file() and _digest(config) != recorded_facts.config:
        changes = changed_settings(recorded_facts.settings, specimen.raw_config)
        findings += _changed_config(changes, "the passport")
        if not findings:
            same_meaning.append(CONFIG_NAME)
    own_config = OWN_MODELS.get(specimen.kind, ("",))[0]
    if own_config and _digest(specimen.folder / own_config) != recorded_facts.config:
        actual = f"{own_config} is another than the passport was made for"
        findings.append(finding("L342", actual, expected=f"{recorded_facts.config[:23]}...", file=own_config))
    if specimen.weights is not None and specimen.header is not None and specimen.weights.is_file():
        if _digest(specimen.weights) == recorded_facts.weights:
            findings += _against_header(passport, specimen.header)
        elif _content(specimen.weights, specimen.header) == recorded_facts.content:
            same_meaning.append(specimen.weights.name)
        else:
            actual = f"{shown(specimen.weights.name)} holds other tensors than those the passport was made for"
            expected = f"content {recorded_facts.content[:23]}..."
            facts = {"tensors": len(specimen.header.tensors), "recorded_tensors": recorded_facts.tensors}
            findings.append(finding("L343", actual, expected=expected, file=specimen.weights.name, facts=facts))
    if same_meaning:
        actual = f"{' and '.join(same_meaning)}: other bytes, the same meaning"
        findings.append(finding("L344", actual, file=same_meaning[0]))
    return findings


def _own_tokenizer(specimen: RawAdapter, passport: Passport) -> list[Finding]:
    """A classifier that Lorica trained holds its base's tokenizer, which reads for it where it is a base itself."""
    sizes = [specimen.files.get(file_name, 0) for file_name in _TOKENIZER_FILES]
    if specimen.kind != "classifier" or TRAINING_RECORD not in specimen.files:
        return []
    if not sizes[0] or sum(sizes) > _LARGEST_TOKENIZER:
        return []
    from lorica.prompts.tokenizer_folder import tokenizer_digest  # tokenizers take 0.1 s to import

    try:
        digest = tokenizer_digest(specimen.folder)
    except (LoricaError, OSError) as error:
        actual = shown(str(error).partition("\n")[0], 160)
    else:
        actual = f"{_TOKENIZER_FILES[0]} beside the weights is another one ({digest[:19]}...)"
        if digest == passport.prompt.tokenizer:
            return []
    expected, fix = f"{passport.prompt.tokenizer[:19]}..., of its base", "copy the base's tokenizer files there again"
    return [finding("L346", actual, expected=expected, fix=fix, file=_TOKENIZER_FILES[0])]


def _changed_config(changes: Mapping[str, tuple[Any, Any]], recorder: str) -> list[Finding]:
    """changes: key -> (recorded, now)."""
    findings = []
    decisive = {config_key: change for config_key, change in changes.items() if config_key in DECISIVE}
    if decisive:
        before_texts = (f"{config_key} {_quoted(before)}" for config_key, (before, _) in decisive.items())
        facts: dict[str, Any] = {"changed": {config_key: list(change) for config_key, change in decisive.items()}}
        actual = f"since {recorder}: {shown(name_changes(decisive), 240)}"
        expected = "; ".join(before_texts)[:240]
        findings.append(finding("L342", actual, expected=expected, file=CONFIG_NAME, facts=facts | _scale(decisive)))
    if _BASE_NAME in changes:
        before, after = changes[_BASE_NAME]
        actual, expected = f"{_BASE_NAME} is {_quoted(after)}", f"{_quoted(before)}, as {recorder} says"
        facts = {"recorded": before, "now": after}
        findings.append(finding("L350", actual, expected=expected, file=CONFIG_NAME, facts=facts))
    return findings


def _quoted(config_value: Any) -> str:
    return shown(json.dumps(config_value))


def _scale(changes: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """By what factor a changed alpha scales the update, where that alone can be said."""
    before, after = map(as_real, changes.get("lora_alpha", (None, None)))
    return {"scale_factor": after / before} if before and after is not None and len(changes) == 1 else {}


def _against_header(passport: Passport, header: Header) -> list[Finding]:
    parameter_count = sum(math.prod(tensor_info.shape) for tensor_info in header.tensors.values())
    recorded_facts = passport.adapter
    if (recorded_facts.tensors, recorded_facts.parameters) == (len(header.tensors), parameter_count):
        return []
    actual = f"it speaks of {recorded_facts.tensors} tensors with {recorded_facts.parameters} parameters"
    expected = f"{len(header.tensors)} tensors with {parameter_count} parameters, as in the file it speaks of"
    return [finding("L348", actual, expected=expected, file=PASSPORT_NAME)]


def _inside(passport: Passport) -> list[Finding]:
    """What is wrong with a passport by itself."""
    canaries = passport.canaries.items
    gaps = (abs(choice.adapter - choice.base) for canary in canaries for choice in canary.choices)
    largest_gap = max(gaps, default=0.0)
    if len(canaries) < FEWEST_CANARIES:
        expected = f"at least {FEWEST_CANARIES}"
        return [finding("L349", f"{len(canaries)} canaries", expected=expected, file=PASSPORT_NAME)]
    if largest_gap < _NO_GAP:
        actual = f"base and adapter are expected to say the same (largest gap {largest_gap:.2g})"
        expected, facts = "canaries in which they differ", {"gap": largest_gap}
        return [finding("L349", actual, expected=expected, file=PASSPORT_NAME, facts=facts)]
    if abs(largest_gap - passport.canaries.gap) > 1e-6 + 1e-6 * largest_gap:
        actual = f"it states a gap of {passport.canaries.gap:.6g} between base and adapter"
        return [finding("L348", actual, expected=f"{largest_gap:.6g}, from its canaries", file=PASSPORT_NAME)]
    return []


def _against_base(specimen: RawAdapter, passport: Passport, folder: Path, *, full: bool) -> list[Finding]:
    from lorica.admission.provenance import base_facts
    from lorica.models.base_folder import BaseFolder

    try:
        current = base_facts(
            BaseFolder(folder), model_name=passport.base.name, with_digests=full and bool(passport.base.files)
        )
    except (LoricaError, OSError):
        return []  # a base that cannot be read is the fit's finding
    recorded, differing = passport.base, []
    digests = f"weights {recorded.weights[:19]}..., config {recorded.config[:19]}..."
    if current.weights != recorded.weights or (current.files and current.files != recorded.files):
        differing.append("weights")
    if current.config != recorded.config:
        differing.append("config.json")
    findings = []
    if differing:
        differences = [
            f"{shape_key} {current_size} instead of {recorded.shape[shape_key]}"
            for shape_key, current_size in current.shape.items()
            if recorded.shape.get(shape_key, current_size) != current_size
        ]
        if recorded.family not in ("", current.family):
            differences.append(f"family {current.family} instead of {shown(recorded.family)}")
        facts = {
            "weights_differ": "weights" in differing,
            "config_differs": "config.json" in differing,
            "equal_shape": not differences,
            "recorded_base": recorded.name,
        }
        explanation = f": {', '.join(differences)}" if differences else ", of equal shape"
        actual = f"other {' and '.join(differing)} in {folder.name}{explanation}"
        expected = f"{shown(recorded.name)}: {digests}"
        severity: Severity | None = "reject" if differences else None
        findings.append(finding("L345", actual, expected=expected, file=PASSPORT_NAME, facts=facts, severity=severity))
    prompt = passport.prompt
    recorded_digests = {"tokenizer": prompt.tokenizer, "template": prompt.template}
    thinking = prompt.settings.get("thinking") is True
    return findings + _against_prompts(specimen, recorded_digests, folder, origin=prompt.origin, thinking=thinking)


def _against_prompts(
    specimen: RawAdapter, recorded: Mapping[str, str], folder: Path, *, origin: str = "", thinking: bool = False
) -> list[Finding]:
    own_engine = ENGINES.get(specimen.engine_name)
    if own_engine is not None and own_engine.tokenizer:
        return []  # the base's own tokenizer spells no prompt of it
    from lorica.prompts.encoder import Encoder  # tokenizers take 0.1 s to import

    refused = ""
    try:
        encoder = Encoder.load(folder, chat_template="plain" if origin == "plain" else "auto", thinking=thinking)
    except LoricaError as error:
        refused = error.message
        try:
            encoder = Encoder.load(folder, chat_template="plain")
        except LoricaError:
            return [finding("L346", shown(refused, 160), expected="the tokenizer of the passport")]
    findings = []
    if recorded.get("tokenizer", encoder.tokenizer_digest) != encoder.tokenizer_digest:
        actual = f"the tokenizer in {folder.name} is another one ({encoder.tokenizer_digest[:19]}...)"
        expected = f"{shown(recorded['tokenizer'])[:19]}..."
        findings.append(finding("L346", actual, expected=expected, file=PASSPORT_NAME))
    # A template from a file of the user's own is not in the base's folder: nothing to compare.
    if origin not in ("", "plain") and not (folder / origin).exists():
        return findings
    if refused:
        actual, expected = shown(refused, 160), "the template of the passport"
        findings.append(finding("L347", actual, expected=expected, file=PASSPORT_NAME))
    elif recorded.get("template", encoder.template_digest) != encoder.template_digest:
        template_file = Path(encoder.template_origin).name
        actual = f"the template in {folder.name} is another one "
        actual += f"({encoder.template_digest[:19]}..., from {template_file})"
        expected = f"{shown(recorded['template'])[:19]}..."
        findings.append(finding("L347", actual, expected=expected, file=PASSPORT_NAME))
    return findings


def _another_record(specimen: RawAdapter) -> list[Finding]:
    """Whether training.json beside the weights says that its run published others."""
    published = as_mapping(as_mapping(specimen.documents.get(TRAINING_RECORD)).get("published"))
    if specimen.kind == "checkpoint":
        return []
    weights, content = published.get(WEIGHTS_NAME), published.get("content")
    if specimen.weights is None or specimen.header is None or not isinstance(weights, str):
        return []
    if _digest(specimen.weights) == weights or _content(specimen.weights, specimen.header) == content:
        return []
    message = f"{shown(specimen.weights.name)} is not the file that the run of {TRAINING_RECORD} published"
    return [finding("L178", message, expected=f"weights {shown(weights, 23)}...", file=TRAINING_RECORD)]


def _check_record(specimen: RawAdapter, base_folder: Path | None) -> list[Finding]:
    """training.json, which Lorica leaves beside what it trains: the config and the digests it was made with."""
    manifest = training_manifest(specimen.documents)
    manifest_texts = {manifest_key: text for manifest_key, text in manifest.items() if isinstance(text, str)}
    if "digest.base" not in manifest_texts:
        return []
    findings: list[Finding] = []
    recorded = _settings_of(manifest_texts)
    if recorded and specimen.raw_config is not None:
        current_settings = {key: value for key, value in specimen.raw_config.items() if f"lora.{key}" in manifest_texts}
        findings += _changed_config(changed_settings(effective_settings(recorded), current_settings), "the training")
    if base_folder is None:
        return findings
    from lorica.models.base_folder import BaseFolder

    try:
        digest = BaseFolder(base_folder).digest
    except (LoricaError, OSError):
        return findings
    if digest != manifest_texts["digest.base"]:
        actual = f"the weights in {base_folder.name} are not those it was trained on ({digest[:19]}...)"
        expected = f"{shown(manifest_texts['digest.base'])[:19]}..., by {TRAINING_RECORD}"
        facts = {"recorded_base": plain_name(manifest_texts.get("model", ""))}
        findings.append(finding("L345", actual, expected=expected, file=TRAINING_RECORD, facts=facts))
    digests = ((key, manifest_texts.get(f"digest.{key}")) for key in ("tokenizer", "template"))
    prompts = {key: recorded_digest for key, recorded_digest in digests if recorded_digest is not None}
    return findings + _against_prompts(specimen, prompts, base_folder)


def _settings_of(manifest: Mapping[str, str]) -> dict[str, Any]:
    settings = {}
    for manifest_key, manifest_value in manifest.items():
        if manifest_key.startswith("lora."):
            try:
                settings[manifest_key.removeprefix("lora.")] = json.loads(manifest_value)
            except (ValueError, RecursionError):
                return {}
    return settings


def _digest(file_path: Path) -> str:
    try:
        return file_sha256(file_path)
    except AdapterError:
        return ""


def _content(weights: Path, header: Header) -> str:
    try:
        return content_digest(weights, header)
    except AdapterError:
        return ""
