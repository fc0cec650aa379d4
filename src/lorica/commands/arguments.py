"""What the command lines share: overrides, `--json`, `--quiet`, and help that shows examples."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lorica.config.paths import local_path
from lorica.errors import ConfigError, LoricaError, UsageError
from lorica.names import did_you_mean, is_same_file, json_values, shell_line
from lorica.streams import carries_unicode

if TYPE_CHECKING:
    from lorica.config.compose import Resolved

MESSAGE_LISTENER: ContextVar[Callable[[str], None] | None] = ContextVar("MESSAGE_LISTENER", default=None)
"""Is told what `inform` and `warn` say: the log of the innermost run of this thread."""

_TOLD: ContextVar[set[str] | None] = ContextVar("_TOLD", default=None)

# Configuration as a command line writes it, `lora.r=8`, or as Python does, {"lora.r": 8}.
Overrides = Sequence[str] | Mapping[str, object]

# Keys of one word, which are taken for options.
_BARE_KEYS = (
    *("task", "model", "input", "output", "run_dir", "engine", "training", "lora", "config"),
    *("minutes", "trials", "attempts", "minutes_per_attempt"),
)
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
_OVERRIDES = "configuration as key=value; `lorica config` prints every key, docs/configuration.md explains them"


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Words may stand on both sides of an option.
        return self.parse_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        help_command = f"see `{self.prog} --help`"
        mistaken = re.match(r"unrecognized arguments: (--?)([\w-]+)", message)
        if mistaken is None:
            raise UsageError(f"{self.prog}: {message}", fix=help_command)
        dashes, name = mistaken.groups()
        options = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        takes_keys = any("key=value" in str(action.metavar) for action in self._actions)
        if takes_keys and name.replace("-", "_") in _BARE_KEYS:
            raise UsageError(
                f"{self.prog}: {message}", fix=f"it is a key: {name.replace('-', '_')}=...; {help_command}"
            )
        raise UsageError(
            f"{self.prog}: {message}", fix=did_you_mean(name, options, form=f"{dashes}{{}}", then=help_command)
        )


def parser(command: str, description: str, examples: str, *, overrides: bool = True) -> argparse.ArgumentParser:
    """A command's parser with `--json` and, unless switched off, `key=value ...`."""
    command_parser = _Parser(
        prog=f"lorica {command}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command_parser.add_argument(
        "--json", action="store_true", help="print the result as one JSON object on standard output"
    )
    if overrides:
        command_parser.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES)
    return command_parser


def names_task(overrides: Overrides, rows_file: Path | None) -> bool:
    """Whether the task was chosen, not left at its default. Raises UsageError for rows without it."""
    keys = overrides if isinstance(overrides, Mapping) else [override.partition("=")[0] for override in overrides]
    if rows_file is not None and "task" not in keys:
        raise UsageError("--rows needs the task they belong to", fix="add --task rules (or mcq, saq, qa)")
    return "task" in keys


