"""Adapter methods and formats other than PEFT's LoRA: known by name, so that they can be refused by name.

Prefixes of tensors are those of peft 0.21.2 (PEFT_TYPE_TO_PREFIX_MAPPING), and of the tools' own documentation.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from lorica.adapters.tensor_names import PREFIX

_PEFT = "PEFT reads it: PeftModel.from_pretrained; where it can be merged, merge_and_unload() gives a plain model"
_PROMPT = "PEFT reads it: PeftModel.from_pretrained; it steers the prompt and cannot be merged into weights"


class Method(msgspec.Struct, frozen=True):
    """title: for people. marks: parts of tensor names that no other method uses. reader: what reads it. Of a tool's
    format: names: an expression for its tensors where a part does not tell, files: one for whole names of its files,
    keys: of its config.
    """

    title: str
    marks: tuple[str, ...] = ()
    reader: str = _PEFT
    names: str = ""
    files: str = ""
    keys: tuple[str, ...] = ()


# By PEFT's name of the method. Marks stand in this order: the first that is found names the method.
METHODS: dict[str, Method] = {
    "ADALORA": Method("AdaLoRA", (".lora_E.", ".ranknum.")),
    "ADAMSS": Method("AdaMSS", (".adamss_",)),
    "ADAPTION_PROMPT": Method("LLaMA-Adapter (adaption prompt)", (".adaption_prompt", ".adaption_gate"), _PROMPT),
    "BEFT": Method("BEFT", (".beft_",)),
    "BOFT": Method("BOFT", (".boft_",)),
    "BONE": Method("Bone", (".bone_",), "older versions of PEFT read it (0.14 to 0.17); it became MiSS"),
    "C3A": Method("C3A", (".c3a_",)),
    "CARTRIDGE": Method("Cartridge", (".cartridge_",), _PROMPT),
    "CPT": Method("Context-aware prompt tuning", (".cpt_",), _PROMPT),
    "DEFT": Method("DEFT", (".deft_",)),
    "DELORA": Method("DeLoRA", (".delora_",)),
    "FOURIERFT": Method("FourierFT", (".fourierft_",)),
    "FROD": Method("FROD", (".frod_",)),
    "GLORA": Method("GLoRA", (".glora_",)),
    "GRALORA": Method("GraLoRA", (".gralora_",)),
    "HIRA": Method("HiRA", (".hira_",)),
    "HRA": Method("HRA", (".hra_",)),
    "IA3": Method("IA3", (".ia3_",)),
    "LILY": Method("Lily", (".lily_",)),
    "LN_TUNING": Method("layer-norm tuning", (".ln_tuning_",)),
    "LOHA": Method("LoHa", (".hada_",)),
    "LOKR": Method("LoKr", (".lokr_",)),
    "MISS": Method("MiSS", (".miss_",)),
    "MULTITASK_PROMPT_TUNING": Method("multi-task prompt tuning", ("prefix_task_",), _PROMPT),
    "OFT": Method("OFT", (".oft_",)),
    "OSF": Method("OSF", (".osf_",)),
    "P_TUNING": Method("p-tuning", (".mlp_head.",), _PROMPT),
    "PEANUT": Method("PEANuT", (".peanut_",)),
    "POLY": Method("Poly", (".poly_",)),
    "PREFIX_TUNING": Method("prefix tuning", (), _PROMPT),
    "PROMPT_TUNING": Method("prompt tuning", ("prompt_embeddings",), _PROMPT),
    "PSOFT": Method("PSOFT", (".psoft_",)),
    "PVERA": Method("PVeRA", (".pvera_",)),
    "RANDLORA": Method("RandLoRA", (".randlora_",)),
    "ROAD": Method("RoAd", (".road_",)),
    "SHADOW": Method("Shadow", (".shadow_",)),
    "SHIRA": Method("SHiRA", (".shira_",)),
    "SUPERTUNING": Method("Supertuning", (".supertuning_",)),
    "TINYLORA": Method("TinyLoRA", (".tinylora_",)),
    "TRAINABLE_TOKENS": Method("trainable tokens"),
    "UNILORA": Method("Uni-LoRA", (".unilora_",)),
    "VBLORA": Method("VB-LoRA", (".vblora_",)),
    "VERA": Method("VeRA", (".vera_lambda_",)),
    "WAVEFT": Method("WaveFT", (".waveft_",)),
    "XLORA": Method("X-LoRA", (".xlora_",)),
}

_CONVERT = "`lorica convert` makes a PEFT adapter of it; or ask its maker for one"
_IMAGES = "image tools read it (diffusers, ComfyUI); Lorica checks adapters of language models"

# Formats of tools other than PEFT, by what their tensors' names hold, what their files are called, and keys of their
# configs. Their order is that in which names are tried.
FORMATS: dict[str, Method] = {
    "kohya": Method(
        "kohya's or LyCORIS' format (lora_down / lora_up)",
        (".lora_down.", ".lora_up.", "lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lycoris_"),
        "image tools read it (kohya sd-scripts, diffusers); diffusers converts it to PEFT's names",
    ),
    "mlx": Method(
        "MLX's format (lora_a / lora_b, transposed)",
        (),
        f"mlx_lm reads it, and `mlx_lm.fuse` merges it into its base model; {_CONVERT}",
        names=r"\.lora_[ab]$",
        files=r"(?:\d+_)?adapters\.(?:safetensors|npz)",
        keys=("lora_parameters", "fine_tune_type", "lora_layers"),
    ),
    "torchtune": Method(
        "torchtune's format (lora_a.weight / lora_b.weight)",
        (),
        "torchtune reads it, and saves PEFT's format with save_adapter_weights_only=True and its HF checkpointer",
        names=r"\.lora_[ab]\.weight$",
        files=r"adapter_\d+\.(?:pt|safetensors)",
    ),
    "adapterhub": Method(
        "AdapterHub's format",
        (".loras.", ".adapters."),
        "the `adapters` package reads it: model.load_adapter; PEFT cannot",
        files=r"pytorch_adapter\.bin|adapter\.safetensors|head_config\.json|pytorch_model_head\.bin|model_head\.safetensors",
    ),
    "diffusers": Method(
        "diffusers' format (LoRA of an image or video model)",
        (".lora.down.", ".lora.up.", "_lora.down.", "_lora.up.", ".lora_linear_layer."),
        f"diffusers reads it: pipeline.load_lora_weights; {_IMAGES}",
        names=r"^(?:unet|text_encoder(?:_\d)?|diffusion_model|transformer\.(?:single_)?transformer_blocks)\.",
        files=r"pytorch_lora_weights\.(?:safetensors|bin)",
    ),
    "xlabs": Method(
        "XLabs' format (LoRA of an image model)",
        (),
        f"x-flux and diffusers read it; {_IMAGES}",
        names=r"_blocks\.\d+\.processor\.",
    ),
}
_MLX_WHOLE = Method(
    "a whole model's weights as MLX trains them (fine_tune_type full), no adapter",
    reader="mlx_lm reads it, and `mlx_lm.fuse` makes a model of it, which other tools read as a base model",
)
# What names no method, whatever its writer meant.
NO_METHOD = ("", "none", "null", "nan", "unknown")


def normalise_method(method_name: str) -> str:
    """PEFT's name of a method or task, however a config writes it: "lora ", "PeftType.LORA" -> "LORA"."""
    return method_name.strip().upper().rpartition(".")[2]


