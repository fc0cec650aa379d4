"""LoRA adapters that mlx_lm trained, as PEFT names and stores them.

    mlx_lm    y = W x + scale * (x lora_a) lora_b     lora_a [in, r], lora_b [r, out]     adapters.safetensors (or .npz)
    PEFT      y = W x + lora_alpha / r * B A x        A [r, in], B [out, r]

So A = lora_a', B = lora_b' and lora_alpha = scale * r: the same numbers, none of them computed anew. DoRA's `m` is
PEFT's lora_magnitude_vector, which means the same (the norm of each row of W + scale * B A is divided out, and `m` put
in its place). What mlx_lm does otherwise than PEFT is refused by name: embeddings (mlx_lm adapts a tied head with
them), experts (three dimensions), and models whose modules it calls otherwise than transformers.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.lib import format as npy

from lorica.adapters.config import CONFIG_NAME, AdapterConfig, config_from
from lorica.adapters.json_document import short_text
from lorica.adapters.methods import FORMATS, method_of_config
from lorica.adapters.stored_tensors import StoredTensor, contiguous_strides
from lorica.adapters.tensor_names import PREFIX
from lorica.adapters.zip_files import stored_members
from lorica.errors import AdapterError

_LAYER = re.compile(r"model\.layers\.(\d{1,6})\.(.+)")
_FUSE = "merge it into its base model with `mlx_lm.fuse`"
# numpy has no bfloat16; MLX writes it as two bytes of no kind.
_NUMPY_DTYPES = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "|V2": "BF16"}
_MAX_SCALE = 10_000
_MAX_NUMPY_HEADER = 1 << 16
# What numpy's reader of headers, which parses a Python literal, raises for damaged ones.
_HEADER_FAULTS = (
    ValueError, KeyError, EOFError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError,
    tokenize.TokenError,
)  # fmt: skip


def read_npz(npz_path: Path) -> dict[str, StoredTensor]:
    """The arrays of an `adapters.npz`, whose values are not read. Raises AdapterError; nothing is unpickled."""
    tensors = {}
    with npz_path.open("rb") as npz_file:
        for name, member in stored_members(npz_path).items():
            if not name.endswith(".npy"):
                raise AdapterError(f"holds {short_text(name)}, which is no array of numpy", fix="name the right file")
            npz_file.seek(member.start)
            array_shape, fortran_order, element_type, header_length = _array_header(
                npz_file.read(min(member.size, _MAX_NUMPY_HEADER)), name
            )
            strides = contiguous_strides(array_shape[::-1])[::-1] if fortran_order else contiguous_strides(array_shape)
            tensor = StoredTensor(element_type, array_shape, member.start + header_length, strides)
            if header_length + tensor.count * tensor.itemsize != member.size:
                raise AdapterError(f"its array {short_text(name)} has another size than its shape says")
            tensors[name.removesuffix(".npy")] = tensor
    return tensors


def _array_header(header_bytes: bytes, name: str) -> tuple[tuple[int, ...], bool, str, int]:
    """(shape, whether the first dimension runs fastest, dtype, bytes of the header)."""
    header_stream = io.BytesIO(header_bytes)
    try:
        version = npy.read_magic(header_stream)
        header_readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        array_shape, fortran_order, array_type = header_readers(header_stream)
    except _HEADER_FAULTS as error:
        raise AdapterError(f"its array {short_text(name)} is damaged ({short_text(error)})") from None
    element_type = (
        _NUMPY_DTYPES.get(array_type.str) if array_type.fields is None and array_type.subdtype is None else None
    )
    if element_type is None or any(dimension < 0 for dimension in array_shape):
        raise AdapterError(
            f"its array {short_text(name)} is of type {short_text(array_type)}; allowed: float16, bfloat16, float32"
        )
    return tuple(int(dimension) for dimension in array_shape), bool(fortran_order), element_type, header_stream.tell()


def to_peft(
    tensors: Mapping[str, StoredTensor], config: Mapping[str, Any] | None
) -> tuple[dict[str, StoredTensor], AdapterConfig, list[str]]:
    """(tensors under PEFT's names, PEFT's config, what is to be told).

    config: the object in mlx_lm's adapter_config.json. Raises AdapterError for what cannot be said in PEFT's terms.
    """
    claimed = method_of_config(config or {})
    if claimed is not None and claimed[0] == "mlx" and claimed[1] is not FORMATS["mlx"]:
        raise AdapterError(f"holds {claimed[1].title}", fix=claimed[1].reader)
    modules = _group_modules(tensors)
    settings = _lora_parameters(config)
    common_rank = _common_rank(modules, settings)
    uses_dora = _uses_dora(modules, config or {})
    conversion_notes: list[str] = []
    scale = _update_scale(settings, config or {}, common_rank, conversion_notes)
    chosen, layers = _target_settings(modules)
    base_model = (config or {}).get("model")
    peft_config = config_from(
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model if isinstance(base_model, str) and base_model else None,
            "r": common_rank,
            "lora_alpha": int(scale * common_rank) if float(scale * common_rank).is_integer() else scale * common_rank,
            "lora_dropout": settings.get("dropout") or 0.0,
            "target_modules": chosen,
            "layers_to_transform": layers,
            "use_dora": uses_dora,
            "inference_mode": True,
        }
    )
    conversion_notes.append(
        "the names are transformers' where mlx_lm calls modules as it does; "
        "`lorica check OUTPUT --base BASE` proves it, with the base in transformers' format"
    )
    return _under_peft_names(modules), peft_config, conversion_notes


def _lora_parameters(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """`lora_parameters`."""
    if config is None:
        raise AdapterError(
            f"has no {CONFIG_NAME} beside it: the scale of the update stands there",
            fix=f'copy it from where the adapter was trained; or write one: {{"model": "BASE", "lora_parameters": '
            f'{{"scale": 20.0}}}} (20.0 is what the trainer used before it wrote {CONFIG_NAME})',
        )
    settings = config.get("lora_parameters")
    scale = settings.get("scale") if isinstance(settings, dict) else None
    invalid_scale = isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= _MAX_SCALE
    if not isinstance(settings, dict) or invalid_scale:
        raise AdapterError(
            f"{CONFIG_NAME} gives no scale above 0, up to {_MAX_SCALE}, under lora_parameters: {short_text(settings)}",
            fix='write it there: "lora_parameters": {"scale": 20.0}, with the scale of its training',
        )
    dropout = settings.get("dropout")
    if dropout is not None and (isinstance(dropout, bool) or not isinstance(dropout, int | float)):
        raise AdapterError(f"{CONFIG_NAME}: dropout {short_text(dropout)}; allowed: a number", fix="set it to 0.0")
    return settings


def _group_modules(tensors: Mapping[str, StoredTensor]) -> dict[str, dict[str, StoredTensor]]:
    """Path -> its `lora_a`, `lora_b` and, of DoRA, `m`."""
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        module_path, _, parameter = name.rpartition(".")
        if parameter not in ("lora_a", "lora_b", "m") or not module_path:
            raise AdapterError(
                f"tensor {short_text(name)} is no factor of LoRA: parts of the base model were trained as well",
                fix=_FUSE,
            )
        if "embed" in module_path.rpartition(".")[2] or module_path.endswith((".wte", ".wpe")):
            raise AdapterError(
                f"tensor {short_text(name)} adapts the embedding, and in mlx_lm a tied head with it, in PEFT not",
                fix=_FUSE,
            )
        if module_path != "lm_head" and _LAYER.fullmatch(module_path) is None:
            raise AdapterError(
                f"{short_text(module_path)} is not called so by transformers (model.layers.N....): "
                "mlx_lm names this family's modules otherwise, and it is not known how",
                fix=_FUSE,
            )
        if len(tensor.shape) != (1 if parameter == "m" else 2) or 0 in tensor.shape:
            experts = " (experts, which PEFT keeps otherwise)" if len(tensor.shape) == 3 else ""
            raise AdapterError(f"tensor {short_text(name)} has shape {list(tensor.shape)}{experts}", fix=_FUSE)
        modules.setdefault(module_path, {})[parameter] = tensor
    if not modules:
        raise AdapterError("holds no tensors", fix="copy or save the adapter again")
    for module_path, parameters in modules.items():
        missing = next((parameter for parameter in ("lora_a", "lora_b") if parameter not in parameters), "")
        if missing:
            raise AdapterError(f"{short_text(module_path)} has no {missing}", fix="copy or save the adapter again")
    return modules


def _common_rank(modules: Mapping[str, Mapping[str, StoredTensor]], settings: Mapping[str, Any]) -> int:
    copy_again = "copy config and weights of one training again"
    all_ranks = set()
    for module_path, parameters in modules.items():
        shape_a, shape_b = parameters["lora_a"].shape, parameters["lora_b"].shape
        if shape_a[1] != shape_b[0] or ("m" in parameters and parameters["m"].shape != shape_b[1:]):
            raise AdapterError(
                f"{short_text(module_path)}: lora_a {list(shape_a)} and lora_b {list(shape_b)} do not belong together",
                fix=copy_again,
            )
        all_ranks.add(shape_a[1])
    (common_rank, *other_ranks) = sorted(all_ranks)
    if other_ranks:
        raise AdapterError(
            f"its modules have different ranks ({common_rank}, {other_ranks[0]}); mlx_lm trains one", fix=copy_again
        )
    if settings.get("rank", common_rank) != common_rank:
        stated_rank = short_text(settings["rank"])
        raise AdapterError(f"its tensors have rank {common_rank}, and {CONFIG_NAME} says {stated_rank}", fix=copy_again)
    return int(common_rank)


def _uses_dora(modules: Mapping[str, Mapping[str, StoredTensor]], config: Mapping[str, Any]) -> bool:
    dora_count = sum("m" in parameters for parameters in modules.values())
    fine_tune_type = config.get("fine_tune_type")
    claimed = fine_tune_type == "dora" if fine_tune_type is not None else bool(config.get("use_dora", dora_count > 0))
    if dora_count not in (0, len(modules)) or (dora_count > 0) != claimed:
        raise AdapterError(
            f"{dora_count} of {len(modules)} modules have DoRA's m, "
            f"and {CONFIG_NAME} says {'dora' if claimed else 'lora'}",
            fix="copy config and weights of one training again",
        )
    return claimed


def _update_scale(settings: Mapping[str, Any], config: Mapping[str, Any], common_rank: int, notes: list[str]) -> float:
    """The factor of the update. Before June 2024 mlx_lm multiplied by alpha / rank, too, and until April 2025 it wrote
    an alpha that did nothing; since October 2024 its configs hold fine_tune_type."""
    scale, lora_alpha = float(settings["scale"]), settings.get("alpha")
    if lora_alpha is None or lora_alpha == common_rank:
        return scale
    if "fine_tune_type" in config or "num_layers" in config:
        notes.append(
            f"alpha {short_text(lora_alpha)} in {CONFIG_NAME} has no effect in the mlx_lm that wrote it; scale has"
        )
        return scale
    number = isinstance(lora_alpha, int | float) and not isinstance(lora_alpha, bool)
    product = f"{scale * lora_alpha / common_rank:g}" if number else "scale * alpha / rank"
    raise AdapterError(
        f"{CONFIG_NAME} holds alpha {short_text(lora_alpha)} beside scale {scale:g}: mlx_lm multiplied both "
        "before June 2024 and not since, and nothing tells which one trained this",
        fix=f"remove alpha from lora_parameters, and set scale to {product} if it was trained before June 2024",
    )


def _target_settings(modules: Mapping[str, Any]) -> tuple[list[str], list[int] | None]:
    """(target_modules, layers_to_transform) that name these modules and no others."""
    layers_by_module: dict[str, set[int]] = {}
    for module_path in modules:
        layer_match = _LAYER.fullmatch(module_path)
        if layer_match is None:  # the head: PEFT looks for it in layers once they are chosen
            return sorted(modules), None
        layers_by_module.setdefault(layer_match[2], set()).add(int(layer_match[1]))
    first_layers, *later_layers = layers_by_module.values()
    if any(layer_numbers != first_layers for layer_numbers in later_layers):
        return sorted(modules), None
    layers = sorted(first_layers)
    return sorted(layers_by_module), None if layers == list(range(len(layers))) else layers


def _under_peft_names(modules: Mapping[str, Mapping[str, StoredTensor]]) -> dict[str, StoredTensor]:
    peft_tensors = {}
    for module_path, parameters in modules.items():
        peft_tensors[f"{PREFIX}{module_path}.lora_A.weight"] = parameters["lora_a"].transposed()
        peft_tensors[f"{PREFIX}{module_path}.lora_B.weight"] = parameters["lora_b"].transposed()
        if "m" in parameters:
            peft_tensors[f"{PREFIX}{module_path}.lora_magnitude_vector"] = parameters["m"]
    return peft_tensors