def split_words(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Files and `key=value` among a command's words; a file whose name looks like the latter is written ./a=b.csv."""
    overrides = [word for word in words if _OVERRIDE.match(word)]
    return [as_path(word) for word in words if word not in overrides], overrides


def resolve(overrides: Overrides) -> Resolved:
    """The configuration of a command line, or of arguments from Python, and of this process's environment."""
    from lorica.config.compose import compose  # not every command is configured, and `check` has no time to lose

    return compose(overrides, environ=os.environ, is_encoder=_is_encoder)


def with_base(overrides: Overrides, base_name: str) -> Overrides:
    """The same with `model.path`, for a command that names its base otherwise."""
    if isinstance(overrides, Mapping):
        return {**overrides, "model.path": base_name}
    return [*overrides, f"model.path={base_name}"]


def _is_encoder(model_path: str, cache_dir: str, revision: str) -> bool:
    """Whether a base is there, and an encoder; whoever opens it says what else is wrong with it."""
    from lorica.models.base_folder import BaseFolder
    from lorica.models.locate import locate_model

    try:
        base = BaseFolder(locate_model(model_path, cache_dir=cache_dir, revision=revision, environ=os.environ))
        return base.path.is_dir() and base.encoder_family is not None
    except LoricaError:
        return False


def with_settings(
    overrides: Overrides, settings: Mapping[str, object], is_kept: Callable[[str], bool] = lambda key: True
) -> Overrides:
    """Configuration with `settings` in place of what it sets for these keys. is_kept: which other keys stay."""
    if isinstance(overrides, Mapping):
        return {key: value for key, value in overrides.items() if is_kept(key)} | dict(settings)
    words = [word for word in overrides if (key := word.partition("=")[0]) not in settings and is_kept(key)]
    return [*words, *override_words(settings)]


def override_words(overrides: Overrides) -> list[str]:
    """Configuration as a command line writes it."""
    from lorica.config.parse_values import show

    if isinstance(overrides, Mapping):
        return [f"{key}={show(value)}" for key, value in overrides.items()]
    return list(overrides)


def going_on(command: str, arguments: Sequence[str], override: str) -> str:
    """The command that resumes the one of `arguments`: the same with `override`, for a shell."""
    config_key = override.partition("=")[0]
    other_words = [argument for argument in arguments if not argument.startswith(f"{config_key}=")]
    return f"lorica {command} {shell_line(*other_words, override)}"


def parse_weights(weights_text: str) -> list[float]:
    """Numbers whose sum is 1, for argparse. Raises UsageError for any others."""
    try:
        weights = [float(weight_text) for weight_text in weights_text.split(",")]
    except ValueError:
        weights = []
    if not are_shares(weights):
        total = f" (their sum is {sum(weights):g})" if weights else ""
        raise UsageError(
            f"--weights {weights_text}{total}; allowed: numbers from 0 on whose sum is 1", fix="0.5,0.3,0.2"
        )
    return weights


def are_shares(weights: Sequence[float]) -> bool:
    """Whether these are numbers from 0 on whose sum is 1."""
    return bool(weights) and min(weights) >= 0 and abs(sum(weights) - 1) <= 1e-6


def as_path(path_text: str) -> Path:
    """A path among a command's words, for argparse. Raises ConfigError for what can be none."""
    return Path(local_path(path_text, "command line"))


def as_output(path_text: str) -> Path:
    """A file to write at the end of a command, for argparse. Raises what `as_path` raises, and DataError where it
    cannot be written: hours of work do not wait to find out."""
    from lorica.data.write import check_place

    check_place(as_path(path_text))
    return as_path(path_text)


def as_report(path_text: str) -> Path:
    """As `as_output`, of a report. Raises UsageError for a suffix that no report has, too."""
    from lorica.reports.write_report import FORMATS

    if path_text != "-" and Path(path_text).suffix.lower() not in FORMATS:
        raise UsageError(f"{path_text}: a report ends in {', '.join(FORMATS)}", fix="name it report.html")
    return as_output(path_text)


def check_not_read(output_paths: Mapping[str, Path | None], read_paths: Iterable[Path | None]) -> None:
    """Raises UsageError where a file that a command writes is one that it reads. output_paths: by option."""
    readable_paths = [path for path in read_paths if path is not None]
    for option_name, output_path in output_paths.items():
        if output_path is not None and any(is_same_file(output_path, path) for path in readable_paths):
            raise UsageError(
                f"{option_name} {output_path} would replace a file that this command reads", fix="write to another file"
            )


def as_base(base_text: str) -> str:
    """A base model's folder, `embedded:NAME` or Hugging Face id, for argparse. Raises ConfigError as `as_path`."""
    return local_path(base_text, "command line")


def required(path_text: str, config_key: str, example: str) -> Path:
    """A path that must have been given. Raises ConfigError naming the key."""
    if not path_text:
        raise ConfigError(f"{config_key} is not set", fix=f"add {config_key}={example}")
    return Path(path_text)


def inform(message: str) -> None:
    """Tell a person something on standard error, beside the result."""
    if (told := _TOLD.get()) is not None:
        if message in told:
            return
        told.add(message)
    print(f"lorica: {message}", file=sys.stderr)
    if (listen := MESSAGE_LISTENER.get()) is not None:
        listen(message)


@contextmanager
def telling_once(told: set[str]) -> Iterator[None]:
    """A block in which `inform` and `warn` say nothing that is in `told`, where they put what they say: for work that
    is done many times over."""
    token = _TOLD.set(told)
    try:
        yield
    finally:
        _TOLD.reset(token)


def warn(message: str) -> None:
    """As `inform`, of what may be a mistake."""
    inform(f"warning: {message}")


def emit(result: Any, *, as_json: bool, text: str) -> None:
    """Print a result for a program or for a person. result: of anything that `json_values` takes."""
    if as_json:
        ascii_alone = not carries_unicode(sys.stdout)
        print(json.dumps(json_values(result), indent=2, ensure_ascii=ascii_alone, allow_nan=False))
    else:
        print(text)
