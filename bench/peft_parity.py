"""Do transformers + PEFT agree with the native engine on adapters trained here? Largest differences, in fp32.

    make demo && python bench/peft_parity.py [--adapters demo-report/adapters]

Logits: every adapter below the folder, full vocabulary at the last position of 20 prompts of its task. Choices: 200
posts through the `rules` adapter, packed and with shared prefixes, against one row at a time; then in another order and
in other batches. Ends with one line of key=value figures.
"""

from __future__ import annotations

import argparse
import random
import warnings
from pathlib import Path
from typing import Any

import torch

from lorica.adapters.folder import open_adapter
from lorica.commands.demo import TASKS, examples_folder
from lorica.data.read import read_rows
from lorica.engines import load_engine
from lorica.engines.base import EngineSettings
from lorica.models.adapter_weights import load_lora
from lorica.models.base_folder import BaseFolder
from lorica.models.locate import locate_model
from lorica.models.lora import LoraSpan
from lorica.models.packed_attention import PackedAttention
from lorica.models.weights import load_decoder
from lorica.prompts.encoder import Encoder
from lorica.records import ScoreChoices
from lorica.tasks import load_task

BASE = locate_model("embedded:lorica_tiny", environ={})


def with_peft(folder: Path) -> Any:
    """The base with the adapter, as PEFT loads it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        return PeftModel.from_pretrained(base, folder).eval()


def prompts(task_name: str, count: int) -> list[tuple[int, ...]]:
    """Token ids of the task's last example rows."""
    demo = next(demo for demo in TASKS if demo.name == task_name)
    task, encoder = load_task(task_name), Encoder.load(BASE)
    rows = list(read_rows(examples_folder() / demo.test_file, task.schemas))[-count:]
    return [encoder.encode(task.render(row), max_tokens=1024, truncate="error").tokens for row in rows]


def logit_difference(folder: Path, tokens: list[tuple[int, ...]]) -> float:
    """Largest difference over the vocabulary at the last position of each prompt."""
    decoder = load_decoder(BaseFolder(BASE), dtype=torch.float32)
    lora = load_lora("adapter", open_adapter(folder), decoder.config)
    model = with_peft(folder)
    worst = 0.0
    with torch.inference_mode():
        for one in tokens:
            attention = PackedAttention([len(one)], decoder.config)
            span = LoraSpan(lora, 0, len(one))
            hidden = decoder.hidden(torch.tensor(one), torch.arange(len(one)), attention, [span])
            ours = decoder.logits(hidden[-1:])[0]
            theirs = model(torch.tensor([one])).logits[0, -1]
            worst = max(worst, float((ours - theirs).abs().max()))
    return worst


def choice_differences(folder: Path) -> tuple[float, float]:
    """(against PEFT one row at a time, between orders and batches), largest difference in log-probability."""
    encoder = Encoder.load(BASE)
    choices = (encoder.encode_choice("Yes"), encoder.encode_choice("No"))
    asked = [ScoreChoices(str(i), tokens, choices, "rules") for i, tokens in enumerate(prompts("rules", 200))]

    def run(requests: list[ScoreChoices], batch_tokens: int) -> dict[str, tuple[float, ...]]:
        settings = EngineSettings(dtype="float32", device="cpu", batch_tokens=batch_tokens)
        engine = load_engine("native", BaseFolder(BASE), settings)
        engine.add_adapter("rules", open_adapter(folder))
        return {output.id: output.logprobs for output in engine.run(requests)}

    def apart(one: dict[str, tuple[float, ...]], other: dict[str, tuple[float, ...]]) -> float:
        return max(abs(a - b) for key in one for a, b in zip(one[key], other[key], strict=True))

    packed = run(asked, 8192)
    changed = [run(random.Random(seed).sample(asked, 200), tokens) for seed, tokens in ((1, 300), (2, 1000), (3, 8192))]
    model, plain = with_peft(folder), {}
    with torch.inference_mode():
        for request in asked:
            scores = torch.log_softmax(model(torch.tensor([request.prompt])).logits[0, -1], dim=0)
            plain[request.id] = tuple(scores[[choice[0] for choice in choices]].tolist())
    return apart(packed, plain), max(apart(packed, other) for other in changed)


def main() -> None:
    """Compare all adapters of a demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=Path, default=Path("demo-report/adapters"))
    root: Path = parser.parse_args().adapters
    found = {}
    for config in sorted(root.glob("*/*/adapter_config.json")):
        task, name = config.parts[-3:-1]
        found[f"{task}/{name}"] = logit_difference(config.parent, prompts(task, 20))
        print(f"{task}/{name}: largest logit difference {found[f'{task}/{name}']:.2e}")
    if not found:
        print("skipped=1 reason=no adapters; run make demo first")
        return
    peft, order = choice_differences(root / "rules" / "rules")
    print(
        f"adapters={len(found)} max_logit_difference={max(found.values()):.2e} "
        f"max_choice_difference={peft:.2e} max_order_or_batch_difference={order:.2e}"
    )


if __name__ == "__main__":
    main()
