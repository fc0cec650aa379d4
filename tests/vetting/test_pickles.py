"""What a pickle would import is told without loading it: against pickletools, and on files that torch writes."""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorica.vetting.files import pickles
from lorica.vetting.files.pickles import HARMLESS, scan_pickle


class Evil:
    """Would run a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, ("exit 1",)


def scanned(tmp_path: Path, raw: bytes) -> Any:
    path = tmp_path / "x.bin"
    path.write_bytes(raw)
    return scan_pickle(path)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(protocol: int, tmp_path: Path) -> None:
    value = {
        "a": collections.OrderedDict(b=[1, 2.5, "text", b"bytes" * 2000, 2**70]),
        "evil": Evil(),
        "again": [Evil()],
    }
    raw = pickle.dumps(value, protocol)
    scan = scanned(tmp_path, raw)
    assert scan.complete
    assert scan.pickled
    assert scan.dangerous == (f"{os.system.__module__}.system",)
    named = {str(arg).replace(" ", ".") for op, arg, _ in pickletools.genops(raw) if op.name == "GLOBAL"}
    assert named <= set(scan.imports)
    assert "collections.OrderedDict" in scan.imports


def test_the_library_and_the_scan_agree_on_where_a_pickle_ends(tmp_path: Path) -> None:
    raw = pickle.dumps([{"k": (1, "x" * 300, -5, None)}] * 3, 4)
    assert scanned(tmp_path, raw).complete
    for cut in range(1, len(raw), 7):
        assert not scanned(tmp_path, raw[:cut]).complete


def test_two_imports_under_one_memo(tmp_path: Path) -> None:
    # \x94 memoises each text; h\x00h\x01 takes both back for STACK_GLOBAL (\x93).
    raw = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94K\x01K\x02K\x03h\x00h\x01\x93."
    assert scanned(tmp_path, raw).imports == ("posix.system",)


def test_an_import_that_hides_is_dangerous(tmp_path: Path) -> None:
    assert scanned(tmp_path, b"\x80\x04NN\x93.").dangerous == ("(hidden).(hidden)",)
    assert scanned(tmp_path, b"\x82\x05.").dangerous == ("copyreg extension 5",)


def test_what_is_beyond_the_limits_of_the_scan_is_not_called_scanned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = pickle.dumps(1, 2) + b"\x80\x02" + b"N0" * 200 + pickle.dumps(Evil(), 2)[2:]
    assert scanned(tmp_path, raw).dangerous
    monkeypatch.setattr(pickles, "MAX_OPCODES", 100)
    scan = scanned(tmp_path, raw)
    assert not scan.dangerous
    assert not scan.complete


@pytest.mark.parametrize("raw", [b"", b"no pickle", b"\x80\x04", b"\x80\x02X\xff\xff\xff\x7fabc", b"c" + b"x" * 10_000])
def test_what_is_no_pickle(raw: bytes, tmp_path: Path) -> None:
    scan = scanned(tmp_path, raw)
    assert not scan.pickled or not scan.complete
    assert scan.imports == ()


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_needs_nothing_dangerous(zipped: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = collections.OrderedDict(
        (str(dtype), torch.zeros(3, 2, dtype=dtype))
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8)
    )
    state["parameter"] = torch.nn.Parameter(torch.zeros(2))
    path = tmp_path / "x.bin"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    scan = scan_pickle(path)
    assert scan.complete
    assert scan.dangerous == ()
    assert "torch._utils._rebuild_tensor_v2" in scan.imports
    torch.save({**state, "evil": Evil()}, path, _use_new_zipfile_serialization=zipped)
    assert scan_pickle(path).dangerous == (f"{os.system.__module__}.system",)


def test_arrays_of_numpy_need_nothing_dangerous(tmp_path: Path) -> None:
    import numpy

    for protocol in range(2, 6):
        raw = pickle.dumps({"a": numpy.zeros((300, 300)), "b": numpy.float32(1)}, protocol)
        scan = scanned(tmp_path, raw)
        assert scan.complete
        # Protocol 5 names a buffer's rebuilder, which is not among what torch.save needs.
        assert set(scan.dangerous) <= {f"{core}.numeric._frombuffer" for core in ("numpy.core", "numpy._core")}


def test_a_damaged_zip_is_no_crash(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
    raw = made.getvalue()
    assert scanned(tmp_path, raw).dangerous
    for cut in range(4, len(raw), 5):
        assert not scanned(tmp_path, raw[:cut]).complete


def test_nothing_that_runs_code_is_harmless() -> None:
    for name in ("builtins.eval", "builtins.getattr", "os.system", "posix.system", "torch.load", "torch.hub.load"):
        assert name not in HARMLESS
