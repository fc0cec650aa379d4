"""`lorica frontier`: a search that keeps its deadline, loses nothing to a kill, and ends with commands that run."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import lorica
from lorica.cli import main
from lorica.commands import build
from lorica.commands.arguments import inform, resolve
from lorica.commands.frontier import _scored_points, parse_vary
from lorica.commands.frontier_grid import ADAPTERS, BASE_ALONE, Point, make_grid, point_overrides, resolve_point
from lorica.commands.frontier_search import (
    Measurement,
    PointMeter,
    PointStore,
    most_measurements,
    promising,
    rungs,
    search,
)
from lorica.commands.gold_file import read_gold
from lorica.commands.load_once import PipelineOpener
from lorica.config.schema import Config
from lorica.engines.base import Engine
from lorica.errors import LoricaError
from lorica.models.base_folder import BaseFolder
from lorica.pipeline.answer import Pipeline
from lorica.records import Row
from lorica.runs.run_clock import RunClock

ROOT = Path(__file__).resolve().parents[2]
ROWS = 90


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows with gold, in a folder that is the working one."""
    monkeypatch.chdir(tmp_path)
    lines = [f"{i},post {i},rule {i % 2},{int(i % 3 == 0)}" for i in range(ROWS)]
    (tmp_path / "rows.csv").write_text("row_id,body,rule,rule_violation\n" + "\n".join(lines) + "\n")
    return tmp_path / "rows.csv"


FAKE = ["task=rules", "engine=fake", "input=rows.csv", "run_dir=front"]
VARY = ["--vary", "inference.max_input_tokens=256,512,1024"]


