"""`~` in every key that is a path, wherever it was written; what can be no path is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lorica.cli import main
from lorica.config.compose import compose
from lorica.config.fields import key_specs
from lorica.config.paths import local_path
from lorica.config.schema import Config
from lorica.errors import ConfigError

FILES = ("input", "train", "output", "run_dir", "data", "adapters.dir", "adapters.paths")
KEYS = (*FILES, "model.path", "model.cache_dir", "model.chat_template", "retrieval.dir", "retrieval.encoder",
        "adapt.canaries")  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, and a working folder beside it."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_every_key_that_is_a_path_is_marked() -> None:
    assert {key_spec.key for key_spec in key_specs().values() if key_spec.is_path} == set(KEYS)


def values(config: Config) -> dict[str, str]:
    data, paths = config.data.get("lit", ""), config.adapters.paths.get("lit", "")
    model = config.model
    found = (config.input, config.train, config.output, config.run_dir, data, config.adapters.dir, paths)
    retrieval = (config.retrieval.dir, config.retrieval.encoder, config.adapt.canaries)
    return dict(zip(KEYS, (*found, model.path, model.cache_dir, model.chat_template, *retrieval), strict=True))


def test_the_home_folder_wherever_a_path_is_written(home: Path) -> None:
    wanted = dict.fromkeys(KEYS, f"{home}/a b")
    entries = {key: f"{key}.lit" if key in ("data", "adapters.paths") else key for key in KEYS}
    line = [f"{entry}=~/a b" for entry in entries.values()]
    assert values(compose(line, environ={}).config) == wanted
    (home / "c.yaml").write_text("".join(f"{entry}: ~/a b\n" for key, entry in entries.items() if "." not in entry))
    more = "data: {lit: ~/a b}\nadapters: {dir: ~/a b, paths: {lit: ~/a b}}\n"
    more += "model: {path: ~/a b, cache_dir: ~/a b, chat_template: ~/a b}\nretrieval: {dir: ~/a b, encoder: ~/a b}\n"
    more += "adapt: {canaries: ~/a b}\n"
    (home / "c.yaml").write_text((home / "c.yaml").read_text() + more)
    assert values(compose(["config=~/c.yaml"], environ={}).config) == wanted
    environ = {
        "MODEL_NAME": "~/a b",
        "HF_CACHE_DIR": "~/a b",
        "ADAPTERS_BASE_DIR": "~/a b",
        "PEFT_ADAPTER_LIT": "~/a b",
        "RAG_KNOWLEDGE_BASE_DIR": "~/a b",
    }
    got = values(compose([], environ=environ).config)
    assert {key: got[key] for key in KEYS if key.startswith(("adapters", "model", "retrieval"))} == {
        key: {"model.chat_template": "auto", "retrieval.encoder": ""}.get(key, f"{home}/a b")
        for key in KEYS
        if key.startswith(("adapters", "model", "retrieval"))
    }
    both = compose(["run_dir=~/r", "output=${run_dir}/o.csv", "data={x:~/x}", "model.path=~"], environ={}).config
    assert (both.output, both.data, both.model.path) == (f"{home}/r/o.csv", {"x": f"{home}/x"}, str(home))
    assert compose(["model.path=~/models/mine"], environ={}).config.model.name == "mine"


@pytest.mark.parametrize("text", ["./~", "./~/a", "a~", "a/~", "$HOME/a", "embedded:lorica_tiny", "Qwen/Qwen3-4B", "-"])
def test_what_stays_as_it_stands(text: str, home: Path) -> None:
    assert local_path(text, "input") == text


def test_a_user_or_else_a_file_of_that_name(home: Path) -> None:
    assert local_path("~root/x", "input") == "/root/x"
    Path("~nobody here.csv").write_text("")
    assert local_path("~nobody here.csv", "input") == "~nobody here.csv"
    with pytest.raises(ConfigError, match=r"output: no home folder.*there is no user 'gone'(.|\n)*\./~gone/o\.csv"):
        local_path("~gone/o.csv", "output")


@pytest.mark.parametrize("value", ["", "somewhere"])
def test_a_home_that_is_none(value: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", value)
    with pytest.raises(ConfigError, match=r"no home folder is known for '~' in '~/a'(.|\n)*in full, or \./~/a"):
        local_path("~/a", "input")


def test_what_can_be_no_path(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"data\.x: 'file:///d/a\.csv' is an address(.|\n)*alone: /d/a\.csv"):
        compose(["data.x=file:///d/a.csv"], environ={})
    with pytest.raises(ConfigError, match=r"input: 's3://b/a\.csv' is an address"):
        compose(["input=s3://b/a.csv"], environ={})
    with pytest.raises(ConfigError, match=r"input: 'a\\ud800' cannot be the name of a file"):
        compose(["input=a\ud800"], environ={})
    assert main(["infer", f"input={__file__}", "output=a\0b.csv"]) == 1
    assert "a path holds a null character" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"environment variable ADAPTERS_BASE_DIR: adapters\.dir: "):
        compose([], environ={"ADAPTERS_BASE_DIR": "file:///a"})


def test_commands_take_the_home_folder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "rows.csv").write_text("id,body,rule,rule_violation\n1,Buy now,No ads,1\n2,Nice day,No ads,0\n")
    assert main(["infer", "engine=fake", "task=rules", "input=~/rows.csv", "output=~/out/o.csv"]) == 0
    assert main(["eval", "~/out/o.csv", "~/rows.csv", "task=rules"]) == 0
    assert main(["check", "--scores", "~/out/o.csv", "--gold=~/rows.csv"]) in (0, 10)
    (home / "adapter").mkdir()
    (home / "adapter" / "adapter_config.json").write_text("{}")
    assert main(["check", "~/adapter", "--html=~/check.html", "--csv=~/check.csv"]) == 11
    assert main(["check", "~/missing"]) == 12
    assert main(["diagnose", "~/adapter", "--html=~/why.html"]) == 0
    assert main(["passport", "~/adapter", "--check"]) in (11, 12)
    assert {entry.name for entry in home.iterdir()} >= {"out", "check.html", "check.csv", "why.html"}
    assert f"{home / 'missing'}: no such file" in capsys.readouterr().err
    assert not list(Path.cwd().iterdir()), "no folder called ~"


def test_a_folder_called_tilde_stays_reachable(home: Path) -> None:
    Path("~").mkdir()
    Path("~/rows.csv").write_text("id,body,rule\n1,Buy now,No ads\n")
    assert main(["infer", "engine=fake", "task=rules", "input=./~/rows.csv", "output=./~/o.jsonl"]) == 0
    assert json.loads(Path("~/o.jsonl").read_text())["id"] == "1"
    shutil.rmtree("~")
    assert not list(home.iterdir())
