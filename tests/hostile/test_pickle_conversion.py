"""Pickles made to harm, and damaged ones: `lorica convert` refuses each by name, and nothing of it is run."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorica.adapters.convert import read_foreign, write_converted
from lorica.errors import AdapterError

SENTINEL = "/tmp/lorica-a-pickle-was-run"
COMMAND = f"touch {SENTINEL}".encode()
TEXT = b"X" + struct.pack("<I", len(COMMAND)) + COMMAND  # BINUNICODE
SYSTEM = b"cposix\nsystem\n"
ORDERED, FLOAT = b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def storage(key: str = "0", count: bytes = b"K\x04", kind: bytes = FLOAT) -> bytes:
    return b"(" + text("storage") + kind + text(key) + text("cpu") + count + b"tQ"


def tensor(
    offset: bytes = b"K\x00", shape: bytes = b"K\x04\x85", strides: bytes = b"K\x01\x85", hooks: bytes = b"N",
    held: bytes = b"", more: bytes = b"",
) -> bytes:  # fmt: skip
    return REBUILD + b"(" + (held or storage()) + offset + shape + strides + b"\x89" + hooks + more + b"tR"


def state(value: bytes) -> bytes:
    return b"\x80\x02}" + text("a") + value + b"s."


class Evil:
    """Would run a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (COMMAND.decode(),)


