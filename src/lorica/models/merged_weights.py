"""An adapter as part of the base's weights, W + scaling B A, and back: from the file's weights, never by subtraction.

What was rounded once cannot be taken away again: W + D - D is not W. So both ways start from the weights as stored,
which are mapped from the file and cost no memory, and the base comes back to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lorica.models.cpu.cpu_decoder import CpuDecoder
from lorica.models.decoder import Decoder, Layer
from lorica.models.gguf_layers import GgufLinear
from lorica.models.lora import LoraPair, LoraWeights


@torch.inference_mode()
def merge_adapter(decoder: CpuDecoder, stored: Decoder, adapter: LoraWeights) -> None:
    """Add the adapter to the weights of `decoder`; it must not be applied as LoRA, too.

    stored: the same base as its file has it; used up. The sum is formed in float32 and rounded once, to the precision
    of `decoder`.
    """
    for layer_index, modules in _modules_by_layer(adapter.pairs):
        stored_layer = _layer(stored, layer_index)
        for module_name in modules:
            pair = adapter.pairs[f"model.layers.{layer_index}.{module_name}"]
            module = stored_layer.get_submodule(module_name)
            assert isinstance(module, nn.Linear | GgufLinear)
            merged = nn.Linear(pair.a.shape[1], len(pair.b), bias=module.bias is not None, device="meta")
            merged.weight = nn.Parameter(merged_weight(module.weight, pair), requires_grad=False)
            if module.bias is not None:
                merged.bias = module.bias
            stored_layer.set_submodule(module_name, merged)
        decoder.replace_layer_weights(layer_index, stored_layer, _last_names(modules))
        stored.model.layers[layer_index] = nn.Identity()  # both forms of a layer are there at once, never of all


@torch.inference_mode()
def restore_base(decoder: CpuDecoder, stored: Decoder, adapter: LoraWeights) -> None:
    """Undo `merge_adapter`: the weights of the file in all modules that the adapter changes."""
    for layer_index, modules in _modules_by_layer(adapter.pairs):
        decoder.replace_layer_weights(layer_index, _layer(stored, layer_index), _last_names(modules))


def merged_weight(weight: Tensor, pair: LoraPair) -> Tensor:
    """weight [out, in] -> W + scaling B A [out, in], in float32."""
    return weight.detach().float().addmm_(pair.b.detach().float(), pair.a.detach().float(), alpha=pair.scaling)


def _modules_by_layer(module_paths: Iterable[str]) -> list[tuple[int, list[str]]]:
    """Layer -> the modules in it, such as `mlp.up_proj`."""
    modules_by_layer: dict[int, list[str]] = {}
    for module_path in module_paths:
        _, _, number, module_name = module_path.split(".", 3)
        modules_by_layer.setdefault(int(number), []).append(module_name)
    return sorted(modules_by_layer.items())


def _layer(stored: Decoder, layer_index: int) -> Layer:
    layer = stored.model.layers[layer_index]
    assert isinstance(layer, Layer)
    return layer


def _last_names(modules: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in modules}
