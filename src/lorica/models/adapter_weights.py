"""Adapter weights for a decoder of a given shape: fresh ones to train, or those of a PEFT folder."""

from __future__ import annotations

import math

import msgspec
import torch
from torch import Tensor

from lorica.adapters.config import AdapterConfig, names_module
from lorica.adapters.folder import AdapterFolder, read_tensor
from lorica.adapters.tensor_names import module_of
from lorica.errors import AdapterError, ConfigError
from lorica.models.families import DecoderConfig
from lorica.models.lora import LoraPair, LoraWeights
from lorica.names import closest

ALL_LINEAR = "all-linear"

_TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def create_lora(name: str, config: DecoderConfig, adapter: AdapterConfig, *, seed: int) -> LoraWeights:
    """Fresh trainable float32 weights: A uniform as in PEFT (kaiming, a = sqrt 5), B zero.

    Raises ConfigError when a target module does not exist in this family or a rank or alpha pattern matches no
    module that is adapted, AdapterError for a pattern that is no plain name.
    """
    linear_shapes = config.linear_shapes()
    targets = _targets(config, adapter)
    check_patterns(adapter, targets)
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for module_path in targets:
        out_features, in_features = linear_shapes[module_path]
        lora_rank = adapter.rank(module_path)
        lora_a = torch.empty(lora_rank, in_features)
        torch.nn.init.kaiming_uniform_(lora_a, a=math.sqrt(5), generator=generator)
        lora_b = torch.zeros(out_features, lora_rank)
        pairs[module_path] = LoraPair(lora_a.requires_grad_(), lora_b.requires_grad_(), adapter.scaling(module_path))
    return LoraWeights(name, pairs, dropout=adapter.lora_dropout)


def _targets(config: DecoderConfig, adapter: AdapterConfig) -> list[str]:
    """The modules to adapt, in the decoder's order."""
    module_paths = list(config.linear_shapes())
    module_names = sorted({module_path.rsplit(".", 1)[1] for module_path in module_paths})
    requested = adapter.target_modules
    if requested == ALL_LINEAR:
        adapter, requested = msgspec.structs.replace(adapter, target_modules=module_names), module_names
    if not isinstance(requested, list) or not requested:
        raise ConfigError(
            f"lora.target_modules: {requested!r} is no list of module names; "
            f"the {config.family} family has {', '.join(module_names)}",
            fix=f"name some of these, or {ALL_LINEAR}",
        )
    for module_name in requested:
        if not any(path == module_name or path.endswith(f".{module_name}") for path in module_paths):
            closest_name = closest(module_name, module_names, least_ratio=0.5)
            hint = f"did you mean {closest_name}? Otherwise " if closest_name else ""
            raise ConfigError(
                f"lora.target_modules: no {module_name!r}; the {config.family} family has {', '.join(module_names)}",
                fix=f"{hint}name some of these, or {ALL_LINEAR}",
            )
    adapted_paths = [module_path for module_path in module_paths if adapter.targets(module_path)]
    if not adapted_paths:
        raise ConfigError(
            "lora: exclude_modules or layers_to_transform leave no module to adapt",
            fix=f"this model has {config.layers} layers, numbered from 0",
        )
    return adapted_paths


def check_patterns(adapter: AdapterConfig, targets: list[str]) -> None:
    """Raises ConfigError for a pattern without an adapted module: it would change nothing, silently."""
    split_paths = [module_path.split(".") for module_path in targets]
    endings = sorted({".".join(path[start:]) for path in split_paths for start in range(len(path))})
    for config_key, patterns in (("rank_pattern", adapter.rank_pattern), ("alpha_pattern", adapter.alpha_pattern)):
        for pattern in patterns:
            if any(names_module(pattern, module_path) for module_path in targets):
                continue
            module_names = sorted({module_path.rsplit(".", 1)[1] for module_path in targets})
            closest_name = closest(pattern.removeprefix("^"), endings)
            raise ConfigError(
                f"lora.{config_key}.{pattern}: no adapted module has this name; adapted are {', '.join(module_names)}",
                fix=(f"did you mean {closest_name}? Otherwise " if closest_name else "")
                + "name the end of a module's path, or "
                "add the module to lora.target_modules",
            )


def load_lora(
    name: str,
    folder: AdapterFolder,
    config: DecoderConfig,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    keep_narrow: bool = False,
) -> LoraWeights:
    """The weights of a PEFT folder for a base of the given shape, in `dtype`.

    keep_narrow: a tensor stored in fewer bytes than `dtype` stays so, and is converted when it is multiplied.
    Raises AdapterError for more than plain pairs, and when a tensor names a module the base does not have, or has
    another shape than the base implies.
    """
    folder.check_applied()
    linear_shapes = config.linear_shapes()
    by_module: dict[str, dict[str, Tensor]] = {}
    for tensor_name, tensor_info in folder.tensors.items():
        path, factor_name = module_of(tensor_name)
        if path not in linear_shapes:
            raise AdapterError(
                f"{folder.path}: adapts {path}, which the base model does not have "
                f"({config.family}, {config.layers} layers)",
                fix="use the base model the adapter was trained on",
            )
        out_features, in_features = linear_shapes[path]
        width, expected_width = (
            (tensor_info.shape[1], in_features) if factor_name == "lora_A" else (tensor_info.shape[0], out_features)
        )
        if width != expected_width:
            raise AdapterError(
                f"{folder.path}: {path}.{factor_name} is made for width {width}, the base model has {expected_width}",
                fix="use the base model the adapter was trained on",
            )
        by_module.setdefault(path, {})[factor_name] = _to_torch(folder, tensor_name, device, dtype, keep_narrow)
    pairs = {
        path: LoraPair(factors["lora_A"], factors["lora_B"], folder.config.scaling(path))
        for path, factors in by_module.items()
    }
    return LoraWeights(name, pairs)


def _to_torch(
    folder: AdapterFolder, tensor_name: str, device: torch.device | str, dtype: torch.dtype, keep_narrow: bool
) -> Tensor:
    tensor_info = folder.tensors[tensor_name]
    if tensor_info.dtype not in _TORCH_DTYPES:
        raise AdapterError(
            f"{folder.path}: {tensor_name} is stored as {tensor_info.dtype}; allowed: {', '.join(_TORCH_DTYPES)}",
            fix="save the adapter again in one of these",
        )
    content = bytearray(read_tensor(folder, tensor_name))  # torch wants memory it may write to
    # Copied into memory that torch aligns alike in every process: the last bits of a product depend on it.
    stored = torch.frombuffer(content, dtype=_TORCH_DTYPES[tensor_info.dtype]).reshape(tensor_info.shape).clone()
    return stored.to(device, stored.dtype if keep_narrow and stored.itemsize < dtype.itemsize else dtype)
