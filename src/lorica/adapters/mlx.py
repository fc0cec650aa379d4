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


def read_npz(path: Path) -> dict[str, StoredTensor]:
    """The arrays of an `adapters.npz`, whose values are not read. Raises AdapterError; nothing is unpickled."""
    tensors = {}
    with path.open("rb") as file:
        for name, member in stored_members(path).items():
            if not name.endswith(".npy"):
                raise AdapterError(f"holds {short_text(name)}, which is no array of numpy", fix="name the right file")
            file.seek(member.start)
            shape, fortran, dtype, length = _array_header(file.read(min(member.size, _MAX_NUMPY_HEADER)), name)
            strides = contiguous_strides(shape[::-1])[::-1] if fortran else contiguous_strides(shape)
            tensor = StoredTensor(dtype, shape, member.start + length, strides)
            if length + tensor.count * tensor.itemsize != member.size:
                raise AdapterError(f"its array {short_text(name)} has another size than its shape says")
            tensors[name.removesuffix(".npy")] = tensor
    return tensors


def _array_header(raw: bytes, name: str) -> tuple[tuple[int, ...], bool, str, int]:
    """(shape, whether the first dimension runs fastest, dtype, bytes of the header)."""
    file = io.BytesIO(raw)
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, array_type = read(file)
    except _HEADER_FAULTS as error:
        raise AdapterError(f"its array {short_text(name)} is damaged ({short_text(error)})") from None
    dtype = _NUMPY_DTYPES.get(array_type.str) if array_type.fields is None and array_type.subdtype is None else None
    if dtype is None or any(size < 0 for size in shape):
        raise AdapterError(
            f"its array {short_text(name)} is of type {short_text(array_type)}; allowed: float16, bfloat16, float32"
        )
    return tuple(int(size) for size in shape), bool(fortran), dtype, file.tell()


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
    rank = _common_rank(modules, settings)
    dora = _uses_dora(modules, config or {})
    notes: list[str] = []
    scale = _update_scale(settings, config or {}, rank, notes)
    chosen, layers = _target_settings(modules)
    base = (config or {}).get("model")
    peft_config = config_from(
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base if isinstance(base, str) and base else None,
            "r": rank,
            "lora_alpha": int(scale * rank) if float(scale * rank).is_integer() else scale * rank,
            "lora_dropout": settings.get("dropout") or 0.0,
            "target_modules": chosen,
            "layers_to_transform": layers,
            "use_dora": dora,
            "inference_mode": True,
        }
    )
    notes.append(
        "the names are transformers' where mlx_lm calls modules as it does; "
        "`lorica check OUTPUT --base BASE` proves it, with the base in transformers' format"
    )
    return _under_peft_names(modules), peft_config, notes


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
    wrong = isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= _MAX_SCALE
    if not isinstance(settings, dict) or wrong:
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
        path, _, parameter = name.rpartition(".")
        if parameter not in ("lora_a", "lora_b", "m") or not path:
            raise AdapterError(
                f"tensor {short_text(name)} is no factor of LoRA: parts of the base model were trained as well",
                fix=_FUSE,
            )
        if "embed" in path.rpartition(".")[2] or path.endswith((".wte", ".wpe")):
            raise AdapterError(
                f"tensor {short_text(name)} adapts the embedding, and in mlx_lm a tied head with it, in PEFT not",
                fix=_FUSE,
            )
        if path != "lm_head" and _LAYER.fullmatch(path) is None:
            raise AdapterError(
                f"{short_text(path)} is not called so by transformers (model.layers.N....): mlx_lm names this family's "
                "modules otherwise, and it is not known how",
                fix=_FUSE,
            )
        if len(tensor.shape) != (1 if parameter == "m" else 2) or 0 in tensor.shape:
            experts = " (experts, which PEFT keeps otherwise)" if len(tensor.shape) == 3 else ""
            raise AdapterError(f"tensor {short_text(name)} has shape {list(tensor.shape)}{experts}", fix=_FUSE)
        modules.setdefault(path, {})[parameter] = tensor
    if not modules:
        raise AdapterError("holds no tensors", fix="copy or save the adapter again")
    for path, parameters in modules.items():
        missing = next((parameter for parameter in ("lora_a", "lora_b") if parameter not in parameters), "")
        if missing:
            raise AdapterError(f"{short_text(path)} has no {missing}", fix="copy or save the adapter again")
    return modules


