"""A healthy adapter to spoil, and the codes that examining what became of it gives."""

from __future__ import annotations

from pathlib import Path

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import save_adapter
from lorica.adapters.raw_adapter import RawAdapter
from lorica.vetting.files.check_files import examine_files, opened
from lorica.vetting.files.sources import find_sources
from lorica.vetting.findings import Finding

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_Q = "base_model.model.model.layers.0.self_attn.q_proj."


def make_adapter(folder: Path, *, rank: int = 2) -> Path:
    """A healthy adapter of one module."""
    tensors = {
        f"{_Q}lora_A.weight": ("F32", (rank, 4), bytes(16 * rank)),
        f"{_Q}lora_B.weight": ("F32", (4, rank), bytes(16 * rank)),
    }
    save_adapter(folder, AdapterConfig(r=rank, lora_alpha=4, target_modules=["q_proj"]), tensors)
    return folder


def examine(place: Path) -> tuple[RawAdapter | None, list[Finding]]:
    """What one place gives, unpacked meanwhile if it is an archive."""
    (source,) = find_sources([place])
    with opened(source) as ready:
        return examine_files(ready)


def codes(findings: list[Finding], severity: str = "reject") -> list[str]:
    """The codes of one severity, sorted."""
    return sorted(each.code for each in findings if each.severity == severity)
