"""Adapters for the embedded base with passports of their own, for the tests of everything that reads passports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from lorica.adapters.arrays import read_array
from lorica.adapters.config import CONFIG_NAME, AdapterConfig
from lorica.adapters.folder import WEIGHTS_NAME, open_adapter, read_tensor, save_adapter
from lorica.adapters.header import header_bytes, read_header
from lorica.adapters.member import Member
from lorica.adapters.passport import MetricsFacts, Passport, write_passport
from lorica.admission.make_passport import make_passport, prompt_facts, shipped_canaries
from lorica.admission.provenance import base_facts
from lorica.engines.base import Engine, EngineInfo, OnDone, OnOutputs
from lorica.models.base_folder import BaseFolder
from lorica.models.families import read_decoder_config
from lorica.models.locate import locate_model
from lorica.prompts.encoder import Encoder
from lorica.records import Output, Request
from lorica.tasks import load_task

BASE = locate_model("embedded:lorica_tiny", environ={})


def make_adapter(folder: Path, *, b: float = 0.05, seed: int = 0, alpha: int = 8) -> Path:
    """A random adapter of rank 4 on q_proj and v_proj. b: standard deviation of lora_B."""
    shapes = read_decoder_config(BASE).linear_shapes()
    chance = np.random.default_rng(seed)
    tensors = {}
    for module, (out_features, in_features) in shapes.items():
        if module.rsplit(".", 1)[1] not in ("q_proj", "v_proj"):
            continue
        halves = {"lora_A": (4, in_features, 0.06), "lora_B": (out_features, 4, b)}
        for part, (rows, columns, scale) in halves.items():
            values = (chance.standard_normal((rows, columns)) * scale).astype("<f4")
            name = f"base_model.model.{module}.{part}.weight"
            tensors[name] = ("F32", (rows, columns), values.tobytes())
    config = AdapterConfig(
        r=4, lora_alpha=alpha, target_modules=["q_proj", "v_proj"], base_model_name_or_path="embedded:lorica_tiny"
    )
    save_adapter(folder, config, tensors)
    return folder


def make_dora_adapter(folder: Path, *, b: float, seed: int = 0) -> Path:
    """The adapter of `make_adapter` with DoRA's magnitudes, which are the norms of the base's own rows."""
    plain = open_adapter(make_adapter(folder.with_name(f"{folder.name}-pairs"), b=b, seed=seed))
    base = BASE / "model.safetensors"
    weights = read_header(base).tensors
    tensors = {name: (info.dtype, info.shape, read_tensor(plain, name)) for name, info in plain.tensors.items()}
    for module in plain.modules():
        norms = np.linalg.norm(read_array(base, weights[f"{module}.weight"]), axis=1).astype("<f4")
        name = f"base_model.model.{module}.lora_magnitude_vector"
        tensors[name] = ("F32", norms.shape, norms.tobytes())
    config = msgspec.structs.replace(plain.config, use_dora=True)
    folder.mkdir()
    (folder / CONFIG_NAME).write_bytes(config.to_json())
    head, order = header_bytes({name: tensor[:2] for name, tensor in tensors.items()}, {"format": "pt"})
    (folder / WEIGHTS_NAME).write_bytes(head + b"".join(tensors[name][2] for name in order))
    return folder


def give_passport(folder: Path, engine: Engine, base: Path = BASE, *, task: str | None = "rules") -> Passport:
    """Make and write the passport of an adapter, asked through `engine`."""
    encoder = Encoder.load(base)
    asked = None if task is None else load_task(task)
    engine.add_adapter(str(folder), open_adapter(folder))
    passport = make_passport(
        open_adapter(folder),
        base=base_facts(BaseFolder(base), model_name="embedded:lorica_tiny"),
        prompt=prompt_facts(encoder, asked, {"thinking": False}),
        canaries=shipped_canaries(engine, str(folder), asked, encoder, BaseFolder(base)),
        metrics=MetricsFacts(on="none", note="a test"),
    )
    write_passport(folder, passport)
    return passport


class Deaf:
    """An engine that loads adapters and never applies them, as servers do that drop names they do not know."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.runs: list[int] = []

    def add_adapter(self, name: str, adapter: Member) -> None:
        self._engine.add_adapter(name, adapter)

    def remove_adapter(self, name: str) -> None:
        self._engine.remove_adapter(name)

    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        from msgspec.structs import replace

        self.runs.append(len(requests))
        return self._engine.run([replace(request, adapter=None) for request in requests], on_done)

    @property
    def info(self) -> EngineInfo:
        return self._engine.info
