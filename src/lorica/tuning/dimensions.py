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
_ROUNDING = 10.0**-_DIGITS
_LOGARITHMIC = 10  # ends of a range in this ratio, and more, are drawn from on a logarithmic scale


class Dimension(msgspec.Struct, frozen=True):
    """values: to choose from, numbers in ascending order; without them any number from `low` to `high`, whole ones
    alone where `integers`, on a logarithmic scale where `logarithmic`.

    needs: another dimension's key, and the values of it with which this one decides anything; ("", ()) for always.
    origin_key, origins: the ends are multiples of what `origins` has for the value of that other dimension.
    """

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    logarithmic: bool = False
    integers: bool = False
    needs: tuple[str, tuple[Any, ...]] = ("", ())
    origin_key: str = ""
    origins: dict[str, float] = {}

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers, so that near ones do alike."""
        return all(map(_is_number, self.values))

    def holds(self, value: Any) -> bool:
        """Whether a value is one of it."""
        return value in self.values if self.values else _is_number(value) and self.low <= value <= self.high

    def decides(self, settings: Mapping[str, Any]) -> bool:
        """Whether it makes a difference beside other settings."""
        needed_key, needed_values = self.needs
        return needed_key not in settings or settings[needed_key] in needed_values

    def at(self, share: float) -> Any:
        """What is drawn at a share of the dimension, from 0 to below 1: an index of `values`, or a number."""
        if self.values:
            return int(share * len(self.values))
        if self.logarithmic:
            return self.low * (self.high / self.low) ** share
        return self.low + (self.high - self.low) * share

    def decode(self, drawn: Any, settings: Mapping[str, Any]) -> Any:
        """The value of what was drawn. settings: those that it may be a multiple for."""
        if self.values:
            return self.values[drawn]
        if self.origins:
            return _short(drawn * self.origins[settings[self.origin_key]])
        return self.rounded(drawn)

    def encode(self, settings: Mapping[str, Any]) -> Any:
        """What would be drawn for the value that settings have; None for one outside the dimension."""
        value: Any = settings.get(self.key)
        if not self.origins:
            drawable = value is not None and self.holds(value)
            return (self.values.index(value) if self.values else value) if drawable else None
        multiple = value / self.origins[settings[self.origin_key]] if _is_number(value) else math.nan
        nearest = min(max(multiple, self.low), self.high)
        return nearest if math.isclose(multiple, nearest, rel_tol=_ROUNDING) else None

    def rounded(self, number: float) -> float:
        """A number of the range as few digits as are needed."""
        return round(number) if self.integers else min(max(_short(number), self.low), self.high)

    def describe(self) -> str:
        """As `tune.space` takes it; multiples with what they are of."""
        if self.values:
            return show(list(self.values))
        ends = f"{show(self.low)}..{show(self.high)}"
        if not self.origins:
            return ends
        origins = ", ".join(f"{show(number)} ({value})" for value, number in self.origins.items())
        return f"{ends} times {origins}"


def decode(dimensions: Sequence[Dimension], drawn: Mapping[str, Any]) -> Settings:
    """Key -> value, of what was drawn for every dimension: of those that decide something, in their order."""
    settings: Settings = {}
    for dimension in sorted(dimensions, key=lambda dimension: bool(dimension.origins)):  # origins come before multiples
        settings[dimension.key] = dimension.decode(drawn[dimension.key], settings)
    return deciding(dimensions, settings)


def deciding(dimensions: Sequence[Dimension], settings: Mapping[str, Any]) -> Settings:
    """The settings of those dimensions that decide something, in their order."""
    return {dimension.key: settings[dimension.key] for dimension in dimensions if dimension.decides(settings)}


def encode(dimensions: Sequence[Dimension], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What would be drawn for settings; None where they lie outside the space."""
    drawn = {dimension.key: dimension.encode(settings) for dimension in dimensions if dimension.decides(settings)}
    return None if any(number is None for number in drawn.values()) else drawn


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


def _short(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def combinations(dimensions: Sequence[Dimension]) -> Iterator[Settings] | None:
    """All settings there are, one after the other; None where a range has no end of them."""
    if not all(dimension.values for dimension in dimensions):
        return None
    keys = [dimension.key for dimension in dimensions]
    return (
        deciding(dimensions, dict(zip(keys, values, strict=True)))
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
