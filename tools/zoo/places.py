"""What is in the zoo: read from its folders, no torch."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from lorica.data.read import read_rows
from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings

CARD = "zoo.json"


@dataclass(frozen=True)
class BaseInfo:
    """One base model. shape_group: bases of one group accept each other's adapters ("S", "M"). lineage: the base it
    descends from ("S-a" for itself and its descendants); other lineages are unrelated weights. kind: trained, tuned
    (fully fine-tuned), quantised. auc: of the bare base on the held-out rows.
    """

    name: str
    folder: Path
    shape_group: str
    lineage: str
    kind: str
    auc: float


@dataclass(frozen=True)
class AdapterInfo:
    """One healthy adapter. base: the base it was trained on. origin: lorica or peft. auc: on the held-out rows."""

    name: str
    folder: Path
    base: str
    seed: int
    targets: tuple[str, ...]
    rank: int
    auc: float
    origin: str


def root() -> Path:
    """Where the zoo lies."""
    given = os.environ.get("LORICA_ZOO")
    return Path(given) if given else Path.home() / ".cache" / "lorica" / "zoo"


def bases() -> dict[str, BaseInfo]:
    """The bases that are built, by name."""
    found = {}
    for path in _built(root() / "bases"):
        card = json.loads((path / CARD).read_text("utf-8"))
        found[path.name] = BaseInfo(path.name, path, card["shape_group"], card["lineage"], card["kind"], card["auc"])
    return found


def adapters() -> list[AdapterInfo]:
    """The adapters that are built, ordered by base and name."""
    found = []
    for place in sorted((root() / "adapters").glob("*")):
        for path in _built(place):
            card = json.loads((path / CARD).read_text("utf-8"))
            targets = tuple(card["targets"])
            found.append(
                AdapterInfo(
                    path.name,
                    path,
                    place.name,
                    card["seed"],
                    targets,
                    card["rank"],
                    card["auc"],
                    card["origin"],
                )
            )
    return found


def rows() -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows held out) of the zoo's task. FileNotFoundError before they are built."""
    task = load_task("rules", TaskSettings())
    return (
        list(read_rows(root() / "rows" / "train.jsonl", task.schemas)),
        list(read_rows(root() / "rows" / "held_out.jsonl", task.schemas)),
    )


def is_related(adapter: AdapterInfo, base: BaseInfo, known: dict[str, BaseInfo]) -> bool:
    """Whether a base is the one the adapter was trained on, or shares its lineage."""
    return known[adapter.base].lineage == base.lineage


def _built(place: Path) -> list[Path]:
    # What is being built has a name with a dot in front, and its card comes with the rename.
    return [path for path in sorted(place.glob("[!.]*")) if (path / CARD).is_file()]
