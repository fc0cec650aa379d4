"""The encoder engine: logits of transformers and PEFT for every family, the same alone and in company, after a reload
in another process, and one clear message for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from tests.encoders import KINDS, POSITIONS, save_base, save_classifier, save_lora, tokenizer_of  # noqa: E402

from lorica.adapters.member import open_member  # noqa: E402
from lorica.engines import load_engine  # noqa: E402
from lorica.engines.base import EngineSettings  # noqa: E402
from lorica.engines.encoder_engine import EncoderEngine  # noqa: E402
from lorica.errors import AdapterError, EngineError, ModelError  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.classifiers import NewClassifier, new_classifier  # noqa: E402
from lorica.prompts.encoder import Encoder  # noqa: E402
from lorica.records import Generate, Message, Output, Request, ScoreChoices  # noqa: E402

TEXTS = [
    ("Rule: no advertising", "Win 1,000 pounds now! Call today"),
    ("Rule: no advertising", "I will be late, sorry"),
    ("Rule: see you", "a"),
    ("Rule: no advertising", "Are we still meeting for lunch tomorrow? See you at home."),
]
SETTINGS = EngineSettings(dtype="float32", device="cpu")


def engine_of(
    base: Path, members: Mapping[str, Path] = MappingProxyType({}), settings: EngineSettings = SETTINGS
) -> EncoderEngine:
    engine = load_engine("encoder", BaseFolder(base), settings)
    assert isinstance(engine, EncoderEngine)
    for name, folder in members.items():
        engine.add_adapter(name, open_member(folder))
    return engine


def requests_for(base: Path, adapter: str | None = None, texts: Sequence[tuple[str, str]] = TEXTS) -> list[Request]:
    encoder = Encoder.load(base)
    choices = (encoder.encode_choice("Yes"), encoder.encode_choice("No"))
    prompts = [
        encoder.encode([Message("user", text) for text in pair], max_tokens=POSITIONS, truncate="error").tokens
        for pair in texts
    ]
    return [ScoreChoices(f"r{number}", prompt, choices, adapter) for number, prompt in enumerate(prompts)]


def expected(kind: str, model: Any) -> list[tuple[float, float]]:
    """Log-probabilities of label 1 and label 0, as transformers' tokenizer and model give them, one text at a time."""
    tokenizer = tokenizer_of(KINDS[kind][0])
    probabilities = []
    with torch.inference_mode():
        for first, second in TEXTS:
            logits = model(**tokenizer(first, second, return_tensors="pt")).logits.double()[0]
            both = torch.stack([torch.zeros(()), logits[0]]) if len(logits) == 1 else logits
            label_0, label_1 = both.log_softmax(dim=0).tolist()
            probabilities.append((label_1, label_0))
    return probabilities


def logprobs(outputs: Sequence[Output]) -> list[float]:
    assert not any(output.error for output in outputs), outputs
    return [value for output in outputs for value in output.logprobs]