DEEP = 100_000
LONGS = struct.pack("<i", 2**31 - 1)
BIG = b"\x8a\x08" + struct.pack("<q", 2**62)
MANY = b"(" + b"K\x01" * 17 + b"t"
MINUS = b"J" + struct.pack("<i", -1)
# what it is -> (the pickle, what the refusal says)
PICKLES: dict[str, tuple[bytes, str]] = {
    "reduce": (b"\x80\x02" + SYSTEM + b"(" + TEXT + b"tR.", "posix.system"),
    "reduce, text protocol": (b"cposix\nsystem\n(Vtouch\ntR.", "posix.system"),
    "reduce without a call": (b"\x80\x02" + SYSTEM + b".", "posix.system"),
    "inst": (b"(Vtouch\niposix\nsystem\n.", "INST"),
    "obj": (b"(" + SYSTEM + TEXT + b"o.", "posix.system"),
    "obj of an allowed name": (b"(" + ORDERED + b"o.", "OBJ"),
    "newobj": (b"\x80\x02" + ORDERED + b")\x81.", "NEWOBJ"),
    "newobj_ex": (b"\x80\x04" + ORDERED + b")}\x92.", "NEWOBJ_EX"),
    "stack global": (b"\x80\x04" + text("os") + text("system") + b"\x93" + TEXT + b"\x85R.", "os.system"),
    "stack global that hides": (b"\x80\x04NN\x93.", "would import what it hides"),
    "an attribute of an allowed name": (
        b"\x80\x04" + text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93.",
        "__globals__",
    ),
    "getattr": (b"\x80\x04" + text("builtins") + text("getattr") + b"\x93.", "builtins.getattr"),
    "a loader of torch's": (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "_load_from_bytes"),
    "a name with spaces": (b"cos system\nx\n.", "would import"),
    "__reduce__": (pickle.dumps(Evil(), 2), "posix.system"),
    "__reduce__ within a tensor's dict": (pickle.dumps({"a": [Evil()]}, 4), "posix.system"),
    "build of a dict": (b"\x80\x02}}b.", "sets the state of a dict"),
    "build of a name": (b"\x80\x02" + ORDERED + b"}b.", "sets the state of a collections.OrderedDict"),
    "build with slots": (b"\x80\x02" + ORDERED + b")RN}\x86b.", "sets the state of"),
    "a call of a storage": (b"\x80\x02" + FLOAT + b")R.", "calls torch.FloatStorage"),
    "a call of a text": (b"\x80\x02" + TEXT + b")R.", "calls a str"),
    "a call with a list": (b"\x80\x02" + ORDERED + b"]R.", "with a list"),
    "an OrderedDict of no pairs": (b"\x80\x02" + ORDERED + b"]K\x01a\x85R.", "OrderedDict of something else"),
    "extension 1": (b"\x82\x01.", "EXT1"),
    "extension 2": (b"\x83\x01\x00.", "EXT2"),
    "extension 4": (b"\x84\x01\x00\x00\x00.", "EXT4"),
    "persistent id in a line": (b"Pstorage\n.", "PERSID"),
    "persistent id of a text": (b"\x80\x02" + TEXT + b"Q.", "persistent id"),
    "persistent id of a list": (b"\x80\x02]Q.", "persistent id"),
    "persistent id of another kind": (b"\x80\x02(" + text("module") + FLOAT * 4 + b"tQ.", "persistent id"),
    "persistent id with a view": (b"\x80\x02(" + text("storage") + FLOAT + TEXT + TEXT + b"K\x01K\x01tQ.", "persist"),
    "a storage of no number": (b"\x80\x02" + storage(count=TEXT) + b".", "persistent id"),
    "a storage of a huge number": (b"\x80\x02" + storage(count=BIG) + b".", "persistent id"),
    "a storage of another name": (b"\x80\x02" + storage(kind=ORDERED) + b".", "persistent id"),
    "one storage in two ways": (b"\x80\x02" + storage() + storage(count=b"K\x05") + b".", "in two ways"),
    "a tensor of a text": (state(tensor(held=TEXT)), "no storage of a known type"),
    "a negative stride": (state(tensor(strides=MINUS + b"\x85")), "strides"),
    "a negative size": (state(tensor(shape=MINUS + b"\x85")), "shape"),
    "a negative offset": (state(tensor(offset=MINUS)), "shape"),
    "a huge size": (state(tensor(shape=BIG + b"\x85")), "shape"),
    "a size beyond its storage": (state(tensor(shape=b"K\x05\x85")), "reaches beyond"),
    "an offset beyond its storage": (state(tensor(offset=b"K\x01")), "reaches beyond"),
    "a stride beyond its storage": (state(tensor(strides=b"K\x02\x85")), "reaches beyond"),
    "strides of another length": (state(tensor(strides=b"K\x01K\x01\x86")), "strides"),
    "too many dimensions": (state(tensor(shape=MANY, strides=MANY)), "shape"),
    "hooks": (state(tensor(hooks=b"}" + TEXT + TEXT + b"s")), "hooks"),
    "marks": (state(tensor(more=b"}" + text("neg") + b"\x88s")), "hooks or marks"),
    "too few arguments": (b"\x80\x02" + REBUILD + b")R.", "0 arguments"),
    "a parameter of a text": (b"\x80\x02ctorch._utils\n_rebuild_parameter\n" + TEXT + b"\x89N\x87R.", "parameter"),
    "a number of ten gigabytes": (b"\x80\x02\x8b" + LONGS + b"\x01" * 50 + b".", "no whole pickle"),
    "a number of a megabyte": (b"\x80\x02\x8b" + struct.pack("<i", 2**20) + b"\x01" * 2**20 + b".", "bits"),
    "a number of negative length": (b"\x80\x02\x8b" + struct.pack("<i", -5) + b".", "no whole pickle"),
    "a number of many digits": (b"L" + b"9" * 100_000 + b"L\n.", "no whole pickle"),
    "a text of an exabyte": (b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"abc.", "no whole pickle"),
    "bytes of an exabyte": (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.", "no whole pickle"),
    "a bytearray": (b"\x80\x05\x96" + struct.pack("<Q", 1) + b"a.", "BYTEARRAY8"),
    "a buffer from elsewhere": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "a memo beyond memory": (b"\x80\x02Nr\xff\xff\xff\xff0cposix\nsystem\n.", "posix.system"),
    "a negative memo": (b"Np-1\n.", "index"),
    "a memo of many digits": (b"Np" + b"9" * 4000 + b"\n.", "index"),
    "a memo that is empty": (b"\x80\x02h\x05.", "no whole pickle"),
    "many lists in each other": (b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b".", "list"),
    "many tuples in each other": (b"\x80\x02N" + b"\x85" * DEEP + b".", "tuple"),
    "a deep tuple as a key": (b"\x80\x02}N" + b"\x85" * DEEP + b"Ns.", "as key"),
    "many marks": (b"(" * DEEP + b".", "no whole pickle"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "list"),
    "a dict in itself": (b"\x80\x02}q\x00" + text("model") + b"h\x00s.", "model"),
    "a list that doubles": (b"\x80\x02]" + b"q\x00(h\x00h\x00e" * 200 + b".", "list"),
    "a key twice": (b"\x80\x02}(" + text("a") + b"N" + text("a") + b"Ne.".replace(b"e", b"u"), "twice"),
    "a key without a value": (b"\x80\x02}(Nu.", "no whole pickle"),
    "items of a list": (b"\x80\x02](NNu.", "sets items of a list"),
    "an item of a dict": (b"\x80\x02}Na.", "appends to a dict"),
    "an empty stack": (b"\x80\x02.", "no whole pickle"),
    "a stack below its mark": (b"\x80\x02N(R.", "no whole pickle"),
    "a mark that is missing": (b"\x80\x02Nt.", "no whole pickle"),
    "an opcode that is none": (b"\x80\x02\xff.", "no whole pickle"),
    "no end": (b"\x80\x02}", "no whole pickle"),
    "text that is no UTF-8": (b"\x80\x04\x8c\x01\xff.", "no whole pickle"),
    "a line without an end": (b"c" + b"x" * 10_000, "no whole pickle"),
}  # fmt: skip


def bare(folder: Path, raw: bytes) -> Path:
    path = folder / "adapter_model.bin"
    path.write_bytes(raw)
    return path


def zipped(folder: Path, raw: bytes, *, data: bytes = bytes(16), more: dict[str, bytes] | None = None) -> Path:
    path = folder / "adapter_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": raw, "byteorder": b"little", "data/0": data, **(more or {})}.items():
            archive.writestr(f"archive/{name}", content)
    return path


