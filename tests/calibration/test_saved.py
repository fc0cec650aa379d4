"""calibration.json: written, read back, and refused in every broken form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorica.adapters.passport import RowsFacts
from lorica.calibration.calibration_maps import CalibrationMap, IsotonicSteps, PlattScaling, TemperatureScaling
from lorica.calibration.figures import CalibrationFigures
from lorica.calibration.saved import (
    CALIBRATION_NAME,
    MAX_CALIBRATION_BYTES,
    LossChange,
    SavedCalibration,
    read_calibration,
    write_calibration,
)
from lorica.errors import AdapterError

DIGEST = "sha256:" + "0" * 64
FIGURES = CalibrationFigures(0.5, 0.2, 0.1)


PLATT = PlattScaling(1.5, -0.25)


def _saved(calibration_map: CalibrationMap = PLATT) -> SavedCalibration:
    return SavedCalibration(
        format=1,
        made_by="lorica",
        adapter=DIGEST,
        task="rules",
        calibration=calibration_map,
        rows=RowsFacts(rows=60, ids=DIGEST, content=DIGEST),
        before=FIGURES,
        after=FIGURES,
        change=LossChange(-0.1, -0.2, 0.0),
        folds=5,
        used_with={"style": "plain"},
    )


@pytest.mark.parametrize(
    "calibration_map",
    [PlattScaling(1.1, 0.1 + 0.2), IsotonicSteps((0.1, 0.3), (0.0, 1 / 3)), TemperatureScaling(2.5)],
)
def test_it_is_read_back_to_the_last_bit(calibration_map: CalibrationMap, tmp_path: Path) -> None:
    assert read_calibration(tmp_path) is None
    saved = _saved(calibration_map)
    write_calibration(tmp_path, saved)
    read = read_calibration(tmp_path)
    assert read == saved
    assert read is not None
    assert read.digest == saved.digest != _saved(TemperatureScaling(2.51)).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calibration": {"method": "platt", "slope": 1.6, "intercept": -0.25}}, "was edited"),
        ({"calibration": {"method": "temperature", "temperature": 2.0}}, "was edited"),
        ({"adapter": "sha256:" + "1" * 64}, "was edited"),
        ({"used_with": {}}, "was edited"),
        ({"folds": 6}, "was edited"),
        ({"digest": DIGEST}, "was edited"),
        ({"digest": 7}, "was edited"),
        ({"digest": None}, "carries no digest"),
    ],
)
def test_an_edited_one_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_calibration(tmp_path, _saved())
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AdapterError, match=message) as error:
        read_calibration(tmp_path)
    assert str(path) in str(error.value)
    assert "lorica calibrate" in error.value.fix


def test_another_layout_of_the_same_values_is_no_edit(tmp_path: Path) -> None:
    path = write_calibration(tmp_path, _saved())
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert read_calibration(tmp_path) == _saved()


def test_it_is_for_one_adapter_used_in_one_way() -> None:
    saved = _saved()
    assert saved.mismatches(DIGEST, {"task": "rules", "style": "plain", "base": "x"}) == []
    assert saved.mismatches("sha256:1", {"task": "mcq", "style": "structured"}) == [
        "it was fitted for other weights or another config",
        "it was fitted on answers with task 'rules', and is used with 'mcq'",
        "it was fitted on answers with style 'plain', and is used with 'structured'",
    ]


def _with(changes: dict[str, Any], **of_calibration: Any) -> bytes:
    values = {**json.loads(json.dumps(_plain())), **changes}
    values["calibration"] = of_calibration or values["calibration"]
    return json.dumps(values).encode()


def _plain() -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(_saved())
    return plain


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"[1]", "not an object"),
        (b"\x80\x04K\x01.", "pickle"),
        (b"{" + b" " * MAX_CALIBRATION_BYTES + b"}", "larger than"),
        (b'{"format": 1, "format": 1}', "twice"),
        (b'{"format": NaN}', "NaN"),
        (_with({"format": 2}), "install a newer Lorica"),
        (_with({"format": True}), "not a calibration"),
        (_with({"adapter": "sha256:12"}), "not a calibration"),
        (_with({"folds": 0}), "not a calibration"),
        (_with({}, method="magic"), "not a calibration"),
        (_with({}, method="platt", slope=-1.0, intercept=0.0), "turns the ranks"),
        (_with({}, method="platt", slope=0.0, intercept=0.0), "turns the ranks"),
        (_with({}, method="platt", slope="1", intercept=0.0), "not a calibration"),
        (_with({}, method="platt", slope=1.0).replace(b"1.0}", b'1e999, "intercept": 0.0}'), "finite"),
        (_with({}, method="temperature", temperature=0.0), "not a calibration"),
        (_with({}, method="temperature", temperature=-1.0), "not a calibration"),
        (_with({}, method="isotonic", scores=[], probabilities=[]), "not a calibration"),
        (_with({}, method="isotonic", scores=[0.1], probabilities=[0.1, 0.2]), "differ in number"),
        (_with({}, method="isotonic", scores=[0.2, 0.1], probabilities=[0.1, 0.2]), "must ascend"),
        (_with({}, method="isotonic", scores=[0.1, 0.2], probabilities=[0.3, 0.2]), "not descend"),
        (_with({}, method="isotonic", scores=[0.1, 2.0], probabilities=[0.1, 0.2]), "0 to 1"),
    ],
)
def test_a_broken_one_is_refused_with_its_place(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / CALIBRATION_NAME).write_bytes(content)
    with pytest.raises(AdapterError, match=message) as error:
        read_calibration(tmp_path)
    assert str(tmp_path / CALIBRATION_NAME) in str(error.value)
    assert error.value.fix
