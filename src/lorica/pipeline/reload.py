"""Does what a training saved answer as the trainer did? Its folder is loaded by the engine that will answer, in a fresh
process where nothing proved that before, and asked the same rows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from lorica.adapters.member import open_member
from lorica.engines import load_engine
from lorica.engines.base import EngineSettings
from lorica.errors import LoricaError, TrainingError
from lorica.models.base_folder import BaseFolder
from lorica.records import Output, ScoreChoices

# Of log-probabilities in float32: on one machine and one number of threads they are the same to the bit.
_TOLERANCE = 1e-4
_REPORT = "keep the files, and report it: this is a fault of saving or loading, not of the rows"


class ReloadSpec(msgspec.Struct, frozen=True):
    """What loads a member. base: path of its base model. fresh: in a process of its own."""

    engine: str
    base: str
    settings: EngineSettings
    fresh: bool = True

    @property
    def loaded_words(self) -> str:
        """How it is loaded, for messages."""
        return "loaded in a fresh process" if self.fresh else "loaded again"


class _Question(msgspec.Struct, frozen=True):
    spec: ReloadSpec
    name: str
    folder: str
    requests: Sequence[ScoreChoices]


def compare_reloaded(
    spec: ReloadSpec,
    name: str,
    folder: Path,
    requests: Sequence[ScoreChoices],
    expected: Mapping[str, Sequence[float]],
) -> float:
    """The largest difference in log-probability between a trainer's outputs and those of what it saved.

    folder: of the member, saved. expected: row id -> log-probability of each choice. Raises TrainingError where they
    differ by more than rounding, or where a fresh process cannot load or answer.
    """
    worst, worst_id = 0.0, ""
    question = _Question(spec, name, str(folder), requests)
    reloaded = _ask_fresh_process(question) if spec.fresh else _answer(question)
    for output in reloaded:
        if output.error:
            raise TrainingError(
                f"{folder}: {spec.loaded_words} it cannot answer row {output.id!r}: {output.error}", fix=_REPORT
            )
        difference = max(
            abs(trained - loaded) for trained, loaded in zip(expected[output.id], output.logprobs, strict=True)
        )
        if not difference <= worst:  # NaN counts as the worst
            worst, worst_id = difference, output.id
    if not worst <= _TOLERANCE:
        loaded = {output.id: output.logprobs for output in reloaded}
        raise TrainingError(
            f"{folder}: {spec.loaded_words} it does not score as it did in training: row {worst_id!r} has the "
            f"log-probabilities {_figures(loaded[worst_id])}, and had {_figures(expected[worst_id])}",
            fix=_REPORT,
        )
    return worst


def _figures(logprobs: Sequence[float]) -> str:
    return ", ".join(f"{logprob:.6g}" for logprob in logprobs)


def _ask_fresh_process(question: _Question) -> list[Output]:
    command = [sys.executable, "-m", "lorica.pipeline.reload"]
    search_path = os.pathsep.join(filter(None, sys.path))  # what is imported here is imported there
    finished = subprocess.run(
        command,
        input=msgspec.json.encode(question),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": search_path},
    )
    try:
        return msgspec.json.decode(finished.stdout, type=list[Output])
    except msgspec.DecodeError:
        last_words = finished.stderr.decode("utf-8", "replace").strip()[-500:]
        raise TrainingError(
            f"{question.folder}: a fresh process cannot load it (exit code {finished.returncode}): {last_words}",
            fix=_REPORT,
        ) from None


def _answer(question: _Question) -> list[Output]:
    spec = question.spec
    engine = load_engine(spec.engine, BaseFolder(Path(spec.base)), spec.settings)
    engine.add_adapter(question.name, open_member(Path(question.folder)))
    return engine.run(question.requests)


def main() -> int:
    """Answer the question on standard input; the outputs go to standard output."""
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=_Question)
    try:
        outputs = _answer(question)
    except LoricaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    sys.stdout.buffer.write(msgspec.json.encode(outputs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
