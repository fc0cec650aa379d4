"""Mistaken arguments from Python: each is a LoricaError that names the argument, before anything is read or written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lorica
from lorica.commands import arguments_of_api


class DataFrame:
    """As pandas' own, it gives the names of its columns, and is neither true nor false."""

    def __iter__(self) -> Iterator[str]:
        return iter(["id", "answer"])

    def __bool__(self) -> bool:
        raise ValueError("the truth value of a DataFrame is ambiguous")


api: Any = lorica  # wrong types are what is tried here
FRAME = DataFrame()
OUT = "never_written.csv"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: api.check([]), r"adapters is \[\]; allowed: a path or a list"),
        (lambda a: api.check(None), "adapters is None"),
        (lambda a: api.check(5), "adapters is 5"),
        (lambda a: api.check(b"folder"), "adapters is b'folder'"),
        (lambda a: api.check(""), "adapters is ''"),
        (lambda a: api.check("a\0b"), "adapters is 'a"),
        (lambda a: api.check({"rules": a}), "adapters is of type dict"),
        (lambda a: api.check([a, None]), "adapters is None"),
        (lambda a: api.check(a, level="2"), "level is '2'; allowed: a whole number, 0 to 4"),
        (lambda a: api.check(a, level=-1), "level is -1"),
        (lambda a: api.check(a, level=5), "level is 5"),
        (lambda a: api.check(a, level=True), "level is True"),
        (lambda a: api.check(a, level=2.5), "level is 2.5"),
        (lambda a: api.check(a, jobs="x"), "jobs is 'x'; allowed: a whole number, 0 or more"),
        (lambda a: api.check(a, jobs=-3), "jobs is -3"),
        (lambda a: api.check(a, deep="no"), "deep is 'no'; allowed: True or False"),
        (lambda a: api.check(a, base=""), "base is ''"),
        (lambda a: api.check(a, task=3), "task is 3"),
        (lambda a: api.check(a, settings=["engine"]), "settings is of type list"),
        (lambda a: api.diagnose(None), "adapter is None; allowed: a path"),
        (lambda a: api.diagnose(a, expected_bases=[7]), "expected_bases is 7"),
        (lambda a: api.diagnose(a, rows=a / "rows.csv", task="rules"), "no effect without a base or answers"),
        (lambda a: api.train(FRAME, OUT, task="rules"), "rows is of type DataFrame.*\n.*load_pipeline"),
        (lambda a: api.train({}, OUT, task="rules"), "rows is {}"),
        (lambda a: api.train({"law": None}, OUT, task="rules"), r"rows\['law'\] is None"),
        (lambda a: api.train(a, None, task="rules"), "run_dir is None"),
        (lambda a: api.train(a, OUT, task="rules", resume="no"), "resume is 'no'"),
        (lambda a: api.infer(FRAME, OUT, task="rules"), "rows is of type DataFrame.*\n.*load_pipeline"),
        (
            lambda a: api.infer("row_id,body\n" * 99, OUT, task="rules"),
            "rows is 'row_id,body.*allowed: the path of a file",
        ),
        (lambda a: api.infer(a, None, task="rules"), "output is None"),
        (lambda a: api.infer(a, OUT, task=None), "task is None; allowed: rules, mcq, saq or qa"),
        (lambda a: api.infer(a, OUT, task="rules", adapters=""), "adapters is ''"),
        (lambda a: api.infer(a, OUT, task="rules", adapters={}), "adapters is {}"),
        (lambda a: api.infer(a, OUT, task="rules", adapters={3: a}), "a name in adapters is 3"),
        (lambda a: api.infer(a, OUT, task="rules", adapters=[a]), "adapters is of type list"),
        (lambda a: api.infer(a, OUT, task="rules", settings={3: 4}), "a key of settings is 3"),
        (lambda a: api.evaluate(a, a, task=None), "task is None"),
        (lambda a: api.evaluate(None, a, task="rules"), "answers is None"),
        (lambda a: api.evaluate(FRAME, a, task="rules"), "answers.*\n.*columns id and answer"),
        (lambda a: api.evaluate([{"id": "1", "answer": "0"}], a, task="rules"), "answers is of type dict"),
        (lambda a: api.evaluate(a, None, task="rules"), "gold is None"),
        (lambda a: api.evaluate(a, a, task="rules", by=None), "by is None"),
        (lambda a: api.evaluate(a, a, task="rules", by=[1]), "by is 1; allowed: a column's name"),
        (lambda a: api.evaluate(a, a, task="rules", normalisation="squd"), "'squd'.*\n.*did you mean 'squad'"),
        (lambda a: api.evaluate(a, a, task="rules", normalisation=None), "normalisation is None"),
        (lambda a: api.load_pipeline(None), "task is None"),
        (lambda a: api.load_pipeline("rules", adapters=7), "adapters is 7"),
    ],
)
def test_a_mistaken_argument_is_named(
    call: Callable[[Path], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((lorica.ConfigError, lorica.UsageError), match=message):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_alone_is_a_list_of_one(tmp_path: Path) -> None:
    assert arguments_of_api.names("subreddit", "by") == ["subreddit"]
    assert arguments_of_api.base_names("embedded:lorica_tiny", "expected_bases") == ["embedded:lorica_tiny"]
    for paths in (tmp_path, iter([str(tmp_path)])):
        assert arguments_of_api.local_paths(paths, "adapters") == [tmp_path]
