"""Members that are models of their own, levels 0 to 2: is the folder whole, can it be opened, are there numbers?

An adapter of an encoder is an adapter like any other; this is for what full fine-tuning leaves, for TF-IDF and for
centroids.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lorica.adapters.arrays import READABLE, TensorReader
from lorica.adapters.header import Header
from lorica.adapters.member import open_member
from lorica.adapters.raw_adapter import OWN_MODELS, RawAdapter
from lorica.errors import AdapterError
from lorica.vetting.findings import Finding, finding
from lorica.vetting.profile import CLASSIFIER, Profile
from lorica.vetting.wording import shown, some


def classifier_profile(specimen: RawAdapter) -> Profile:
    """Its line in a table."""
    raw_config, tensors = specimen.raw_config or {}, {} if specimen.header is None else specimen.header.tensors
    return Profile(
        name=specimen.name,
        path=str(specimen.given),
        kind=specimen.kind,
        method=shown(raw_config.get("kind", "")) if specimen.kind == "member" else CLASSIFIER,
        base=shown(raw_config.get("model_type", "")),
        parameters=sum(math.prod(tensor_info.shape) for tensor_info in tensors.values()),
        bytes=max((tensor_info.stop for tensor_info in tensors.values()), default=0),
        dtypes=tuple(sorted({tensor_info.dtype for tensor_info in tensors.values()})),
    )


def check_opens(specimen: RawAdapter) -> list[Finding]:
    """Whether an engine could open it: head, labels and family, or the digests of its files."""
    try:
        open_member(specimen.folder)
    except AdapterError as error:
        message = error.message.removeprefix(f"{specimen.folder}: ")
        return [finding("L190", shown(message, 200), fix=error.fix, file=OWN_MODELS[specimen.kind][0])]
    return []


def check_values(weights: Path, header: Header) -> list[Finding]:
    """Whether all its values are numbers. Raises AdapterError for a file that cannot be read to its end."""
    broken = list(_not_finite(weights, header))
    nan_count, infinity_count = sum(nans for _, nans, _ in broken), sum(infinities for *_, infinities in broken)
    if not broken:
        return []
    names = some([name for name, *_ in broken], len(header.tensors), "tensors")
    return [
        finding(
            "L200",
            f"{nan_count} NaN and {infinity_count} infinite values in {names}",
            expected="finite values only",
            file=weights.name,
            facts={"nans": nan_count, "infinities": infinity_count, "tensors": len(broken)},
        )
    ]


def _not_finite(weights: Path, header: Header) -> Iterator[tuple[str, int, int]]:
    """(tensor, its NaN, its infinite values) of those that have any."""
    with TensorReader(weights) as reader:
        for name, tensor_info in header.tensors.items():
            if tensor_info.dtype not in READABLE:
                continue  # whole numbers, such as positions
            blocks = [(int(np.isnan(block).sum()), int(np.isinf(block).sum())) for block in reader.blocks(tensor_info)]
            nan_count, infinity_count = sum(nans for nans, _ in blocks), sum(infinities for _, infinities in blocks)
            if nan_count or infinity_count:
                yield name, nan_count, infinity_count
