"""The environment variables that a deployment sets from outside: one table, read in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lorica.config.fields import find
from lorica.config.origins import ConfigSource, Precedence, Setting, spread
from lorica.config.parse_values import list_items, parse
from lorica.config.presets import preset_names
from lorica.errors import ConfigError
from lorica.names import did_you_mean


class Variable(NamedTuple):
    """One environment variable: its name, the key it sets, and what to know about it."""

    name: str
    key: str
    description: str


SUBJECT_PREFIX = "PEFT_ADAPTER_"
SUBJECTS_VARIABLE = "RAG_ENABLED_SUBJECTS"

ENVIRONMENT = (
    Variable("MODEL_NAME", "model.path", "A model preset's name, a Hugging Face id, or a folder."),
    Variable("HF_CACHE_DIR", "model.cache_dir", "Folder of the Hugging Face cache."),
    Variable("USE_4BIT", "model.load_in_4bit", "1, true, yes, on or 0, false, no, off."),
    Variable("DEVICE_MAP", "model.device_map", "How the transformers engine spreads the model over devices."),
    Variable(
        "BATCH_SIZE",
        "training.batch_size",
        "Rows at once. Inference measures batches in tokens, so this also sets `inference.batch_tokens` to "
        "BATCH_SIZE times `inference.max_input_tokens`: the memory of so many rows of the longest kind.",
    ),
    Variable("MAX_NEW_TOKENS", "inference.max_new_tokens", "Longest generated answer, in tokens."),
    Variable("MIN_NEW_TOKENS", "inference.min_new_tokens", "Shortest generated answer, in tokens."),
    Variable("MAX_INPUT_TOKENS", "inference.max_input_tokens", "Longest prompt, in tokens."),
    Variable(
        "TEMPERATURE",
        "inference.temperature",
        "Above 0 also switches `inference.do_sample` on, 0 switches it off, unless the command line sets it.",
    ),
    Variable("TOP_P", "inference.top_p", "Probability that sampling is cut to; counts only when sampling."),
    Variable("TOP_K", "inference.top_k", "Tokens that sampling is cut to, 0 for all; counts only when sampling."),
    Variable("REPETITION_PENALTY", "inference.repetition_penalty", "Penalty on tokens that were seen, 1 for none."),
    Variable("ADAPTERS_BASE_DIR", "adapters.dir", "Folder whose subfolders are adapters."),
    Variable(
        SUBJECT_PREFIX + "<SUBJECT>",
        "adapters.paths.<subject>",
        "Folder of one adapter; the subject is written in small letters: `PEFT_ADAPTER_WORLD_HISTORY` is "
        "`world_history`, which also answers rows of the subject `World History`.",
    ),
    Variable("RAG_KNOWLEDGE_BASE_DIR", "retrieval.dir", "Folder of the knowledge base."),
    Variable("RAG_TOP_K", "retrieval.top_k", "Passages that are looked up for a question."),
    Variable(
        SUBJECTS_VARIABLE,
        "retrieval.enabled",
        "Subjects whose questions get passages, as `geography,world history`, or `all`, or `none`; a table as on the "
        "command line, or in JSON, also switches off: `{geography: true, algebra: false}`. An entry of the command "
        "line goes before the same one here.",
    ),
)

_SWITCH = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def read_environment(environ: Mapping[str, str]) -> ConfigSource:
    """The settings in the environment; a variable that is empty counts as not set.

    Raises ConfigError naming the variable whose value cannot be read.
    """
    config_source = ConfigSource()
    for variable in ENVIRONMENT:
        value_text = environ.get(variable.name, "").strip()
        if not value_text:
            continue
        location = f"environment variable {variable.name}: "
        if variable.name == "MODEL_NAME" and _is_preset(value_text, location):
            config_source.presets["model"] = value_text
        elif variable.name == SUBJECTS_VARIABLE:
            config_source.settings.extend(_enabled_subjects(variable.key, value_text, location))
        else:
            config_source.settings.append(_setting(variable.key, value_text, variable.name))
    for name, value_text in sorted(environ.items()):
        if name.startswith(SUBJECT_PREFIX) and value_text.strip():
            subject = name.removeprefix(SUBJECT_PREFIX).lower()
            if not subject:
                raise ConfigError(f"environment variable {name}: it names no subject", fix=f"{SUBJECT_PREFIX}ALGEBRA")
            config_source.settings.append(_setting(f"adapters.paths.{subject}", value_text.strip(), name))
    return config_source


def _enabled_subjects(config_key: str, value_text: str, location: str) -> Iterator[Setting]:
    """The settings of a list of subjects, of one switch, or of a table."""
    key_spec, _ = find(config_key)
    switch = {"all": True, "none": False, **_SWITCH}.get(value_text.lower())
    if switch is not None:
        enabled: Any = switch
    elif value_text.startswith("{"):
        enabled = parse(key_spec, "", value_text, location=location)
    else:
        list_text = value_text if value_text.startswith("[") else f"[{value_text}]"
        enabled = dict.fromkeys(list_items(config_key, list_text, location), True)
    return spread(
        key_spec,
        "",
        enabled,
        precedence=Precedence.ENVIRONMENT,
        origin=f"environment {SUBJECTS_VARIABLE}",
        location=location,
        literal=True,
    )


def _setting(config_key: str, text: str, variable_name: str) -> Setting:
    location = f"environment variable {variable_name}: "
    key_spec, entry_name = find(config_key)
    is_switch = key_spec.value_type == "bool"
    value = _switch(config_key, text, location) if is_switch else parse(key_spec, entry_name, text, location=location)
    origin = f"environment {variable_name}"
    return Setting(key_spec, entry_name, value, Precedence.ENVIRONMENT, origin, location, literal=True)


def _switch(config_key: str, value_text: str, location: str) -> bool:
    try:
        return _SWITCH[value_text.lower()]
    except KeyError:
        raise ConfigError(
            f"{location}{config_key} takes true or false; got {value_text!r}", fix=f"one of {', '.join(_SWITCH)}"
        ) from None


def _is_preset(text: str, location: str) -> bool:
    presets = preset_names("model")
    if text in presets:
        return True
    if "/" not in text and not Path(text).is_dir() and (hint := did_you_mean(text, presets, form="{}")):
        raise ConfigError(
            f"{location}{text!r} is neither a model preset, nor ORGANISATION/MODEL, nor a folder here", fix=hint
        )
    return False
