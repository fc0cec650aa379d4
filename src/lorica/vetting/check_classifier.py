"""Members that are models of their own, levels 0 to 2: is the folder whole, can it be opened, are there numbers?

An adapter of an encoder is an adapter like any other; this is for what full fine-tuning leaves, for TF-IDF and for
centroids.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from lorica.adapters.header import Header
from lorica.adapters.member import open_member
from lorica.adapters.raw_adapter import OWN_MODELS, RawAdapter
from lorica.adapters.tensor_map import map_tensors
from lorica.encoder_families import encoder_family
from lorica.errors import AdapterError
from lorica.vetting.findings import Finding, finding
from lorica.vetting.numbers.scan import TensorFacts, scan
from lorica.vetting.numbers.tensor_values import check_finite
from lorica.vetting.profile import CLASSIFIER, Profile
from lorica.vetting.wording import shown


def classifier_profile(specimen: RawAdapter) -> Profile:
    """Its line in a table."""
    raw_config = specimen.raw_config or {}
    return Profile(
        name=specimen.name,
        path=str(specimen.given),
        kind=specimen.kind,
        method=shown(specimen.engine_name) or CLASSIFIER,
        base=shown(raw_config.get("model_type", "")),
    ).with_tensors({} if specimen.header is None else specimen.header.tensors)


def check_opens(specimen: RawAdapter) -> list[Finding]:
    """Whether an engine could open it: head, labels and family, or the digests of its files."""
    try:
        open_member(specimen.folder)
    except AdapterError as error:
        message = error.message.removeprefix(f"{specimen.folder}: ")
        return [finding("L190", shown(message, 200), fix=error.fix, file=OWN_MODELS[specimen.kind][0])]
    return []


def check_values(specimen: RawAdapter, weights: Path, header: Header) -> list[Finding]:
    """Whether all its values are numbers, and what gives its answers was trained. Raises AdapterError for a file that
    cannot be read to its end."""
    tensor_facts = scan(weights, map_tensors(header), lambda *_: None)
    problems = [*check_finite(list(tensor_facts.values())), *_check_head(specimen, tensor_facts)]
    return [msgspec.structs.replace(problem, file=weights.name) for problem in problems]


def _check_head(specimen: RawAdapter, tensor_facts: Mapping[str, TensorFacts]) -> list[Finding]:
    """The rows of a head, the coefficients of TF-IDF: all of one value, they give every row the same answer."""
    family = encoder_family((specimen.raw_config or {}).get("model_type"))
    head = f".{family.logits}.weight" if family is not None else ".coefficients"
    constant = [tensor for name, tensor in tensor_facts.items() if f".{name}".endswith(head) and tensor.constant]
    values = (f"every value of {shown(tensor.name)} is {tensor.largest:.4g} in size" for tensor in constant)
    return [finding("L204", f"{text}: all rows get one answer", expected="trained weights") for text in values]
