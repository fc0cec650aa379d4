"""Names of tensors in an adapter file -> the base model's module and what the tensor is to it.

base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight            as PEFT saves it
base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight    as a state dict names it
"""

from __future__ import annotations

import re

import msgspec

from lorica.errors import AdapterError

PREFIX = "base_model.model."

# An adapter's own name holds no dot: PEFT keeps it as a key of a module dictionary, which forbids them.
_WEIGHT = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?"
    r"\.(?P<leaf>weight|bias)"
)
_EMBEDDING = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.(?P<adapter>[^.]+))?"
)
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save\.(?P<adapter>[^.]+)\.(?P<leaf>[^.]+)")

# What other tools call their tensors; order matters, the first hit names the format.
_OTHER_FORMATS = (
    (re.compile(r"\.lora_(down|up)\.weight$|^lora_(unet|te\d?)_"), "kohya (lora_down / lora_up)"),
    (re.compile(r"\.lora_[ab]$"), "MLX (lora_a / lora_b)"),
    (re.compile(r"\.loras\.[^.]+\.lora_[AB]$"), "AdapterHub"),
    (re.compile(r"\.(hada|lokr)_w\d"), "LoHa or LoKr"),
    (re.compile(r"\.ia3_"), "IA3"),
    (re.compile(r"\.vera_lambda"), "VeRA"),
    (re.compile(r"\.lora_E$|\.ranknum$"), "AdaLoRA"),
    (re.compile(r"\.oft_|\.boft_"), "OFT or BOFT"),
    (re.compile(r"^prompt_embeddings$|\.prompt_embeddings$"), "prompt or prefix tuning"),
)


class TensorName(msgspec.Struct, frozen=True):
    """module: dotted path in the base model. parameter: `lora_A`, `lora_B`, `lora_A.bias`, `lora_B.bias`,
    `lora_embedding_A`, `lora_embedding_B`, `lora_magnitude_vector` or `saved` (a whole parameter kept beside the LoRA
    pairs; `leaf` names it). adapter: the adapter's own name where the tensor's name holds it, else "".
    """

    module: str
    parameter: str
    adapter: str = ""
    leaf: str = "weight"


def parse_tensor_name(name: str) -> TensorName:
    """Split a tensor's name. Raises AdapterError for a name that PEFT's LoRA does not write, naming its format."""
    if not name.startswith(PREFIX):
        other_tool = foreign_tool(name)
        raise AdapterError(
            f"tensor {name!r} does not begin with {PREFIX!r}" + (f": it looks like {other_tool}" if other_tool else ""),
            fix="save or convert the adapter with PEFT",
        )
    module_path = name.removeprefix(PREFIX)
    if match := _WEIGHT.fullmatch(module_path):
        parameter = match["part"] if match["leaf"] == "weight" else f"{match['part']}.bias"
        return TensorName(_strip_base_layer(match["module"]), parameter, match["adapter"] or "", match["leaf"])
    if match := _EMBEDDING.fullmatch(module_path):
        return TensorName(_strip_base_layer(match["module"]), match["part"], match["adapter"] or "", "")
    if match := _SAVED.fullmatch(module_path):
        return TensorName(_strip_base_layer(match["module"]), "saved", match["adapter"], match["leaf"])
    other_tool = foreign_tool(name)
    if other_tool or "." not in module_path:
        raise AdapterError(
            f"tensor {name!r} is not one of PEFT's LoRA" + (f": it looks like {other_tool}" if other_tool else ""),
            fix="only LoRA adapters in PEFT's format are supported",
        )
    module, leaf_name = module_path.rsplit(".", 1)
    return TensorName(_strip_base_layer(module), "saved", "", leaf_name)


def module_of(tensor_name: str) -> tuple[str, str]:
    """ "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight" -> ("model.layers.0.mlp.up_proj",
    "lora_A").

    Raises AdapterError for a name that PEFT's LoRA does not write.
    """
    parsed = parse_tensor_name(tensor_name)
    return parsed.module, parsed.parameter


def tensor_name(module: str, parameter: str) -> str:
    """The name PEFT gives on disk to `lora_A` or `lora_B` of a module."""
    return f"{PREFIX}{module}.{parameter}.weight"


def foreign_tool(name: str) -> str:
    """The tool or method that names tensors like this one, or ""."""
    return next((other_tool for tool_pattern, other_tool in _OTHER_FORMATS if tool_pattern.search(name)), "")


def _strip_base_layer(module_path: str) -> str:
    # A wrapped layer keeps its own weights under `base_layer`; it is not a level of the base model.
    return module_path.removesuffix(".base_layer")
