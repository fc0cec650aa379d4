"""One adapter out of several of the same base: the weighted mean of their updates, exact or cut to a rank.

The mean of B_i A_i is no product of mean factors (means of A and of B apart are another update), but it is exactly
[w_1 s_1 B_1 ... w_n s_n B_n] [A_1; ...; A_n]: factors side by side, the sum of the ranks. Cut to a rank by singular
values it is the nearest such update (Eckart and Young 1936).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np

from lorica.adapters.arrays import Floats, TensorReader
from lorica.adapters.config import AdapterConfig
from lorica.adapters.fingerprint import leaves_no_layer_out
from lorica.adapters.folder import AdapterFolder
from lorica.adapters.tensor_names import module_of, tensor_name
from lorica.errors import AdapterError

_SAVED = "saved"  # a whole parameter, as `module_of` names it
_TARGETING = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


class AdapterAverage(msgspec.Struct, frozen=True):
    """config and tensors (PEFT's name -> dtype, shape, bytes), for `save_adapter`. rank: of the largest module. error:
    the norm of what the cut left out, relative to that of the exact mean, over all modules; 0 where nothing was cut."""

    config: AdapterConfig
    tensors: Tensors
    rank: int
    error: float


def average_adapters(adapters: Sequence[AdapterFolder], weights: Sequence[float], rank: int = 0) -> AdapterAverage:
    """The weighted mean of the adapters' updates, in float32. weights: one for each. rank: 0 keeps it exact.

    A module that some adapters leave alone counts as no update of theirs. Of whole parameters that adapters bring along
    (modules_to_save, the head of a classifier) the mean is theirs, exact at any rank. Raises AdapterError, naming the
    adapter, for one of another base, of other shapes, or with more than pairs and whole parameters.
    """
    _check_same_base(adapters)
    factors: dict[str, list[tuple[Floats, Floats]]] = {}
    tensors: Tensors = {name: _encode(mean) for name, mean in _mean_saved(adapters, weights).items()}
    for adapter, weight in zip(adapters, weights, strict=True):
        for module, pair in _scaled_pairs(adapter, weight).items():
            _check_shapes(adapters[0], adapter, module, factors.get(module), pair)
            factors.setdefault(module, []).append(pair)
    ranks: dict[str, int] = {}
    lost = total = 0.0
    for module in sorted(factors):
        stacked_a = np.concatenate([a for a, _ in factors[module]], axis=0)
        stacked_b = np.concatenate([b for _, b in factors[module]], axis=1)
        cut_a, cut_b, squared_loss, squared_norm = _cut(stacked_a, stacked_b, rank)
        lost, total = lost + squared_loss, total + squared_norm
        ranks[module] = len(cut_a)
        tensors[tensor_name(module, "lora_A")] = _encode(cut_a)
        tensors[tensor_name(module, "lora_B")] = _encode(cut_b)
    config = _config([adapter.config for adapter in adapters], ranks)
    return AdapterAverage(config, tensors, max(ranks.values()), float(np.sqrt(lost / total)) if total else 0.0)


def _check_same_base(adapters: Sequence[AdapterFolder]) -> None:
    first = adapters[0]
    for adapter in adapters:
        if not {module_of(name)[1] for name in adapter.tensors} <= {"lora_A", "lora_B", _SAVED}:
            raise AdapterError(
                f"{adapter.path}: holds more than LoRA pairs and whole parameters, of which no mean can be made",
                fix="average plain LoRA adapters",
            )
        base_name = adapter.config.base_model_name_or_path
        if base_name != first.config.base_model_name_or_path:
            raise AdapterError(
                f"{adapter.path}: is of the base {base_name!r}, and {first.path} of "
                f"{first.config.base_model_name_or_path!r}",
                fix="average adapters of one base; where two names mean one model, write the same into both configs",
            )


def _scaled_pairs(adapter: AdapterFolder, weight: float) -> dict[str, tuple[Floats, Floats]]:
    """module -> A [r, in] and weight * scaling * B [out, r], float32."""
    stored: dict[str, dict[str, Floats]] = {}
    with TensorReader(adapter.weights) as reader:
        for name, tensor_info in adapter.tensors.items():
            module, parameter = module_of(name)
            if parameter != _SAVED:
                stored.setdefault(module, {})[parameter] = reader.read(tensor_info)
    return {
        module: (parts["lora_A"], parts["lora_B"] * np.float32(weight * adapter.config.scaling(module)))
        for module, parts in stored.items()
    }


def _mean_saved(adapters: Sequence[AdapterFolder], weights: Sequence[float]) -> dict[str, Floats]:
    """Name -> weighted mean of each whole parameter, float32."""
    first = adapters[0]
    shapes = _saved_shapes(first)
    means: dict[str, Floats] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        if _saved_shapes(adapter) != shapes:
            differing = sorted(dict(_saved_shapes(adapter).items() ^ shapes.items()))
            raise AdapterError(
                f"{adapter.path}: brings other whole parameters than {first.path}, or of other shapes: {differing[0]}",
                fix="average adapters that were trained alike",
            )
        with TensorReader(adapter.weights) as reader:
            for name in shapes:
                scaled = reader.read(adapter.tensors[name]) * np.float32(weight)
                means[name] = means[name] + scaled if name in means else scaled
    return means


def _saved_shapes(adapter: AdapterFolder) -> dict[str, tuple[int, ...]]:
    return {name: tuple(info.shape) for name, info in adapter.tensors.items() if module_of(name)[1] == _SAVED}


def _check_shapes(
    first: AdapterFolder,
    adapter: AdapterFolder,
    module: str,
    before: list[tuple[Floats, Floats]] | None,
    pair: tuple[Floats, Floats],
) -> None:
    if not before:
        return
    shapes = [(b.shape[0], a.shape[1]) for a, b in (before[0], pair)]
    if shapes[0] != shapes[1]:
        raise AdapterError(
            f"{adapter.path}: {module} has {shapes[1][0]} x {shapes[1][1]} weights, "
            f"and {shapes[0][0]} x {shapes[0][1]} in {first.path}",
            fix="average adapters of one base",
        )


def _cut(a: Floats, b: Floats, rank: int) -> tuple[Floats, Floats, float, float]:
    """Factors of at most `rank` (0: as they are) of B A, and the squared norms of what was lost and of all.

    By QR of both factors, so that the full matrix is never made.
    """
    if not rank or rank >= len(a):
        return a, b, 0.0, 0.0
    q_b, r_b = np.linalg.qr(b.astype(np.float64))
    q_a, r_a = np.linalg.qr(a.astype(np.float64).T)
    left, singular_values, right = np.linalg.svd(r_b @ r_a.T)
    share = np.sqrt(singular_values[:rank])
    cut_b, cut_a = q_b @ left[:, :rank] * share, share[:, None] * (right[:rank] @ q_a.T)
    squares = singular_values**2
    return cut_a.astype(np.float32), cut_b.astype(np.float32), float(squares[rank:].sum()), float(squares.sum())


def _config(configs: Sequence[AdapterConfig], ranks: dict[str, int]) -> AdapterConfig:
    """Scaling 1 in every module: alpha is the rank, also where a module has another one."""
    rank = max(ranks.values())
    other_ranks = {f"^{module}": module_rank for module, module_rank in ranks.items() if module_rank != rank}
    return msgspec.structs.replace(
        configs[0],
        r=rank,
        lora_alpha=rank,
        use_rslora=False,
        rank_pattern=other_ranks,
        alpha_pattern={key: float(module_rank) for key, module_rank in other_ranks.items()},
        **_targeting(configs, ranks),
    )


def _targeting(configs: Sequence[AdapterConfig], modules: Collection[str]) -> dict[str, Any]:
    """The options by which PEFT finds the modules, and no others: those of the adapters where they are alike."""
    first, *others = [{name: _in_order(getattr(config, name)) for name in _TARGETING} for config in configs]
    if all(options == first for options in others):
        return first
    targets = sorted(modules)
    if all(leaves_no_layer_out(config) for config in configs):
        targets = sorted({name for config in configs for name in config.target_modules or ()})
    return {**dict.fromkeys(_TARGETING), "target_modules": targets}


def _in_order(option_value: Any) -> Any:
    return sorted(option_value) if isinstance(option_value, list) else option_value


def _encode(factor: Floats) -> tuple[str, tuple[int, ...], bytes]:
    return "F32", factor.shape, np.ascontiguousarray(factor, dtype="<f4").tobytes()
