"""What tells one decoder family from another: a table, and the reader of `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorica.errors import ModelConfigError, ModelError
from lorica.formats import LFS_FIX, Content, recognise
from lorica.models.packing import read_packing


@dataclass(frozen=True)
class Family:
    """The traits in which the supported families differ, as transformers has them.

    qkv_bias, output_bias: whether query, key, value and the output projection have biases; None:
    `attention_bias` decides. mlp_bias: whether `mlp_bias` is heeded. head_dim, kv_heads, sliding_window,
    max_positions: what a `config.json` without these keys means; None: hidden / heads, heads, no window.
    window_layers: which layers a `sliding_window` applies to: none, all, or those `layer_types` or
    `max_window_layers` name once `use_sliding_window` is true.
    """

    qkv_bias: bool | None = None
    output_bias: bool | None = None
    mlp_bias: bool = False
    qk_norm: bool = False
    head_dim: int | None = None
    kv_heads: int | None = None
    max_positions: int = 32768
    sliding_window: int | None = 4096
    window_layers: Literal["none", "all", "chosen"] = "none"


FAMILIES: dict[str, Family] = {
    "llama": Family(mlp_bias=True, max_positions=2048, sliding_window=None),
    "mistral": Family(qkv_bias=False, output_bias=False, kv_heads=8, max_positions=131072, window_layers="all"),
    "qwen2": Family(qkv_bias=True, output_bias=False, kv_heads=32, window_layers="chosen"),
    "qwen3": Family(qk_norm=True, head_dim=128, kv_heads=32, window_layers="chosen"),
}

_MAX_WINDOW_LAYERS = 28  # what a Qwen config without `max_window_layers` means
_ROPE_KINDS = ("default", "linear", "llama3")
_OTHER_ENGINE = "use engine=transformers for this model"
_AGAIN = "download the model's config.json again"


@dataclass(frozen=True)
class RopeScaling:
    """Rotary scaling: `default`, `linear` or `llama3` (https://arxiv.org/abs/2407.21783, released with Llama
    3.1).
    """

    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder. Sizes are in elements, `windows[i]` is layer i's sliding window in tokens or
    None.
    """

    family: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int | None, ...]

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Module path -> (out_features, in_features) of every linear layer an adapter can target (not the
        head).
        """
        hidden, wide = self.hidden_size, self.intermediate_size
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        per_layer = {
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, query),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
        }
        return {
            f"model.layers.{layer}.{name}": shape for layer in range(self.layers) for name, shape in per_layer.items()
        }


def read_decoder_config(folder: Path) -> DecoderConfig:
    """Read `config.json` of a Hugging Face model folder.

    Raises ModelError when the file is missing or broken, or the model is none the native decoder knows; the
    message names the `transformers` engine as the way to run other architectures.
    """
    path = folder / "config.json"
    raw = read_json_object(path)
    name = raw.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(
            f"{path}: model_type {name!r} is not one of {', '.join(FAMILIES)}",
            fix="use engine=transformers for other architectures",
        )
    read_packing(raw, path)  # refuses what is packed otherwise
    try:
        unsupported = _unsupported(name, raw)
        if unsupported:
            raise ModelError(f"{path}: the native decoder does not do {unsupported}", fix=_OTHER_ENGINE)
        return _decoder_config(name, raw)
    except KeyError as error:
        raise ModelConfigError(f"{path}: the key {error} is missing", fix=_AGAIN) from None
    except (AttributeError, TypeError, ValueError) as error:  # a text where there should be an object, for one
        raise ModelConfigError(f"{path}: unusable value: {error}", fix=_AGAIN) from error


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file of a model folder. Raises ModelError when it is absent, a Git LFS pointer, or no JSON
    object.
    """
    try:
        raw = path.read_bytes()
        pointer = recognise(raw) is Content.LFS_POINTER
        value = None if pointer else json.loads(raw.decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            f"{path.parent}: no {path.name}, so this is not a Hugging Face model folder",
            fix="give the folder that holds config.json and *.safetensors",
        ) from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})", fix="check its permissions") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON: {error}", fix="download the file again") from error
    if pointer:
        raise ModelError(f"{path}: {Content.LFS_POINTER}", fix=LFS_FIX)
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(value).__name__}", fix="download the file again")
    return value


