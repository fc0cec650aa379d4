"""What a study varies: keys with the values to try, or with the ends of a range."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from lorica.config.fields import find
from lorica.config.parse_values import coerce, list_items, parse, show
from lorica.config.presets import GROUPS, check_preset
from lorica.errors import ConfigError
from lorica.names import did_you_mean

SCALE = "scale"
"""The dimension lora.alpha / lora.r: a rank is compared with another at the same strength of the update."""

Settings = dict[str, Any]
"""Key (or preset group, or SCALE) -> plain value, of one trial."""

# What all trials share: with other rows, or another division of them, they could not be compared.
_SHARED = ("task", "task.name", "task.columns", "task.constants", "input", "output", "run_dir", "data", "minutes")
_SHARED_SECTIONS = ("tune.", "data.", "adapters.", "task.columns.", "task.constants.", "task.answer_numbers")
_SHARED_TRAINING = ("training.val_ratio", "training.seed", "training.resume", "training.per_subject")
_DIGITS = 3  # of a number that is drawn from a range: a command that people can read
_LOGARITHMIC = 10  # ends of a range in this ratio, and more, are drawn from on a logarithmic scale


class Dimension(msgspec.Struct, frozen=True):
    """values: to choose from, numbers in ascending order; without them any number from `low` to `high`, whole ones
    alone where `integers`, on a logarithmic scale where `logarithmic`."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    logarithmic: bool = False
    integers: bool = False

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers, so that near ones do alike."""
        return all(map(_is_number, self.values))

    def holds(self, value: Any) -> bool:
        """Whether a value is one of it."""
        return value in self.values if self.values else _is_number(value) and self.low <= value <= self.high

    def at(self, share: float) -> Any:
        """The value at a share of the dimension, from 0 to below 1."""
        if self.values:
            return self.values[int(share * len(self.values))]
        if self.logarithmic:
            return self.rounded(self.low * (self.high / self.low) ** share)
        return self.rounded(self.low + (self.high - self.low) * share)

    def rounded(self, number: float) -> float:
        """A number of the range as few digits as are needed."""
        if self.integers:
            return round(number)
        return min(max(float(f"{number:.{_DIGITS}g}"), self.low), self.high)

    def describe(self) -> str:
        """As `tune.space` takes it."""
        return show(list(self.values)) if self.values else f"{show(self.low)}..{show(self.high)}"


def choices(key: str, values: Iterable[Any]) -> Dimension:
    """A dimension of these values, each once."""
    distinct: list[Any] = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return Dimension(key, tuple(sorted(distinct) if all(map(_is_number, distinct)) else distinct))


def number_range(key: str, low: float, high: float) -> Dimension:
    """A dimension of the numbers between two ends."""
    logarithmic = low > 0 and high / low >= _LOGARITHMIC
    integers = isinstance(low, int) and isinstance(high, int)
    return Dimension(key, low=low, high=high, logarithmic=logarithmic, integers=integers)


def parse_dimension(key: str, text: str) -> Dimension:
    """What an entry of `tune.space` says. Raises ConfigError for a key that is none or that all trials share, and for
    values that the key does not take."""
    location = f"tune.space.{key}: "
    check_key(key, "tune.space.")
    if text.startswith("[") and text.endswith("]"):
        values = [_value(key, item_text, location) for item_text in list_items(key, text, "tune.space.")]
        if values:
            return choices(key, values)
    elif text.count("..") == 1:
        low, high = (_value(key, end_text.strip(), location) for end_text in text.split(".."))
        if _is_number(low) and _is_number(high) and low < high:
            return number_range(key, low, high)
    raise ConfigError(
        f"{location}takes a list of values, or two ends of which the first is the smaller number; got {text!r}",
        fix=f"write tune.space.{key}=[VALUE,VALUE], or tune.space.{key}=LOW..HIGH",
    )


def check_key(key: str, location: str) -> None:
    """Raises ConfigError for what cannot be varied."""
    if key in (*_SHARED, *_SHARED_TRAINING) or key.startswith(_SHARED_SECTIONS):
        raise ConfigError(f"{location}{key}: all trials of a study share it", fix="run a study of its own for each")
    if key != SCALE and key not in GROUPS:
        try:
            find(key, location=f"{location.rstrip('.: ')}: ")
        except ConfigError as error:
            if suggestion := did_you_mean(key, [SCALE], form="{}", cutoff=0.8):
                error.fix = suggestion
            raise


def _value(key: str, value_text: str, location: str) -> Any:
    if key in GROUPS:
        return check_preset(key, value_text, location=location)
    if key == SCALE:
        try:
            scale = float(value_text)
        except ValueError:
            scale = math.nan
        if not 0 < scale < math.inf:
            raise ConfigError(f"{location}takes numbers above 0; got {value_text!r}", fix="tune.space.scale=[1,2,4]")
        return int(scale) if scale == int(scale) else scale
    key_spec, entry_name = find(key, location=location)
    return coerce(key_spec, entry_name, parse(key_spec, entry_name, value_text, location=location), location=location)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def combinations(dimensions: Sequence[Dimension]) -> Iterator[Settings] | None:
    """All settings there are, one after the other; None where a range has no end of them."""
    if not all(dimension.values for dimension in dimensions):
        return None
    keys = [dimension.key for dimension in dimensions]
    return (
        dict(zip(keys, values, strict=True))
        for values in itertools.product(*(dimension.values for dimension in dimensions))
    )


def overrides_of(settings: Mapping[str, Any], *, rank: int) -> Settings:
    """The settings as keys of the configuration: SCALE becomes lora.alpha. rank: lora.r where they have none."""
    values = {key: value for key, value in settings.items() if key != SCALE}
    if SCALE in settings:
        values["lora.alpha"] = max(1, round(settings[SCALE] * settings.get("lora.r", rank)))
    return values


def settings_name(settings: Mapping[str, Any]) -> str:
    """Settings in a few words: "r=8, scale=2"."""
    return ", ".join(f"{key.rpartition('.')[2]}={show(value)}" for key, value in settings.items())
