"""`adapter_config.json` as a file to be wary of: what it holds, and what in it must not be trusted or executed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lorica.adapters.config import MAX_CONFIG_BYTES, OTHER_KEYS, AdapterConfig, config_from, is_plain
from lorica.adapters.json_document import DocumentError, read_object, short_text
from lorica.adapters.methods import METHODS, NO_METHOD, normalise_method
from lorica.file_signatures import Content
from lorica.names import did_you_mean
from lorica.vetting.findings import Finding, Severity, finding

_CODES = {
    "foreign": "L011",
    "too large": "L050",
    "not UTF-8": "L051",
    "not JSON": "L052",
    "nested": "L053",
    "not an object": "L054",
    "duplicate": "L055",
    "constant": "L056",
    "text": "L057",
    "method": "L058",
    "type": "L059",
    "range": "L060",
}
# Packages whose classes adapters are trained on; AutoPeftModel imports whatever module the config names.
_LIBRARIES = ("transformers", "peft", "diffusers", "sentence_transformers", "torch", "timm", "open_clip", "lorica")
_CODE_KEYS = ("auto_map", "custom_code", "trust_remote_code", "custom_pipelines")
_TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
_KNOWN_KEYS = (set(AdapterConfig.__struct_fields__) - {"other"}) | set(OTHER_KEYS)
# Control characters other than blanks, and marks that turn the direction of writing.
_CONTROL_CHARACTERS = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")
_SWITCHED_OFF: tuple[object, ...] = (None, False, "", [], {})
# Keys that PEFT wrote before version 0.3.
_OLD_KEYS = {"enable_lora", "merge_weights"}


def examine_config(config_bytes: bytes) -> tuple[dict[str, Any] | None, AdapterConfig | None, list[Finding]]:
    """(the JSON object, the same as a LoRA config, what is wrong with it). The findings name no file.

    The object is there for every method; the config only for LoRA. Where a key is given twice or a constant is no
    JSON, both are there as far as they can be read.
    """
    values, problems = read_object(config_bytes, MAX_CONFIG_BYTES)
    findings = [_problem(problem) for problem in problems[:3]]
    if values is None:
        return None, None, findings
    config = None
    method = values.get("peft_type")
    if not isinstance(method, str) or method.strip().lower() in NO_METHOD or method != normalise_method(method):
        findings.append(_no_method(values, method))
    elif method == "LORA":
        try:
            config = config_from(values)
        except DocumentError as error:
            if not problems:
                findings.append(_problem(error))
        findings += _unknown_keys(values)
    findings += [*_task(values.get("task_type")), *_code_keys(values), *_expression_texts(values)]
    return values, config, [*findings, *_control_characters(values)]


def _no_method(values: Mapping[str, Any], peft_type: object) -> Finding:
    """peft_type is missing, is no name of a method, or is not written as PEFT writes them."""
    shown_keys = ", ".join(short_text(config_key, max_chars=40) for config_key in list(values)[:6])
    stated = f"its peft_type is {short_text(peft_type, quoted=True)}"
    actual = stated if "peft_type" in values else "it has no peft_type"
    suggested_fix = 'set "peft_type": "LORA" if its weights are lora_A and lora_B; '
    suggested_fix += "else compare it with the config PEFT saved"
    if isinstance(peft_type, str) and normalise_method(peft_type) in METHODS | {"LORA": None}:
        suggested_fix = f'write it as PEFT does: "peft_type": "{normalise_method(peft_type)}"'
        shown_keys = ""
    actual += f"; its keys begin with {shown_keys}" if shown_keys else ""
    return finding("L058", actual, fix=suggested_fix)


def _task(task_type: object) -> Iterator[Finding]:
    """PEFT refuses a task that it does not know, also one that is written otherwise."""
    if task_type is None or task_type in _TASKS:
        return
    task_name = normalise_method(task_type) if isinstance(task_type, str) else ""
    suggested_fix = 'set "task_type": null'
    if task_name in _TASKS:
        suggested_fix = f'write it as PEFT does: "task_type": "{task_name}"'
    actual = f"task_type {short_text(task_type, quoted=True)}: PEFT refuses to load it"
    yield finding("L059", actual, expected=f"{', '.join(_TASKS)} or null", fix=suggested_fix)


def _problem(problem: DocumentError) -> Finding:
    finding_code = "L010" if problem.content is Content.LFS_POINTER else _CODES[problem.problem]
    actual = f"it {problem.message}" if finding_code < "L059" else short_text(problem.message)
    return finding(finding_code, actual)


def _unknown_keys(values: Mapping[str, Any]) -> Iterator[Finding]:
    known_keys = _KNOWN_KEYS | _OLD_KEYS | set(_CODE_KEYS)
    strange = [config_key for config_key in values if config_key not in known_keys]
    if not strange:
        return
    # An empty value of a key from another version of PEFT switches nothing on.
    at_work = [config_key for config_key in strange if values[config_key] not in _SWITCHED_OFF]
    first_key = (at_work or strange)[0]
    listed = ", ".join(short_text(config_key, quoted=True, max_chars=40) for config_key in (at_work or strange)[:5])
    actual = f"{len(strange)} unknown, {len(at_work)} of them not empty: {listed}"
    fix = did_you_mean(first_key[:100], sorted(_KNOWN_KEYS), cutoff=0.8)
    facts = {"unknown": len(strange), "at_work": len(at_work)}
    severity: Severity = "warn" if at_work else "note"
    yield finding("L061", actual, fix=fix, facts=facts, severity=severity)


def _code_keys(values: Mapping[str, Any]) -> Iterator[Finding]:
    code_keys = [config_key for config_key in _CODE_KEYS if values.get(config_key) not in _SWITCHED_OFF]
    if code_keys:
        yield finding("L063", f"it has {', '.join(code_keys)}; Lorica never runs code of an adapter")
    mapping = values.get("auto_mapping")
    if mapping in (None, {}):
        return
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    shown_library = short_text(library if isinstance(mapping, dict) else mapping, quoted=True)
    if isinstance(library, str) and library.split(".")[0] in _LIBRARIES:
        yield finding("L062", f"AutoPeftModel would import {shown_library}; Lorica does not")
    elif library is not None or not isinstance(mapping, dict):
        actual = f"auto_mapping makes AutoPeftModel import {shown_library}; Lorica does not"
        expected, fix = f"a module of {', '.join(_LIBRARIES[:4])}", "remove auto_mapping, or look at what it names"
        yield finding("L063", actual, expected=expected, fix=fix)


def _expression_texts(values: Mapping[str, Any]) -> Iterator[Finding]:
    expressions = []
    for config_key in ("target_modules", "exclude_modules", "target_parameters"):
        config_value = values.get(config_key)
        if isinstance(config_value, str) and config_value not in ("", "all-linear"):
            expressions.append((config_key, config_value))
    for config_key in ("rank_pattern", "alpha_pattern"):
        pattern = values.get(config_key)
        if isinstance(pattern, dict):
            expressions += [(config_key, pattern_key) for pattern_key in pattern if not is_plain(pattern_key)]
    if expressions:
        config_key, expression = expressions[0]
        actual = f"{len(expressions)} read as text, first in {config_key}: {short_text(expression, quoted=True)}"
        yield finding("L064", actual, facts={"expressions": len(expressions)})


def _control_characters(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Texts that would change what a terminal shows. Values only of the top level and of lists and objects in it."""
    keyed_texts: list[tuple[str, object]] = []
    for config_key, config_value in values.items():
        within = [config_value]
        if isinstance(config_value, list | dict):
            within = [*config_value, *(config_value.values() if isinstance(config_value, dict) else ())]
        keyed_texts += [(config_key, text) for text in (config_key, *within)]
    odd_texts = [keyed for keyed in keyed_texts if isinstance(keyed[1], str) and _CONTROL_CHARACTERS.search(keyed[1])]
    if odd_texts:
        config_key, text = odd_texts[0]
        first_text = f"{short_text(config_key, quoted=True)}: {short_text(text, quoted=True)}"
        actual = f"{len(odd_texts)} texts, first in {first_text}"
        yield finding("L065", actual)
