"""`lorica runs` from the outside: filters, order, comparing, mirroring."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.runs.conftest import MakeRun

import lorica
from lorica.cli import main
from lorica.errors import UsageError
from lorica.runs.select_runs import parse_since

SECONDS_AGO = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()


@pytest.fixture
def three(make_run: MakeRun, tmp_path: Path) -> Path:
    """Runs a (r=8, 0.90), b (r=16, 0.80, failed, of yesterday) and c (train)."""
    make_run("a", 0.9)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    config = {
        "lora": {"r": 16, "target_modules": ["q_proj", "v_proj"]},
        "model": {"path": "models/Llama"},
        "engine": {"share_prefixes": False},
    }
    make_run("b", 0.8, status="failed", error="no memory", started=yesterday, config=config)
    make_run("c", 0.7, command="train", task="saq", started=SECONDS_AGO)
    return tmp_path


def _listed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["runs", *words, "--json"]) == 0
    return "".join(Path(run["run"]).name for run in json.loads(capsys.readouterr().out)["runs"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "bca"),
        (["--command", "eval"], "ba"),
        (["--command", "eval,train"], "bca"),
        (["--command", "eval", "--command", "train"], "bca"),
        (["--task", "saq"], "c"),
        (["--status", "failed"], "b"),
        (["--command", "judge"], ""),
        (["--since", "3h"], "ca"),
        (["--since", "2000-01-01"], "bca"),
        (["--since", "2999-01-01T00:00"], ""),
        (["--where", "lora.r=8"], "ca"),
        (["--where", "lora.r==8.0"], "ca"),
        (["--where", "lora.r!=8"], "b"),
        (["--where", "roc_auc>0.75"], "ba"),
        (["--where", "roc_auc >= 0.8", "--where", "lora.r<10"], "a"),
        (["--where", "model.path=*qwen*"], "ca"),
        (["--where", "model.path=models/llama"], "b"),
        (["--where", "engine.share_prefixes=true"], "ca"),
        (["--where", "machine.cores>=1"], "bca"),
        (["--where", "versions.lorica=0.*"], "bca"),
        (["--where", "started<2999"], "bca"),
        (["--where", "lora.target_modules=[q_proj,v_proj]"], "b"),
        (["--where", "lora.target_modules=*v_proj*"], "b"),
        (["--sort", "roc_auc"], "cba"),
        (["--sort", "roc_auc", "--descending"], "abc"),
        (["--sort", "run"], "abc"),
    ],
)
def test_filters_and_order(words: list[str], expected: str, three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _listed(capsys, str(three), *words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--where", "lora.rr=8"], "did you mean 'lora.r'?"),
        (["--where", "roc_acu>0.5"], "did you mean 'roc_auc'?"),
        (["--where", "lora.r"], "no condition"),
        (["--where", "=3"], "no condition"),
        (["--where", "roc_auc>high"], "roc_auc is a number"),
        (["--sort", "second"], "did you mean 'seconds'?"),
        (["--status", "finishd"], "did you mean 'finished'?"),
        (["--command", "evall,train"], "did you mean 'eval'?"),
        (["--task", "saqs"], "did you mean 'saq'?"),
        (["--since", "yesterday"], "2d, 3h, 30m ago"),
        (["--depth", "deep"], "--depth"),
        (["--depth", "-1"], "allowed: 0 or more"),
    ],
)
def test_what_cannot_be_meant_is_told(
    words: list[str], message: str, three: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(three), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_condition_on_nothing_found_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _listed(capsys, str(tmp_path), "--where", "lora.r=8") == ""


def test_since_takes_ages_and_times() -> None:
    now = datetime(2026, 11, 30, 12, tzinfo=UTC)
    assert parse_since("2d", now=now) == datetime(2026, 11, 28, 12, tzinfo=UTC)
    assert parse_since("30m", now=now) == datetime(2026, 11, 30, 11, 30, tzinfo=UTC)
    assert parse_since("2026-11-01T00:00+02:00", now=now) == datetime(2026, 10, 31, 22, tzinfo=UTC)
    assert parse_since("99999999999d", now=now) < now
    with pytest.raises(UsageError):
        parse_since("soon", now=now)


def test_the_table_says_what_was_measured_and_where(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(three), "--command", "eval"]) == 0
    table = capsys.readouterr().out
    assert "roc_auc 0.900 [0.850, 0.950]" in table
    assert "failed" in table
    assert "runs: 2; that do not match: 1" in table


def test_show_prints_the_whole_run(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("row_id,body,rule,rule_violation\n1,a,be kind,0\n2,b,be kind,1\n")
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={tmp_path / 'out.csv'}"]
    assert main([*command, "task.style=structured"]) == 0
    capsys.readouterr()
    assert main(["runs", "show", str(tmp_path / "out.csv"), "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "lorica infer engine=fake task=rules" in shown
    assert "task.style" in shown
    assert shown.count("same\n") == 3
    rows.write_text("changed")
    (tmp_path / "out.csv").unlink()
    assert main(["runs", "show", str(tmp_path / "out.csv.run"), "--verify", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["files_now"] == {
        str(rows): "changed",
        str(tmp_path / "out.csv"): "missing",
        str(tmp_path / "out.csv.run/timings.jsonl"): "same",
    }
    assert result["inputs"][0]["gold"] == 2
    assert result["config"]["task"]["style"] == "structured"


def _compared(capsys: pytest.CaptureFixture[str], *runs: Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["runs", "compare", *map(str, runs), "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_comparing_says_what_differs_first(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    a = make_run("a", 0.9, manifest={"template": "sha256:1", "output": "a.csv"})
    b = make_run(
        "b",
        0.8,
        config={"lora": {"r": 16}},
        versions={"lorica": "9"},
        manifest={"template": "sha256:2", "output": "b.csv"},
    )
    result = _compared(capsys, a, b)
    differing = {(difference["group"], difference["key"]): difference["values"] for difference in result["differences"]}
    assert differing["configuration", "lora.r"] == [8, 16]
    assert differing["configuration", "model.path"] == ["models/qwen3-0.6b", None]
    assert differing["versions", "lorica"][1] == "9"
    assert differing["computation", "template"] == ["sha256:1", "sha256:2"]
    assert ("computation", "output") not in differing
    assert differing["inputs", "answers"] == ["sha256:a (a.csv)", "sha256:b (b.csv)"]
    assert ("inputs", "gold") not in differing
    assert result["notes"] == []
    assert result["metrics"]["roc_auc"][1] == {"value": 0.8, "low": 0.75, "high": pytest.approx(0.85), "n": 40}
    assert result["commands"] == ["lorica eval a.csv b.csv gold.csv task=rules"]
    assert main(["runs", "compare", str(a), str(b)]) == 0
    text = capsys.readouterr().out
    assert text.index("what differs") < text.index("0.900 [0.850, 0.950]") < text.index("lorica eval a.csv")


def test_metrics_on_other_rows_and_machines_are_not_held_against_each_other(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    a = make_run("a")
    other_gold = [{"role": "answers", "path": "x", "digest": "s"}, {"role": "gold", "path": "g", "digest": "other"}]
    machine = json.loads((a / "run.json").read_text())["machine"] | {"digest": "sha256:1", "processor": "Abacus"}
    b = make_run("b", inputs=other_gold, machine=machine, status="interrupted")
    result = _compared(capsys, a, b)
    assert [note.split(":")[0] for note in result["notes"]] == [
        "The runs were measured on different rows",
        "The machines differ",
        f"{b} is interrupted",
    ]
    assert result["commands"] == []
    assert any(difference["key"] == "processor" for difference in result["differences"])
    c = make_run("c", command="train")
    assert "different commands" in _compared(capsys, a, c)["notes"][0]


def test_the_command_that_compares_answers_runs_as_it_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"r{row},text {row},be kind,{row % 2}" for row in range(12)]
    Path("my rows.csv").write_text("\n".join(["row_id,post,rule,rule_violation", *lines]) + "\n")
    command = ["infer", "engine=fake", "task=rules", "task.columns.body=post", "input=my rows.csv"]
    command += ["task.positive_labels=[yes,1]", "task.negative_labels=[no,0]"]
    for name, style in (("a", "plain"), ("b", "structured")):
        assert main([*command, f"output={name}.csv", f"task.style={style}"]) == 0
    (printed,) = _compared(capsys, Path("a.csv"), Path("b.csv"))["commands"]

    words = shlex.split(printed)
    assert words[:5] == ["lorica", "eval", "a.csv", "b.csv", "my rows.csv"]
    assert "task.columns.body=post" in words
    assert "task.positive_labels=[yes,1]" in words
    assert main(words[1:]) == 0
    assert "roc_auc" in capsys.readouterr().out
    monkeypatch.chdir("/")
    (printed,) = _compared(capsys, tmp_path / "a.csv", tmp_path / "b.csv")["commands"]
    assert shlex.split(printed)[2:4] == [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]


@pytest.mark.parametrize("words", [["compare"], ["compare", "RUN"], ["compare", "RUN", "RUN"], ["show"], ["mirror"]])
def test_subcommands_say_what_they_need(
    words: list[str], make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(make_run("a"))
    assert main(["runs", *(run if word == "RUN" else word for word in words)]) == 2
    assert "->" in capsys.readouterr().err


class _Trackio(ModuleType):
    """As much of trackio as is used: runs by project, each with its config and what was logged."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.projects: dict[str, dict[str, dict[str, Any]]] = {}
        self.open: dict[str, Any] | None = None

    def Api(self) -> SimpleNamespace:  # noqa: N802
        def runs(project: str) -> list[SimpleNamespace]:
            if project not in self.projects:
                raise ValueError(f"Project '{project}' does not exist")
            return [SimpleNamespace(name=name) for name in self.projects[project]]

        return SimpleNamespace(runs=runs)

    def init(self, *, project: str, name: str, config: dict[str, Any], **settings: object) -> None:
        if project.startswith("registry-"):
            raise ValueError("names beginning with 'registry-' are reserved")
        print("* Trackio says something on standard output")
        assert settings == {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        self.open = {"config": config, "logged": []}
        self.projects.setdefault(project, {})[name] = self.open

    def log(self, metrics: dict[str, float], step: int) -> None:
        assert self.open is not None
        self.open["logged"].append((step, metrics))

    def finish(self) -> None:
        self.open = None


def test_runs_are_mirrored_once(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trackio = _Trackio()
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    a, b = make_run("a"), make_run("b", 0.8)
    assert main(["runs", "mirror", "--trackio", "p", str(a), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["there_before"] == 0
    assert main(["runs", "mirror", "--trackio", "p", str(a), str(b)]) == 0
    assert "1 run copied to trackio's project p, 1 were there" in capsys.readouterr().out
    assert trackio.open is None
    stored = trackio.projects["p"]
    assert [name.split(" ")[0] for name in stored] == ["a", "b"]
    first = next(iter(stored.values()))
    assert first["config"]["lora.r"] == 8
    assert first["config"]["status"] == "finished"
    ((step, logged),) = first["logged"]
    assert (step, logged["roc_auc"], logged["roc_auc low"]) == (0, 0.9, 0.85)
    assert main(["runs", "mirror", "--trackio", "registry-x", str(a)]) == 2
    assert "reserved" in capsys.readouterr().err


def test_nothing_is_mirrored_to_a_server_or_without_the_package(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(make_run("a"))
    with monkeypatch.context() as patched:
        patched.setenv("TRACKIO_SPACE_ID", "me/space")
        assert main(["runs", "mirror", "--trackio", "p", run]) == 2
    assert "unset TRACKIO_SPACE_ID" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert main(["runs", "mirror", "--trackio", "p", run]) == 7
    assert "pip install 'lorica[trackio]'" in capsys.readouterr().err


def test_python_lists_and_loads_runs(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (three / "broken.run").mkdir()
    (three / "broken.run/run.json").write_text("{")
    runs = lorica.list_runs(three, commands="eval", where=["roc_auc>0.75"])
    assert [(run.path.name, run.status) for run in runs] == [("b", "failed"), ("a", "finished")]
    assert "broken.run cannot be read" in capsys.readouterr().err
    run = lorica.load_run(three / "a")
    assert run == runs[1]
    assert run.main_metric is not None
    assert (run.main_metric.value, run.main_metric.low, run.main_metric.n) == (0.9, 0.85, 40)
    assert run.record.config["lora"] == {"r": 8}
    assert len(lorica.list_runs([three / "a", three / "b"], statuses=["failed", "running"])) == 1
    with pytest.raises(UsageError, match="allowed: running, finished"):
        lorica.list_runs(three, statuses="done")
    with pytest.raises(lorica.DataError):
        lorica.load_run(three)
    with pytest.raises(lorica.LoricaError):
        lorica.list_runs(three / "nothing")
