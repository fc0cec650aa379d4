"""Archives made to harm: each refused by its own code, nothing written outside, nothing left behind."""

from __future__ import annotations

import errno
import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hostile.folders import CONFIG, WEIGHTS, codes, examine, make_adapter

from lorica.errors import AdapterError
from lorica.vetting.files import unpack
from lorica.vetting.files.check_files import opened
from lorica.vetting.files.sources import find_sources


def make_zip(path: Path, folder: Path, *, inner: str = "a/", more: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, inner + file.name)
        for name, raw in (more or {}).items():
            archive.writestr(name, raw)
    return path


def make_tar(path: Path, folder: Path, mode: str = "w:gz", *, more: list[tarfile.TarInfo] | None = None) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, "a")
        for info in more or []:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def _encrypted(path: Path) -> Path:
    """Set the bit that says so in both records of every member."""
    raw = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = raw.find(mark)
        while at >= 0:
            raw[at + offset] |= 1
            at = raw.find(mark, at + 4)
    path.write_bytes(raw)
    return path


def _linked(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder / CONFIG, CONFIG)
        info = zipfile.ZipInfo(WEIGHTS)
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return path


def _bomb(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / CONFIG, CONFIG)
        with archive.open(WEIGHTS, "w") as file:
            for _ in range(70):
                file.write(bytes(1 << 20))
    return path


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-40])
    return path


def _long_pax(path: Path) -> Path:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        archive.addfile(member("x", b"x", size=200_000), io.BytesIO(b"1" * 200_000))
    path.write_bytes(raw.getvalue())
    return path


def _negative(path: Path) -> Path:
    """A member whose size leads back to its own header."""
    header = bytearray(member("a/" + CONFIG).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + struct.pack(">h", -512)
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    path.write_bytes(bytes(header) * 3 + bytes(1024))
    return path


Make = Callable[[Path, Path], Path]
CASES: dict[str, tuple[Make, list[str]]] = {
    "zip that climbs": (lambda t, f: make_zip(t / "x.zip", f, more={"../evil": b"x"}), ["L083"]),
    "zip with an absolute name": (lambda t, f: make_zip(t / "x.zip", f, more={"/evil": b"x"}), ["L083"]),
    "zip with a drive": (lambda t, f: make_zip(t / "x.zip", f, more={"C:evil": b"x"}), ["L083"]),
    "zip with backslashes": (lambda t, f: make_zip(t / "x.zip", f, more={"a\\..\\evil": b"x"}), ["L083"]),
    "tar that climbs": (lambda t, f: make_tar(t / "x.tgz", f, more=[member("a/../../evil")]), ["L083"]),
    "tar with an absolute name": (lambda t, f: make_tar(t / "x.tgz", f, more=[member("/evil")]), ["L083"]),
    "tar with a device": (lambda t, f: make_tar(t / "x.tgz", f, more=[member("a/d", tarfile.CHRTYPE)]), ["L085"]),
    "tar with a pipe": (lambda t, f: make_tar(t / "x.tgz", f, more=[member("a/p", tarfile.FIFOTYPE)]), ["L085"]),
    "tar with links for files": (
        lambda t, f: make_tar(t / "x.tgz", f, more=[member("a/adapter_model.bin", tarfile.SYMTYPE, "/etc/passwd")]),
        ["L084"],
    ),
    "zip with a link for weights": (lambda t, f: _linked(t / "x.zip", f), ["L003", "L084"]),
    "encrypted": (lambda t, f: _encrypted(make_zip(t / "x.zip", f)), ["L086"]),
    "bomb": (lambda t, f: _bomb(t / "x.zip", f), ["L082"]),
    "tar bomb": (lambda t, f: make_tar(t / "x.tgz", f, more=[member("a/z", size=70 << 20)]), ["L082"]),
    "cut zip": (lambda t, f: _cut(make_zip(t / "x.zip", f)), ["L080"]),
    "cut tar": (lambda t, f: _cut(make_tar(t / "x.tgz", f)), ["L080"]),
    "no archive": (lambda t, f: _text(t / "x.zip"), ["L080"]),
    "endless header": (lambda t, f: _long_pax(t / "x.tar"), ["L082"]),
    "negative size": (lambda t, f: _negative(t / "x.tar"), ["L080"]),
    "several adapters in a packed tar": (lambda t, f: _several(t / "x.tgz", f), ["L088"]),
    "a file twice": (lambda t, f: make_zip(t / "x.zip", f, inner="", more={f"./{CONFIG}": b"{}"}), ["L089"]),
    "empty": (lambda t, f: make_zip(t / "x.zip", t / "void"), ["L001"]),
}  # fmt: skip


def _text(path: Path) -> Path:
    path.write_text("not an archive at all, though its name says so")
    return path


def _several(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "a")
        archive.add(folder, "b")
    return path


@pytest.mark.parametrize("case", CASES)
def test_archives_made_to_harm(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, expected = CASES[case]
    (tmp_path / "void").mkdir()
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(private))
    archive = make(tmp_path, make_adapter(tmp_path / "adapter"))
    before = sorted(tmp_path.rglob("*"))
    _, findings = examine(archive)
    assert codes(findings) == expected
    assert sorted(tmp_path.rglob("*")) == before  # nothing outside, nothing left
    assert not any(each.name == "evil" for each in tmp_path.parent.iterdir())


def test_a_full_disk_is_no_fault_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(unpack, "copy_members", full)
    (source,) = find_sources([make_zip(tmp_path / "a.zip", make_adapter(tmp_path / "a"))])
    with pytest.raises(AdapterError, match="No space left") as caught, opened(source):
        pass
    assert "TMPDIR" in caught.value.fix


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorica.vetting.files.archives.MAX_MEMBERS", 3)
    folder = make_adapter(tmp_path / "adapter")
    more = {f"a/{number}.txt": b"" for number in range(5)}
    assert codes(examine(make_zip(tmp_path / "x.zip", folder, more=more))[1]) == ["L081"]
    tar = make_tar(tmp_path / "x.tgz", folder, more=[member(name) for name in more])
    assert codes(examine(tar)[1]) == ["L081"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_a_healthy_archive_is_read_and_removed(mode: str, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    (folder / "weights.zip").write_bytes(b"PK\x03\x04")
    (folder / "optimizer.pt").write_bytes(b"x" * 1000)
    archive = make_zip(tmp_path / "x.zip", folder) if mode == "zip" else make_tar(tmp_path / "x.tar", folder, mode)
    (source,) = find_sources([archive])
    with opened(source) as ready:
        from lorica.vetting.files.check_files import examine_files

        specimen, findings = examine_files(ready)
        assert specimen is not None
        assert specimen.weights is not None
        assert specimen.weights.read_bytes() == (folder / WEIGHTS).read_bytes()
        assert os.stat(specimen.folder).st_mode & 0o077 == 0
        assert not (specimen.folder / "optimizer.pt").exists()
        assert specimen.files["optimizer.pt"] == 1000
    assert not specimen.folder.exists()
    assert [(each.code, each.severity) for each in findings] == [("L087", "note")]
    assert (specimen.kind, specimen.name) == ("archive", archive.name)
