"""Where an adapter's tensors belong in a base model: read tolerantly, to judge what loaders would drop.

`names.parse_tensor_name` is the strict reader of what PEFT writes; here every name that holds a LoRA part is placed,
whatever wrappers stand in front of it.
"""

from __future__ import annotations

import re

import msgspec

from lorica.adapters.header import Header, TensorInfo
from lorica.adapters.tensor_names import PREFIX

_PART = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.(?P<leaf>weight|bias))?"
)
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?\.(?P<leaf>[^.]+)")
# The names that a kept module's parameters have in memory. With bias="all" PEFT stores its biases under them, too, with
# the adapter's own name or (older versions) without it.
_IN_MEMORY = re.compile(r"(?P<module>.+)\.(?:modules_to_save|original_module)\.(?:(?P<adapter>[^.]+)\.)?(?P<rest>.+)")
# The container of repeated layers in the families there are, and the layer's number.
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(?P<number>\d{1,4})(?=\.|$)")


class LoraModule(msgspec.Struct, frozen=True):
    """One adapted module. path: dotted, without PEFT's prefix; where several parameters of one module are adapted
    (`target_parameters`), PEFT tells them apart by as many `.base_layer` at the end, and the path keeps them.
    layer: its number, None outside layers. target: the last part of the path ("q_proj") without `base_layer`. a, b,
    magnitude: the names of the tensors in the file, "" where there is none. more: names of further tensors of it
    (biases, second copies). embedding: whether the pair is an embedding's.
    """

    path: str
    layer: int | None
    target: str
    a: str = ""
    b: str = ""
    magnitude: str = ""
    more: tuple[str, ...] = ()
    embedding: bool = False


class TensorMap(msgspec.Struct, frozen=True):
    """modules: by path, in the file's order. saved: path -> names of whole parameters kept beside the pairs.
    strange: tensors that are neither. unprefixed: adapter tensors whose name does not begin with PEFT's prefix.
    adapters: adapter names that stand in tensor names ("default"). tensors: every tensor by its name. copies: names
    that stand beside the stored parameter they belong to, in the form they have in memory: PEFT passes over them.
    """

    modules: dict[str, LoraModule]
    saved: dict[str, tuple[str, ...]]
    strange: tuple[str, ...]
    unprefixed: tuple[str, ...]
    adapters: tuple[str, ...]
    tensors: dict[str, TensorInfo]
    copies: tuple[str, ...] = ()

    def factors(self) -> dict[str, TensorInfo]:
        """The tensors of lora_A and lora_B, by name."""
        tensor_names = (name for module in self.modules.values() for name in (module.a, module.b) if name)
        return {tensor_name: self.tensors[tensor_name] for tensor_name in tensor_names}

    @property
    def pairs(self) -> list[LoraModule]:
        """The modules that have both halves."""
        return [module for module in self.modules.values() if module.a and module.b]

    def shape(self, tensor_name: str) -> tuple[int, ...]:
        """The shape of a tensor; () for the name ""."""
        return self.tensors[tensor_name].shape if tensor_name else ()


def map_tensors(header: Header) -> TensorMap:
    """Place every tensor of a file."""
    names_by_module: dict[str, dict[str, list[str]]] = {}
    saved_tensors: dict[str, list[str]] = {}
    strange, unprefixed, adapters, copies = [], [], set(), []
    for tensor_name in header.tensors:
        if _is_copy(tensor_name, header):
            copies.append(tensor_name)
            continue
        path = tensor_name.removeprefix(PREFIX)
        if name_match := _PART.fullmatch(path):
            parameter = name_match["part"] if name_match["leaf"] != "bias" else "bias"
            names_by_module.setdefault(name_match["module"], {}).setdefault(parameter, []).append(tensor_name)
        elif name_match := _SAVED.fullmatch(path):
            saved_tensors.setdefault(module_path(name_match["module"]), []).append(tensor_name)
        elif path != tensor_name and "." in path:
            saved_tensors.setdefault(module_path(path.rsplit(".", 1)[0]), []).append(tensor_name)
            continue
        else:
            strange.append(tensor_name)
            continue
        if path == tensor_name:
            unprefixed.append(tensor_name)
        if name_match["adapter"]:
            adapters.add(name_match["adapter"])
    return TensorMap(
        modules={path: _lora_module(path, parameters) for path, parameters in names_by_module.items()},
        saved={path: tuple(tensor_names) for path, tensor_names in saved_tensors.items()},
        strange=tuple(strange),
        unprefixed=tuple(unprefixed),
        adapters=tuple(sorted(adapters)),
        tensors=header.tensors,
        copies=tuple(copies),
    )


def _is_copy(tensor_name: str, header: Header) -> bool:
    """Whether the file holds the same parameter under the name that PEFT stores and loads, too."""
    if ".modules_to_save." not in tensor_name and ".original_module." not in tensor_name:
        return False
    name_match = _IN_MEMORY.fullmatch(tensor_name)
    if name_match is None:
        return False
    # The first part may be an adapter's name or a module inside the kept one: the plain name tells.
    base_names = {
        name_match["rest"],
        f"{name_match['adapter']}.{name_match['rest']}" if name_match["adapter"] else name_match["rest"],
    }
    return any(f"{name_match['module']}.{inner_name}" in header.tensors for inner_name in base_names)


def layer_number(path: str) -> int | None:
    """ "model.layers.3.mlp.up_proj" -> 3; None for a module outside the layers."""
    name_match = _LAYER.search(path)
    return int(name_match["number"]) if name_match else None


def split_layer(path: str) -> tuple[str, str]:
    """ "model.layers.3.mlp.up_proj" -> ("model.layers", "model.layers.*.mlp.up_proj"): the container of the repeated
    layers, and what is the same in all of them. ("", path) for a module outside layers."""
    name_match = _LAYER.search(path)
    if name_match is None:
        return "", path
    number_start, number_end = name_match.span("number")
    return path[: number_start - 1], f"{path[:number_start]}*{path[number_end:]}"


def module_path(path: str) -> str:
    """The base model's module: a wrapped layer keeps its own weights under `base_layer`, which is no level of it."""
    while path.endswith(".base_layer"):
        path = path.removesuffix(".base_layer")
    return path


def _lora_module(path: str, tensors: dict[str, list[str]]) -> LoraModule:
    embedding = "lora_embedding_A" in tensors or "lora_embedding_B" in tensors
    pair_prefix = "lora_embedding_" if embedding else "lora_"
    chosen = {
        parameter: tensors[parameter][0]
        for parameter in (pair_prefix + "A", pair_prefix + "B", "lora_magnitude_vector")
        if parameter in tensors
    }
    return LoraModule(
        path=path,
        layer=layer_number(path),
        target=module_path(path).rsplit(".", 1)[-1],
        a=chosen.get(pair_prefix + "A", ""),
        b=chosen.get(pair_prefix + "B", ""),
        magnitude=chosen.get("lora_magnitude_vector", ""),
        more=tuple(name for tensor_names in tensors.values() for name in tensor_names if name not in chosen.values()),
        embedding=embedding,
    )
