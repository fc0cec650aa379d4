"""The machine and the versions of a run, as its record states them."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from importlib.util import find_spec

from lorica.data.digest import bytes_digest
from lorica.errors import ConfigError
from lorica.hardware import usable_cores
from lorica.runs.run_record import MachineFacts
from lorica.version import __version__

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scikit-learn")


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Package -> version, of those that are installed."""
    versions = {}
    for package_name in packages:
        try:
            versions[package_name] = metadata.version(package_name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def run_versions() -> dict[str, str]:
    """Versions of Lorica, Python and the packages that decide numbers."""
    return {"lorica": __version__, "python": platform.python_version(), **installed_versions(_PACKAGES)}


def machine_facts() -> MachineFacts:
    """This machine, and the threads and kernels that this process computes with. Without torch, which knows instruction
    sets, those are missing."""
    if find_spec("torch") is None:
        return _stated({"processor": platform.processor() or "unknown", "architecture": platform.machine()})
    import torch

    from lorica.hardware import this_machine
    from lorica.models.compiled import library

    hardware = asdict(this_machine())
    accelerator = hardware.pop("accelerator") or {}
    try:
        kernels = library.target()
    except ConfigError:  # of a command that computes with none
        kernels = ""
    facts = hardware | {
        "accelerator": accelerator.get("name", ""),
        "accelerator_memory_bytes": accelerator.get("memory_bytes", 0),
    }
    return _stated(facts, threads=torch.get_num_threads(), kernels=kernels)


def _stated(facts: dict[str, object], *, threads: int = 0, kernels: str = "") -> MachineFacts:
    facts = {"system": platform.system(), "cores": usable_cores(), "memory_bytes": 0, **facts}
    deciding = {name: value for name, value in facts.items() if name != "memory_bytes"}
    digest = bytes_digest(json.dumps(deciding, sort_keys=True).encode())
    return MachineFacts(**facts, digest=digest, threads=threads, kernels=kernels)  # type: ignore[arg-type]