@pytest.mark.parametrize("logits", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_of_its_own_gives_the_logits_of_transformers(kind: str, logits: int, tmp_path: Path) -> None:
    model = save_classifier(kind, tmp_path / "own", logits=logits)
    wanted = [value for pair in expected(kind, model) for value in pair]
    assert max(wanted[::2]) - min(wanted[::2]) > 1e-2  # the texts matter
    outputs = engine_of(tmp_path / "own").run(requests_for(tmp_path / "own"))
    assert logprobs(outputs) == pytest.approx(wanted, abs=1e-5)
    save_base(kind, tmp_path / "base")
    member = engine_of(tmp_path / "base", {"own": tmp_path / "own"})
    assert logprobs(member.run(requests_for(tmp_path / "base", "own"))) == logprobs(outputs)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_with_heads_of_their_own_give_the_logits_of_peft(kind: str, tmp_path: Path) -> None:
    base = save_base(kind, tmp_path / "base")
    folders = {"first": (1, 3), "second": (1, 4), "third": (2, 5)}
    models = {
        name: save_lora(base, tmp_path / name, logits=logits, seed=seed) for name, (logits, seed) in folders.items()
    }
    engine = engine_of(base, {name: tmp_path / name for name in folders})
    for name, model in models.items():
        wanted = [value for pair in expected(kind, model) for value in pair]
        assert logprobs(engine.run(requests_for(base, name))) == pytest.approx(wanted, abs=1e-5), name
    before = logprobs(engine.run(requests_for(base, "second")))
    engine.remove_adapter("first")
    assert logprobs(engine.run(requests_for(base, "second"))) == before
    with pytest.raises(EngineError, match="this engine has: second, third"):
        engine.run(requests_for(base, "first"))


def test_adapters_one_after_another_share_one_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []

    def load(base: BaseFolder, labels: Sequence[str], dtype: Any, seed: int) -> NewClassifier:
        loads.append(len(labels))
        return new_classifier(base, labels, dtype, seed)

    base = save_base("bert", tmp_path / "base")
    for number, logits in enumerate((1, 1, 2)):
        save_lora(base, tmp_path / str(number), logits=logits, seed=number)
    save_classifier("bert", tmp_path / "whole", base=base)
    names = ("0", "1", "whole", "1", "2", "0")
    alone = [engine_of(base, {name: tmp_path / name}).run(requests_for(base, name)) for name in names]
    monkeypatch.setattr("lorica.engines.encoder_engine.new_classifier", load)
    engine = engine_of(base)
    assert engine.info.restores_base
    for name, outputs in zip(names, alone, strict=True):
        engine.add_adapter(name, open_member(tmp_path / name))
        assert engine.run(requests_for(base, name)) == outputs, name
        engine.remove_adapter(name)
    # The second adapter has the head of the first; what needs another model frees it, so that two are never in memory.
    assert loads == [1, 1, 2, 1]


@pytest.mark.parametrize("kind", ["bert", "deberta-v3"])
def test_a_row_scores_the_same_in_any_company(kind: str, tmp_path: Path) -> None:
    save_classifier(kind, tmp_path / "own", logits=1)
    texts = [TEXTS[number % len(TEXTS)] for number in range(9)] + [
        ("Rule: see you", "late " * count) for count in range(9)
    ]
    requests = requests_for(tmp_path / "own", texts=texts)
    alone = engine_of(tmp_path / "own")
    seen: dict[int, Output] = {}
    outputs = alone.run(requests, on_outputs=lambda finished: seen.update(dict(finished)))
    assert [seen[number] for number in range(len(requests))] == outputs
    assert logprobs(alone.run(requests[::-1])[::-1]) == logprobs(outputs)
    assert [alone.run([request])[0] for request in requests] == outputs
    assert alone.info.is_batch_invariant(requests[0])
    together = engine_of(
        tmp_path / "own", settings=EngineSettings(dtype="float32", device="cpu", deterministic=False, batch_tokens=60)
    )
    assert not together.info.is_batch_invariant(requests[0])
    assert logprobs(together.run(requests)) == pytest.approx(logprobs(outputs), abs=1e-5)


def test_another_process_gives_the_same_bits(tmp_path: Path) -> None:
    base = save_base("deberta-v3", tmp_path / "base")
    save_lora(base, tmp_path / "lora", logits=1)
    save_classifier("deberta-v3", tmp_path / "own", logits=2)
    program = (
        "import json, sys, torch\n"
        "from pathlib import Path\n"
        "from tests.engines.test_encoder import engine_of, logprobs, requests_for\n"
        "base, *folders = map(Path, sys.argv[2:])\n"
        "torch.set_num_threads(int(sys.argv[1]))\n"
        "engine = engine_of(base, {folder.name: folder for folder in folders})\n"
        "print(json.dumps([logprobs(engine.run(requests_for(base, folder.name))) for folder in folders]))\n"
    )
    folders = [tmp_path / "lora", tmp_path / "own"]
    arguments = [str(torch.get_num_threads()), str(base), *map(str, folders)]
    run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    engine = engine_of(base, {"lora": folders[0], "own": folders[1]})
    assert json.loads(run.stdout) == [logprobs(engine.run(requests_for(base, name))) for name in ("lora", "own")]


def test_a_base_without_a_head_finds_both_labels_as_likely(tmp_path: Path) -> None:
    base = save_base("bert", tmp_path / "base")
    outputs = engine_of(base).run(requests_for(base))
    assert logprobs(outputs) == pytest.approx([-0.6931471805599453] * 2 * len(TEXTS))


def test_what_a_classifier_cannot_answer_fails_alone(tmp_path: Path) -> None:
    save_classifier("bert", tmp_path / "own")
    engine = engine_of(tmp_path / "own")
    good = requests_for(tmp_path / "own")[0]
    assert isinstance(good, ScoreChoices)
    requests: list[Request] = [
        Generate("text", good.prompt),
        ScoreChoices("four", good.prompt, ((1,), (2,), (3,), (4,))),
        ScoreChoices("long", good.prompt * POSITIONS, good.choices),
        ScoreChoices("foreign", (10**6,), good.choices),
        good,
    ]
    outputs = engine.run(requests)
    assert [output.error for output in outputs] == [
        "an encoder classifier writes no text: set task.method=choice, or use a decoder",
        "a classifier has two labels and was asked to choose between 4: it answers task=rules",
        f"needs {len(good.prompt) * POSITIONS} positions, the model has {POSITIONS}",
        outputs[3].error,
        "",
    ]
    assert "outside the model's vocabulary" in outputs[3].error
    assert outputs[4] == engine.run([good])[0]


def _edit(folder: Path, weights: str, change: Any) -> None:
    tensors = load_file(folder / weights)
    change(tensors)
    save_file(tensors, folder / weights, {"format": "pt"})


def test_a_head_that_is_missing_is_never_made_up(tmp_path: Path) -> None:
    base = save_base("bert", tmp_path / "base")
    save_classifier("bert", tmp_path / "own", base=base)
    save_lora(base, tmp_path / "lora")

    def without_head(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if "classifier" in name]:
            del tensors[name]

    def without_a_layer(tensors: dict[str, Any]) -> None:
        del tensors["bert.encoder.layer.1.output.dense.weight"]

    save_classifier("bert", tmp_path / "thin", base=base)
    _edit(tmp_path / "thin", "model.safetensors", without_a_layer)
    _edit(tmp_path / "own", "model.safetensors", without_head)
    _edit(tmp_path / "lora", "adapter_model.safetensors", without_head)
    with pytest.raises(AdapterError, match="has no head to classify with: no tensors of classifier"):
        engine_of(base, {"own": tmp_path / "own"})
    with pytest.raises(AdapterError, match="has no head to classify with: no tensors of classifier"):
        engine_of(base, {"lora": tmp_path / "lora"})
    with pytest.raises(
        AdapterError, match=r"are in no file \(1, the first is bert.encoder.layer.1.output.dense.weight"
    ):
        engine_of(base, {"thin": tmp_path / "thin"})


def test_labels_numbers_and_bases_that_are_others(tmp_path: Path) -> None:
    base = save_base("bert", tmp_path / "base")
    save_classifier("bert", tmp_path / "three", logits=3, base=base)
    with pytest.raises(AdapterError, match="its head has 3 labels; allowed: one logit, or two classes"):
        open_member(tmp_path / "three")

    def not_a_number(tensors: dict[str, Any]) -> None:
        name = next(name for name in tensors if name.endswith("classifier.weight"))
        tensors[name][0, 0] = float("nan")

    save_classifier("bert", tmp_path / "nan", base=base)
    _edit(tmp_path / "nan", "model.safetensors", not_a_number)
    save_lora(base, tmp_path / "nan-lora")
    _edit(tmp_path / "nan-lora", "adapter_model.safetensors", not_a_number)
    for folder in ("nan", "nan-lora"):
        with pytest.raises(AdapterError, match=r"classifier.*weight holds NaN or infinite numbers"):
            engine_of(base, {"member": tmp_path / folder})
    save_classifier("roberta", tmp_path / "roberta")
    with pytest.raises(AdapterError, match="is a classifier of another base: its model_type is 'roberta'"):
        engine_of(base, {"member": tmp_path / "roberta"})
    roberta = save_base("roberta", tmp_path / "roberta-base")
    save_lora(roberta, tmp_path / "roberta-lora")
    with pytest.raises(AdapterError, match="has no head to classify with: no tensors of classifier"):
        engine_of(base, {"member": tmp_path / "roberta-lora"})
    save_classifier("bert", tmp_path / "renumbered", base=base)
    path = tmp_path / "renumbered" / "tokenizer.json"
    path.write_text(path.read_text().replace('"lunch"', '"brunch"'))
    with pytest.raises(AdapterError, match="has another tokenizer than"):
        engine_of(base, {"member": tmp_path / "renumbered"})

    save_classifier("bert", tmp_path / "wider", base=base)
    config_path = tmp_path / "wider" / "config.json"
    config_path.write_text(config_path.read_text().replace('"intermediate_size": 48', '"intermediate_size": 64'))
    with pytest.raises(ModelError, match=r"has the shape \(48,\), and config.json makes it \(64,\)"):
        engine_of(base, {"member": tmp_path / "wider"})
    save_classifier("bert", tmp_path / "shorter", base=base)
    config_path = tmp_path / "shorter" / "config.json"
    positions = f'"max_position_embeddings": {POSITIONS}'
    config_path.write_text(config_path.read_text().replace(positions, '"max_position_embeddings": 64'))
    with pytest.raises(AdapterError, match=f"sees 64 tokens at once, and .* {POSITIONS}"):
        engine_of(base, {"member": tmp_path / "shorter"})


def test_an_adapter_of_a_model_that_writes_is_refused(tmp_path: Path) -> None:
    base = save_base("bert", tmp_path / "base")
    save_lora(base, tmp_path / "lora")
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(path.read_text().replace('"SEQ_CLS"', '"CAUSAL_LM"'))
    with pytest.raises(AdapterError, match="its task_type is 'CAUSAL_LM', and an encoder classifies"):
        engine_of(base, {"lora": tmp_path / "lora"})


def test_precisions_in_which_a_family_overflows_are_refused(tmp_path: Path) -> None:
    base = save_base("deberta-v3", tmp_path / "base")
    with pytest.raises(EngineError, match="deberta-v2 is not computed in float16, in which it overflows"):
        engine_of(base, settings=EngineSettings(dtype="float16", device="cpu"))
    assert engine_of(base, settings=EngineSettings(dtype="bfloat16", device="cpu")).info.dtype == "bfloat16"
    with pytest.raises(ModelError, match="is no encoder that Lorica classifies with"):
        load_engine("encoder", BaseFolder(Path(sys.modules["lorica"].__path__[0]) / "models" / "lorica_tiny"), SETTINGS)
