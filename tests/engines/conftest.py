"""Tiny random models and random PEFT adapters for them, made once per session by their own libraries, and the oracle:
transformers + PEFT, one row and one choice at a time, without padding or cache."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from lorica.records import ScoreChoices  # noqa: E402 - nothing here makes sense without torch

VOCABULARY = 97
POSITIONS = 160
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": POSITIONS,
    "bos_token_id": None,
    "eos_token_id": None,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)),
    # Shorter than the prompts and the shared prefixes of the tests, so that the window hides part of a prefix.
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**SHAPE, sliding_window=11)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SHAPE)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SHAPE, head_dim=16)),
    # NF4 on a CPU needs rows of whole blocks of 64 weights.
    "wide": lambda: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**(SHAPE | {"hidden_size": 128, "intermediate_size": 128}))
    ),
    "gemma": lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(**SHAPE, head_dim=16)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)),
}
# What else configs of these families say: biases, tied and untied heads, stretched positions, windows in some layers.
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 3000.0, "factor": 2.5}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-biases-tied-llama3": (
        "Llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rope_parameters": _LLAMA3},
    ),
    "llama-linear-ungrouped": ("Llama", {"num_key_value_heads": 4, "rope_parameters": _LINEAR}),
    "mistral-tied-no-window": ("Mistral", {"sliding_window": None, "tie_word_embeddings": True, "head_dim": 12}),
    "qwen2-window-tied": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 1, "tie_word_embeddings": True},
    ),
    "qwen3-biases-tied-window": (
        "Qwen3",
        {
            "head_dim": 24,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 11,
            "layer_types": ["full_attention", "sliding_attention"],
        },
    ),
}


def _variant(family: str, changes: dict[str, Any]) -> Any:
    config = getattr(transformers, f"{family}Config")(**(SHAPE | changes))
    return getattr(transformers, f"{family}ForCausalLM")(config)


MODELS |= {kind: partial(_variant, *given) for kind, given in VARIANTS.items()}
ADAPTERS = ("algebra", "biology", "history")


class Bench:
    """One model folder, its adapters' folders, and the right answers."""

    def __init__(self, base: Path, adapters: dict[str, Path]) -> None:
        self.base = base
        self.adapters = adapters
        self._models: dict[str | None, Any] = {}

    def logits(self, tokens: Sequence[int], adapter: str | None) -> Any:
        """[T, V], from one plain forward pass."""
        with torch.no_grad():
            return self._model(adapter)(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]

    def logprobs(self, request: ScoreChoices) -> list[float]:
        """One forward pass per choice, over prompt and choice."""
        found = []
        for choice in request.choices:
            scores = self.logits(request.prompt + choice, request.adapter).log_softmax(-1)
            first = len(request.prompt) - 1
            found.append(sum(float(scores[first + i, token]) for i, token in enumerate(choice)))
        return found

    def greedy(self, prompt: Sequence[int], adapter: str | None, count: int) -> list[int]:
        """The likeliest continuation, everything computed again for every token."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.logits(tokens, adapter)[-1].argmax()))
        return tokens[len(prompt) :]

    def _model(self, adapter: str | None) -> Any:
        if adapter not in self._models:
            model = transformers.AutoModelForCausalLM.from_pretrained(self.base, local_files_only=True)
            if adapter is not None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)  # PEFT uses what transformers deprecates
                    model = peft.PeftModel.from_pretrained(model, self.adapters[adapter])
            self._models[adapter] = model.eval()
        return self._models[adapter]


@pytest.fixture(scope="session")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    """Model type -> its `Bench`, built at the first request."""
    made: dict[str, Bench] = {}

    def get(kind: str) -> Bench:
        if kind not in made:
            made[kind] = _make(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return get


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def prompts() -> Callable[[int], list[tuple[str | None, tuple[int, ...]]]]:
    """n (adapter, prompt) pairs, adapters interleaved: every adapter has its prefix, and half of its rows a second
    one after it, so that a plan has two levels; suffixes are from 1 to 40 tokens long."""

    def make(count: int) -> list[tuple[str | None, tuple[int, ...]]]:
        rng = random.Random(7)

        def some(length: int) -> tuple[int, ...]:
            return tuple(rng.randrange(VOCABULARY) for _ in range(length))

        names = (None, *ADAPTERS)
        first, second = {name: some(30) for name in names}, {name: some(36) for name in names}
        made = []
        for i in range(count):
            name = names[i % len(names)]
            more = second[name] if i // len(names) % 2 else ()
            made.append((name, first[name] + more + some(rng.randrange(1, 41))))
        return made

    return make


def _make(kind: str, folder: Path) -> Bench:
    torch.manual_seed(len(kind))
    model = MODELS[kind]().eval()
    # Larger than the usual initialisation, so that scores differ visibly between rows and adapters.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
            elif kind in VARIANTS:  # biases that are not 0, norms that are not 1
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder / "base")
    adapters = {}
    for number, name in enumerate(ADAPTERS if kind != "gpt2" else ()):
        adapters[name] = folder / name
        config = peft.LoraConfig(
            r=4 + number,
            lora_alpha=8,
            target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
            use_rslora=number == 1,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT uses what transformers deprecates
            wrapped = peft.get_peft_model(type(model).from_pretrained(folder / "base"), config)
        with torch.no_grad():
            for parameter_name, parameter in wrapped.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.normal_(std=0.2)
        wrapped.save_pretrained(folder / name)
    return Bench(folder / "base", adapters)
