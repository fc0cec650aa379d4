"""What the gate costs: loading 100 adapters with passports through it against loading them alone.

    python bench/gate.py [ADAPTERS]

Ends in one line of figures: seconds of processor time, medians of 5 alternating rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import AdapterFolder, open_adapter
from lorica.adapters.passport import MetricsFacts, write_passport
from lorica.admission.gate import admit_all
from lorica.admission.make_passport import make_passport, prompt_facts, shipped_canaries
from lorica.admission.provenance import base_facts
from lorica.engines import load_engine
from lorica.engines.base import Engine, EngineSettings
from lorica.models.adapter_weights import create_lora
from lorica.models.base_folder import BaseFolder
from lorica.models.families import read_decoder_config
from lorica.models.locate import locate_model
from lorica.prompts.encoder import Encoder
from lorica.tasks import load_task
from lorica.training.lora_decoder import save_lora

BASE = locate_model("embedded:lorica_tiny", environ={})
ROUNDS = 5


def main(count: int) -> None:
    """Make the adapters, load them both ways, print the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = _make(Path(scratch), count)
        alone, gated = [], []
        for _ in range(ROUNDS):
            alone.append(_timed(lambda engine: admit_all(engine, opened(folders), BaseFolder(BASE), policy="off")))
            gated.append(_timed(lambda engine: admit_all(engine, opened(folders), BaseFolder(BASE), policy="require")))
    extra = statistics.median(gated) - statistics.median(alone)
    print(
        f"adapters={count} load_s={statistics.median(alone):.3f} gated_s={statistics.median(gated):.3f} "
        f"extra_ms_per_adapter={1000 * extra / count:.1f}"
    )


def opened(folders: Mapping[str, Path]) -> dict[str, AdapterFolder]:
    """The adapters, each read and hashed once, as a command does it."""
    return {name: open_adapter(folder) for name, folder in folders.items()}


def _timed(load: Callable[[Engine], object]) -> float:
    engine = load_engine("native", BaseFolder(BASE), EngineSettings(dtype="float32", device="cpu"))
    begun = time.process_time()
    load(engine)
    return time.process_time() - begun


def _make(place: Path, count: int) -> dict[str, Path]:
    encoder, task = Encoder.load(BASE), load_task("rules")
    engine = load_engine("native", BaseFolder(BASE), EngineSettings(dtype="float32", device="cpu"))
    config = AdapterConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    facts = base_facts(BaseFolder(BASE), model_name="embedded:lorica_tiny")
    folders = {}
    for number in range(count):
        name, folder = f"adapter-{number}", place / f"adapter-{number}"
        lora = create_lora(name, read_decoder_config(BASE), config, seed=number)
        for pair in lora.pairs.values():
            pair.b.data.normal_(std=0.01)
        save_lora(folder, config, lora)
        engine.add_adapter(name, open_adapter(folder))
        passport = make_passport(
            open_adapter(folder),
            base=facts,
            prompt=prompt_facts(encoder, task, {}),
            canaries=shipped_canaries(engine, name, task, encoder, BaseFolder(BASE)),
            metrics=MetricsFacts(on="none", note="a bench"),
        )
        write_passport(folder, passport)
        folders[name] = folder
    return folders


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
