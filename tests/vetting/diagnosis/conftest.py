"""Two tiny bases of equal shape and unrelated weights, an adapter trained on the first, and broken copies of it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tests.shapes import TINY

from lorica.adapters.config import AdapterConfig
from lorica.data.read import rows_from_memory
from lorica.models.locate import locate_model
from lorica.records import Row
from lorica.tasks import load_task
from lorica.vetting.diagnosis import Diagnosis, DiagnosisInputs, diagnose
from lorica.vetting.measure.model_session import ModelSession, SessionSettings

torch = pytest.importorskip("torch")

from lorica.config.schema import TrainingConfig  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.decoder import Decoder  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402
from lorica.pipeline.train import TrainJob, train_adapter  # noqa: E402
from lorica.prompts.encoder import Encoder  # noqa: E402
from lorica.training.listeners import SilentListener  # noqa: E402

SHAPE = replace(
    TINY, family="llama", qk_norm=False, hidden_size=64, intermediate_size=128, layers=3, heads=4, kv_heads=2,
    head_dim=16, vocab_size=6144, max_positions=512, windows=(None,) * 3,
)  # fmt: skip
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 6144,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "hidden_act": "silu",
}  # fmt: skip
WORDS = [
    "red",
    "blue",
    "cat",
    "dog",
    "house",
    "tree",
    "river",
    "sun",
    "moon",
    "bread",
    "stone",
    "boat",
    "bird",
    "king",
    "queen",
    "road",
]
WEIGHTS = "adapter_model.safetensors"
Arrays = dict[str, NDArray[np.float32]]
Change = Callable[[Arrays], Arrays]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_rows(count: int, seed: int, prefix: str) -> tuple[Row, ...]:
    """Posts of random words; those with a cat break the rule."""
    chance = random.Random(seed)
    records = []
    for index in range(count):
        words = chance.sample([word for word in WORDS if word != "cat"], 6)
        if index % 2:
            words[chance.randrange(6)] = "cat"
        records.append(
            {"id": f"{prefix}{index}", "body": " ".join(words), "rule": "No cats.", "rule_violation": index % 2}
        )
    return tuple(rows_from_memory(records, load_task("rules").schemas))


def make_base(folder: Path, seed: int) -> Path:
    """Random weights, scaled so that every layer changes what passes through it."""
    torch.manual_seed(seed)
    decoder = Decoder(SHAPE)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
        decoder.model.norm.weight.mul_(0.4)  # it knows nothing, and is not sure of what is wrong
    folder.mkdir()
    state = {name: tensor.numpy().copy() for name, tensor in decoder.state_dict().items() if name != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(locate_model("embedded:lorica_tiny", environ={}) / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("bases")
    return make_base(place / "one", 1), make_base(place / "two", 2)


@pytest.fixture(scope="session")
def held_out() -> tuple[Row, ...]:
    return make_rows(96, 1, "held-")


@pytest.fixture(scope="session")
def trained(bases: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the first base, without the record and passport of its training."""
    folder = tmp_path_factory.mktemp("adapters") / "cats"
    settings = TrainingConfig(
        epochs=12, batch_size=16, gradient_accumulation_steps=1, learning_rate=6e-3, val_ratio=0.0, max_seq_length=256
    )
    train_adapter(
        TrainJob("cats", make_rows(160, 0, "row-"), "memory", folder),
        task=load_task("rules"),
        encoder=Encoder.load(bases[0]),
        decoder=load_decoder(BaseFolder(bases[0]), dtype=torch.float32),
        adapter=AdapterConfig(r=16, lora_alpha=32, target_modules=["down_proj", "q_proj", "up_proj", "v_proj"]),
        settings=settings,
        truncate="error",
        provenance={},
        listener=SilentListener(),
    )
    return only_the_adapter(folder, folder.parent / "bare")


def only_the_adapter(folder: Path, to: Path) -> Path:
    """A copy without what a training leaves beside it."""
    to.mkdir(parents=True)
    for name in ("adapter_config.json", WEIGHTS):
        shutil.copyfile(folder / name, to / name)
    return to


def broken(folder: Path, to: Path, change: Change | None = None, **config: Any) -> Path:
    """A copy of an adapter with its tensors or its config changed."""
    only_the_adapter(folder, to)
    if change is not None:
        arrays = {name: np.ascontiguousarray(each) for name, each in change(load_file(to / WEIGHTS)).items()}
        save_file(arrays, to / WEIGHTS, metadata={"format": "pt"})
    values = json.loads((to / "adapter_config.json").read_text("utf-8")) | config
    (to / "adapter_config.json").write_text(json.dumps(values), "utf-8")
    return to


@pytest.fixture(scope="session")
def ask(bases: tuple[Path, Path], held_out: tuple[Row, ...]) -> Callable[..., Diagnosis]:
    """Diagnose an adapter on one of the bases, with the held-out rows unless others are given."""
    sessions = {base: ModelSession(SessionSettings(base, task="rules")) for base in bases}

    def run(
        folder: Path,
        base: int = 0,
        *,
        rows: tuple[Row, ...] | None = None,
        expected: tuple[Path, ...] = (),
        session: ModelSession | None = None,
    ) -> Diagnosis:
        asked = held_out if rows is None else rows
        session = session or sessions[bases[base]]
        return diagnose(folder, DiagnosisInputs(base=bases[base], rows=asked, expected=expected, session=session))

    return run
