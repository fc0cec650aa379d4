"""How exactly engines of other precisions reproduce canaries made in float32: what the tolerances are set from.

    python bench/canary_tolerance.py [RUN_DIR/ADAPTER:TASK ...]

Without adapters it trains two short ones on the examples. Prints a line per adapter and engine with the largest error
of a log-probability, the same for the base, how odd the adapter's effect is (0 as expected, 1 not applied), and the
noise behind that: what is left of the effect without the expected one, in nats (root mean square).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from lorica.adapters.folder import open_adapter
from lorica.admission.canaries import TOLERANCE, canary_requests, compare_with_passport, make_canaries
from lorica.admission.probes import shipped_probes
from lorica.cli import main as lorica
from lorica.engines import load_engine
from lorica.engines.base import Engine, EngineSettings
from lorica.models.base_folder import BaseFolder
from lorica.models.locate import locate_model
from lorica.prompts.encoder import Encoder
from lorica.tasks import load_task

BASE = locate_model("embedded:lorica_tiny", environ={})
ENGINES = (
    ("native", EngineSettings(dtype="float32", device="cpu", share_prefixes=False, batch_tokens=256)),
    ("transformers", EngineSettings(dtype="float32", device="cpu")),
    ("native", EngineSettings(dtype="float16", device="cpu")),
    ("native", EngineSettings(dtype="bfloat16", device="cpu")),
    ("native", EngineSettings(dtype="int8", device="cpu")),
    ("native", EngineSettings(dtype="int8-weights", device="cpu")),
    ("native", EngineSettings(dtype="int4-weights", device="cpu")),
    ("native", EngineSettings(dtype="float32", device="cpu", load_in_4bit=True)),
)


def main(given: list[str]) -> None:
    """Measure every adapter on every engine."""
    with tempfile.TemporaryDirectory() as scratch:
        adapters = given or _train(Path(scratch))
        worst: dict[str, tuple[float, ...]] = {}
        engines = [(name, load_engine(name, BaseFolder(BASE), settings)) for name, settings in ENGINES]
        reference = load_engine("native", BaseFolder(BASE), EngineSettings(dtype="float32", device="cpu"))
        for number, adapter in enumerate(adapters):
            folder, _, task = adapter.rpartition(":")
            for name, engine in engines:
                label, *found = _one(Path(folder), task, f"a{number}", name, engine, reference)
                worst[label] = tuple(map(max, found, worst.get(label, (0.0, 0.0, 0.0))))
    figures = [
        f"{key}_excess={error:.3g} {key}_odd={odd:.3g} {key}_noise={noise:.3g}"
        for key, (error, odd, noise) in worst.items()
    ]
    print(" ".join(figures))


def _one(
    folder: Path, task: str, name: str, engine_name: str, engine: Engine, reference: Engine
) -> tuple[str, float, float, float]:
    probes = shipped_probes(load_task(task), Encoder.load(BASE), BaseFolder(BASE))
    reference.add_adapter(name, open_adapter(folder))
    engine.add_adapter(name, open_adapter(folder))
    facts = make_canaries(reference, name, probes)
    asked = [*canary_requests(facts, None), *canary_requests(facts, name)]
    outputs = engine.run(asked)
    half = len(facts.items)
    dtype = engine.info.dtype
    trial = compare_with_passport(facts, outputs[:half], outputs[half:], dtype=dtype)
    tolerance = TOLERANCE[dtype]
    errors = [
        abs(value - (choice.base if index < half else choice.adapter))
        / (tolerance.absolute + tolerance.relative * abs(choice.adapter))
        for index, output in enumerate(outputs)
        for value, choice in zip(output.logprobs, facts.items[index % half].choices, strict=True)
    ]
    noise = trial.odd * trial.strength
    print(
        f"{folder.name:<8} {engine_name:<12} {dtype:<12} {trial.outcome:<12} largest {trial.largest:.2e} base "
        f"{trial.base_largest:.2e} of allowed {max(errors):.2f} odd {trial.odd:.4f} effect {trial.effect:.3f} "
        f"noise {noise:.4f} strength {trial.strength:.3f}"
    )
    return f"{engine_name}_{dtype}", max(errors), trial.odd, noise


def _train(scratch: Path) -> list[str]:
    examples = Path(__file__).resolve().parents[1] / "examples"
    quick = ("training=tiny", "lora=all_linear", "training.epochs=1")
    for task, file in (("rules", "rules/posts.csv"), ("saq", "saq/questions.jsonl")):
        lorica(["train", f"task={task}", *quick, f"input={examples / file}", f"run_dir={scratch / task}"])
    return [f"{scratch / task / task}:{task}" for task in ("rules", "saq")]


if __name__ == "__main__":
    main(sys.argv[1:])
