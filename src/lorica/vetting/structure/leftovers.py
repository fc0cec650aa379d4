"""What a converter or a quantiser left beside the factors: packed numbers with their scales, and tensors of alpha."""

from __future__ import annotations

import math

from lorica.adapters.tensor_map import TensorMap
from lorica.adapters.tensor_names import PREFIX
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import shown, some

_PACKED = ("U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
# As kohya's trainers and their converters call a module's alpha.
_ALPHAS = ("alpha", "lora_alpha")


def check_leftovers(tensor_map: TensorMap) -> list[Finding]:
    """Findings about packed factors and about tensors of alpha, by names, types and shapes alone."""
    findings = []
    factors, packed = tensor_map.factors(), packed_factors(tensor_map)
    if packed:
        first_tensor = packed[0]
        beside = [tensor_name for tensor_name in tensor_map.tensors if tensor_name.startswith(f"{first_tensor}.")]
        info = factors[first_tensor]
        actual = f"{some(packed, len(factors), 'factors')}: {info.dtype} {list(info.shape)}"
        actual += f", with {shown(beside[0].removeprefix(first_tensor + '.'))} beside it" if beside else ""
        findings.append(finding("L144", actual, facts={"tensors": len(packed), "of": len(factors)}))
    alphas = list(alpha_tensors(tensor_map).values())
    if alphas:
        actual = some(alphas, len(tensor_map.tensors), "tensors")
        findings.append(finding("L145", actual))
    return findings


def packed_factors(tensor_map: TensorMap) -> list[str]:
    """LoraModule of whole numbers that a quantiser packed: what unpacks them lies beside them under their own names
    (bitsandbytes writes X.absmax, X.quant_map, X.quant_state...), or they are one column of bytes.

    Whole numbers in a factor's own shape are none: those were rounded.
    """
    integer_shapes = {
        tensor_name: info.shape for tensor_name, info in tensor_map.factors().items() if info.dtype in _PACKED
    }
    if not integer_shapes:
        return []
    tensor_stems = {_stem(tensor_name) for tensor_name in tensor_map.tensors}
    return [
        tensor_name
        for tensor_name, tensor_shape in integer_shapes.items()
        if tensor_name in tensor_stems or (len(tensor_shape) == 2 and tensor_shape[1] == 1 < tensor_shape[0])
    ]


def _stem(tensor_name: str) -> str:
    """ "x.lora_A.weight.quant_state.bitsandbytes__nf4" -> "x.lora_A.weight"; "" for a name without such an end."""
    stem_start, _, stem_end = tensor_name.partition(".weight.")
    return f"{stem_start}.weight" if stem_end else ""


def alpha_tensors(tensor_map: TensorMap) -> dict[str, str]:
    """Module -> its tensor of alpha: one number, kept beside the pair."""
    alphas = {}
    for tensor_name, info in tensor_map.tensors.items():
        module_path, _, parameter = tensor_name.removeprefix(PREFIX).rpartition(".")
        if parameter in _ALPHAS and module_path in tensor_map.modules and math.prod(info.shape) == 1:
            alphas[module_path] = tensor_name
    return alphas
