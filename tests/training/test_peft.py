"""What is trained here, PEFT loads and computes alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.training.tiny import rows
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import open_adapter
from lorica.config.schema import TrainingConfig
from lorica.models.adapter_weights import load_lora
from lorica.models.base_folder import BaseFolder
from lorica.models.lora import LoraSpan
from lorica.models.packed_attention import PackedAttention
from lorica.models.weights import load_decoder
from lorica.training.listeners import SilentListener
from lorica.training.loop import train
from lorica.training.lora_decoder import LoraDecoder

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
SETTINGS = TrainingConfig(epochs=2, batch_size=4, gradient_accumulation_steps=2, learning_rate=2e-2, eval_steps=2)


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (lambda: LlamaForCausalLM(LlamaConfig(**SIZES)), AdapterConfig(r=4, lora_alpha=8, target_modules="all-linear")),
        (
            lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True)),
            AdapterConfig(
                r=4,
                lora_alpha=8,
                use_rslora=True,
                lora_dropout=0.1,
                target_modules=["q_proj", "o_proj", "up_proj"],
                rank_pattern={"layers.1.self_attn.q_proj": 2},
                alpha_pattern={"up_proj": 3},
            ),
        ),
        (
            lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)),
            AdapterConfig(r=2, lora_alpha=16, target_modules=["k_proj", "v_proj", "down_proj"]),
        ),
    ],
    ids=["llama", "qwen3", "mistral"],
)
def test_peft_loads_the_adapter_and_gives_our_logits(build: Any, config: AdapterConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build().eval()
    model.save_pretrained(tmp_path / "base")
    decoder = load_decoder(BaseFolder(tmp_path / "base"), dtype=torch.float32)
    train(
        LoraDecoder.create("a", decoder, config, SETTINGS),
        rows(12),
        rows(3, seed=1),
        SETTINGS,
        tmp_path / "adapter",
        adapter_name="a",
        listener=SilentListener(),
    )

    lora = load_lora("a", open_adapter(tmp_path / "adapter"), decoder.config)
    examples = rows(4, seed=9)
    lengths = [len(example.encoded.tokens) for example in examples]
    tokens = torch.tensor([token for example in examples for token in example.encoded.tokens])
    positions = torch.cat([torch.arange(length) for length in lengths])
    with torch.inference_mode():
        attention = PackedAttention(lengths, decoder.config)
        span = LoraSpan(lora, 0, len(tokens))
        packed = decoder.logits(decoder.hidden(tokens, positions, attention, (span,)))
        ours = torch.split(packed, lengths)
        plain = [model(torch.tensor([example.encoded.tokens])).logits[0] for example in examples]
        wrapped = PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
        for example, base, mine in zip(examples, plain, ours, strict=True):
            theirs = wrapped(torch.tensor([example.encoded.tokens])).logits[0]
            assert (theirs - mine).abs().max() <= 1e-4
            assert (theirs - base).abs().max() > 0.1  # the adapter does something, so the comparison means something