@pytest.fixture
def no_loader(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No reader of pickles may be called, and torch not be imported."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was loaded")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    torch = "torch" in sys.modules
    yield
    assert ("torch" in sys.modules) == torch


@pytest.fixture(autouse=True)
def nothing_runs() -> Iterator[None]:
    """No command of a pickle was run."""
    Path(SENTINEL).unlink(missing_ok=True)
    yield
    assert not Path(SENTINEL).exists()


def refusal(path: Path) -> str:
    """The one error, which is for people: one line, with the file, and what to do."""
    with pytest.raises(AdapterError) as caught:
        read_foreign(path, b"{}")
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 600
    return caught.value.message


@pytest.mark.usefixtures("no_loader")
@pytest.mark.parametrize("name", PICKLES)
def test_refused_by_name(name: str, tmp_path: Path) -> None:
    raw, said = PICKLES[name]
    assert said in refusal(zipped(tmp_path, raw))
    if not raw.startswith(b"\x80\x02}" + text("a")):  # an old file has a mark before its tensors
        assert said in refusal(bare(tmp_path, raw))


def test_the_sound_one_that_these_are_made_of(tmp_path: Path) -> None:
    conversion = read_foreign(zipped(tmp_path, state(tensor())), b"{}")
    assert conversion.tensors["a"].shape == (4,)
    assert write_converted(conversion, tmp_path / "out", {}) > 16


