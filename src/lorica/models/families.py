"""What tells one decoder family from another: a table, and the reader of `config.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorica.encoder_families import encoder_family
from lorica.errors import ModelConfigError, ModelError
from lorica.file_signatures import LFS_FIX, Content, recognise
from lorica.models.config_keys import check_keys, key_notes
from lorica.models.config_values import OTHER_ENGINE, Raw, UnsupportedError, flag, fraction, positive
from lorica.models.gptq_awq_config import read_packed_format
from lorica.models.rope_config import RopeScaling, read_rope


@dataclass(frozen=True)
class Family:
    """The traits in which the supported families differ, as transformers has them.

    qkv_bias, output_bias: whether query, key, value and the output projection have biases; None:
    `attention_bias` decides. mlp_bias: whether `mlp_bias` is heeded. head_dim, kv_heads, sliding_window,
    max_positions: what a `config.json` without these keys means; None: hidden / heads, heads, no window.
    window_layers: which layers a `sliding_window` applies to: none, all, or those `layer_types` or
    `max_window_layers` name once `use_sliding_window` is true. nullable: keys that may be null, which then means what
    other keys imply. whole_heads: hidden must be a multiple of heads, whatever `head_dim` says.
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
    nullable: tuple[str, ...] = ()
    whole_heads: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """The keys of a `config.json` that are read for this family and not for every one."""
        return frozenset(
            {
                *(("attention_bias",) if self.qkv_bias is None else ()),
                *(("mlp_bias",) if self.mlp_bias else ()),
                *(("use_sliding_window", "max_window_layers") if self.window_layers == "chosen" else ()),
            }
        )


FAMILIES: dict[str, Family] = {
    "llama": Family(
        mlp_bias=True,
        max_positions=2048,
        sliding_window=None,
        nullable=("num_key_value_heads", "head_dim"),
        whole_heads=True,
    ),
    "mistral": Family(
        qkv_bias=False,
        output_bias=False,
        kv_heads=8,
        max_positions=131072,
        window_layers="all",
        nullable=("head_dim",),
    ),
    "qwen2": Family(
        qkv_bias=True, output_bias=False, kv_heads=32, window_layers="chosen", nullable=("num_key_value_heads",)
    ),
    "qwen3": Family(qk_norm=True, head_dim=128, kv_heads=32, window_layers="chosen", nullable=("num_key_value_heads",)),
}

_MAX_WINDOW_LAYERS = 28  # what a Qwen config without `max_window_layers` means
_EPS, _ACTIVATION = 1e-6, "silu"
_AGAIN = "download the model's config.json again"


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder. Sizes are in elements, `windows[i]` is layer i's sliding window in tokens or None."""

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
        """Module path -> (out_features, in_features) of every linear layer an adapter can target (not the head)."""
        hidden, intermediate = self.hidden_size, self.intermediate_size
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        per_layer = {
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, query),
            "mlp.gate_proj": (intermediate, hidden),
            "mlp.up_proj": (intermediate, hidden),
            "mlp.down_proj": (hidden, intermediate),
        }
        return {
            f"model.layers.{layer}.{name}": shape for layer in range(self.layers) for name, shape in per_layer.items()
        }


def read_decoder_config(folder: Path) -> DecoderConfig:
    """As `parse_decoder_config`, of a model folder. Raises ModelError when the file is missing or broken, too."""
    config_path = folder / "config.json"
    return parse_decoder_config(read_json_object(config_path), config_path)


def parse_decoder_config(raw_config: Raw, config_path: Path) -> DecoderConfig:
    """From the content of the `config.json` at `path`.

    Raises ModelError when the model is none the native decoder knows; the message names the `transformers` engine as
    the way to run other architectures.
    """
    model_type = raw_config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        fix = "use engine=transformers for other architectures"
        if encoder_family(model_type) is not None:
            fix = "it is an encoder, which classifies and writes nothing: engine=encoder"
        raise ModelError(f"{config_path}: model_type {model_type!r} is not one of {', '.join(FAMILIES)}", fix=fix)
    read_packed_format(raw_config, config_path)  # refuses other formats
    try:
        check_keys(model_type, raw_config, {"rms_norm_eps": _EPS, "hidden_act": _ACTIVATION})
        return _decoder_config(model_type, raw_config)
    except UnsupportedError as error:
        if error.fix == OTHER_ENGINE:
            raise ModelError(f"{config_path}: the native decoder does not do {error}", fix=error.fix) from None
        raise ModelConfigError(f"{config_path}: {error}", fix=error.fix) from None
    except KeyError as error:
        raise ModelConfigError(f"{config_path}: the key {error} is missing", fix=_AGAIN) from None
    except (AttributeError, ArithmeticError, TypeError, ValueError) as error:
        raise ModelConfigError(f"{config_path}: unusable value: {error}", fix=_AGAIN) from error


def config_notes(raw_config: Raw, config_path: Path) -> tuple[str, ...]:
    """What the `config.json` at `path` says that changes nothing, although a reader may think that it does; or, of one
    that the native decoder refuses as broken, why; () for other architectures.
    """
    model_type = raw_config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        return ()
    try:
        parse_decoder_config(raw_config, config_path)
    except ModelConfigError as error:
        return (error.message,)
    except ModelError:
        pass  # sound, as far as is known, and more than the native decoder does
    try:
        return tuple(f"{config_path}: {note}" for note in key_notes(model_type, raw_config, FAMILIES[model_type].keys))
    except (UnsupportedError, ValueError) as error:
        return (f"{config_path}: {error}",)


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file of a model folder. Raises ModelError when it is absent, a Git LFS pointer, or no JSON object."""
    return parse_json_object(read_model_file(path), path)


def read_model_file(path: Path) -> bytes:
    """A small file of a model folder. Raises ModelError when it is absent or cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            f"{path.parent}: no {path.name}, so this is not a Hugging Face model folder",
            fix="give the folder that holds config.json and *.safetensors",
        ) from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})", fix="check its permissions") from None


