"""The smallest decoder with grouped heads, shared by tests; `dataclasses.replace` makes others of it."""

from __future__ import annotations

from lorica.models.families import DecoderConfig
from lorica.models.rope_config import RopeScaling

TINY = DecoderConfig(
    family="qwen3",
    hidden_size=32,
    intermediate_size=48,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    vocab_size=64,
    max_positions=128,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    rope_scaling=RopeScaling(),
    tied_embeddings=True,
    qkv_bias=False,
    output_bias=False,
    mlp_bias=False,
    qk_norm=True,
    windows=(None, None),
)