def test_work_that_is_named_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One list of pairs, from which an OrderedDict is made ten thousand times."""
    monkeypatch.setattr("lorica.adapters.opcodes.MAX_OPCODES", 60_000)
    pairs = b"](" + b"".join(text(str(n)) + b"N\x86" for n in range(2_000)) + b"eq\x00"
    raw = b"\x80\x02" + pairs + (b"0" + ORDERED + b"h\x00\x85R") * 10_000 + b"."
    assert "more than 60000 pairs" in refusal(zipped(tmp_path, raw))


def test_too_many_opcodes_and_too_long_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorica.adapters.opcodes.MAX_OPCODES", 1_000)
    assert "more than 1000 opcodes" in refusal(bare(tmp_path, b"\x80\x02" + b"N0" * 1_000 + b"N."))
    monkeypatch.setattr("lorica.adapters.torch_files.MAX_PICKLE_BYTES", 100)
    assert "allowed: 100" in refusal(zipped(tmp_path, state(tensor()) + bytes(100)))
    assert "no whole pickle" in refusal(bare(tmp_path, b"\x80\x02" + text("x" * 90) + b"0" + text("x" * 90) + b"."))


def _edited(folder: Path, edit: Callable[[bytearray], object]) -> Path:
    path = zipped(folder, state(tensor()))
    raw = bytearray(path.read_bytes())
    edit(raw)
    path.write_bytes(raw)
    return path


def _set(mark: bytes, offset: int, value: bytes, number: int = 0) -> Callable[[bytearray], None]:
    """Write into the header `number` that begins with `mark`."""

    def edit(raw: bytearray) -> None:
        at = -1
        for _ in range(number + 1):
            at = raw.find(mark, at + 1)
        raw[at + offset : at + offset + len(value)] = value

    return edit


CENTRAL = b"PK\x01\x02"
ARCHIVES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "encrypted": (lambda t: _edited(t, _set(CENTRAL, 8, b"\x01\x00")), "encrypted"),
    "compressed by its account": (lambda t: _edited(t, _set(CENTRAL, 10, b"\x08\x00")), "compressed"),
    "larger than it is": (lambda t: _edited(t, _set(CENTRAL, 20, struct.pack("<II", 2**30, 2**30))), "overlaps"),
    "sizes that differ": (lambda t: _edited(t, _set(CENTRAL, 24, struct.pack("<I", 2**30))), "compressed"),
    "two members in one place": (
        lambda t: _edited(t, _set(CENTRAL, 42, bytes(4), number=2)),
        "overlaps",
    ),
    "another name within": (lambda t: _edited(t, _set(b"PK\x03\x04", 30, b"x")), "damaged zip"),
    "a wrong checksum": (lambda t: _edited(t, _set(CENTRAL, 16, b"\x01")), "damaged zip"),
    "a list longer than any": (lambda t: _edited(t, _set(b"PK\x05\x06", 12, b"\xff\xff\xff\x7f")), "more members"),
    "no end": (lambda t: _edited(t, lambda raw: raw.__delitem__(slice(-30, None))), "damaged zip"),
    "no tensors' pickle": (lambda t: _only(t, "x.txt"), "no data.pkl"),
    "two of them": (lambda t: _only(t, "a/data.pkl", "b/data.pkl"), "no data.pkl"),
    "a program": (lambda t: zipped(t, state(tensor()), more={"code/x.py": b"import os"}), "TorchScript"),
    "a storage that is missing": (lambda t: zipped(t, state(tensor(held=storage("1")))), "1 is missing"),
    "a storage elsewhere": (lambda t: zipped(t, state(tensor(held=storage("../../x")))), "is missing"),
    "a storage of another size": (lambda t: zipped(t, state(tensor()), data=bytes(15)), "has 15 bytes, not 16"),
    "an odd order of bytes": (lambda t: zipped(t, state(tensor()), more={"byteorder": b"middle"}), "middle"),
    "a byte order bomb": (lambda t: zipped(t, state(tensor()), more={"byteorder": bytes(99)}), "allowed: 16"),
    "a name that no header may hold": (lambda t: zipped(t, b"\x80\x02}" + text("a\nb") + tensor() + b"s."), ""),
}  # fmt: skip


def _only(folder: Path, *names: str) -> Path:
    path = folder / "adapter_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"N.")
    return path


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_made_to_harm(name: str, tmp_path: Path) -> None:
    make, said = ARCHIVES[name]
    path = make(tmp_path)
    if said:
        assert said in refusal(path)
    else:
        with pytest.raises(AdapterError, match="control characters"):
            write_converted(read_foreign(path, b"{}"), tmp_path / "out", {})
        assert not (tmp_path / "out").exists()


def test_a_member_twice(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", state(tensor()))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("archive/data.pkl", b"N.")
    assert "twice" in refusal(path)


def _mutate(draw: random.Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(changed))
        kind = draw.randrange(5)
        if kind == 0:
            changed[at] = draw.randrange(256)
        elif kind == 1:
            del changed[at : at + draw.randint(1, 8)]
        elif kind == 2:
            changed[at:at] = draw.choice(
                (SYSTEM, b"R", b"(", b"b", b"\x81", b"\x93", b"Q", b"\x8b\xff\xff\xff\x7f", TEXT)
            )
        elif kind == 3:
            other = draw.randrange(len(changed))
            changed[at:at] = changed[other : other + draw.randint(1, 40)]
        else:
            del changed[max(at, 1) :]
        changed = changed or bytearray(b"N")
    return bytes(changed)


def _real() -> Any:
    torch = pytest.importorskip("torch")
    weight = torch.arange(24.0).reshape(4, 6)
    return {"a": weight, "b": weight.t().to(torch.bfloat16), "c": torch.nn.Parameter(weight[1:]), "d": weight.int()[0]}


@pytest.mark.parametrize("old", [False, True])
def test_mutated_files_are_refused_or_read_as_torch_does(
    old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 of either form: no crash, nothing run, and where both read a file they read the same."""
    torch = pytest.importorskip("torch")
    made = io.BytesIO()
    torch.save(_real(), made, _use_new_zipfile_serialization=not old)
    if not old:
        with zipfile.ZipFile(made) as archive:
            parts = {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}
    draw = random.Random(17 + old)
    refused = 0
    for number in range(300):
        folder = tmp_path / str(number)
        folder.mkdir()
        if old:
            path = bare(folder, _mutate(draw, made.getvalue()))
        else:
            pickled = _mutate(draw, parts["data.pkl"])
            others = {name: raw for name, raw in parts.items() if name not in ("data.pkl", "byteorder", "data/0")}
            path = zipped(folder, pickled, data=parts["data/0"], more=others)
        try:
            conversion = read_foreign(path, b"{}")
            write_converted(conversion, folder / "out", {})
        except AdapterError:
            refused += 1
        else:
            _compare(torch, path, folder / "out")
    assert refused > 200


def _compare(torch: Any, path: Path, output: Path) -> None:
    from safetensors.torch import load_file

    try:
        expected = torch.load(path, weights_only=True)
    except Exception:
        return  # torch refuses what we read: a key that it does not like, a location that it does not know
    found = load_file(output / "adapter_model.safetensors")
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name].nan_to_num(), value.detach().nan_to_num())
