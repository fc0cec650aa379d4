"""A base model's modules and widths, from its config.json and the headers of its weights; nothing is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.bases import BaseShape, all_bases
from lorica.adapters.fingerprint import locate_module
from lorica.adapters.header import DTYPE_BITS, TensorInfo
from lorica.errors import AdapterError, ModelError
from lorica.gguf.file_header import is_gguf
from lorica.models.base_folder import BaseFolder
from lorica.models.weight_files import AGAIN, weight_headers

# A quantised layer keeps these instead of, or beside, its weight.
_PARTS = (
    *("weight", "bias", "qweight", "qzeros", "scales", "g_idx", "SCB", "weight_packed", "weight_shape", "weight_scale"),
    *("weight_scale_inv", "weight_zero_point", "input_scale", "weight_format"),
)
# These store a layer's weights as (in, out): transformers' Conv1D.
_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_KEYS = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "head_dim": ("head_dim", "d_kv"),
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    "vocabulary": ("vocab_size",),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
}


class BaseModel(msgspec.Struct, frozen=True, kw_only=True):
    """A base model's folder, read without loading it.

    config: its config.json; text: the part of it that describes the language model. family: the text's `model_type`.
    modules: path -> (in, out), or None where the stored shape does not tell (quantised, not a matrix); empty when the
    folder holds no safetensors. shape: widths by the config alone, None for a family the table does not have.
    layers, vocabulary: 0 when unknown. quantised: how, "" when it is not.
    """

    folder: Path
    config: dict[str, Any]
    text: dict[str, Any]
    family: str
    modules: dict[str, tuple[int, int] | None]
    shape: BaseShape | None
    layers: int
    vocabulary: int
    quantised: str

    @property
    def identity(self) -> str:
        """The id it says it has, or the name of its folder."""
        stated = self.config.get("_name_or_path")
        return stated if isinstance(stated, str) and stated else str(self.folder)


def read_base(folder: Path) -> BaseModel:
    """Read a Hugging Face model folder or a GGUF file. Raises ModelError when config.json or a listed weight file is
    missing or broken; a folder with a config and no weights at all is read by its config."""
    config = dict(BaseFolder(folder).config)
    nested = (config.get(config_key) for config_key in ("text_config", "llm_config"))
    text_config: dict[str, Any] = next((section for section in nested if isinstance(section, dict)), config)
    family = str(text_config.get("model_type") or config.get("model_type") or "")
    tensors = _tensors(folder)
    modules = _modules(tensors, transposed=family in _TRANSPOSED)
    numbers = {dimension: _number(text_config, keys) for dimension, keys in _KEYS.items()}
    module_places = [locate_module(module_path) for module_path in modules]
    depths = (place.layer + 1 for place in module_places if place.layer is not None and not place.in_modality_tower)
    stored = max(depths, default=0)
    return BaseModel(
        folder=folder,
        config=config,
        text=text_config,
        family=family,
        modules=modules,
        shape=_shape(folder.name, family, numbers),
        # An encoder-decoder states its encoder's; checkpoints of others may hold layers beyond, for other predictions.
        layers=max(numbers["layers"], stored if config.get("is_encoder_decoder") is True else 0) or stored,
        vocabulary=_embedding_rows(modules) or numbers["vocabulary"],
        quantised=_quantisation(config) or _block_types(tensors),
    )


def _tensors(folder: Path) -> dict[str, TensorInfo]:
    single_path, index_path = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if not is_gguf(folder) and not single_path.is_file() and not index_path.is_file():
        return {}
    try:
        headers = weight_headers(folder)
    except AdapterError as error:
        raise ModelError(error.message, fix=AGAIN) from None
    return {tensor_name: info for header in headers.values() for tensor_name, info in header.tensors.items()}


def _modules(tensors: Mapping[str, TensorInfo], *, transposed: bool) -> dict[str, tuple[int, int] | None]:
    modules: dict[str, tuple[int, int] | None] = {}
    packed = {tensor_name.split(".weight.")[0] for tensor_name in tensors if ".weight." in tensor_name}
    for tensor_name, info in tensors.items():
        stem = tensor_name.split(".weight.")[0]
        module_path, _, leaf = stem.rpartition(".")
        if stem != tensor_name or leaf not in _PARTS:
            modules.setdefault(stem, None)
            continue
        modules.setdefault(module_path, None)
        # Blocks of a GGUF file, which have no bits here, keep the shape of the matrix that they stand for.
        is_floating = DTYPE_BITS.get(info.dtype, 16) >= 16 or info.dtype.startswith("F8")
        if leaf == "weight" and len(info.shape) in (2, 4) and is_floating and module_path not in packed:
            output_width, input_width = info.shape[0], info.shape[1]
            outside = locate_module(module_path).layer is None  # embeddings and heads are no Conv1D
            is_turned = transposed and not outside
            modules[module_path] = (output_width, input_width) if is_turned else (input_width, output_width)
    return modules


def _block_types(tensors: Mapping[str, TensorInfo]) -> str:
    """The most frequent type of a GGUF file's blocks; "" without any."""
    block_types = Counter(info.dtype for info in tensors.values() if info.dtype not in DTYPE_BITS)
    return f"GGUF {block_types.most_common(1)[0][0]}" if block_types else ""


def _number(text_config: Mapping[str, Any], config_keys: tuple[str, ...]) -> int:
    values = (text_config.get(config_key) for config_key in config_keys)
    return next((value for value in values if type(value) is int and 0 < value < 2**40), 0)


def _shape(base_name: str, family: str, numbers: Mapping[str, int]) -> BaseShape | None:
    """Widths by the config, for families of the table whose widths all follow from it."""
    relatives = [relative for relative in all_bases() if relative.family == family]
    more_widths = {width for relative in relatives for width, _ in relative.more}
    if not relatives or not numbers["hidden"] or not more_widths <= {"expert_ffn", "shared_ffn", "embedding"}:
        return None
    return BaseShape(
        name=base_name,
        family=family,
        hidden=numbers["hidden"],
        layers=numbers["layers"],
        heads=numbers["heads"],
        kv_heads=numbers["kv_heads"],  # unknown stays unknown: families differ in what a missing key means
        head_dim=numbers["head_dim"],
        ffn=0 if family == "qwen" else numbers["ffn"],
        vocabulary=numbers["vocabulary"],
        experts=numbers["experts"],
        more=tuple((width, 0) for width in ("expert_ffn", "shared_ffn") if numbers["experts"]),
    )


def _embedding_rows(modules: Mapping[str, tuple[int, int] | None]) -> int:
    embedding_names = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "shared")
    for module_path, widths in modules.items():
        is_embedding = module_path.rsplit(".", 1)[-1] in embedding_names
        if is_embedding and widths is not None and not locate_module(module_path).in_modality_tower:
            return widths[1]  # an embedding is stored as (rows, hidden)
    return 0


def _quantisation(config: Mapping[str, Any]) -> str:
    stated = config.get("quantization_config")
    if not isinstance(stated, dict) or not stated:
        return ""
    method = str(stated.get("quant_method") or "method unknown")
    bits = stated.get("bits") or (4 if stated.get("load_in_4bit") else 8 if stated.get("load_in_8bit") else None)
    quant_type = stated.get("bnb_4bit_quant_type") if stated.get("load_in_4bit") else None
    return " ".join(str(word) for word in (method, quant_type, f"{bits} bit" if bits else None) if word)
