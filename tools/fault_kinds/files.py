"""Seen kinds of part 1 of vetting: files that are not safe, or not what their name says. Found from files alone."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.fault_kinds.bundle import CONFIG, WEIGHTS, data_start
from tools.fault_kinds.case import Case, Kind, Site

Header = dict[str, Any]


def _spoil(site: Site, change: Callable[[Path], None]) -> Case:
    bundle, base = site.start()
    folder = bundle.save(site.place / "adapter")
    change(folder)
    return Case(folder, base)


def _on_bytes(change: Callable[[Site, bytes], bytes]) -> Callable[[Site], Case]:
    def build(site: Site) -> Case:
        def spoil(folder: Path) -> None:
            path = folder / WEIGHTS
            path.write_bytes(change(site, path.read_bytes()))

        return _spoil(site, spoil)

    return build


def _on_header(change: Callable[[Site, Header], str | None]) -> Callable[[Site], Case]:
    """The header altered in place, or replaced by the text that `change` returns."""

    def spoilt(site: Site, raw: bytes) -> bytes:
        start = data_start(raw)
        header = json.loads(raw[8:start])
        text = (change(site, header) or json.dumps(header)).encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + raw[start:]

    return _on_bytes(spoilt)


def _any(site: Site, header: Header) -> str:
    return site.rng.choice(sorted(name for name in header if name != "__metadata__"))


def _beyond(site: Site, raw: bytes) -> bytes:
    return struct.pack("<Q", site.rng.choice([2**63 - 1, len(raw), 2**40])) + raw[8:]


def _truncated(site: Site, raw: bytes) -> bytes:
    return raw[: site.rng.randint(data_start(raw) + 10, len(raw) - 1)]


def _not_utf8(site: Site, raw: bytes) -> bytes:
    return raw[:20] + b"\xff\xfe" + raw[22:]


def _nested(site: Site, header: Header) -> str:
    deep = 5000 + site.seed
    return '{"__metadata__":' + '{"a":' * deep + "1" + "}" * deep + "}"


def _twice(site: Site, header: Header) -> str:
    name = _any(site, header)
    return json.dumps(header)[:-1] + f', "{name}": {json.dumps(header[name])}}}'


def _overlap(site: Site, header: Header) -> None:
    names = sorted((name for name in header if name != "__metadata__"), key=lambda one: header[one]["data_offsets"])
    start, stop = header[names[1]]["data_offsets"]
    header[names[1]]["data_offsets"] = [start - 64, stop - 64]


def _shape_overflow(site: Site, header: Header) -> None:
    header[_any(site, header)]["shape"] = [2**40, 2**40]


def _unknown_dtype(site: Site, header: Header) -> None:
    header[_any(site, header)]["dtype"] = site.rng.choice(["F12", "NF4", "float32", "Q4_K"])


def _odd_name(site: Site, header: Header) -> None:
    old = _any(site, header)
    new = site.rng.choice(["../../" + old, old.replace("lora", "lo\u001b[31mra"), old + "\u0000"])
    header[new] = header.pop(old)


def _pointer(site: Site, name: str) -> Case:
    def spoil(folder: Path) -> None:
        size = (folder / name).stat().st_size
        digest = f"{site.rng.getrandbits(256):064x}"
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
        (folder / name).write_text(text, "utf-8")

    return _spoil(site, spoil)


class _Call:
    """Pickles to a call of `print`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def _foreign(site: Site) -> Case:
    """Another format under the name of safetensors: pickle, zip (torch.save), 7z, GGUF, NumPy."""

    def spoil(folder: Path) -> None:
        path = folder / WEIGHTS
        raw = path.read_bytes()
        kind = site.seed % 5
        if kind == 0:
            path.write_bytes(pickle.dumps({"lora": _Call()}))
        elif kind == 1:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
                archive.writestr("archive/data/0", raw[-4096:])
        else:
            path.write_bytes(
                (b"7z\xbc\xaf\x27\x1c\x00\x04", b"GGUF\x03\x00\x00\x00", b"\x93NUMPY\x01\x00")[kind - 2] + raw
            )

    return _spoil(site, spoil)


