"""Arguments of the Python API, checked before anything is read: each function gives the value as the commands take it,
and together they make a configuration.

All raise ConfigError, which names the argument, what was got and what is allowed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set, ValuesView
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from lorica.commands.arguments import are_shares, resolve
from lorica.config.paths import local_path
from lorica.config.schema import Config
from lorica.errors import ConfigError
from lorica.names import did_you_mean
from lorica.records import Answer

PathLike = str | Path
Settings = Mapping[str, object] | None

RESUMED = "the same call with resume=True"
"""What goes on with an interrupted call."""

_LISTS = (Sequence, Set, Iterator, ValuesView)
_SINGLE = (str, os.PathLike)
_MAX_NAME = 255  # characters of a file's name: a longer text is what stands in a file, not where it is


def path_text(value: object, name: str, *, allowed: str = "a path", fix: str = "") -> str:
    """A path as it was written, with its `~`, for a configuration key."""
    text = os.fspath(value) if isinstance(value, _SINGLE) else None
    if not isinstance(text, str) or not text or "\0" in text or max(map(len, text.split("/"))) > _MAX_NAME:
        raise _refusal(name, value, allowed, fix)
    return text


def optional_text(value: object, name: str) -> str | None:
    """As `path_text`, where None leaves it out."""
    return None if value is None else path_text(value, name, allowed="a path or None")


def local_file(value: object, name: str, *, allowed: str = "a path") -> Path:
    """A path on this machine."""
    return Path(local_path(path_text(value, name, allowed=allowed), name))


def optional_file(value: object, name: str) -> Path | None:
    """As `local_file`, where None leaves it out."""
    return None if value is None else local_file(value, name, allowed="a path or None")


def base_name(value: object) -> str:
    """A base model's folder, id or `embedded:NAME`; "" for None."""
    return local_path(optional_text(value, "base") or "", "base")


def base_names(value: object, name: str) -> list[str]:
    """Several base models, or one alone."""
    allowed = "a base or a list of them"
    bases = several(value, name, allowed=allowed)
    return [local_path(path_text(base, name, allowed=allowed), name) for base in bases]


def rows_text(value: object, name: str = "rows") -> str:
    """The path of a file of rows: records in memory are answered by a pipeline."""
    fix = "write the rows to a .csv, .jsonl or .parquet file; lorica.load_pipeline answers records in memory"
    return path_text(value, name, allowed="the path of a file", fix=fix)


def by_name(value: Mapping[Any, object], name: str, text: Callable[[object, str], str]) -> dict[str, str]:
    """Name -> path, of a mapping that names at least one."""
    if not value:
        raise _refusal(name, value, "at least one name with its path")
    for key in value:
        _text(key, f"a name in {name}")
    return {key: text(path, f"{name}[{key!r}]") for key, path in value.items()}


def several(value: object, name: str, *, allowed: str) -> list[Any]:
    """The items of a list; a text or a path alone is a list of one."""
    if isinstance(value, _SINGLE):
        return [value]
    if not isinstance(value, _LISTS) or isinstance(value, bytes | bytearray):
        raise _refusal(name, value, allowed)
    return list(value)


def local_paths(value: object, name: str) -> list[Path]:
    """At least one path: a list, or one alone."""
    allowed = "a path or a list of at least one"
    paths = [local_file(path, name, allowed=allowed) for path in several(value, name, allowed=allowed)]
    if not paths:
        raise _refusal(name, value, allowed)
    return paths


def names(value: object, name: str, *, item: str = "a name") -> list[str]:
    """Texts: a list, or one alone. item: what one is, such as "a column's name"."""
    allowed = f"{item} or a list of them"
    return [_text(text, name, allowed) for text in several(value, name, allowed=allowed)]


def task_name(value: object) -> str:
    """A task that has to be named; the configuration knows which there are."""
    return _text(value, "task", "rules, mcq, saq or qa")


def optional_task(value: object) -> str | None:
    """As `task_name`, where None leaves it to the settings."""
    return None if value is None else task_name(value)