def _unsupported(name: str, raw: Mapping[str, Any]) -> str:
    """What the decoder cannot compute, in words; "" when all is well. Ignoring any of it would change the
    result.
    """
    activation = raw.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        return f"hidden_act {activation!r} (only silu)"
    found = _rope_values(raw)
    kind = _rope_kind(found)
    if any(isinstance(value, dict) for value in found.values()):
        return "rotary parameters that differ per kind of layer"
    if kind not in _ROPE_KINDS:
        return f"rope scaling {kind!r} (only {', '.join(_ROPE_KINDS)})"
    partial = found.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    if partial not in (None, 1, 1.0):
        return f"partial_rotary_factor {partial}"
    kinds = raw.get("layer_types") or []
    strange = sorted({str(each) for each in kinds} - {"full_attention", "sliding_attention"})
    if strange:
        return f"layer_types {', '.join(strange)} (only full_attention, sliding_attention)"
    if name == "mistral" and raw.get("sliding_window") is not None and "full_attention" in kinds:
        return "Mistral with a sliding window in some layers only"
    return ""


def _decoder_config(name: str, raw: Mapping[str, Any]) -> DecoderConfig:
    family = FAMILIES[name]
    hidden, heads = _positive(raw, "hidden_size"), _positive(raw, "num_attention_heads")
    kv_heads = _positive(raw, "num_key_value_heads", family.kv_heads or heads)
    head_dim = _positive(raw, "head_dim", family.head_dim or hidden // heads)
    if heads % kv_heads:
        raise ValueError(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    if head_dim % 2:
        raise ValueError(f"head_dim {head_dim} is odd")
    bias = bool(raw.get("attention_bias", False))
    theta, scaling = _rope(raw)
    return DecoderConfig(
        family=name,
        hidden_size=hidden,
        intermediate_size=_positive(raw, "intermediate_size"),
        layers=_positive(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=_positive(raw, "vocab_size"),
        max_positions=_positive(raw, "max_position_embeddings", family.max_positions),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=bias if family.qkv_bias is None else family.qkv_bias,
        output_bias=bias if family.output_bias is None else family.output_bias,
        mlp_bias=family.mlp_bias and bool(raw.get("mlp_bias", False)),
        qk_norm=family.qk_norm,
        windows=_windows(family, raw),
    )


def _positive(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw[key] if default is None else raw.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{key} is {value!r}, not a positive whole number")
    return value


def _rope_values(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    # transformers 5 writes one `rope_parameters`; before it there were `rope_theta` and `rope_scaling`.
    found = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    return found if isinstance(found, dict) else {"rope_type": found}


def _rope_kind(found: Mapping[str, Any]) -> str:
    return str(found.get("rope_type") or found.get("type") or "default")


def _rope(raw: Mapping[str, Any]) -> tuple[float, RopeScaling]:
    found = _rope_values(raw)
    theta = float(found.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    kind = _rope_kind(found)
    if kind == "default":
        return theta, RopeScaling()
    if kind == "linear":
        return theta, RopeScaling("linear", float(found["factor"]))
    return theta, RopeScaling(
        "llama3",
        float(found["factor"]),
        float(found["low_freq_factor"]),
        float(found["high_freq_factor"]),
        int(found["original_max_position_embeddings"]),
    )


def _windows(family: Family, raw: Mapping[str, Any]) -> tuple[int | None, ...]:
    layers = _positive(raw, "num_hidden_layers")
    off = (None,) * layers
    if family.window_layers == "none" or raw.get("sliding_window", family.sliding_window) is None:
        return off
    size = _positive(raw, "sliding_window", family.sliding_window)
    if family.window_layers == "all":
        return (size,) * layers
    if not raw.get("use_sliding_window", False):
        return off
    kinds = raw.get("layer_types")
    if kinds is None:
        first = int(raw.get("max_window_layers", _MAX_WINDOW_LAYERS))
        return tuple(size if layer >= first else None for layer in range(layers))
    if len(kinds) != layers:
        raise ValueError(f"layer_types names {len(kinds)} layers, num_hidden_layers is {layers}")
    return tuple(size if kind == "sliding_attention" else None for kind in kinds)
