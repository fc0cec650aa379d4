"""Adapters that are more than plain pairs: the transformers engine applies them as PEFT does."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from lorica.adapters.config import read_adapter_config  # noqa: E402
from lorica.adapters.folder import MORE_THAN_PAIRS, open_adapter  # noqa: E402
from lorica.adapters.rescaled_copies import scaled_config, write_variant  # noqa: E402
from lorica.engines.base import Engine, EngineSettings  # noqa: E402
from lorica.engines.fake import FakeEngine  # noqa: E402
from lorica.engines.native.engine import NativeEngine  # noqa: E402
from lorica.engines.transformers import TransformersEngine  # noqa: E402
from lorica.errors import AdapterError, EngineError  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402
from lorica.records import ScoreChoices  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "bias": {"target_modules": ["q_proj"], "lora_bias": True},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"]},
    "regex": {"target_modules": r".*\.(q|v)_proj", "use_rslora": True},
}
PROMPT = (5, 7, 11, 13, 17, 19)
CHOICES = tuple((token,) for token in range(97))


def make(base: Path, kind: str, folder: Path) -> list[float]:
    """Save an adapter of this kind, and give the log-probabilities that PEFT itself computes with it."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32")
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, **KINDS[kind]))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    factor = 0.1 if "magnitude" in name else 0.5
                    parameter.add_(factor * torch.randn_like(parameter))
            model.save_pretrained(folder)
            scores = model.eval()(input_ids=torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1)
    found: list[float] = scores.tolist()
    return found


@pytest.fixture(scope="module")
def engine(benches: Callable[[str], Any]) -> TransformersEngine:
    return TransformersEngine(BaseFolder(benches("qwen3").base), EngineSettings(dtype="float32", device="cpu"))


def ask(engine: Engine, adapter: str | None) -> tuple[float, ...]:
    return engine.run([ScoreChoices("r", PROMPT, CHOICES, adapter)])[0].logprobs


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_answers_as_in_peft_and_leaves_no_trace(
    benches: Any, engine: TransformersEngine, kind: str, tmp_path: Path
) -> None:
    before = ask(engine, None)
    expected = make(benches("qwen3").base, kind, tmp_path / kind)
    engine.add_adapter(kind, open_adapter(tmp_path / kind, applied=MORE_THAN_PAIRS))
    assert ask(engine, kind) == pytest.approx(expected, abs=2e-5)
    assert ask(engine, None) == before
    engine.remove_adapter(kind)
    assert ask(engine, None) == before
    with pytest.raises(EngineError, match=kind):
        ask(engine, kind)


def test_a_regular_expression_for_targets_is_never_run(
    benches: Any, engine: TransformersEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make(benches("qwen3").base, "regex", tmp_path / "regex")
    seen: list[str] = []
    full = re.fullmatch

    def watched(pattern: Any, string: str, flags: int = 0) -> Any:
        seen.append(str(pattern))
        return full(pattern, string, flags)

    monkeypatch.setattr(re, "fullmatch", watched)
    engine.add_adapter("regex", open_adapter(tmp_path / "regex", applied=MORE_THAN_PAIRS))
    monkeypatch.undo()
    assert KINDS["regex"]["target_modules"] not in seen
    assert ask(engine, "regex") == pytest.approx(expected, abs=2e-5)
    engine.remove_adapter("regex")


def test_biases_of_the_base_are_still_refused(benches: Any, engine: TransformersEngine, tmp_path: Path) -> None:
    make(benches("qwen3").base, "plain", tmp_path / "plain")
    config = tmp_path / "plain" / "adapter_config.json"
    config.write_text(config.read_text().replace('"bias": "none"', '"bias": "all"'))
    with pytest.raises(AdapterError, match="biases of the base model"):
        engine.add_adapter("biased", open_adapter(tmp_path / "plain", applied=MORE_THAN_PAIRS))


def test_a_removed_name_is_free_again(benches: Any, tmp_path: Path) -> None:
    bench = benches("qwen3")
    first, second = list(bench.adapters.values())[:2]
    for each in (FakeEngine(), NativeEngine(load_decoder(BaseFolder(bench.base)))):
        each.add_adapter("one", open_adapter(first, applied=MORE_THAN_PAIRS))
        with pytest.raises(EngineError):
            each.add_adapter("one", open_adapter(second, applied=MORE_THAN_PAIRS))
        each.remove_adapter("one")
        each.add_adapter("one", open_adapter(second, applied=MORE_THAN_PAIRS))
        with pytest.raises(EngineError, match="this engine has: one"):
            each.remove_adapter("two")


@pytest.mark.parametrize("kind", ["plain", "regex"])
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 4.0])
def test_a_scaled_copy_is_the_update_times_the_factor(benches: Any, kind: str, factor: float, tmp_path: Path) -> None:
    """The oracle: the same adapter with B multiplied."""
    from safetensors.torch import load_file, save_file

    base = benches("qwen3").base
    make(base, kind, tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    write_variant(tmp_path / "scaled", scaled_config(read_adapter_config(tmp_path / "a"), factor), weights)
    assert (tmp_path / "scaled" / weights.name).stat().st_ino == weights.stat().st_ino  # a link, not a copy
    tensors = {name: each * factor if "lora_B" in name else each for name, each in load_file(weights).items()}
    write_variant(tmp_path / "by_hand", read_adapter_config(tmp_path / "a"), weights)
    (tmp_path / "by_hand" / weights.name).unlink()
    save_file(tensors, tmp_path / "by_hand" / weights.name)
    native = NativeEngine(load_decoder(BaseFolder(base)))
    native.add_adapter("scaled", open_adapter(tmp_path / "scaled", applied=MORE_THAN_PAIRS))
    native.add_adapter("by_hand", open_adapter(tmp_path / "by_hand", applied=MORE_THAN_PAIRS))
    assert ask(native, "scaled") == pytest.approx(ask(native, "by_hand"), abs=1e-5)
    if factor == 0:
        assert ask(native, "scaled") == ask(native, None)
