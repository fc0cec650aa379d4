"""The passport against the files it speaks of, and against a base model's folder. No torch; nothing is believed.

Adapters that Lorica trained before there were passports carry `training.json`, which is checked as far as it goes.
"""

from __future__ import annotations

import json
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
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import shown

_BASE_NAME = "base_model_name_or_path"
# A gap below this says that the adapter changes nothing, in nats.
_NO_GAP = 1e-5


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
    record_findings = _another_record(specimen)
    if PASSPORT_NAME not in specimen.files and PASSPORT_NAME not in specimen.documents:
        training_findings = _check_record(specimen, base_folder) + record_findings
        missing = finding("L340", f"no {PASSPORT_NAME}", expected="a passport beside the config", file=PASSPORT_NAME)
        return training_findings if specimen.kind == "checkpoint" else [missing, *training_findings]
    try:
        passport = _read(specimen)
    except AdapterError as error:
        if PASSPORT_NAME not in specimen.documents and any(finding.file == PASSPORT_NAME for finding in earlier):
            return []
        return [finding("L341", shown(error.message, 200), file=PASSPORT_NAME)]
    findings = _against_files(specimen, passport) + record_findings
    findings += _inside(passport)
    if base_folder is not None:
        findings += _against_base(passport, base_folder, full=full)
    return findings


def _read(specimen: RawAdapter) -> Passport:
    if PASSPORT_NAME not in specimen.documents:
        raise AdapterError("it is not readable as JSON")
    return to_passport(specimen.documents[PASSPORT_NAME])


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
        findings.append(
            finding(
                "L342",
                f"{own_config} is another than the passport was made for",
                expected=f"{recorded_facts.config[:23]}...",
                file=own_config,
            )
        )
    if specimen.weights is not None and specimen.header is not None and specimen.weights.is_file():
        if _digest(specimen.weights) == recorded_facts.weights:
            findings += _against_header(passport, specimen.header)
        elif _content(specimen.weights, specimen.header) == recorded_facts.content:
            same_meaning.append(specimen.weights.name)
        else:
            findings.append(
                finding(
                    "L343",
                    f"{shown(specimen.weights.name)} holds other tensors than those the passport was made for",
                    expected=f"content {recorded_facts.content[:23]}...",
                    file=specimen.weights.name,
                    facts={"tensors": len(specimen.header.tensors), "recorded_tensors": recorded_facts.tensors},
                )
            )
    if same_meaning:
        findings.append(
            finding("L344", f"{' and '.join(same_meaning)}: other bytes, the same meaning", file=same_meaning[0])
        )
    return findings


def _changed_config(changes: Mapping[str, tuple[Any, Any]], recorder: str) -> list[Finding]:
    """changes: key -> (recorded, now)."""
    findings = []
    decisive = {config_key: change for config_key, change in changes.items() if config_key in DECISIVE}
    if decisive:
        findings.append(
            finding(
                "L342",
                f"since {recorder}: {shown(name_changes(decisive), 240)}",
                expected="; ".join(
                    f"{config_key} {shown(json.dumps(before))}" for config_key, (before, _) in decisive.items()
                )[:240],
                file=CONFIG_NAME,
                facts={
                    "changed": {config_key: [before, after] for config_key, (before, after) in decisive.items()},
                    **_scale(decisive),
                },
            )
        )
    if _BASE_NAME in changes:
        before, after = changes[_BASE_NAME]
        findings.append(
            finding(
                "L350",
                f"{_BASE_NAME} is {shown(json.dumps(after))}",
                expected=f"{shown(json.dumps(before))}, as {recorder} says",
                file=CONFIG_NAME,
                facts={"recorded": before, "now": after},
            )
        )
    return findings