def parse_json_object(raw: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in the bytes of the file at `path`. Raises ModelError for a Git LFS pointer and for no object."""
    if recognise(raw) is Content.LFS_POINTER:
        raise ModelError(f"{path}: {Content.LFS_POINTER}", fix=LFS_FIX)
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON: {error}", fix="download the file again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(value).__name__}", fix="download the file again")
    return value


def _decoder_config(model_type: str, raw_config: Raw) -> DecoderConfig:
    family = FAMILIES[model_type]
    activation = raw_config.get("hidden_act", _ACTIVATION)
    if activation not in ("silu", "swish"):
        raise UnsupportedError(f"hidden_act {activation!r} (only silu)")
    hidden, heads = positive(raw_config, "hidden_size"), positive(raw_config, "num_attention_heads")
    kv_heads, head_dim = _head_counts(family, raw_config, hidden, heads)
    max_positions = positive(raw_config, "max_position_embeddings", family.max_positions)
    bias = flag(raw_config, "attention_bias") if "attention_bias" in family.keys else False
    rope_theta, rope_scaling = read_rope(raw_config, max_positions)
    return DecoderConfig(
        family=model_type,
        hidden_size=hidden,
        intermediate_size=positive(raw_config, "intermediate_size"),
        layers=positive(raw_config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=positive(raw_config, "vocab_size"),
        max_positions=max_positions,
        rms_norm_eps=fraction(raw_config, "rms_norm_eps", _EPS),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        tied_embeddings=flag(raw_config, "tie_word_embeddings"),
        qkv_bias=bias if family.qkv_bias is None else family.qkv_bias,
        output_bias=bias if family.output_bias is None else family.output_bias,
        mlp_bias=family.mlp_bias and flag(raw_config, "mlp_bias"),
        qk_norm=family.qk_norm,
        windows=_windows(family, raw_config, max_positions),
    )


def _head_counts(family: Family, raw_config: Raw, hidden: int, heads: int) -> tuple[int, int]:
    """Heads of keys and values, and the width of a head."""
    null = {key for key in family.nullable if key in raw_config and raw_config[key] is None}
    implied_value = heads if "num_key_value_heads" in null else family.kv_heads or heads
    kv_heads = (
        implied_value if "num_key_value_heads" in null else positive(raw_config, "num_key_value_heads", implied_value)
    )
    implied_value = family.head_dim or max(1, hidden // heads)
    head_dim = implied_value if "head_dim" in null else positive(raw_config, "head_dim", implied_value)
    if family.whole_heads and hidden % heads:
        raise ValueError(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    if heads % kv_heads:
        raise ValueError(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    if head_dim % 2:
        raise ValueError(f"head_dim {head_dim} is odd")
    return kv_heads, head_dim


def _windows(family: Family, raw_config: Raw, max_positions: int) -> tuple[int | None, ...]:
    layers = positive(raw_config, "num_hidden_layers")
    layer_types = _layer_types(raw_config, layers)
    window_size = None
    if raw_config.get("sliding_window", family.sliding_window) is not None:
        window_size = positive(raw_config, "sliding_window", family.sliding_window)
    if window_size is not None and family.window_layers == "none" and window_size < max_positions:
        raise UnsupportedError(
            f"sliding_window {window_size}: this model_type has no window, and transformers heeds one in generating "
            "alone",
            fix="where the weights were trained with a window, give the model_type that has it, such as mistral; else "
            "set sliding_window to null",
        )
    first_windowed = (
        raw_config.get("max_window_layers", _MAX_WINDOW_LAYERS) if "max_window_layers" in family.keys else layers
    )
    if not isinstance(first_windowed, int) or isinstance(first_windowed, bool):
        raise ValueError(f"max_window_layers is {first_windowed!r}, not a whole number")
    everywhere = family.window_layers == "all"
    windows_used = everywhere or (family.window_layers == "chosen" and flag(raw_config, "use_sliding_window"))
    if window_size is None or not windows_used:
        if "sliding_attention" in (layer_types or ()) or (everywhere and "layer_types" in raw_config):
            raise UnsupportedError(
                f"layer_types {json.dumps(layer_types)} where no sliding_window is in use",
                fix="set sliding_window (and use_sliding_window: true) in config.json to what the weights were trained "
                "with, or remove layer_types",
            )
        return (None,) * layers
    if everywhere:
        if "full_attention" in (layer_types or ()):  # to transformers such a model is a Ministral
            raise UnsupportedError("Mistral with a sliding window in some layers only")
        return (window_size,) * layers
    if layer_types is None:
        return tuple(window_size if layer >= first_windowed else None for layer in range(layers))
    return tuple(window_size if layer_type == "sliding_attention" else None for layer_type in layer_types)


def _layer_types(raw_config: Raw, layers: int) -> list[str] | None:
    layer_types = raw_config.get("layer_types")
    if layer_types is None:
        return None
    if not isinstance(layer_types, list):
        raise ValueError(f"layer_types is {layer_types!r}, not a list")
    strange = sorted({str(layer_type) for layer_type in layer_types} - {"full_attention", "sliding_attention"})
    if strange:
        raise UnsupportedError(f"layer_types {', '.join(strange)} (only full_attention, sliding_attention)")
    if len(layer_types) != layers:
        raise ValueError(f"layer_types names {len(layer_types)} layers, num_hidden_layers is {layers}")
    return layer_types
