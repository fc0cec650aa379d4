"""Every engine by name, and what the configuration may ask of it before it is loaded. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineEntry:
    """factory: `module:function`, an `engines.base.EngineFactory`, imported when the engine is loaded. quantized: it
    computes in int8 and the like. merges: it is an `engines.base.MergingEngine`. runs_model: see `EngineInfo`. trainer:
    `module:function`, a `commands.trainers.MakeTrainer` of what it answers with, imported when it trains; "" for none.
    """

    factory: str
    trainer: str = ""
    quantized: bool = False
    merges: bool = False
    runs_model: bool = True


ENGINES = {
    "native": EngineEntry(
        "lorica.engines.native.engine:load_native",
        trainer="lorica.commands.train_decoder:make_trainer",
        quantized=True,
        merges=True,
    ),
    "transformers": EngineEntry("lorica.engines.transformers:load_transformers"),
    "fake": EngineEntry("lorica.engines.fake:load_fake", quantized=True, runs_model=False),
}
