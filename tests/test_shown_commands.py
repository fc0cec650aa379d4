"""The command lines that README, docs and `--help` show: their options are the command's, their keys and values make a
configuration."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from lorica.cli import COMMANDS, main
from lorica.commands.arguments import resolve

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SUBCOMMANDS = {"kb": ("build", "update", "query", "info", "test"), "runs": ("show", "compare", "mirror")}
NAMES = [*COMMANDS, *(f"{command} {name}" for command, names in SUBCOMMANDS.items() for name in names)]

_FENCE = re.compile(r"^```(?:sh)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`lorica ([^`\n]+)`")
_COMMAND = re.compile(r"^(?:\$ |.*; do )? *lorica (.*?)(?:; done.*)?$", re.MULTILINE)
_KEY = re.compile(r"[A-Za-z_][\w.]*=")
_TAKE_PAIRS = ("--submission", "--where", "--tag", "--column", "--vary")  # values that look like keys
_PLACEHOLDERS = ("...", "$")
_HELP: dict[str, str] = {}

Help = Callable[[str], str]


@pytest.fixture
def help_of(capsys: pytest.CaptureFixture[str]) -> Help:
    """What `lorica NAME --help` prints."""

    def printed(name: str) -> str:
        if name not in _HELP:
            with suppress(SystemExit):
                main([*name.split(), "--help"])
            _HELP[name] = capsys.readouterr().out
        return _HELP[name]

    return printed


def _commands(shell_lines: str) -> Iterator[list[str]]:
    """The words after `lorica`, of each command."""
    for words in _COMMAND.findall(re.sub(r"\\\n\s*", "", shell_lines)):
        yield shlex.split(words, comments=True)


def _check(words: list[str], help_of: Help, *, configured: bool) -> None:
    name = " ".join(words[:2]) if " ".join(words[:2]) in NAMES else words[0]
    if name not in NAMES:
        return
    shown = help_of(name)
    assert not [word for word in words if word.startswith("--") and not re.search(rf"{word}\b", shown)], words
    if configured:
        overrides = [word for former, word in pairwise(words) if _KEY.match(word) and former not in _TAKE_PAIRS]
        is_readable = [not word.startswith("config=") or Path(word[7:]).is_file() for word in overrides]
        resolve(
            [
                word
                for word, readable in zip(overrides, is_readable, strict=True)
                if readable and not any(mark in word for mark in _PLACEHOLDERS)
            ]
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_on_pages_are_understood(page: Path, help_of: Help, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = page.read_text("utf-8")
    for fence in _FENCE.findall(text):
        for words in _commands(fence):
            _check(words, help_of, configured=True)
    for inline in _INLINE.findall(_FENCE.sub("", text)):
        _check(inline.replace("\\|", "|").split(), help_of, configured=False)


@pytest.mark.parametrize("name", NAMES)
def test_examples_of_help_are_understood(name: str, help_of: Help, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    examples = help_of(name).split("\nexamples:\n")[-1]
    commands = list(_commands(re.sub(r"^ +(?:\w+=\S+ )?", "", examples, flags=re.MULTILINE)))
    assert commands
    for words in commands:
        _check(words, help_of, configured=True)
