"""Does the alignment test tell an adapter's own base (or a relative of it) from unrelated bases of equal shape?

    python -m tools.zoo && python bench/alignment.py [--texts shipped|english|chinese|rows|short]

Every adapter of the zoo, and harder ones trained here (few steps, rank 1 and 64, stored as bf16), against every base of
equal shape. Prints a table per size and kind, and ends with one line of key=value figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402
from tools.zoo.material import SHARED  # noqa: E402
from tools.zoo.train import ALL, ATTENTION, QV, Recipe, train_zoo_adapter  # noqa: E402

from lorica.adapters.config import read_adapter_config  # noqa: E402
from lorica.adapters.header import read_header  # noqa: E402
from lorica.adapters.raw_adapter import RawAdapter  # noqa: E402
from lorica.adapters.tensor_map import map_tensors  # noqa: E402
from lorica.vetting.base.alignment import Alignment, align, collect_subspaces  # noqa: E402
from tools import zoo  # noqa: E402

# 4, 10 and 19 updates; the extreme ranks.
HARD = (
    Recipe("steps4-qv", 30, QV, 8, epochs=1, rate=1e-4, rows=64),
    Recipe("steps10-qv", 31, QV, 8, epochs=1, rate=2e-4, rows=160),
    Recipe("steps10-all", 32, ALL, 8, epochs=1, rate=1e-4, rows=160),
    Recipe("steps19-attention", 33, ATTENTION, 8, epochs=1, rate=1e-4, rows=300),
    Recipe("rank1-qv", 34, QV, 1, epochs=2, rows=300),
    Recipe("rank64-all", 35, ALL, 64, alpha=64, epochs=2, rate=2e-4, rows=300),
    Recipe("q-only", 36, ("q_proj",), 8, epochs=2, rows=300),
    Recipe("down-only", 37, ("down_proj",), 4, epochs=2, rows=300),
)


@dataclass(frozen=True)
class Case:
    """One adapter to test: the folder, the base it was trained on and what is special about it."""

    folder: Path
    base: str
    kind: str


@dataclass(frozen=True)
class Result:
    """One adapter on one base."""

    case: Case
    base: str
    group: str
    related: bool
    found: Alignment
    seconds: float


def specimen_of(folder: Path) -> RawAdapter:
    """An adapter folder as the checks take it."""
    weights = folder / "adapter_model.safetensors"
    return RawAdapter(
        name=folder.name,
        given=folder,
        kind="folder",
        folder=folder,
        weights=weights,
        config=read_adapter_config(folder),
        header=read_header(weights),
    )


def cases(hard_bases: Sequence[str]) -> list[Case]:
    """Everything to test; hard ones are trained on the way, once."""
    found = [Case(one.folder, one.base, one.origin) for one in zoo.adapters()]
    known = zoo.bases()
    pool, _ = zoo.rows()
    for base in hard_bases:
        for recipe in HARD:
            place = zoo.root() / "alignment" / base / recipe.name
            _once(place, partial(train_zoo_adapter, known[base].folder, recipe, pool))
            found.append(Case(place, base, "short" if recipe.name.startswith("steps") else "odd"))
    for one in zoo.adapters():
        if one.seed == 0:
            place = zoo.root() / "alignment" / one.base / "bf16"
            _once(place, lambda work, one=one: _store_bf16(one.folder, work))  # type: ignore[misc]
            found.append(Case(place, one.base, "bf16"))
    return found


def _once(place: Path, make: Callable[[Path], None]) -> None:
    if place.is_dir():
        return
    work = place.with_name("." + place.name)
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    make(work)
    os.replace(work, place)


def _store_bf16(source: Path, work: Path) -> None:
    work.mkdir()
    shutil.copyfile(source / "adapter_config.json", work / "adapter_config.json")
    tensors = load_file(source / "adapter_model.safetensors")
    save_file({name: one.to(torch.bfloat16) for name, one in tensors.items()}, work / "adapter_model.safetensors")


def texts(kind: str) -> list[str] | None:
    """The texts that are run through the bases; None for the shipped ones."""
    if kind == "shipped":
        return None
    if kind == "rows":
        return [row.case.body for row in zoo.rows()[1][:60]]  # type: ignore[attr-defined]
    if kind == "short":
        return ["The boy saw a dog in the garden and called it, but the dog ran away over the road to the river."]
    if not SHARED.is_dir():
        raise SystemExit(f"--texts {kind} needs {SHARED}")
    tongue = "zh" if kind == "chinese" else "en"
    articles = json.loads((SHARED / "xquad" / f"xquad.{tongue}.json").read_text("utf-8"))["data"]
    return [part["context"] for article in articles[:8] for part in article["paragraphs"][:2]]


def run(sample: str) -> list[Result]:
    """All pairs of equal shape, base by base."""
    hard = [name for name, one in zoo.bases().items() if one.kind in ("trained", "embedded")]
    everything = cases(hard)
    known = zoo.bases()
    found = []
    for base in known.values():
        directions = collect_subspaces(base.folder, texts(sample))
        for case in everything:
            if known[case.base].shape_group != base.shape_group:
                continue
            started = time.perf_counter()
            specimen = specimen_of(case.folder)
            assert specimen.header is not None
            result = align(specimen, map_tensors(specimen.header), directions)
            related = known[case.base].lineage == base.lineage
            seconds = time.perf_counter() - started
            found.append(Result(case, base.name, base.shape_group, related, result, seconds))
    return found


def figures(results: Sequence[Result]) -> dict[str, float]:
    """AUC of the score, and the share of each decision."""
    related = np.array([one.related for one in results])
    scores = np.array([one.found.score for one in results])
    own = [one.found for one in results if one.related]
    other = [one.found for one in results if not one.related]
    if not own or not other:
        return {}
    return {
        "auc": float(roc_auc_score(related, scores)),
        "related": len(own),
        "unrelated": len(other),
        "lowest_related": min(one.score for one in own),
        "highest_unrelated": max(one.score for one in other),
        "unrelated_sd": float(np.std([one.score for one in other])),
        "false_alarms": sum(one.decided == "mismatch" for one in own) / len(own),
        "own_undecided": sum(one.decided == "undecided" for one in own) / len(own),
        "detected": sum(one.decided == "mismatch" for one in other) / len(other),
        "false_matches": sum(one.decided == "match" for one in other) / len(other),
        "seconds": median(one.seconds for one in results),
    }


def main() -> None:
    """Run it and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", choices=("shipped", "english", "chinese", "rows", "short"), default="shipped")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = run(arguments.texts)
    if arguments.verbose:
        for one in results:
            print(
                f"{one.case.base}/{one.case.folder.name} on {one.base}: related={one.related} "
                f"score={one.found.score:.2f} information={one.found.information:.2f} p_true={one.found.p_true:.3f} "
                f"effect={one.found.effect:.3f} {one.found.decided}"
            )
    line: dict[str, float] = {}
    for group in sorted({one.group for one in results}):
        members = [one for one in results if one.group == group]
        for kind in ("all", *sorted({one.case.kind for one in members})):
            part = figures([one for one in members if kind in ("all", one.case.kind)])
            print(group, kind, " ".join(f"{key}={value:.4g}" for key, value in part.items()))
            if kind == "all":
                line |= {f"{group}.{key}": value for key, value in part.items()}
    print(f"bench=alignment texts={arguments.texts} " + " ".join(f"{key}={value:.4g}" for key, value in line.items()))


if __name__ == "__main__":
    main()