def _scale(changes: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    """By what factor a changed alpha scales the update, where that alone can be said."""
    before, after = changes.get("lora_alpha", (None, None))
    if _number(before) and _number(after) and before and set(changes) == {"lora_alpha"}:
        return {"scale_factor": float(after) / float(before)}
    return {}


def _number(config_value: object) -> bool:
    return isinstance(config_value, (int, float)) and not isinstance(config_value, bool)


def _against_header(passport: Passport, header: Header) -> list[Finding]:
    parameter_count = 0
    for tensor_info in header.tensors.values():
        element_count = 1
        for extent in tensor_info.shape:
            element_count *= extent
        parameter_count += element_count
    recorded_facts = passport.adapter
    if (recorded_facts.tensors, recorded_facts.parameters) == (len(header.tensors), parameter_count):
        return []
    return [
        finding(
            "L348",
            f"it speaks of {recorded_facts.tensors} tensors with {recorded_facts.parameters} parameters",
            expected=f"{len(header.tensors)} tensors with {parameter_count} parameters, as in the file it speaks of",
            file=PASSPORT_NAME,
        )
    ]


def _inside(passport: Passport) -> list[Finding]:
    """What is wrong with a passport by itself."""
    canaries = passport.canaries.items
    largest_gap = max(
        (abs(choice.adapter - choice.base) for canary in canaries for choice in canary.choices), default=0.0
    )
    if len(canaries) < FEWEST_CANARIES:
        return [
            finding("L349", f"{len(canaries)} canaries", expected=f"at least {FEWEST_CANARIES}", file=PASSPORT_NAME)
        ]
    if largest_gap < _NO_GAP:
        return [
            finding(
                "L349",
                f"base and adapter are expected to say the same (largest gap {largest_gap:.2g})",
                expected="canaries in which they differ",
                file=PASSPORT_NAME,
                facts={"gap": largest_gap},
            )
        ]
    if abs(largest_gap - passport.canaries.gap) > 1e-6 + 1e-6 * largest_gap:
        return [
            finding(
                "L348",
                f"it states a gap of {passport.canaries.gap:.6g} between base and adapter",
                expected=f"{largest_gap:.6g}, from its canaries",
                file=PASSPORT_NAME,
            )
        ]
    return []


def _against_base(passport: Passport, folder: Path, *, full: bool) -> list[Finding]:
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
        changed_sizes = {
            shape_key: (recorded.shape[shape_key], current_size)
            for shape_key, current_size in current.shape.items()
            if recorded.shape.get(shape_key, current_size) != current_size
        }
        differences = [
            f"{shape_key} {current_size} instead of {before}"
            for shape_key, (before, current_size) in changed_sizes.items()
        ]
        differences += (
            [f"family {current.family} instead of {shown(recorded.family)}"]
            if recorded.family not in ("", current.family)
            else []
        )
        findings.append(
            finding(
                "L345",
                f"other {' and '.join(differing)} in {folder.name}"
                + (f": {', '.join(differences)}" if differences else ", of equal shape"),
                expected=f"{shown(recorded.name)}: {digests}",
                file=PASSPORT_NAME,
                facts={
                    "weights_differ": "weights" in differing,
                    "config_differs": "config.json" in differing,
                    "equal_shape": not differences,
                    "recorded_base": recorded.name,
                },
                severity="reject" if differences else None,
            )
        )
    engine = ENGINES.get(passport.canaries.engine)
    if engine is not None and engine.tokenizer:
        return findings  # the base's own tokenizer spells no prompt of it
    thinking = passport.prompt.settings.get("thinking") is True
    prompt = passport.prompt
    return findings + _against_prompts(
        {"tokenizer": prompt.tokenizer, "template": prompt.template}, prompt.origin, thinking, folder
    )


def _against_prompts(recorded: Mapping[str, str], origin: str, thinking: bool, folder: Path) -> list[Finding]:
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
        findings.append(
            finding(
                "L346",
                f"the tokenizer in {folder.name} is another one ({encoder.tokenizer_digest[:19]}...)",
                expected=f"{shown(recorded['tokenizer'])[:19]}...",
                file=PASSPORT_NAME,
            )
        )
    # A template from a file of the user's own is not in the base's folder: nothing to compare.
    users_own = origin not in ("", "plain") and not (folder / origin).exists()
    if refused and not users_own:
        findings.append(
            finding("L347", shown(refused, 160), expected="the template of the passport", file=PASSPORT_NAME)
        )
    elif not users_own and recorded.get("template", encoder.template_digest) != encoder.template_digest:
        findings.append(
            finding(
                "L347",
                f"the template in {folder.name} is another one ({encoder.template_digest[:19]}..., from "
                f"{Path(encoder.template_origin).name})",
                expected=f"{shown(recorded['template'])[:19]}...",
                file=PASSPORT_NAME,
            )
        )
    return findings


def _another_record(specimen: RawAdapter) -> list[Finding]:
    """Whether training.json beside the weights says that its run published others."""
    record = specimen.documents.get(TRAINING_RECORD)
    published = record.get("published") if isinstance(record, dict) else None
    if not isinstance(published, dict) or specimen.kind == "checkpoint":
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
    record = specimen.documents.get(TRAINING_RECORD)
    manifest = record.get("manifest") if isinstance(record, dict) else None
    if not isinstance(manifest, dict):
        return []
    manifest_texts = {
        manifest_key: manifest_value
        for manifest_key, manifest_value in manifest.items()
        if isinstance(manifest_key, str) and isinstance(manifest_value, str)
    }
    if "digest.base" not in manifest_texts:
        return []
    findings: list[Finding] = []
    recorded = _settings_of(manifest_texts)
    if recorded and specimen.raw_config is not None:
        current_settings = {
            manifest_key: manifest_value
            for manifest_key, manifest_value in specimen.raw_config.items()
            if f"lora.{manifest_key}" in manifest_texts
        }
        findings += _changed_config(changed_settings(effective_settings(recorded), current_settings), "the training")
    if base_folder is None:
        return findings
    from lorica.models.base_folder import BaseFolder

    try:
        digest = BaseFolder(base_folder).digest
    except (LoricaError, OSError):
        return findings
    if digest != manifest_texts["digest.base"]:
        findings.append(
            finding(
                "L345",
                f"the weights in {base_folder.name} are not those it was trained on ({digest[:19]}...)",
                expected=f"{shown(manifest_texts['digest.base'])[:19]}..., by {TRAINING_RECORD}",
                file=TRAINING_RECORD,
                facts={"recorded_base": plain_name(manifest_texts.get("model", ""))},
            )
        )
    prompts = {
        manifest_key: manifest_texts[f"digest.{manifest_key}"]
        for manifest_key in ("tokenizer", "template")
        if f"digest.{manifest_key}" in manifest_texts
    }
    return findings + _against_prompts(prompts, "", False, base_folder)


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
