"""A calibration beside its adapter: `calibration.json`. Reading one believes nothing of what stands in it.

The file carries a digest of its own values: an edited parameter would pass every check of its type and turn scores into
probabilities that no row has shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lorica.adapters.json_document import convert_document, read_document
from lorica.adapters.passport import Digest, RowsFacts
from lorica.calibration.calibration_maps import CalibrationMap, PlattScaling, method_name
from lorica.calibration.figures import CalibrationFigures
from lorica.data.digest import bytes_digest
from lorica.data.write import atomic_file
from lorica.errors import AdapterError

CALIBRATION_NAME = "calibration.json"
FORMAT: Literal[1] = 1
MAX_CALIBRATION_BYTES = 1024 * 1024
_AGAIN = "make it anew with `lorica calibrate ANSWERS GOLD --adapter DIR --force`"


class LossChange(msgspec.Struct, frozen=True):
    """The change of log-loss, in nats per row, with its 95% bootstrap interval; below 0 is better."""

    value: float
    low: float
    high: float


class SavedCalibration(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of calibration.json but its `digest`.

    adapter: digest of adapter_config.json and the weights that it was fitted for. task: whose scores. calibration: the
    method with its parameters, fitted on all `rows`. left_out: rows without an answer that could be read. trained_rows:
    how many of the rows the adapter was trained on, which is refused unless it was asked for. before, after, change:
    see `calibration.figures.CalibrationFit`; cross-fitted in `folds`. candidates: method -> cross-fitted log-loss, of
    those that could be fitted. used_with: method, style, template, tokenizer and base of the answers, where their
    record told.
    """

    format: Literal[1]
    made_by: str
    adapter: Digest
    task: str
    calibration: CalibrationMap
    rows: RowsFacts
    before: CalibrationFigures
    after: CalibrationFigures
    change: LossChange
    folds: Annotated[int, Meta(ge=2)]
    left_out: Annotated[int, Meta(ge=0)] = 0
    trained_rows: Annotated[int, Meta(ge=0)] = 0
    candidates: dict[str, float] = {}
    used_with: dict[str, str] = {}

    def __post_init__(self) -> None:
        if isinstance(self.calibration, PlattScaling) and self.calibration.slope <= 0:
            raise ValueError("a slope that does not rise turns the ranks of scores around")

    @property
    def method(self) -> str:
        """The name of its method."""
        return method_name(self.calibration)

    @property
    def digest(self) -> str:
        """sha256 of all that it says."""
        return bytes_digest(msgspec.json.encode(self, order="deterministic"))

    def mismatches(self, adapter_digest: str, used_with: Mapping[str, str]) -> list[str]:
        """Why it is not for this adapter as it is used: differences in words, empty where it is."""
        problems = [] if adapter_digest == self.adapter else ["it was fitted for other weights or another config"]
        problems += [
            f"it was fitted on answers with {name} {value!r}, and is used with {used_with[name]!r}"
            for name, value in {"task": self.task, **self.used_with}.items()
            if used_with.get(name, value) != value
        ]
        return problems


def to_calibration(values: Any) -> SavedCalibration:
    """Parsed JSON as a calibration. Raises AdapterError naming the first place that is wrong, and for values that are
    not those of its digest."""
    calibration = convert_document(values, SavedCalibration, title="calibration", format_number=FORMAT, fix=_AGAIN)
    stated_digest = values.get("digest")
    if stated_digest is None:
        raise AdapterError("carries no digest, so that nobody can tell whether it was edited", fix=_AGAIN)
    if stated_digest != calibration.digest:
        raise AdapterError("was edited: its digest is not that of its values", fix=_AGAIN)
    return calibration


def read_calibration(folder: Path) -> SavedCalibration | None:
    """The calibration in an adapter's folder; None when it has none. Raises AdapterError for a broken one."""
    return read_document(folder / CALIBRATION_NAME, MAX_CALIBRATION_BYTES, to_calibration, fix=_AGAIN)


def calibration_digests(folders: Mapping[str, Path]) -> dict[str, str]:
    """Adapter -> digest of the calibration in its folder, of those that have one. Raises AdapterError for a broken
    one."""
    found = {name: read_calibration(folder) for name, folder in folders.items()}
    return {name: calibration.digest for name, calibration in found.items() if calibration is not None}


def write_calibration(folder: Path, calibration: SavedCalibration) -> Path:
    """Write calibration.json, whole or not at all. Raises DataError where the place cannot be written."""
    path = folder / CALIBRATION_NAME
    with atomic_file(path) as calibration_file:
        values = {**msgspec.to_builtins(calibration), "digest": calibration.digest}
        calibration_file.write(msgspec.json.format(msgspec.json.encode(values)) + b"\n")
    return path