def _common_rank(modules: Mapping[str, Mapping[str, StoredTensor]], settings: Mapping[str, Any]) -> int:
    again = "copy config and weights of one training again"
    ranks = set()
    for path, parameters in modules.items():
        a, b = parameters["lora_a"].shape, parameters["lora_b"].shape
        if a[1] != b[0] or ("m" in parameters and parameters["m"].shape != b[1:]):
            raise AdapterError(
                f"{short_text(path)}: lora_a {list(a)} and lora_b {list(b)} do not belong together", fix=again
            )
        ranks.add(a[1])
    (rank, *other_ranks) = sorted(ranks)
    if other_ranks:
        raise AdapterError(f"its modules have different ranks ({rank}, {other_ranks[0]}); mlx_lm trains one", fix=again)
    if settings.get("rank", rank) != rank:
        stated_rank = short_text(settings["rank"])
        raise AdapterError(f"its tensors have rank {rank}, and {CONFIG_NAME} says {stated_rank}", fix=again)
    return int(rank)


def _uses_dora(modules: Mapping[str, Mapping[str, StoredTensor]], config: Mapping[str, Any]) -> bool:
    count = sum("m" in parameters for parameters in modules.values())
    fine_tune_type = config.get("fine_tune_type")
    claimed = fine_tune_type == "dora" if fine_tune_type is not None else bool(config.get("use_dora", count > 0))
    if count not in (0, len(modules)) or (count > 0) != claimed:
        raise AdapterError(
            f"{count} of {len(modules)} modules have DoRA's m, and {CONFIG_NAME} says {'dora' if claimed else 'lora'}",
            fix="copy config and weights of one training again",
        )
    return claimed


def _update_scale(settings: Mapping[str, Any], config: Mapping[str, Any], rank: int, notes: list[str]) -> float:
    """The factor of the update. Before June 2024 mlx_lm multiplied by alpha / rank, too, and until April 2025 it wrote
    an alpha that did nothing; since October 2024 its configs hold fine_tune_type."""
    scale, alpha = float(settings["scale"]), settings.get("alpha")
    if alpha is None or alpha == rank:
        return scale
    if "fine_tune_type" in config or "num_layers" in config:
        notes.append(f"alpha {short_text(alpha)} in {CONFIG_NAME} has no effect in the mlx_lm that wrote it; scale has")
        return scale
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    product = f"{scale * alpha / rank:g}" if number else "scale * alpha / rank"
    raise AdapterError(
        f"{CONFIG_NAME} holds alpha {short_text(alpha)} beside scale {scale:g}: mlx_lm multiplied both before June "
        "2024 and not since, and nothing tells which one trained this",
        fix=f"remove alpha from lora_parameters, and set scale to {product} if it was trained before June 2024",
    )


def _target_settings(modules: Mapping[str, Any]) -> tuple[list[str], list[int] | None]:
    """(target_modules, layers_to_transform) that name these modules and no others."""
    inner: dict[str, set[int]] = {}
    for path in modules:
        match = _LAYER.fullmatch(path)
        if match is None:  # the head: PEFT looks for it in layers once they are chosen
            return sorted(modules), None
        inner.setdefault(match[2], set()).add(int(match[1]))
    first, *later_layers = inner.values()
    if any(layer_numbers != first for layer_numbers in later_layers):
        return sorted(modules), None
    layers = sorted(first)
    return sorted(inner), None if layers == list(range(len(layers))) else layers


def _under_peft_names(modules: Mapping[str, Mapping[str, StoredTensor]]) -> dict[str, StoredTensor]:
    named = {}
    for path, parameters in modules.items():
        named[f"{PREFIX}{path}.lora_A.weight"] = parameters["lora_a"].transposed()
        named[f"{PREFIX}{path}.lora_B.weight"] = parameters["lora_b"].transposed()
        if "m" in parameters:
            named[f"{PREFIX}{path}.lora_magnitude_vector"] = parameters["m"]
    return named
