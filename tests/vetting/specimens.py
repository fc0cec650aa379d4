"""Specimens for tests: of a folder on disk, and of a header and config made up in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorica.adapters.config import CONFIG_NAME, AdapterConfig, parse_adapter_config
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.header import DTYPE_BITS, Header, TensorInfo, read_header
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap, map_tensors
from lorica.adapters.tensor_names import PREFIX
from lorica.vetting.findings import Finding, FindingCode, finding_codes

# A base id that says nothing: no family, no size.
INTRO = "somebody/something"

Shapes = dict[str, tuple[int, ...]]


def pairs(
    kinds: Mapping[str, tuple[int, int]],
    layers: Sequence[int],
    *,
    rank: int = 4,
    container: str = "model.layers",
    prefix: str = PREFIX,
) -> Shapes:
    """Tensors of an adapter. kinds: "self_attn.q_proj" -> (inputs, outputs), in each of the layers."""
    found: Shapes = {}
    for layer in layers:
        for kind, (inputs, outputs) in kinds.items():
            path = f"{prefix}{container}.{layer}.{kind}"
            found[f"{path}.lora_A.weight"] = (rank, inputs)
            found[f"{path}.lora_B.weight"] = (outputs, rank)
    return found


def header(shapes: Mapping[str, Sequence[int]], dtypes: Mapping[str, str] | None = None) -> Header:
    """A header of these tensors, F32 unless `dtypes` says otherwise by name."""
    tensors, start = {}, 8
    for name, shape in shapes.items():
        dtype = (dtypes or {}).get(name, "F32")
        size = DTYPE_BITS[dtype] // 8
        for dimension in shape:
            size *= dimension
        tensors[name] = TensorInfo(dtype, tuple(shape), start, start + size)
        start += size
    return Header(tensors, {"format": "pt"})


def specimen(
    shapes: Mapping[str, Sequence[int]],
    values: Mapping[str, Any] | None = None,
    *,
    name: str = "adapter",
    card: str = "",
    documents: Mapping[str, Any] | None = None,
    files: Mapping[str, int] | None = None,
    dtypes: Mapping[str, str] | None = None,
) -> tuple[RawAdapter, TensorMap]:
    """An adapter that exists nowhere. values: what its config holds over a plain LoRA's; None there drops a key."""
    raw: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8}
    raw |= {"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": INTRO}
    raw = {key: value for key, value in (raw | dict(values or {})).items() if value is not None}
    config: AdapterConfig | None = None
    if raw.get("peft_type") == "LORA":
        config = parse_adapter_config(json.dumps(raw).encode())
    made = header(shapes, dtypes)
    found = RawAdapter(
        name=name,
        given=Path("adapters") / name,
        kind="folder",
        folder=Path("adapters") / name,
        weights=Path("adapters") / name / WEIGHTS_NAME,
        raw_config=raw,
        config=config,
        header=made,
        card=card,
        documents=dict(documents or {}),
        files=dict(files or {}),
    )
    return found, map_tensors(made)


def specimen_of(folder: Path) -> tuple[RawAdapter, TensorMap]:
    """The adapter in a folder, as far as structure and claims ask for it."""
    raw = (folder / CONFIG_NAME).read_bytes()
    card = folder / "README.md"
    found = RawAdapter(
        name=folder.name,
        given=folder,
        kind="folder",
        folder=folder,
        weights=folder / WEIGHTS_NAME,
        raw_config=json.loads(raw),
        config=parse_adapter_config(raw),
        header=read_header(folder / WEIGHTS_NAME),
        files={path.name: path.stat().st_size for path in folder.iterdir()},
        card=card.read_text("utf-8") if card.exists() else "",
    )
    assert found.header is not None
    return found, map_tensors(found.header)


def codes_between(first: str, last: str) -> dict[str, FindingCode]:
    """The rows of the table of findings from one code to another."""
    rows = {code: row for code, row in finding_codes().items() if first <= code <= last}
    assert rows
    return rows


def codes(findings: Sequence[Finding], *severities: str) -> list[str]:
    """Codes of the findings, of these severities if any are given."""
    return sorted(each.code for each in findings if not severities or each.severity in severities)
