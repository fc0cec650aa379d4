"""Build the zoo item by item: each in a hidden folder that is renamed when whole, so a killed build goes on."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from lorica.models.families import read_decoder_config
from tools.zoo import places
from tools.zoo.material import build_rows, material, tokenizer_folder
from tools.zoo.pretrain import SHAPES, fine_tune, pretrain, rounded, save_base
from tools.zoo.train import PEFT_RECIPES, RECIPES, Recipe, auc, train_zoo_adapter


@dataclass(frozen=True)
class BasePlan:
    """One base to build. parent: "" for one that is pretrained from its seed."""

    name: str
    group: str
    kind: str = "trained"
    seed: int = 0
    parent: str = ""
    steps: int = 0
    rate: float = 0.0
    bits: int = 0

    @property
    def lineage(self) -> str:
        """Descendants of descendants are not made, so the parent is the origin."""
        return self.parent or self.name


BASES = (
    BasePlan("S-a", "S", seed=1, steps=600),
    BasePlan("S-b", "S", seed=2, steps=600),
    BasePlan("S-a-tuned", "S", "tuned", seed=21, parent="S-a", steps=250, rate=2e-4),
    BasePlan("S-a-int4", "S", "quantised", parent="S-a", bits=4),
    BasePlan("M-a", "M", "embedded"),
    BasePlan("M-b", "M", seed=4, steps=240),
    BasePlan("S-c", "S", seed=3, steps=300),
    BasePlan("M-a-tuned", "M", "tuned", seed=22, parent="M-a", steps=80, rate=2e-4),
    BasePlan("M-a-int8", "M", "quantised", parent="M-a", bits=8),
)


def build(threads: int = 1) -> None:
    """Build what is missing; one builder at a time, others wait for it."""
    torch.set_num_threads(threads)
    root = places.root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_rows()
        _, held = places.rows()
        for plan in BASES:
            _item(root / "bases" / plan.name, lambda folder, plan=plan: _base(plan, folder, held))  # type: ignore[misc]
        # Recipe by recipe, so that a build under way serves every base.
        for recipe in (*RECIPES, *PEFT_RECIPES):
            for plan in BASES:
                if _wanted(plan, recipe):
                    # The larger bases learn as much in fewer epochs.
                    _adapter(plan, replace(recipe, epochs=3) if plan.group == "M" else recipe)


def _wanted(plan: BasePlan, recipe: Recipe) -> bool:
    if plan.kind not in ("trained", "embedded"):
        return recipe.name == RECIPES[0].name
    return recipe.origin == "lorica" or plan.name in ("S-a", "S-b", "M-a")


def log(text: str) -> None:
    """One line to the log and to standard output."""
    line = f"{time.strftime('%H:%M:%S')} {text}"
    print(line, flush=True)
    with (places.root() / "log.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _adapter(plan: BasePlan, recipe: Recipe) -> None:
    base = places.root() / "bases" / plan.name
    pool, held = places.rows()

    def make(folder: Path) -> dict[str, object]:
        train_zoo_adapter(base, recipe, pool, folder)
        card = asdict(recipe) | {"base": plan.name, "auc": round(auc(base, folder, held), 4)}
        return {key: value for key, value in card.items() if key != "rows"}

    _item(places.root() / "adapters" / plan.name / recipe.name, make)


def _base(plan: BasePlan, folder: Path, held: object) -> dict[str, object]:
    parent = places.root() / "bases" / plan.parent
    shape = SHAPES[plan.group]

    def told(text: str) -> None:
        log(f"{plan.name}: {text}")

    if plan.kind == "embedded":
        folder.mkdir(parents=True)
        for path in tokenizer_folder().iterdir():
            if path.suffix in (".json", ".safetensors", ".jinja"):
                shutil.copyfile(path, folder / path.name)
    elif plan.kind == "quantised":
        save_base(folder, rounded(parent, plan.bits), read_decoder_config(parent))
    elif plan.parent:
        tuned = fine_tune(parent, material().other, seed=plan.seed, steps=plan.steps, rate=plan.rate, log=told)
        save_base(folder, tuned.state_dict(), shape)
    else:
        save_base(folder, pretrain(shape, material(), seed=plan.seed, steps=plan.steps, log=told).state_dict(), shape)
    _, rows = places.rows()
    card: dict[str, object] = {"shape_group": plan.group, "lineage": plan.lineage, "kind": plan.kind}
    if plan.parent:
        card["moved"] = _moved(parent, folder)
    return card | {"auc": round(auc(folder, None, rows), 4)}


def _moved(parent: Path, folder: Path) -> float:
    """How far the linear layers are from their parent's, relative to their own size."""
    old, new = (load_file(path / "model.safetensors") for path in (parent, folder))
    names = [name for name in old if name.endswith("_proj.weight")]
    away = sum((old[name].float() - new[name].float()).square().sum().item() for name in names)
    whole = sum(old[name].float().square().sum().item() for name in names)
    return float(round((away / whole) ** 0.5, 5))


def _item(place: Path, make: Callable[[Path], dict[str, object]]) -> None:
    if (place / places.CARD).is_file():
        return
    started = time.perf_counter()
    work = place.with_name("." + place.name)
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    card = make(work)
    (work / places.CARD).write_text(json.dumps(card | {"seconds": round(time.perf_counter() - started, 1)}), "utf-8")
    shutil.rmtree(place, ignore_errors=True)
    os.replace(work, place)
    log(f"{place.parent.name}/{place.name}: auc {card['auc']} in {time.perf_counter() - started:.0f} s")
