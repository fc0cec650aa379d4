"""What a GGUF file's metadata says of its model, in the words of a Hugging Face `config.json`.

Every key is read, known to change nothing, refused at some values, or reported, as those of a `config.json` are.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from lorica.errors import ModelError
from lorica.gguf.block_types import Floats
from lorica.gguf.file_header import GgufHeader, MetadataValue, read_header
from lorica.gguf.packed_texts import PackedTexts
from lorica.gguf.tensors import ROPE_FACTORS, read_tensor
from lorica.names import did_you_mean

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""`general.architecture` -> the same `model_type`."""

# Key behind the architecture's name -> key of config.json.
_SIZES = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "context_length": "max_position_embeddings",
}
_ROPE_SCALING = "rope.scaling."
_READ = frozenset(
    {
        *_SIZES,
        *("attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count"),
        *("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scale_linear", "vocab_size"),
        *(f"{_ROPE_SCALING}{name}" for name in ("type", "factor", "original_context_length", "attn_factor")),
        *(f"{_ROPE_SCALING}{name}" for name in ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast")),
        *(f"{_ROPE_SCALING}{name}" for name in ("yarn_beta_slow", "finetuned")),
    }
)
# Heeded by llama.cpp, not here -> the values that change nothing.
_NEUTRAL: dict[str, tuple[MetadataValue, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.sliding_window": (0,),
    "attention.scale": (0.0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "use_parallel_residual": (False,),
    f"{_ROPE_SCALING}yarn_ext_factor": (1.0,),
    f"{_ROPE_SCALING}yarn_attn_factor": (1.0,),
}
_OTHER_KEYS = frozenset(
    {
        *("general.architecture", "general.type", "general.alignment", "split.count"),
        *("split.no", "split.tensors.count", "tokenizer.chat_template"),
    }
)
# Names, sources, licences, and how the file was quantized.
_IRRELEVANT = (
    "general.",
    "quantize.",
    "imatrix.",
    "tokenizer.ggml.",
    "tokenizer.chat_template.",
    "tokenizer.huggingface.",
)
JOIN_PARTS = "join them: llama-gguf-split --merge FIRST.gguf WHOLE.gguf"
"""What helps where a model is in several files."""
_LLAMA3_POSITIONS, _LLAMA3_TURNS = 8192, (1.0, 4.0)
_OTHER_FILE = "use a GGUF file of a language model of one of the families, or its Hugging Face folder"


def read_config(gguf_path: Path) -> dict[str, Any]:
    """The file's `config.json`. Raises ModelError for another architecture and for what is missing or contradicts."""
    header = read_header(gguf_path)
    try:
        return _Metadata(gguf_path, header).config()
    except _MetadataError as error:
        raise ModelError(f"{gguf_path}: {error}", fix=error.fix) from None


def metadata_notes(gguf_path: Path) -> tuple[str, ...]:
    """What the metadata of a sound file says that changes nothing, although a reader may think that it does."""
    metadata = read_header(gguf_path).metadata
    family = str(metadata.get("general.architecture"))
    known_keys = {f"{family}.{key}" for key in (*_READ, *_NEUTRAL)} | _OTHER_KEYS
    unknown_keys = [key for key in metadata if key not in known_keys and not key.startswith(_IRRELEVANT)]
    if not unknown_keys:
        return ()
    hints = (did_you_mean(key, known_keys - metadata.keys(), form="{}", cutoff=0.8) for key in unknown_keys)
    listed = ", ".join(
        f"{key!r} ({hint})" if hint else repr(key) for key, hint in zip(unknown_keys, hints, strict=True)
    )
    return (f"{gguf_path}: not heeded in a {family} model: {listed}",)


class _MetadataError(Exception):
    def __init__(self, reason: str, *, fix: str = "download the file again, or convert the model anew") -> None:
        super().__init__(reason)
        self.fix = fix


class _Metadata:
    """The metadata of one file, with the checks that a `config.json` needs before `models.families` sees it."""

    def __init__(self, gguf_path: Path, header: GgufHeader) -> None:
        self._path, self._metadata, self._tensors = gguf_path, header.metadata, header.tensors
        self._family = str(self._metadata.get("general.architecture"))

    def config(self) -> dict[str, Any]:
        """See `read_config`."""
        self._check_kind()
        self._check_neutral()
        config: dict[str, Any] = {"model_type": self._family}
        config |= {config_key: self._size(key) for key, config_key in _SIZES.items()}
        heads = config["num_attention_heads"]
        config["num_key_value_heads"] = self._size("attention.head_count_kv", heads)
        config["head_dim"] = head_dim = self._head_dim(config["hidden_size"], heads)
        config["vocab_size"] = self._vocab_size(config["hidden_size"])
        config["rms_norm_eps"] = self._fraction("attention.layer_norm_rms_epsilon")
        config["rope_parameters"] = self._rope(head_dim, config["max_position_embeddings"])
        config["tie_word_embeddings"] = "output.weight" not in self._tensors
        if self._family != "qwen2":
            config["attention_bias"] = "blk.0.attn_q.bias" in self._tensors
        if self._family == "llama":
            config["mlp_bias"] = "blk.0.ffn_gate.bias" in self._tensors
        return config | self._names_and_tokens()

    def _names_and_tokens(self) -> dict[str, Any]:
        metadata = self._metadata
        end_ids = [metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot")]
        stop_ids = list(dict.fromkeys(end_id for end_id in end_ids if type(end_id) is int))
        config: dict[str, Any] = {"eos_token_id": stop_ids if len(stop_ids) > 1 else stop_ids[0]} if stop_ids else {}
        model_name = metadata.get("general.name")
        return config | ({"_name_or_path": model_name} if isinstance(model_name, str) else {})

    def _check_kind(self) -> None:
        metadata = self._metadata
        if metadata.get("split.count", 0) not in (0, 1):  # first, since only the first part says what the model is
            raise _MetadataError("is one of several parts of a model", fix=JOIN_PARTS)
        if self._family not in ARCHITECTURES:
            stated = f"{self._family[:40]!r}, not" if "general.architecture" in metadata else "missing; it must be"
            raise _MetadataError(f"general.architecture is {stated} one of {', '.join(ARCHITECTURES)}", fix=_OTHER_FILE)
        file_type = metadata.get("general.type", "model")
        if file_type != "model":
            raise _MetadataError(f"general.type is {str(file_type)[:40]!r}, not 'model'", fix=_OTHER_FILE)

    def _check_neutral(self) -> None:
        for key, allowed_values in _NEUTRAL.items():
            value = self._get(key)
            if value is not None and (isinstance(value, np.ndarray | PackedTexts) or value not in allowed_values):
                stated = str(value)[:40]
                raise _MetadataError(
                    f"{self._family}.{key} is {stated} (only {' or '.join(map(str, allowed_values))})", fix=_OTHER_FILE
                )

    def _get(self, key: str) -> MetadataValue | None:
        return self._metadata.get(f"{self._family}.{key}")

    def _size(self, key: str, default: int | None = None) -> int:
        value = self._get(key)
        if isinstance(value, np.ndarray) and len(value) and (value == value[0]).all():
            value = value[0].item()  # one for each layer, all equal
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 < value < 1 << 31:
            stated = "missing" if value is None else str(value)[:40]
            raise _MetadataError(f"{self._family}.{key} is {stated}; it must be one positive whole number")
        return value

    def _fraction(self, key: str, default: float | None = None) -> float:
        value = self._get(key)
        if value is None and default is not None:
            return default
        if type(value) is not float or not math.isfinite(value) or value <= 0:
            stated = "missing" if value is None else str(value)[:40]
            raise _MetadataError(f"{self._family}.{key} is {stated}; it must be a positive fraction")
        return value

    def _head_dim(self, hidden_size: int, heads: int) -> int:
        head_dim = self._size("attention.key_length", max(1, hidden_size // heads))
        for key in ("attention.value_length", "rope.dimension_count"):
            if self._size(key, head_dim) != head_dim:
                raise _MetadataError(
                    f"{self._family}.{key} is {self._size(key)}; only {head_dim}, the width of a head", fix=_OTHER_FILE
                )
        return head_dim

    def _vocab_size(self, hidden_size: int) -> int:
        embedding = self._tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2 or embedding.shape[1] != hidden_size:
            stated = "missing" if embedding is None else f"of shape {list(embedding.shape)}"
            raise _MetadataError(f"token_embd.weight is {stated}; it must have rows of {hidden_size}")
        rows = embedding.shape[0]
        if self._size("vocab_size", rows) != rows:
            raise _MetadataError(f"{self._family}.vocab_size is {self._size('vocab_size')}; token_embd has {rows} rows")
        return rows

    def _rope(self, head_dim: int, max_positions: int) -> dict[str, Any]:
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self._fraction("rope.freq_base", 10000.0)}
        scaling_type = self._get(f"{_ROPE_SCALING}type")
        if scaling_type not in (None, "none", "linear", "yarn"):
            raise _MetadataError(f"rope scaling {str(scaling_type)[:40]!r} (only none, linear, yarn)", fix=_OTHER_FILE)
        factor = 1.0
        if scaling_type is None:  # linear, says llama.cpp, whichever of its keys has a factor
            factor = self._fraction(f"{_ROPE_SCALING}factor", self._fraction("rope.scale_linear", 1.0))
            scaling_type = "none" if factor == 1.0 else "linear"
        elif scaling_type != "none":
            factor = self._fraction(f"{_ROPE_SCALING}factor")
        if scaling_type != "yarn" and self._fraction(f"{_ROPE_SCALING}attn_factor", 1.0) != 1.0:
            raise _MetadataError(f"{_ROPE_SCALING}attn_factor beside {scaling_type} scaling", fix=_OTHER_FILE)
        factors_tensor = self._tensors.get(ROPE_FACTORS)
        if factors_tensor is not None:
            if scaling_type != "none" or factors_tensor.shape != (head_dim // 2,):
                raise _MetadataError(
                    f"{ROPE_FACTORS} of shape {list(factors_tensor.shape)} beside {scaling_type} scaling"
                )
            return rope | _llama3_scaling(read_tensor(self._path, factors_tensor), rope["rope_theta"])
        if scaling_type == "none":
            return rope
        rope |= {"rope_type": scaling_type, "factor": factor}
        return rope | (self._yarn(max_positions, factor) if scaling_type == "yarn" else {})

    def _yarn(self, max_positions: int, factor: float) -> dict[str, Any]:
        def scaling(name: str, default: float) -> float:
            return self._fraction(f"{_ROPE_SCALING}{name}", default)

        rope: dict[str, Any] = {
            "original_max_position_embeddings": self._size(f"{_ROPE_SCALING}original_context_length", max_positions),
            "beta_fast": scaling("yarn_beta_fast", 32.0),
            "beta_slow": scaling("yarn_beta_slow", 1.0),
        }
        attention_factor = scaling("attn_factor", 1.0)
        if attention_factor != 1.0:
            rope["attention_factor"] = attention_factor * (1.0 + 0.1 * math.log(max(factor, 1.0)))
        return rope


def _llama3_scaling(rope_factors: Floats, rope_theta: float) -> dict[str, Any]:
    """The scaling of Llama 3.1 to 3.3 of which these are the factors [head_dim / 2]: they differ in `factor` alone."""
    factor = float(rope_factors.max())
    if not math.isfinite(factor) or factor < 1 or factor == 1 == rope_factors.min():
        if factor == 1:
            return {}
        raise _MetadataError(f"{ROPE_FACTORS} holds {factor}; each factor is at least 1")
    inverse_frequencies = rope_theta ** (-np.arange(len(rope_factors)) / len(rope_factors))
    turns = _LLAMA3_POSITIONS * inverse_frequencies / (2 * math.pi)
    slowest, fastest = _LLAMA3_TURNS
    blend = np.clip((turns - slowest) / (fastest - slowest), 0, 1)
    if not np.allclose(rope_factors, 1 / ((1 - blend) / factor + blend), rtol=1e-3):
        raise _MetadataError(
            f"{ROPE_FACTORS} is another scaling than that of Llama 3.1 (factor {factor})", fix=_OTHER_FILE
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": slowest,
        "high_freq_factor": fastest,
        "original_max_position_embeddings": _LLAMA3_POSITIONS,
    }
