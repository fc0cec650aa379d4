"""An averaged adapter in a model's logits: the base with the mean of all updates added to its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.adapters.arrays import read_array  # noqa: E402
from lorica.adapters.average import average_adapters  # noqa: E402
from lorica.adapters.folder import open_adapter, save_adapter  # noqa: E402
from lorica.adapters.tensor_names import tensor_name  # noqa: E402
from lorica.engines.base import EngineSettings  # noqa: E402
from lorica.engines.native.engine import load_native  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.records import ScoreChoices  # noqa: E402

WEIGHTS = (0.5, 0.3, 0.2)


def test_the_mean_of_updates_to_1e_5_in_logits(benches: Any, tmp_path: Path) -> None:
    import transformers

    bench = benches("qwen2")
    adapters = [open_adapter(folder) for folder in bench.adapters.values()]
    average = average_adapters(adapters, WEIGHTS)
    save_adapter(tmp_path / "mean", average.config, average.tensors)
    assert average.rank == 4 + 5 + 6
    model = transformers.AutoModelForCausalLM.from_pretrained(bench.base, local_files_only=True).double().eval()
    with torch.no_grad():
        for adapter, weight in zip(adapters, WEIGHTS, strict=True):
            for module in adapter.modules():
                factors = [
                    torch.from_numpy(read_array(adapter.weights, adapter.tensors[tensor_name(module, part)])).double()
                    for part in ("lora_B", "lora_A")
                ]
                update = weight * adapter.config.scaling(module) * factors[0] @ factors[1]
                model.get_submodule(module).weight.add_(update)
        tokens = tuple(range(3, 40))
        expected = model(input_ids=torch.tensor([list(tokens)])).logits[0]
    averaged = type(bench)(bench.base, {"mean": tmp_path / "mean"})
    assert float((averaged.logits(tokens, "mean").double() - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    engine = load_native(BaseFolder(bench.base), EngineSettings("float32", "cpu"))
    engine.add_adapter("mean", open_adapter(tmp_path / "mean"))
    (output,) = engine.run([ScoreChoices("row", tokens, ((1,), (2,)), "mean")])
    logprobs = expected[-1].log_softmax(-1)
    assert output.logprobs == pytest.approx([float(logprobs[1]), float(logprobs[2])], abs=2e-5)
