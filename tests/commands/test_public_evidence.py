"""`import lorica`: what turns answers into a decision, as the commands do it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

import lorica
from lorica.adapters.folder import open_adapter
from lorica.cli import main

ROWS = 120


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    lines = [f"{index},post {index},rule {index % 2},{int(index % 3 == 0)}\n" for index in range(ROWS)]
    path = tmp_path / "gold.csv"
    path.write_text("id,body,rule,rule_violation\n" + "".join(lines), "utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for number, shift in enumerate((0.3, 2.5)):
        noise = Random(number)
        scores = [1 / (1 + math.exp(-3 * (shift * (i % 3 == 0) - 1 + noise.gauss(0, 1)))) for i in range(ROWS)]
        paths.append(tmp_path / f"{'ab'[number]}.csv")
        paths[-1].write_text("id,score\n" + "".join(f"{i},{score}\n" for i, score in enumerate(scores)), "utf-8")
    return paths


def _command(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_comparing_gives_what_eval_gives(files: list[Path], gold: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_path = lorica.compare(files, gold, task="rules")
    said = _command(capsys, "eval", *files, gold, "task=rules")
    (pair,) = by_path.pairs
    assert isinstance(pair, lorica.PairComparison)
    assert (by_path.metric, pair.n, pair.better) == ("roc_auc", ROWS, str(files[1]))
    assert said["pairs"][0]["difference"]["value"] == pair.test.difference.value
    assert by_path.ranks == {str(files[1]): 1, str(files[0]): 2}
    named = lorica.compare({"first": files[0], "second": files[1]}, gold, task="rules")
    assert named.ranks == {"second": 1, "first": 2}
    with pytest.raises(AttributeError):
        named.metric = "f1"  # type: ignore[misc]


def test_blending_gives_what_ensemble_gives(
    files: list[Path], gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "python.csv", tmp_path / "command.csv"
    saved = tmp_path / "blend.json"
    result = lorica.blend(
        files, task="rules", gold=gold, weights=(0.25, 0.75), within="rule", output=outputs[0], save=saved
    )
    words = ("--gold", gold, "--weights", "0.25,0.75", "--within", "rule", "--output", outputs[1])
    said = _command(capsys, "ensemble", *files, *words, "task=rules")
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert result.estimates["the blend"].value == said["blend"]["value"]
    assert result.verdict == said["verdict"]
    applied = lorica.blend(files, task="rules", model=saved, output=tmp_path / "applied.csv")
    assert applied.method == "model"
    with pytest.raises(lorica.UsageError, match="a stack is fitted on rows with gold"):
        lorica.blend(files, task="rules", method="stack")


def test_calibrating_gives_what_the_command_gives(
    files: list[Path], gold: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = trained / "rules"
    try:
        assert lorica.calibrate(files[1], gold, adapter=adapter, task="rules").path is None, "no gain is shown"
        result = lorica.calibrate(files[1], gold, adapter=adapter, task="rules", save_anyway=True)
        words = ("--adapter", adapter, "--force", "--save-anyway", "task=rules")
        said = _command(capsys, "calibrate", files[1], gold, *words)
        assert (said["output"], said["calibration"]["method"]) == (str(result.path), result.calibration.method)
        assert said["after"]["log_loss"] == result.calibration.after.log_loss < result.calibration.before.log_loss
        with pytest.raises(lorica.AdapterError, match="replace=True"):
            lorica.calibrate(files[1], gold, adapter=adapter, task="rules")
    finally:
        (adapter / "calibration.json").unlink(missing_ok=True)


def test_averaging_writes_an_adapter(trained: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (twin / name).write_bytes((trained / "rules" / name).read_bytes())
    result = lorica.average([trained / "rules", twin], tmp_path / "mean", weights=[0.5, 0.5], rank=4)
    assert open_adapter(result.output).config.r == result.rank == 4
    assert result.error == pytest.approx(0, abs=1e-6)
    with pytest.raises(lorica.UsageError, match="holds an adapter already"):
        lorica.average([trained / "rules", twin], tmp_path / "mean")
    with pytest.raises(lorica.UsageError, match="named twice"):
        lorica.average([twin, twin], tmp_path / "other")


def test_the_doctor_looks_at_the_machine() -> None:
    report = lorica.doctor()
    assert report.versions["lorica"] == lorica.__version__
    assert report.kernels["targets"] is not None


api: Any = lorica  # wrong types are what is tried here


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: api.compare([a], a, task="rules"), "answers is .*allowed: two or more files"),
        (lambda a: api.compare({"x": a, "y": 5}, a, task="rules"), "answers is 5"),
        (lambda a: api.compare([a, a], None, task="rules"), "allowed: two or more|gold is None"),
        (lambda a: api.calibrate(a, a, adapter=None, task="rules"), "adapter is None"),
        (lambda a: api.calibrate(a, a, adapter=a, task="rules", method="plat"), "method is 'plat'.*did you mean"),
        (lambda a: api.calibrate(a, a, adapter=a, task="rules", replace="no"), "replace is 'no'"),
        (lambda a: api.blend([], task="rules"), r"answers is \[\]"),
        (lambda a: api.blend([a], task="rules", method="magic"), "method is 'magic'; allowed: rank"),
        (lambda a: api.blend([a], task="rules", power=math.nan), "power is nan"),
        (lambda a: api.blend([a, a], task="rules", weights=[0.5, 0.6]), "weights is"),
        (lambda a: api.average([a], "x", rank=-1), "rank is -1"),
        (lambda a: api.average([a, a], None), "output is None"),
        (lambda a: api.average([a, a], "x", weights="half"), "weights is 'half'"),
    ],
)
def test_mistaken_arguments_are_named_before_anything_is_read(
    call: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(lorica.ConfigError, match=f"(?s){message}"):
        call(tmp_path / "there_is_none")
