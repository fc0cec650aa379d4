"""One `lorica infer` opens what it needs once: each adapter is hashed once, the base's config.json parsed once, and the
input parsed twice, to plan and to answer.
"""

from __future__ import annotations

import builtins
import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from lorica.cli import main
from lorica.engines import load_engine
from lorica.engines.base import EngineSettings
from lorica.models.base_folder import BaseFolder
from tests.passports import BASE, give_passport, make_adapter

SUBJECTS = [f"subject-{number}" for number in range(8)]
HEADER_SLACK = 1 << 16  # bytes of headers and first looks at a file


class Reads:
    """Of every file that Python opened to read: how often it was opened and hashed whole, and its bytes read."""

    def __init__(self) -> None:
        self.opens: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.hashes: Counter[str] = Counter()

    def raw(self, path: str) -> io.FileIO:
        """A file whose reads are counted."""
        counts = self.bytes

        class CountedFile(io.FileIO):
            def readinto(self, buffer: Any, /) -> int:
                count = super().readinto(buffer)
                counts[path] += count
                return count

            def readall(self) -> bytes:
                data = super().readall()
                counts[path] += len(data)
                return data

        self.opens[path] += 1
        return CountedFile(path)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    reads, plain_open, plain_digest = Reads(), io.open, hashlib.file_digest

    def counting_open(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        if isinstance(file, int) or set(mode) & set("wax+"):
            return plain_open(file, mode, buffering, *args, **options)
        raw = reads.raw(str(Path(file).resolve()))
        if buffering == 0:
            return raw
        buffered = io.BufferedReader(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **options)

    def counting_digest(file: Any, digest: Any, /, **options: Any) -> Any:
        reads.hashes[str(file.name)] += 1
        return plain_digest(file, digest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", counting_open)
        patch.setattr(io, "open", counting_open)
        patch.setattr(hashlib, "file_digest", counting_digest)
        yield reads


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight adapters, every other one with a passport."""
    folder = tmp_path_factory.mktemp("adapters")
    engine = load_engine("native", BaseFolder(BASE), EngineSettings(dtype="float32", device="cpu"))
    for seed, subject in enumerate(SUBJECTS):
        made = make_adapter(folder / subject, seed=seed)
        if seed % 2:
            give_passport(made, engine, task="mcq")
    return folder


def questions(path: Path, rows: int) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "subject", "question", "A", "B"])
        writer.writerows([i, SUBJECTS[i % 8], f"Is {i} even?", "yes", "no"] for i in range(rows))
    return path


@pytest.mark.parametrize(("engine", "rows"), [("fake", 1000), ("native", 1000)])
def test_each_file_is_opened_for_one_purpose_once(
    adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, rows: int
) -> None:
    source, output = questions(tmp_path / "rows.csv", rows), tmp_path / "answers.jsonl"
    command = ["task=mcq", f"input={source}", f"output={output}", f"adapters.dir={adapters}", f"engine={engine}"]
    with counted(monkeypatch) as reads:
        assert main(["infer", *command, "model.dtype=float32"]) == 0
    for subject in SUBJECTS:
        weights = (adapters / subject / "adapter_model.safetensors").resolve()
        assert reads.hashes[str(weights)] == 1
        passes = 1 if engine == "fake" else 2  # hashed, and loaded
        assert reads.bytes[str(weights)] <= passes * weights.stat().st_size + HEADER_SLACK
        assert reads.hashes[str(weights.with_name("adapter_config.json"))] == 1
    assert reads.opens[str((BASE / "config.json").resolve())] == 1
    # Parsed to plan and to answer, and hashed for the manifest.
    assert reads.hashes[str(source)] == 1
    assert reads.bytes[str(source)] <= 3 * source.stat().st_size + HEADER_SLACK
    assert len(output.read_text("utf-8").splitlines()) == rows


def test_the_config_of_a_base_that_answers_alone_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = questions(tmp_path / "rows.csv", 8), tmp_path / "answers.jsonl"
    with counted(monkeypatch) as reads:
        assert main(["infer", "task=mcq", f"input={source}", f"output={output}", "model.dtype=float32"]) == 0
    assert reads.opens[str((BASE / "config.json").resolve())] == 1
