"""What a study of `lorica tune` varies: what `tune.space` names, and what suits the kind of model by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from lorica.config.compose import Resolved
from lorica.config.encoder_defaults import encoder_defaults
from lorica.config.parse_values import show
from lorica.config.presets import GROUPS
from lorica.engine_table import styles_for
from lorica.errors import ConfigError
from lorica.names import did_you_mean, listed
from lorica.tasks.base import Task
from lorica.tuning.dimensions import SCALE, Dimension, check_key, choices, number_range, parse_dimension

_METHOD, _RATE = "training.method", "training.learning_rate"
_TRAINING = (_RATE, "training.epochs", "training.batch_size")
_LORA_SHAPE = ("lora.r", SCALE, "lora.dropout")
# What suits by itself, by the engine that answers with what is trained.
_SUITABLE = {
    "native": ("task.style", "task.method", *_TRAINING, *_LORA_SHAPE, "lora.target_modules"),
    "encoder": (_METHOD, *_TRAINING, *_LORA_SHAPE),
    "tfidf": ("tfidf.inverse_regularisation", "tfidf.analyzer", "tfidf.word_ngrams", "tfidf.piece_ngrams"),
    "centroids": (
        "centroids.triplet",
        "centroids.margin",
        "centroids.triplet_epochs",
        "centroids.triplet_learning_rate",
    ),
}
# Section of the configuration, or SCALE -> the engines whose training reads it.
_READ_BY = {
    **dict.fromkeys(("training", "lora", SCALE), ("native", "encoder")),
    "tfidf": ("tfidf",),
    "centroids": ("centroids",),
}
# Keys that decide nothing, but with some values of another one.
_NEEDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "lora": (_METHOD, ("lora",)),
    SCALE: (_METHOD, ("lora",)),
    "centroids.margin": ("centroids.triplet", (True,)),
    "centroids.triplet_epochs": ("centroids.triplet", (True,)),
    "centroids.triplet_batch_size": ("centroids.triplet", (True,)),
    "centroids.triplet_learning_rate": ("centroids.triplet", (True,)),
    "tfidf.word_ngrams": ("tfidf.analyzer", ("words_and_pieces", "words")),
    "tfidf.piece_ngrams": ("tfidf.analyzer", ("words_and_pieces", "pieces")),
}
# Values to try beside the configured one, where half and twice of it would be none or say little.
_VALUES: dict[str, tuple[Any, ...]] = {
    SCALE: (1, 2, 4),
    "lora.dropout": (0.0, 0.05, 0.1),
    "tfidf.analyzer": ("words_and_pieces", "words", "pieces"),
    "tfidf.word_ngrams": (1, 2, 3),
    "tfidf.piece_ngrams": (3, 5, 7),
    "centroids.margin": (0.1, 0.3, 0.6),
    _METHOD: ("full", "lora"),
}


def study_dimensions(resolved: Resolved, task: Task) -> list[Dimension]:
    """What is varied: what `tune.space` names, and what suits task and model and was not set; of these `tune.vary`
    alone. Raises ConfigError for entries that cannot be, or that decide nothing, and where nothing is left."""
    tune = resolved.config.tune
    named = {key: parse_dimension(key, text) for key, text in tune.space.items()}
    suitable = [_usual_dimension(resolved, task, key) for key in _SUITABLE.get(resolved.config.engine.name, ())]
    # A single value is no choice; a range has none.
    usual = {dimension.key: dimension for dimension in suitable if len(dimension.values) != 1} | named
    if SCALE not in named and ("lora.alpha" in named or resolved.is_set("lora.alpha")):
        usual.pop(SCALE, None)  # both say how strong the update is
    for key in tune.vary:
        check_key(key, "tune.vary: ")
        if key not in usual:
            fix = did_you_mean(key, usual, form="{}", cutoff=0.85, otherwise=f"add tune.space.{key}=[VALUE,VALUE]")
            raise ConfigError(f"tune.vary: nothing is known to try for {key}", fix=fix)
    keys = tune.vary or [key for key in usual if key in named or not resolved.is_set(key)]
    if _METHOD in keys and _RATE not in keys and not tune.vary and _METHOD not in named:
        keys.remove(_METHOD)  # no learning rate suits both methods
    for key in keys:
        if len(usual[key].values) == 1:
            value = show(usual[key].values[0])
            fix = f"{key}={value} sets it for all trials"
            raise ConfigError(f"tune.space.{key} has one value, {value}", fix=fix)
    dimensions = [_completed(resolved, usual[key], keys) for key in keys]
    _check_read(resolved, [dimension for dimension in dimensions if dimension.key in {*named, *tune.vary}])
    dimensions = [dimension for dimension in dimensions if _decides(resolved, dimension, keys)]
    if not dimensions:
        raise _nothing_left(resolved)
    return dimensions


def configured(resolved: Resolved, key: str) -> Any:
    """What the configuration has for a dimension."""
    lora = resolved.config.lora
    if key == SCALE:
        scale = lora.alpha / lora.r
        return int(scale) if scale == int(scale) else scale
    if key in GROUPS:
        return resolved.presets[key]
    value: Any = resolved.as_dict()
    for segment in key.split("."):
        value = value.get(segment) if isinstance(value, dict) else None
    return value


def _usual_dimension(resolved: Resolved, task: Task, key: str) -> Dimension:
    """Values around the configured one."""
    value = configured(resolved, key)
    if key == "task.style":
        return choices(key, styles_for(resolved.config.engine.name, task.styles))
    if key == "task.method":
        return choices(key, (method for method in task.methods if method != "generate" or task.answer_type == "text"))
    if key == "lora.target_modules":
        return choices(key, (value, ["q_proj", "v_proj"], "all-linear"))
    if key.endswith("learning_rate"):
        return number_range(key, *_decades(value, highest=1.0))
    if key in _VALUES:
        return choices(key, (*_VALUES[key], value))
    if isinstance(value, bool):
        return choices(key, (False, True))
    if isinstance(value, int):
        return choices(key, (max(1, value // 2), value, 2 * value))
    return number_range(key, *_decades(value))


def _completed(resolved: Resolved, dimension: Dimension, keys: Sequence[str]) -> Dimension:
    """The dimension with what it depends on among the others that are varied."""
    needed_key, needed_values = _needs(dimension.key)
    if needed_key in keys:
        dimension = msgspec.structs.replace(dimension, needs=(needed_key, needed_values))
    if dimension.key == _RATE and _METHOD in keys and _RATE not in resolved.config.tune.space:
        origins = _learning_rates(resolved)
        highest = min(10.0, 1 / max(origins.values()))
        multiples = number_range(_RATE, 0.1, highest)
        return msgspec.structs.replace(multiples, origin_key=_METHOD, origins=origins)
    return dimension


def _learning_rates(resolved: Resolved) -> dict[str, float]:
    """Method of training -> its learning rate: the configured one, and that of the preset which the other follows."""
    training = resolved.config.training
    presets = {
        method: setting.value
        for method in _VALUES[_METHOD]
        for setting in encoder_defaults(method)
        if setting.key == _RATE
    }
    return presets | {training.method: training.learning_rate}


def _needs(key: str) -> tuple[str, tuple[Any, ...]]:
    return _NEEDS.get(key) or _NEEDS.get(key.partition(".")[0], ("", ()))


def _decides(resolved: Resolved, dimension: Dimension, keys: Sequence[str]) -> bool:
    """Whether what is configured, or varied, lets it make a difference."""
    needed_key, needed_values = _needs(dimension.key)
    return needed_key in ("", *keys) or configured(resolved, needed_key) in needed_values


def _check_read(resolved: Resolved, dimensions: Sequence[Dimension]) -> None:
    """Raises ConfigError for what was named and makes no difference, where model and engine are the same in all
    trials."""
    keys = [dimension.key for dimension in dimensions]
    if {"model", "model.path", "engine", "engine.name"} & {*keys}:
        return
    engine_name = resolved.config.engine.name
    for dimension in dimensions:
        readers = _READ_BY.get(dimension.key.partition(".")[0], (engine_name,))
        if engine_name not in readers:
            raise ConfigError(
                f"tune.space.{dimension.key} decides nothing: engine={engine_name} trains without it",
                fix=f"vary {listed(_SUITABLE.get(engine_name, ()), 5)}, or take another model",
            )
        needed_key, needed_values = _needs(dimension.key)
        if not _decides(resolved, dimension, keys):
            shown = show(needed_values[0])
            raise ConfigError(
                f"tune.space.{dimension.key} decides nothing with "
                f"{needed_key}={show(configured(resolved, needed_key))}",
                fix=f"{needed_key}={shown}, or leave {needed_key} out, and it is varied, too",
            )


def _nothing_left(resolved: Resolved) -> ConfigError:
    engine_name = resolved.config.engine.name
    suitable = _SUITABLE.get(engine_name, ())
    is_set = [key for key in suitable if resolved.is_set(key)]
    reason = f"nothing is known to try by itself with engine={engine_name}"
    if suitable:
        reason = f"what is tried by itself with engine={engine_name} is {', '.join(suitable)}"
        reason += f", and {', '.join(is_set)} {'is' if len(is_set) == 1 else 'are'} set" if is_set else ""
    return ConfigError(
        f"there is nothing to tune: {reason}", fix="leave some keys out, or name values: tune.space.KEY=[VALUE,VALUE]"
    )


def _decades(number: float, *, highest: float = math.inf) -> tuple[float, float]:
    """A tenth to ten times a number, without what division adds to its digits."""
    return float(f"{number / 10:.6g}"), min(highest, float(f"{number * 10:.6g}"))