def test_it_ends_with_the_command_of_each_point_on_the_front(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frontier", *FAKE, "minutes=1", *VARY, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["total_rows"], result["tried"]) == (ROWS, ROWS, 9)  # three styles by three lengths
    assert result["front"]
    assert {point["point"] for point in result["points"] if point["rank"] is not None} <= {
        point["point"] for point in result["front"]
    }
    for point in result["front"]:
        program, *words = shlex.split(point["command"])
        assert program == "lorica"
        assert main(words) == 0
        output = Path(words[-1].removeprefix("output="))
        scored = lorica.score(output).runs[0]
        assert scored.accuracy.value == point["accuracy"]["value"]  # the same answers, of all rows
    assert json.loads(Path("front/frontier.json").read_text())["front"] == result["front"]
    record = json.loads(Path("front/run.json").read_text())
    assert (record["command"], record["status"]) == ("frontier", "finished")


def test_its_text_names_what_was_tried(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frontier", *FAKE, "minutes=1", "--vary", "task.style=plain,poetic"]) == 0
    text = capsys.readouterr().out
    assert "lorica infer task=rules engine=fake input=rows.csv task.style=plain output=front/answers-1.csv" in text
    assert "style=poetic: cannot be: " in text


def test_what_loading_says_of_many_points_stands_in_the_log_once(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_pipeline = build.build_pipeline

    def telling(*arguments: Any, **options: Any) -> Pipeline:
        inform("this base is small")
        return build_pipeline(*arguments, **options)

    monkeypatch.setattr(build, "build_pipeline", telling)
    assert main(["frontier", *FAKE, "minutes=1", *VARY]) == 0
    assert Path("front/log.jsonl").read_text().count("this base is small") == 1


def test_from_python(rows: Path) -> None:
    result = lorica.frontier(
        rows,
        "front",
        task="rules",
        minutes=1,
        vary={"task.style": ["plain", "structured"]},
        settings={"engine": "fake"},
    )
    assert isinstance(result, lorica.FrontierResult)
    assert {point.name for point in result.points} == {"style=plain", "style=structured"}
    assert set(result.commands) == {point.name for point in result.front}


@pytest.mark.parametrize("setting", ["inference.max_input_tokens=256", "data.bad_rows=skip"])
def test_points_of_other_settings_are_not_believed(
    rows: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["frontier", *FAKE, "minutes=1", "--vary", "task.style=plain,structured"]
    assert main(words) == 0
    assert main([*words, "inference.resume=true"]) == 0
    capsys.readouterr()
    assert main([*words, setting, "inference.resume=true"]) == 6
    assert f"{setting.partition('=')[0]}: was " in capsys.readouterr().err
    Path("front/run.json").unlink()
    for resume in ([], ["inference.resume=true"]):
        assert main([*words, *resume]) == 3
        error = capsys.readouterr().err
        assert "front: holds a run of `lorica frontier`, and no run.json that says what it was given" in error
        assert "put run.json back as it was; or name another run_dir" in error


@pytest.mark.parametrize(("stop", "exit_code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_stopped_search_goes_on_where_it_was(
    rows: Path, capsys: pytest.CaptureFixture[str], stop: signal.Signals, exit_code: int
) -> None:
    command = [
        "frontier",
        *FAKE,
        "minutes=5",
        "--vary",
        "inference.max_input_tokens=" + ",".join(map(str, range(200, 220))),
        "--vary",
        "task.style=plain",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "lorica", *command]
    points = Path("front/points.jsonl")
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if points.exists() and points.read_bytes().count(b"\n") >= 3:
                break
            time.sleep(0.05)
        process.send_signal(stop)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == exit_code
    kept = points.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    count = kept.count(b"\n")
    assert 3 <= count < 20, "the search was over before it was stopped"
    if stop == signal.SIGINT:
        assert f"{count} points are kept in front; go on: lorica frontier" in messages
        assert "Traceback" not in messages
    points.write_bytes(kept + b'{"point":"half a li')
    assert main(command) == 6
    assert "inference.resume=true" in capsys.readouterr().err
    assert main([*command, "inference.resume=true", "--json"]) == 0
    assert points.read_bytes().startswith(kept)
    assert json.loads(capsys.readouterr().out)["tried"] == 20
    assert main([*command, "inference.resume=true", "--vary", "inference.max_new_tokens=3,4"]) == 6


def test_a_base_is_loaded_once_for_all_points_that_share_it(
    rows: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And answers as if it had been loaded for each: without the adapters and the batches of the point before."""
    loads: list[str] = []
    build_engine = build.build_engine

    def counted(config: Config, base: BaseFolder) -> Engine:
        loads.append(config.model.dtype)
        return build_engine(config, base)

    monkeypatch.setattr(build, "build_engine", counted)
    overrides = ["task=rules", "task.style=plain", "input=rows.csv", f"adapters.dir={trained}"]
    vary = {"model.dtype": ["float32", "int8"]}
    resolved = resolve(overrides)
    points = make_grid(resolved, build.base_folder(resolved.config), vary)
    assert {key for point in points for key, _ in point.settings} > {ADAPTERS, "inference.batch_tokens"}
    few = list(read_gold(resolved.config, rows, []).rows)[:4]
    meter, store, clock = PointMeter(overrides, few), PointStore(rows.parent), RunClock(rows.parent, limit=600)
    assert search(points, len(few), store, meter, clock, on_measured=lambda measured: None) == []
    assert store.problems == {}
    assert loads == ["float32", "int8"]
    for point in (points[-1], points[0]):
        config = resolve_point(overrides, point)
        folders = build.adapter_folders(config)
        fresh, reused = (opener.open(config, folders).answer(few) for opener in (PipelineOpener(), meter._opener))
        assert fresh == reused


class Meter:
    """Measures points by a table; a row takes `latency` seconds of a clock that only this moves."""

    def __init__(self, table: dict[str, tuple[float, float]], rows: int) -> None:
        self.table, self.rows, self.now = table, rows, 0.0
        self.calls: list[tuple[str, int]] = []

    def measure(self, point: Point, row_count: int, seconds_left: float) -> Measurement | None:
        accuracy, latency = self.table[point.name]
        if latency * row_count > seconds_left:
            return None
        self.now += latency * row_count
        self.calls.append((point.name, row_count))
        right = "1" * round(accuracy * row_count)
        return Measurement(point=point.name, right=right.ljust(row_count, "0"), seconds=(latency,) * row_count)


def searched(
    table: dict[str, tuple[float, float]], rows: int, seconds: float, folder: Path
) -> tuple[Meter, PointStore, Sequence[str]]:
    meter: Any = Meter(table, rows)
    clock = RunClock(folder, limit=seconds, now=lambda: meter.now)
    store = PointStore(folder)
    points = [Point((("task.style", name.partition("=")[2]),)) for name in table]
    unmeasured = search(points, rows, store, meter, clock, on_measured=lambda measured: None)
    return meter, store, unmeasured


def table_of(count: int) -> dict[str, tuple[float, float]]:
    return {f"style=p{i}": (0.5 + 0.4 * i / count, 0.01 * (1 + i % 5)) for i in range(count)}


@pytest.mark.parametrize("seconds", [1.0, 10.0, 60.0, 600.0])
def test_the_deadline_is_kept(seconds: float, tmp_path: Path) -> None:
    meter, store, unmeasured = searched(table_of(27), 720, seconds, tmp_path)
    assert meter.now <= seconds
    assert len(store.best) + len(unmeasured) == 27
    if seconds >= 60:
        assert not unmeasured or seconds < 600
        assert max(point.rows for point in store.best.values()) == 720


class SlowPipeline:
    """Answers after `row_seconds` each, of a clock that only this moves."""

    def __init__(self, row_seconds: float) -> None:
        self.now, self.row_seconds = 0.0, row_seconds

    def warm_up(self, rows: Sequence[Row]) -> None:
        self.now += self.row_seconds * len(rows)


@pytest.mark.parametrize("row_seconds", [30.0, 100.0])
def test_a_base_too_slow_for_the_deadline_is_given_up_after_a_row(
    row_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow: Any = SlowPipeline(row_seconds)
    monkeypatch.setattr("lorica.commands.frontier_search.time.perf_counter", lambda: slow.now)
    monkeypatch.setattr(PipelineOpener, "open", lambda self, config, folders: slow)
    meter = PointMeter(["engine=fake"], [Row(str(number), msgspec.Struct()) for number in range(40)])
    assert meter.measure(Point(()), 40, 60.0) is None
    assert slow.now == row_seconds


def test_halving_finds_the_front_in_less_time_than_all_rows_take(tmp_path: Path) -> None:
    table = table_of(27)
    whole = sum(latency * 720 for _, latency in table.values())
    _, store, _ = searched(table, 720, 0.6 * whole, tmp_path)
    front = {
        name
        for name, (accuracy, latency) in table.items()
        if not any(a >= accuracy and s <= latency and (a, s) != (accuracy, latency) for a, s in table.values())
    }
    assert front <= set(store.on_rows(720))


def test_the_point_on_most_rows_stays_among_those_on_fewer(tmp_path: Path) -> None:
    store = PointStore(tmp_path)
    for name, right in (("far", "110110"), ("a", "100"), ("b", "001")):
        store.add(Measurement(point=name, right=right, seconds=tuple(map(float, range(1, 1 + len(right))))))
    row_count, points = _scored_points(store, None)
    assert (row_count, {point.name for point in points}) == (3, {"far", "a", "b"})
    assert store.on_rows(3)["far"] == Measurement(point="far", right="110", seconds=(1.0, 2.0, 3.0))


def test_a_resumed_search_counts_the_time_before(tmp_path: Path) -> None:
    first, _, _ = searched(table_of(9), 90, 5.0, tmp_path)
    second, _, _ = searched(table_of(9), 90, 8.0, tmp_path)
    assert first.now + second.now <= 8.0
    assert RunClock(tmp_path, limit=8.0).used == pytest.approx(first.now + second.now, abs=1e-2)


def test_rungs_grow_by_three_and_end_with_all_rows() -> None:
    assert rungs(27, 720) == [(27, 26), (9, 80), (4, 240), (4, 720)]
    assert rungs(1, 1000) == [(1, 1000)]
    assert rungs(80, 30) == [(80, 30)]
    assert most_measurements(27, 720) == 27 + 9 + 4 + 27  # at last all points on all rows, where time is left
    assert most_measurements(80, 30) == 80


def test_the_front_is_promising_before_what_it_dominates() -> None:
    def measured(accuracy: float, latency: float) -> Measurement:
        right = "1" * round(10 * accuracy)
        return Measurement(point="", right=right.ljust(10, "0"), seconds=(latency,) * 10)

    order = promising(
        {"slow": measured(0.5, 3), "best": measured(0.9, 2), "fast": measured(0.4, 1), "bad": measured(0.3, 4)}
    )
    assert order == ["fast", "best", "slow", "bad"]


def test_the_base_alone_has_no_adapters() -> None:
    words = ["task=rules", "adapters.dir=runs", "minutes=2", "run_dir=x", "inference.resume=true", "output=o.csv"]
    point = Point(((ADAPTERS, BASE_ALONE), ("model.dtype", "int8")))
    assert point_overrides(words, point) == ["task=rules", "model.dtype=int8"]
    assert point_overrides(words, Point(((ADAPTERS, "a"),))) == ["task=rules", "adapters.dir=runs", "adapters.use=a"]
    assert point_overrides({"task": "rules", "minutes": 2.0}, point) == {"task": "rules", "model.dtype": "int8"}


@pytest.mark.parametrize(
    ("words", "problem", "code"),
    [
        (["minutes=0"], "minutes", 2),
        (["minutes=soon"], "minutes", 2),
        (["minute=2"], "minutes", 2),
        (["--vary", "model.dtype"], "--vary model.dtype; needed", 2),
        (["--vary", "model.dtype=int8,int8"], "different values", 2),
        (["--vary", "task.style=plain,structured", "task.style=plain"], "contradict each other", 2),
        (["--vary", "model.dtpye=int8,float32"], "did you mean model.dtype?", 2),
        (["--vary", "a.b=1,2"], "unknown configuration key 'a.b'", 2),
        (["--vary", "minutes=1,2"], "all points of a search share it", 2),
        (["--vary", "output=a.csv,b.csv"], "all points of a search share it", 2),
        (["--vary", "task=rules,mcq"], "all points of a search share it", 2),
        (["input=missing.csv"], "missing.csv", 3),
        (["input=unlabelled.csv"], "gold", 3),
        (["input=empty.csv"], "empty.csv", 3),
        (["adapters.dir=nowhere"], "nowhere", 4),
    ],
)
def test_what_cannot_be_searched(
    rows: Path, words: list[str], problem: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("unlabelled.csv").write_text("row_id,body,rule\n1,post,rule\n")
    Path("empty.csv").write_text("row_id,body,rule,rule_violation\n")
    assert main(["frontier", *FAKE, *words]) == code
    captured = capsys.readouterr()
    assert problem in captured.err
    assert "Traceback" not in captured.err


def test_a_point_that_may_not_answer_a_row_is_refused_before_anything_is_loaded(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loads(*arguments: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(PipelineOpener, "open", loads)
    few = [msgspec.structs.replace(row, subject="trees") for row in read_gold(resolve(FAKE).config, rows, []).rows[:9]]
    require = ["task=rules", "engine=fake", "adapters.calibration=require"]
    for overrides, problem in (
        (require, "adapters.calibration=require, and the base model alone answers 9 rows"),
        (["task=rules", "model=tfidf"], "model=tfidf answers nothing untrained, and 9 rows have no adapter"),
    ):
        measured = PointMeter(overrides, few).measure(Point(()), 4, 60.0)
        assert measured is not None
        assert problem in measured.problem


def test_a_key_twice_is_refused() -> None:
    assert parse_vary(["a=1,2"]) == {"a": ["1", "2"]}
    with pytest.raises(LoricaError, match="names a key twice"):
        parse_vary(["a=1,2", "a=3"])
