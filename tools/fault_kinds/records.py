"""What an adapter made by Lorica has with it: its passport and the record of its training."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

from tools import zoo
from tools.fault_kinds.bundle import read_bundle

RECORDS = ("lorica.json", "training.json")


def add_records(info: zoo.AdapterInfo, folder: Path) -> None:
    """Copy an adapter's passport and record beside what was made of it; nothing where there is no folder."""
    if not folder.is_dir():
        return
    for name in RECORDS:
        found = _with_passport(info) / name
        if found.is_file() and not (folder / name).exists():
            shutil.copyfile(found, folder / name)


def _with_passport(info: zoo.AdapterInfo) -> Path:
    """A copy of a healthy adapter with a passport, made once."""
    from lorica.commands import passport

    place = zoo.root() / "faults" / "passports" / info.base / info.name
    if (place / "lorica.json").is_file():
        return place
    read_bundle(info.folder).save(place)
    shutil.copyfile(info.folder / "adapter_config.json", place / "adapter_config.json")
    shutil.copyfile(info.folder / "adapter_model.safetensors", place / "adapter_model.safetensors")
    if (info.folder / "training.json").is_file():
        shutil.copyfile(info.folder / "training.json", place / "training.json")
    with contextlib.redirect_stdout(io.StringIO()):
        passport.run([str(place), "--base", str(zoo.root() / "bases" / info.base), "task=rules"])
    return place