def switch(value: object, name: str) -> bool:
    """True or False, and nothing that merely counts as one of them: "no" would switch on."""
    if not isinstance(value, bool):
        raise _refusal(name, value, "True or False")
    return value


def whole_number(value: object, name: str, *, highest: int | None = None) -> int:
    """A whole number from 0 on."""
    number = -1 if isinstance(value, bool) or not isinstance(value, Integral) else int(value)
    if number < 0 or (highest is not None and number > highest):
        raise _refusal(name, value, "a whole number, 0 " + ("or more" if highest is None else f"to {highest}"))
    return number


def numbers(value: object, name: str) -> list[float]:
    """A list of numbers."""
    items: list[Any] = list(value) if isinstance(value, _LISTS) and not isinstance(value, str) else [value]
    if not all(isinstance(item, Real) and not isinstance(item, bool) for item in items):
        raise _refusal(name, value, "a list of numbers")
    return [float(item) for item in items]


def given_answers(value: object) -> Path | list[Answer]:
    """A file of answers, or the answers of a pipeline."""
    if isinstance(value, _SINGLE):
        return local_file(value, "answers")
    fix = "write other tables to a file with the columns id and answer"
    answers: list[Any] = list(value) if isinstance(value, _LISTS) else [value]
    for answer in answers:
        if not isinstance(answer, Answer):
            raise _refusal("answers", answer, "the path of a file or a list of lorica.Answer", fix)
    return answers


def named_answers(value: object) -> dict[str, Path | list[Answer]]:
    """Name -> answers of at least two sets; files alone are named by their paths."""
    allowed = "two or more files, or name -> file or answers"
    if isinstance(value, Mapping):
        named = {_text(name, "a name in answers"): given_answers(answers) for name, answers in value.items()}
    else:
        named = {str(path): path for path in local_paths(value, "answers")}
    if len(named) < 2:
        raise _refusal("answers", value, allowed)
    return named


def one_of(value: object, name: str, choices: Sequence[str]) -> str:
    """One of several words."""
    word = _text(value, name, " or ".join(choices))
    if word not in choices:
        raise _refusal(name, value, " or ".join(choices), did_you_mean(word, choices))
    return word


def number(value: object, name: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise _refusal(name, value, "a finite number")
    return float(value)


def weights(value: object) -> list[float]:
    """Numbers from 0 on whose sum is 1."""
    allowed = "numbers from 0 on whose sum is 1"
    shares = [number(share, "weights") for share in several(value, "weights", allowed=allowed)]
    if not are_shares(shares):
        raise _refusal("weights", value, allowed)
    return shares


def all_settings(arguments: Mapping[str, object], base: PathLike | None, settings: Settings) -> dict[str, object]:
    """Keys of the configuration with their values: what was given by name overrides `settings`."""
    named = {**arguments, "model.path": optional_text(base, "base")}
    if settings is not None and not isinstance(settings, Mapping):
        raise _refusal("settings", settings, 'a mapping of configuration keys, {"lora.r": 8}')
    for key in settings or {}:
        _text(key, "a key of settings", 'a configuration key such as "lora.r"')
    return {**(settings or {}), **{key: value for key, value in named.items() if value is not None}}


def configuration(arguments: Mapping[str, object], base: PathLike | None, settings: Settings) -> Config:
    """As `all_settings`, composed with presets and environment and checked."""
    return resolve(all_settings(arguments, base, settings)).config


def _text(value: object, name: str, allowed: str = "a text") -> str:
    if not isinstance(value, str) or not value:
        raise _refusal(name, value, allowed)
    return value


def _refusal(name: str, value: object, allowed: str, fix: str = "") -> ConfigError:
    empty = isinstance(value, list | tuple | dict) and not value
    plain = empty or value is None or isinstance(value, str | bytes | int | float)
    got = repr(value) if plain else f"of type {type(value).__name__}"
    return ConfigError(f"{name} is {got[:80]}; allowed: {allowed}", fix=fix)
