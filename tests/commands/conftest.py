"""Small inputs and one trained adapter, shared by the tests of the commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lorica.cli import main

QUICK = (
    "training.epochs=2",
    "training.batch_size=8",
    "training.gradient_accumulation_steps=1",
    "training.learning_rate=2e-3",
    "training.save_steps=2",
    "lora.r=4",
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the processes that tests start and kill: the number of threads decides the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def posts() -> Path:
    return Path(__file__).resolve().parents[2] / "examples" / "rules" / "posts.csv"


@pytest.fixture(scope="session")
def few_posts(posts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 posts, every eleventh of the example."""
    with posts.open(newline="", encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    path = tmp_path_factory.mktemp("posts") / "posts.csv"
    with path.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[::11][:40])
    return path


@pytest.fixture(scope="session")
def trained(few_posts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with the adapter `rules`."""
    run_dir = tmp_path_factory.mktemp("run")
    assert main(["train", "task=rules", f"input={few_posts}", f"run_dir={run_dir}", *QUICK]) == 0
    return run_dir


def write_table(path: Path, rows: list[dict[str, Any]] | str) -> Path:
    """Rows as JSON lines, or a text as it is."""
    text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """eval(answers, gold, *words) -> the JSON result, from rows or from the text of a CSV file."""

    def run(answers: list[dict[str, Any]] | str, gold: list[dict[str, Any]] | str, *words: str) -> dict[str, Any]:
        files = [
            write_table(tmp_path / f"{name}.{'csv' if isinstance(rows, str) else 'jsonl'}", rows)
            for name, rows in (("answers", answers), ("gold", gold))
        ]
        assert main(["eval", *map(str, files), *words, "--json"]) == 0
        said: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert main(["eval", *map(str, files), *words]) == 0
        said["text"] = capsys.readouterr().out
        return said

    return run
