"""The grid of `lorica frontier`: which settings are varied, and the configuration of each combination."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorica.commands import build
from lorica.commands.arguments import Overrides, inform, override_words, resolve, with_settings
from lorica.commands.dtypes import answer_dtype, count_parameters
from lorica.config.compose import Resolved
from lorica.config.fields import find
from lorica.config.presets import GROUPS
from lorica.config.schema import Config
from lorica.engine_table import ENGINES, styles_for
from lorica.engines.base import resolve_device
from lorica.errors import ConfigError, UsageError
from lorica.hardware import this_machine
from lorica.models.base_folder import BaseFolder
from lorica.names import shell_line
from lorica.precision_choice import slow_answers

ADAPTERS = "adapters"
"""The dimension of which adapters answer; its values are ROUTED, BASE_ALONE and names of adapters."""
ROUTED, BASE_ALONE = "as configured", "base alone"

_MAX_SINGLE = 4  # adapters that are tried one by one; of more, one for each subject, none answers all rows well
_BATCH_TOKENS = ("8192", "2048")
_NATIVE_DTYPES = ("float32", "int8", "bfloat16", "int16", "int4-weights")
_TORCH_DTYPES = ("float32", "bfloat16")
# Keys of the search itself, which no run of a point takes.
_SEARCH_KEYS = ("minutes", "run_dir", "output", "inference.resume")
# What all points share: answers to other rows, or of another task, are not compared.
_SHARED_KEYS = (*_SEARCH_KEYS, "input", "task", "task.name")


@dataclass(frozen=True)
class Point:
    """One combination. settings: (key, value) of each dimension that is varied."""

    settings: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """As tables and files call it."""
        return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.settings) or "as configured"

    @property
    def base_settings(self) -> tuple[tuple[str, str], ...]:
        """What of it decides which base is loaded, and how."""
        return tuple((key, value) for key, value in self.settings if key.partition(".")[0] in ("model", "engine"))


def point_overrides(overrides: Overrides, point: Point) -> Overrides:
    """The configuration of a point: what the user set, without the keys of the search, and what the point sets."""
    chosen = {key: value for key, value in point.settings if key != ADAPTERS}
    answering = dict(point.settings).get(ADAPTERS, ROUTED)
    if answering not in (ROUTED, BASE_ALONE):
        chosen["adapters.use"] = answering

    def is_kept(key: str) -> bool:
        is_adapters = key.startswith("adapters.") and answering == BASE_ALONE
        return key not in _SEARCH_KEYS and not is_adapters

    return with_settings(overrides, chosen, is_kept)


def resolve_point(overrides: Overrides, point: Point) -> Config:
    """The configuration of a point. Raises ConfigError for a combination that cannot be."""
    config = resolve(point_overrides(overrides, point)).config
    if dict(point.settings).get(ADAPTERS) == BASE_ALONE and (config.adapters.dir or config.adapters.paths):
        raise ConfigError(
            "adapters come from a configuration file or the environment, so the base cannot be asked alone",
            fix="name them on the command line",
        )
    return config


def point_command(overrides: Overrides, point: Point, output: Path) -> str:
    """The `lorica infer` that answers the file as this point does, for a shell."""
    words = override_words(point_overrides(overrides, point))
    return shell_line("lorica", "infer", *words, f"output={output}")


def make_grid(resolved: Resolved, base: BaseFolder, vary: Mapping[str, Sequence[str]]) -> list[Point]:
    """All combinations, the configured one first. vary: key -> values, in place of the default ones of that key.

    A key that the user set is not varied. Raises ConfigError for a key that is none, UsageError for one that cannot be
    varied. What is left out because it is slow here is said on standard error.
    """
    config = resolved.config
    task = build.build_task(config)
    names = sorted(build.adapter_folders(config))
    alone = [] if build.untrained_problem(config, base) else [BASE_ALONE]
    single = names if 1 < len(names) <= _MAX_SINGLE else []
    dimensions: dict[str, Sequence[str]] = {
        ADAPTERS: [] if config.adapters.use or not names else [ROUTED, *alone, *single],
        "model.dtype": _dtypes(config, base),
        "inference.batch_tokens": _BATCH_TOKENS if _computes_tokens(config) else (),
        "task.style": styles_for(config.engine.name, task.styles),
        "retrieval.enabled": ("false", "true") if config.retrieval.dir else (),
        "task.method": [method for method in task.methods if method != "generate" or task.answer_type == "text"],
    }

    def is_set(key: str) -> bool:
        """Where adapters lie says nothing of which answers."""
        return resolved.is_set("adapters.use" if key == ADAPTERS else key)

    dimensions = {key: values for key, values in dimensions.items() if len(values) > 1 and not is_set(key)}
    for key, values in vary.items():
        if key in _SHARED_KEYS:
            raise UsageError(f"--vary {key}: all points of a search share it", fix="run a search of its own for each")
        if key != ADAPTERS and key not in GROUPS:
            find(key, location="--vary: ")
        if is_set(key):
            raise UsageError(f"--vary {key} and {key}= contradict each other", fix="leave one of them out")
        dimensions[key] = values
    combinations = itertools.product(*([(key, value) for value in values] for key, values in dimensions.items()))
    return [Point(combination) for combination in combinations]


def _computes_tokens(config: Config) -> bool:
    """Whether precision and batches of tokens have an effect: shallow models read texts."""
    engine = ENGINES[config.engine.name]
    return engine.runs_model and not engine.tokenizer


def _dtypes(config: Config, base: BaseFolder) -> list[str]:
    """Precisions to try: the one that `auto` is, and others that are not slow on this machine."""
    engine = ENGINES[config.engine.name]
    if not _computes_tokens(config) or config.model.load_in_4bit:
        return []
    automatic = answer_dtype(config, base)
    on_cpu = resolve_device(config.model.device) == "cpu"
    names = dict.fromkeys([automatic, *(_NATIVE_DTYPES if engine.quantized and on_cpu else _TORCH_DTYPES)])
    if not on_cpu:
        return list(names)
    from lorica.models.cpu.rates import measured_rates

    fast = [automatic]
    for name in list(names)[1:]:
        parameters = count_parameters(base)
        advice = slow_answers(this_machine(), measured_rates(), parameters, name, native=engine.quantized)
        if advice and name != "float32":
            inform(f"not tried: {advice}")
        else:
            fast.append(name)
    return fast