def method_of_config(config: Mapping[str, Any]) -> tuple[str, Method] | None:
    """(key, method) that a config's JSON object speaks of; None for LoRA as PEFT writes it and for what is unknown.

    An unknown `peft_type` gives a Method of that title.
    """
    peft_type = config.get("peft_type")
    if isinstance(peft_type, str) and peft_type.strip().lower() not in NO_METHOD:
        method_key = normalise_method(peft_type)
        if method_key == "LORA":
            return None
        return method_key, METHODS.get(
            method_key, Method(ascii(peft_type)[1:-1][:60], reader="a newer version of PEFT")
        )
    if any(method_key in config for method_key in FORMATS["mlx"].keys):
        return "mlx", _MLX_WHOLE if config.get("fine_tune_type") == "full" else FORMATS["mlx"]
    beside = ("model_class", "model_type", "hidden_size")
    if isinstance(config.get("config"), dict | str) and any(method_key in config for method_key in beside):
        return "adapterhub", FORMATS["adapterhub"]
    return None


def method_of_names(tensor_names: Iterable[str]) -> tuple[str, Method, int] | None:
    """(key, method, how many tensors) when tensors are named as another method or tool names them; the most frequent
    wins. None when no name shows one."""
    counts: dict[str, int] = {}
    pattern, key_by_mark = _mark_patterns()
    tool_patterns = _tool_names()
    for name in tensor_names:
        # Nearly all names are LoRA's own; a search through 60 marks is spared them.
        if name.startswith(PREFIX) and name.endswith((".lora_A.weight", ".lora_B.weight")) and ".loras." not in name:
            continue
        # With a dot on both sides, marks mean whole parts: PEFT's lora_A is not MLX's lora_a, nor "x.lora_around".
        mark_match = pattern.search(f".{name}.")
        method_key = (
            key_by_mark[mark_match[0]]
            if mark_match is not None
            else next((method_key for method_key, name_pattern in tool_patterns if name_pattern.search(name)), "")
        )
        if method_key:
            counts[method_key] = counts.get(method_key, 0) + 1
    if not counts:
        return None
    best_key = max(counts, key=lambda method_key: counts[method_key])
    return best_key, (FORMATS | METHODS)[best_key], counts[best_key]


def method_of_files(file_names: Iterable[str]) -> tuple[str, Method] | None:
    """(key, format) of the tool that calls its files so; None when no name shows one."""
    lowered_names = [file_name.lower() for file_name in file_names]
    for method_key, method in FORMATS.items():
        if method.files and any(re.fullmatch(method.files, file_name) for file_name in lowered_names):
            return method_key, method
    return None


@functools.cache
def _tool_names() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((method_key, re.compile(method.names)) for method_key, method in FORMATS.items() if method.names)


@functools.cache
def _mark_patterns() -> tuple[re.Pattern[str], dict[str, str]]:
    """One expression for all marks, and the method of each."""
    methods = FORMATS | METHODS
    key_by_mark = {name_mark: method_key for method_key, method in methods.items() for name_mark in method.marks}
    dotted_pattern = "|".join(re.escape(name_mark[1:]) for name_mark in key_by_mark if name_mark.startswith("."))
    plain_pattern = "|".join(re.escape(name_mark) for name_mark in key_by_mark if not name_mark.startswith("."))
    return re.compile(rf"\.(?:{dotted_pattern})|{plain_pattern}"), key_by_mark
