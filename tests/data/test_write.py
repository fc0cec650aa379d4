"""Result files: read back equal in every format, whole or absent, the same bytes for the same answers."""

from __future__ import annotations

import csv
import errno
import gzip
import json
import math
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorica.data.answers import ANSWER_COLUMNS, CALIBRATION_COLUMNS, PASSAGE_COLUMNS
from lorica.data.write import atomic_file, check_output, read_answers, write_answers
from lorica.errors import DataError
from lorica.records import Answer, UsedPassage

OPTIONAL_COLUMNS = (*CALIBRATION_COLUMNS, *PASSAGE_COLUMNS)
SUFFIXES = [".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["", '"', '""', "=1+1", "-5", "- item", "+x", "@a", "\t", "\r", "a\rb", "a\r\nb", "\0", " ", "\n", "a,b", "null"]
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ANSWERS = st.lists(
    st.builds(
        Answer,
        id=TEXT.filter(lambda text: text.strip() != ""),
        answer=st.none() | TEXT,
        score=st.none() | FLOATS,
        scores=st.none() | st.dictionaries(TEXT, FLOATS, max_size=3),
        adapter=TEXT,
        route=TEXT,
        stage=TEXT,
        retries=st.integers(0, 9),
        dropped_tokens=st.integers(0, 10**6),
        flags=st.lists(st.sampled_from(["truncated", "retried", "invalid"]), unique=True).map(
            lambda f: tuple(sorted(f))
        ),
        raw=st.none() | TEXT,
        problem=st.none() | TEXT,
        choice_mass=st.none() | FLOATS,
        calibration=st.sampled_from(["", "platt"]),
        raw_score=st.none() | FLOATS,
        raw_scores=st.none() | st.dictionaries(TEXT, FLOATS, max_size=3),
        passages=st.none()
        | st.lists(st.builds(UsedPassage, TEXT, TEXT, FLOATS, TEXT, st.integers(0, 9)), max_size=2).map(tuple),
        dropped_passages=st.integers(0, 9),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda answer: answer.id,
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, deadline=None)
@given(answers=ANSWERS)
def test_answers_are_read_back_equal(
    suffix: str, answers: list[Answer], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"answers{suffix}"
    assert write_answers(path, answers, optional_columns=OPTIONAL_COLUMNS) == len(answers)
    assert list(read_answers(path)) == answers
    first = path.read_bytes()
    write_answers(path, answers, optional_columns=OPTIONAL_COLUMNS)
    assert path.read_bytes() == first


def test_csv_has_fixed_columns_and_guards_formulas(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_answers(
        path,
        [
            Answer(id="-1", answer="=HYPERLINK(1)", score=0.1, flags=("retried", "truncated")),
            Answer(id="2", answer="-5.5", scores={"A": 1.0}),
        ],
    )
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert (*rows[0], *OPTIONAL_COLUMNS) == ANSWER_COLUMNS
    assert rows[0] == [
        "id",
        "answer",
        "score",
        "scores",
        "adapter",
        "route",
        "stage",
        "retries",
        "dropped_tokens",
        "flags",
        "raw",
        "problem",
        "choice_mass",
    ]
    assert rows[1] == ["-1", '"=HYPERLINK(1)"', "0.1", "", "", "", "", "0", "0", "retried truncated", *[""] * 3]
    assert rows[2][:4] == ["2", "-5.5", "", '{"A": 1.0}']


VERBATIM = [
    "-3", "-1/2", "-x+3", "-3 °C", "+5%", "- item", "=3", "@home", "=2x+1", "-sin(x)", "+1 (555) 0100", "-|x|",
    "- item (a)", '"Yes," he said', '"', "@user (on X)", '"Hamlet"', '"a \\"b\\""', "a,b", " x ", "line\nline",
]  # fmt: skip
RUN_BY_SPREADSHEETS = [
    '=HYPERLINK("http://x")', "=cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(1)", "\t=HYPERLINK(1)",
    "+HYPERLINK(1)", '=IMPORTXML(CONCAT("http://x"),1)',
]  # fmt: skip


@pytest.mark.parametrize("guard", [True, False])
def test_answers_are_cells_as_they_are_but_for_what_a_spreadsheet_would_run(guard: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    texts = VERBATIM + RUN_BY_SPREADSHEETS
    write_answers(path, [Answer(id=str(number), answer=text) for number, text in enumerate(texts)], csv_guard=guard)
    assert [answer.answer for answer in read_answers(path)] == texts
    with path.open(encoding="utf-8", newline="") as file:
        cells = [row["answer"] for row in csv.DictReader(file)]
    assert cells[: len(VERBATIM)] == VERBATIM
    shown = RUN_BY_SPREADSHEETS if not guard else [json.dumps(text, ensure_ascii=False) for text in RUN_BY_SPREADSHEETS]
    assert cells[len(VERBATIM) :] == shown


def test_a_text_that_reads_like_a_guarded_one_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    guarded = [json.dumps(text) for text in ("", "=HYPERLINK(1)", "-1/2", "a\rb", '"Hamlet"')]
    texts = guarded + [json.dumps(text) for text in guarded]
    write_answers(path, [Answer(id=str(number), answer=text) for number, text in enumerate(texts)])
    assert [answer.answer for answer in read_answers(path)] == texts


def test_cells_that_earlier_versions_guarded_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    texts = ["-1/2", "+5%", "@home", "\t1", '"Hamlet"', '" he said', "a\rb", "", " =3"]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "answer"), *((n, json.dumps(text)) for n, text in enumerate(texts))])
    assert [answer.answer for answer in read_answers(path)] == texts


def test_a_cell_of_another_program_that_begins_with_a_quote_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,answer\n1,"""x"\n', "utf-8")
    assert next(iter(read_answers(path))).answer == '"x'


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_from_before_the_mass_of_choices_are_read(suffix: str, tmp_path: Path) -> None:
    """As they were written without the column; in JSON lines it is left out where it is not known."""
    path, whole = tmp_path / f"old{suffix}", tmp_path / f"new{suffix}"
    answers = [Answer(id="1", answer="Yes", score=0.75, scores={"Yes": 0.75, "No": 0.25}), Answer(id="2", raw="text")]
    write_answers(whole, answers)
    if suffix.startswith(".jsonl"):
        path.write_bytes(whole.read_bytes())
    elif suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(parquet.read_table(whole).drop_columns(["choice_mass"]), path)
    else:
        opened = gzip.open if suffix.endswith(".gz") else open
        with opened(whole, "rt", encoding="utf-8", newline="") as file:
            rows = [row[:-1] for row in csv.reader(file)]
        with opened(path, "wt", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    assert list(read_answers(path)) == answers


def test_unknown_suffix_names_what_is_allowed(tmp_path: Path) -> None:
    for name in ("a.txt", "a.json", "a.ndjson", "a.tsv", "a.parquet.gz", "a"):
        with pytest.raises(DataError, match=r"use one of .jsonl, .csv \(each also with .gz\) or .parquet"):
            write_answers(tmp_path / name, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("bad", "part"),
    [
        (Answer(id="b", score=math.nan), "not a finite number"),
        (Answer(id="b", scores={"A": math.inf}), "not a finite number"),
        (Answer(id="b", choice_mass=math.nan), "not a finite number"),
        (Answer(id="b", flags=("two words",)), "not one word"),
    ],
)
def test_an_answer_that_cannot_be_written_leaves_the_old_file(
    suffix: str, bad: Answer, part: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    write_answers(path, [Answer(id="a")])
    before = path.read_bytes()
    with pytest.raises(DataError, match=rf"\(row 'b'\): this answer cannot be written: .*{part}"):
        write_answers(path, [Answer(id="c"), bad])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.csv", "id,scor\n1,0.5\n", r"a.csv:1: 'scor' is no column.*\n.*did you mean 'score'"),
        (
            "a.csv",
            "id,rule_violation\n1,0.5\n",
            r"'rule_violation' is no column.*\n.*to 'score' if it holds the scores",
        ),
        ("a.csv", "answer\nx\n", r"a.csv:1: no column 'id'"),
        ("a.csv", "id,score\n1,0.5\n2,high\n", r"a.csv:3 \(row '2'\): the column 'score' holds 'high'"),
        ("a.csv", "id,score\n1,nan\n", r"a.csv:2 \(row '1'\): a score is not a finite number\n.*finite numbers"),
        ("a.csv", "id,score\n", "no answers"),
        ("a.csv", 'id,scores\n1,"{""Yes"":0.2,""Yes"":0.8}"\n', "the key 'Yes' appears twice"),
        ("a.csv", "id,retries\n1,1.5\n", "the column 'retries' holds '1.5'"),
        ("a.jsonl", "{\n", r"not a JSON object.*\n  -> each line must hold one whole object.*\.json\Z"),
        ("a.csv", "id,score\n1,0.5\n1,0.5\n", r"a.csv:3 \(row '1'\): the id was already used on line 2"),
        ("a.jsonl", '{"id": "1", "score": "0.5"}\n', r"a.jsonl:1 \(row '1'\): Expected `float \| null`"),
        ("a.jsonl", '{"id": "1"}\n{"id": "2", "sore": 1}\n', r"a.jsonl:2: 'sore' is no column"),
        ("a.jsonl", '{"id": 1.5}\n', "the id 1.5 is a float"),
    ],
)
def test_malformed_result_files(name: str, content: str, part: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=part):
        list(read_answers(tmp_path / name))


def test_answers_of_other_programs_need_only_an_id(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,score,retries\n007,1,1.0\n8,,\n")
    assert list(read_answers(tmp_path / "a.csv")) == [Answer(id="007", score=1.0, retries=1), Answer(id="8")]


def test_atomic_file_makes_the_folder_and_follows_links(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    link = tmp_path / "link.bin"
    link.symlink_to(target)
    with atomic_file(link) as file:
        file.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert link.is_symlink()
    with pytest.raises(DataError, match="a folder, not a file"), atomic_file(tmp_path):
        pass


def test_a_place_that_can_be_written_is_probed_without_a_trace(tmp_path: Path) -> None:
    check_output(tmp_path / "a.jsonl")
    check_output(tmp_path / "not" / "yet" / "there" / "a.csv.gz")
    (tmp_path / "b.csv").write_text("old")
    check_output(tmp_path / "b.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["b.csv"]
    assert (tmp_path / "b.csv").read_text() == "old"


def test_a_place_that_cannot_be_written_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for place, part in (
        (tmp_path / "plain" / "a.csv", "cannot be written"),
        (tmp_path / "plain" / "deeper" / "a.csv", "cannot be written"),
        (tmp_path / ("x" * 250 + ".csv"), "File name too long"),
        (tmp_path / ("x" * 300) / "a.csv", "File name too long"),
        (tmp_path / "folder.csv", "a folder, not a file"),
    ):
        with pytest.raises(DataError, match=part):
            check_output(place)

    def denied(self: Path, *_: object) -> None:  # the superuser of a test machine may write anywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match=r"a\.csv: cannot be written \(Permission denied\)\n  -> choose another place"):
        check_output(tmp_path / "a.csv")


def test_a_result_file_in_a_read_only_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_answers(tmp_path / "a.jsonl", [Answer(id="1")])
    monkeypatch.setattr("secrets.token_hex", lambda _: pytest.fail("reading tried to write"))
    assert list(read_answers(tmp_path / "a.jsonl")) == [Answer(id="1")]


def test_atomic_file_failing_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_file(tmp_path / "f") as file:
            file.write(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=r"No space left.*\n  -> free some space"), atomic_file(tmp_path / "f"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(DataError, match="choose another place"), atomic_file(tmp_path / "plain" / "f"):
        pass


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writing_streams(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorica.data.write._ROW_GROUP", 500)

    def answers(count: int) -> Iterator[Answer]:
        return (Answer(id=f"row-{i}", answer=f"an answer of some length, number {i} " * 4) for i in range(count))

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            write_answers(tmp_path / f"a{suffix}", answers(count))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    assert peak(10_000) - peak(1_000) < 300_000  # the texts alone are 1.4 MB
    assert sum(1 for _ in read_answers(tmp_path / f"a{suffix}")) == 1_000