def _only_bin(site: Site) -> Case:
    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / "adapter_model.bin").write_bytes(pickle.dumps({"lora": _Call() if site.seed % 2 else [1.0] * 500}))

    return _spoil(site, spoil)


def _link(site: Site) -> Case:
    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).rename(site.place / "outside.safetensors")
        target = Path("../outside.safetensors") if site.seed % 2 else Path("../gone.safetensors")
        (folder / WEIGHTS).symlink_to(target)

    return _spoil(site, spoil)


def _config_twice(site: Site) -> Case:
    def spoil(folder: Path) -> None:
        text = (folder / CONFIG).read_text("utf-8").rstrip()[:-1].rstrip()
        key, value = site.rng.choice([("r", "4"), ("lora_alpha", "512"), ("use_dora", "true")])
        (folder / CONFIG).write_text(f'{text},\n  "{key}": {value}\n}}\n', "utf-8")

    return _spoil(site, spoil)


def _config_cut(site: Site) -> Case:
    def spoil(folder: Path) -> None:
        text = (folder / CONFIG).read_text("utf-8")
        (folder / CONFIG).write_text(text[: site.rng.randint(20, len(text) - 20)], "utf-8")

    return _spoil(site, spoil)


def _no_config(site: Site) -> Case:
    return _spoil(site, lambda folder: (folder / CONFIG).unlink())


def _no_weights(site: Site) -> Case:
    return _spoil(site, lambda folder: (folder / WEIGHTS).unlink())


def _kind(name: str, truth: str, build: Callable[[Site], Case], *causes: str) -> Kind:
    return Kind(name, "files", truth, build, causes=frozenset(causes or ("unreadable",)))


# "unsupported" is right, too, where the file is whole and of another kind; "incomplete" where a file is missing.
KINDS = (
    _kind("empty", "the weights are an empty file", _on_bytes(lambda site, raw: b"")),
    _kind("short", "fewer than eight bytes", _on_bytes(lambda site, raw: raw[: site.seed + 1])),
    _kind("header-beyond-file", "the header's length is beyond the file", _on_bytes(_beyond)),
    _kind("truncated", "the weights are cut short", _on_bytes(_truncated)),
    _kind(
        "trailing-bytes", "bytes follow the last tensor", _on_bytes(lambda site, raw: raw + bytes(8 * site.seed + 8))
    ),
    _kind("header-not-utf8", "the header is not UTF-8", _on_bytes(_not_utf8)),
    _kind("header-nested", "the header is nested too deeply", _on_header(_nested)),
    _kind("header-twice", "a tensor stands in the header twice", _on_header(_twice)),
    _kind("overlap", "two tensors share bytes", _on_header(_overlap)),
    _kind("shape-overflow", "a shape beyond all memory", _on_header(_shape_overflow)),
    _kind("unknown-dtype", "an element type that does not exist", _on_header(_unknown_dtype)),
    _kind("odd-name", "a name that climbs or holds control characters", _on_header(_odd_name)),
    _kind("lfs-weights", "a Git LFS pointer for the weights", lambda site: _pointer(site, WEIGHTS)),
    _kind("lfs-config", "a Git LFS pointer for the config", lambda site: _pointer(site, CONFIG)),
    _kind("foreign-format", "another format under the name", _foreign, "unreadable", "unsupported"),
    _kind("pickle", "only adapter_model.bin is there", _only_bin, "unreadable", "unsupported"),
    _kind("link-outside", "the weights are a link out of the folder, or to nothing", _link),
    _kind("config-key-twice", "the config gives a key twice", _config_twice, "unreadable", "altered"),
    _kind("config-cut", "the config is cut short", _config_cut),
    _kind("no-config", "the config is missing", _no_config, "unreadable", "incomplete"),
    _kind("no-weights", "the weights are missing", _no_weights, "unreadable", "incomplete"),
)
