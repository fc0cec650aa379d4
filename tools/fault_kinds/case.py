"""What a kind of fault is, where it is built, and what it hands to the runner."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from tools import zoo
from tools.fault_kinds.bundle import Bundle, read_bundle

Level = Literal["files", "base", "behaviour"]
BASES = ("S-a", "S-b", "S-a-tuned")  # two of equal shape from different seeds, and a fine-tuned descendant


@dataclass(frozen=True)
class Case:
    """One folder to judge.

    path: what `check` is given. base: the model folder that its user means to run it on. style: the prompt format its
    user means to use ("" is the task's own). answers: a file of answers that somebody computed with it.
    """

    path: Path
    base: Path
    style: str = ""
    answers: Path | None = None
    sound: tuple[Path, str] | None = None


@dataclass
class Site:
    """Where one case is built. place: an empty folder of its own. used: the healthy adapter that was taken."""

    seed: int
    place: Path
    used: zoo.AdapterInfo | None = None
    rng: random.Random = field(init=False)
    numbers: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed * 7919 + 17)
        self.numbers = np.random.default_rng(self.seed * 104729 + 3)

    def base(self, name: str) -> Path:
        """The folder of a base of the zoo."""
        return zoo.root() / "bases" / name

    def info(self, *, targets: int = 1, bases: tuple[str, ...] = BASES) -> zoo.AdapterInfo:
        """A healthy adapter with at least `targets` kinds of target modules; seeds go round the bases and recipes."""
        known = [one for one in zoo.adapters() if one.base in bases and len(one.targets) >= targets]
        wanted = bases[self.seed % len(bases)]
        on_base = [one for one in known if one.base == wanted] or known
        self.used = on_base[(self.seed // len(bases) + self.seed) % len(on_base)]
        return self.used

    def siblings(self, info: zoo.AdapterInfo) -> list[zoo.AdapterInfo]:
        """The other adapters of equal shapes' base: of its own base, or where that has none, of its ancestor."""
        own = [one for one in zoo.adapters() if one.base == info.base and one.name != info.name]
        return own or [one for one in zoo.adapters() if one.base == "S-a" and one.name != info.name]

    def start(self, *, targets: int = 1, bases: tuple[str, ...] = BASES) -> tuple[Bundle, Path]:
        """(a healthy adapter's config and tensors, its base's folder)."""
        info = self.info(targets=targets, bases=bases)
        return read_bundle(info.folder), self.base(info.base)


@dataclass(frozen=True)
class Kind:
    """One kind of fault, or of healthy variant.

    level: what is needed to find it: the files alone, the base too, or the base and labelled rows.
    truth: what happened, in words. causes: those of `vetting/findings.toml` that name it rightly; for the unseen
    kinds they stand in `truths`. unseen: written before its author had read a check. healthy: nothing is wrong.
    passport: it is about the passport, so what the adapter has of its training stays with it.
    """

    name: str
    level: Level
    truth: str
    build: Callable[[Site], Case]
    unseen: bool = False
    causes: frozenset[str] = frozenset()
    healthy: bool = False
    passport: bool = False
