"""Mutated headers, configs, archives and pickles by a seed, and what the reading of adapters (L0) makes of them."""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import struct
import tarfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors import deserialize as _deserialize

from lorica.adapters.config import AdapterConfig, parse_adapter_config
from lorica.adapters.header import header_bytes
from lorica.errors import LoricaError
from lorica.vetting.files.check_files import examine_files
from lorica.vetting.files.sources import find_sources
from lorica.vetting.findings import finding_codes

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MODULE = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"
TOKENS = [
    b"\0", b" ", b"{", b"}", b"[", b"]", b",", b":", b'"', b"-", b".", b"0", b"1", b"9", b"e", b"\\", b"\\u0000",
    b"\\ud800", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\n", b"\t", b"null", b"true", b"NaN",
    b"Infinity", b"-Infinity", b"1e999", b"-0", b"0.0", b'"a":', b"18446744073709551615", b"9223372036854775808",
    b"F64", b"[]", b"{}", b"..", b"/", b"\xe2\x80\xae", b"\xf0\x9f\x92\xa9", b"\x1b[31m", b"__metadata__", b"1" * 5000,
    b'"lora_alpha":1,', b'"dtype":"F16",', b"/* */", b"// x", b"'",
]  # fmt: skip
ODD: list[Any] = [
    None, True, False, -1, 0, 1, 2, 8, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, 0.5, 1e308, -0.0, "",
    "LORA", "F32", "F4", "(a+)+$", "..", "\x1b[2J", "\u202e", "x" * 300, [], {}, [[]], [1, "a"], {"q_proj": 2},
    {"(a|b)*": 3}, ["q_proj"],
]  # fmt: skip


def healthy() -> tuple[bytes, bytes]:
    """(weights, config) of a small adapter."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer in range(2):
        for kind in ("q_proj", "v_proj"):
            shapes[MODULE.format(layer, kind, "A")] = ("F32", (2, 4))
            shapes[MODULE.format(layer, kind, "B")] = ("BF16", (4, 2))
    head, _ = header_bytes(shapes, {"format": "pt"})
    config = AdapterConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    return head + bytes(range(192)), config.to_json()


def _bytes_edited(rng: random.Random, raw: bytes) -> bytes:
    """A few flips, cuts, splices, repeats and inserted tokens."""
    data = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        place, length = rng.randint(0, len(data)), rng.choice((0, 0, 1, 1, 2, 8, 40))
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place : place + length] = rng.choice(TOKENS)
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            start = rng.randint(0, len(data))
            data[place:place] = data[start : start + rng.choice((5, 50, 200))]
        elif kind == 4:
            del data[place:]
        else:
            data[place:place] = rng.randbytes(rng.choice((1, 4, 30)))
    return bytes(data)


def _value_edited(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """The same JSON value with something in it exchanged, removed, doubled or nested."""
    if rng.random() < (0.15 if depth else 0.05):
        odd = rng.choice(ODD)
        for _ in range(rng.choice((0, 0, 0, 1, 30, 300))):
            odd = [odd] if rng.random() < 0.5 else {"a": odd}
        return odd
    if isinstance(value, dict) and value:
        chosen = rng.choice(sorted(value))
        changed = {key: _value_edited(rng, each, depth + 1) if key == chosen else each for key, each in value.items()}
        if rng.random() < 0.1:
            del changed[chosen]
        if rng.random() < 0.2:
            changed[
                rng.choice((chosen + "x", "", "..", "a\x00", "auto_map", "auto_mapping", "\u202eb", "x" * 3000))
            ] = value[chosen] if rng.random() < 0.5 else rng.choice(ODD)
        return changed
    if isinstance(value, list) and value:
        place = rng.randrange(len(value))
        return [*value[:place], _value_edited(rng, value[place], depth + 1), *value[place + rng.randint(0, 1) :]]
    if isinstance(value, int) and rng.random() < 0.6:
        return value + rng.choice((-8, -4, -1, 1, 2, 4, 8, 2**32, 2**62))
    return rng.choice(ODD)


def _text_of(rng: random.Random, value: Any) -> bytes:
    """The JSON text, now and then with a key twice, in other letters or padded."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.15 and text.startswith(b"{") and len(text) > 2:
        text = b"{" + text[1:-1] + b"," + text[1:]
    if rng.random() < 0.1:
        text = rng.choice((b" ", b"\n", b"\xef\xbb\xbf", b"")) + text + rng.choice((b" " * 9, b"\0", b"\n", b"{}"))
    return text


def _grammar(rng: random.Random, depth: int = 0) -> str:
    """Random text that is nearly JSON."""
    kind = rng.randrange(7 if depth < 6 else 4)
    if kind == 0:
        return rng.choice(("null", "true", "-1", "1e5", "NaN", "0", "007", "99999999999999999999", "+1", ".5"))
    if kind in (1, 2):
        return json.dumps(rng.choice(("a", "dtype", "shape", "data_offsets", "__metadata__", "F32", "r", "peft_type")))
    if kind == 3:
        return "[" + ",".join(str(rng.randint(-1, 20)) for _ in range(rng.randint(0, 3))) + "]"
    inner = [_grammar(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    if kind == 4:
        return "[" + ",".join(inner) + rng.choice(("]", "]", ",]", ""))
    keys = ('"a"', '"dtype"', '"shape"', '"data_offsets"', '"__metadata__"', '"r"', "a", '"peft_type"')
    return "{" + ",".join(f"{rng.choice(keys)}:{each}" for each in inner) + rng.choice(("}", "}", ",}", ""))


def _header(rng: random.Random, weights: bytes) -> bytes:
    (length,) = struct.unpack("<Q", weights[:8])
    text, body = weights[8 : 8 + length], weights[8 + length :]
    kind = rng.randrange(8)
    if kind == 0:
        return _bytes_edited(rng, weights)
    if kind == 1:
        lengths = (0, 1, 7, length - 1, length + 1, length + 8, len(weights), 2**24, 2**31, 2**63, 2**64 - 1)
        return struct.pack("<Q", rng.choice(lengths)) + text + body
    if kind == 2:
        text = _grammar(rng).encode()
    elif kind == 3:
        text = _bytes_edited(rng, text)
    else:
        value = json.loads(text)
        for _ in range(rng.randint(1, 2)):
            value = _value_edited(rng, value)
        text = _text_of(rng, value)
    if rng.random() < 0.3:
        body = body[: rng.randint(0, len(body))] + rng.randbytes(rng.choice((0, 0, 1, 8)))
    return struct.pack("<Q", len(text)) + text + body


def _config(rng: random.Random, config: bytes) -> bytes:
    kind = rng.randrange(5)
    if kind == 0:
        return _bytes_edited(rng, config)
    if kind == 1:
        return _grammar(rng).encode()
    value = json.loads(config)
    for _ in range(rng.randint(1, 3)):
        value = _value_edited(rng, value)
    return _text_of(rng, value)


def heavy() -> Iterator[tuple[str, bytes]]:
    """Files at the caps: what costs a reader the most for its size."""
    entry = '"{}":{{"dtype":"F32","shape":[1,1],"data_offsets":[{},{}]}}'
    most = 16 * 1024 * 1024 - 64
    texts: list[Callable[[], str]] = [
        lambda: "{" + ",".join(entry.format(f"model.layers.{n}.q", 4 * n, 4 * n + 4) for n in range(100_000)) + "}",
        lambda: "{" + ",".join(entry.format(n, 4 * n, 4 * n + 4) for n in range(100_001)) + "}",
        lambda: '{"a":{"dtype":"F32","shape":[' + "1," * 999_000 + "1]}}",
        lambda: '{"a":[' + "[]," * 290_000 + "[]]}",
        lambda: '{"a":[' + "{}," * 290_000 + "{}]}",
        lambda: "[" * most,
        lambda: '{"a":' * 250_000,
        lambda: '{"' + '\\"' * 7_000_000 + '":1}',
        lambda: "{" + " " * most,
        lambda: '{"__metadata__":{"x":"' + "y" * (most - 99) + '"}}',
        lambda: '{"__metadata__":{"x":"' + "\\u0041" * 2_700_000 + '"}}',
        lambda: '{"__metadata__":{' + ",".join(f'"{n}":""' for n in range(290_000)) + "}}",
        lambda: "{" + ",".join('"a":1' for _ in range(500_000)) + "}",
        lambda: '{"a":' + "9" * 10_000_000 + "}",
    ]
    for text in texts:
        raw = text().encode()
        yield "header", struct.pack("<Q", len(raw)) + raw + bytes(400_000)
        yield "config", raw[: 4 * 1024 * 1024]
        yield "config", raw[:1_000_000] + b"]" * 10


def cases(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """(what it stands for: "header", "config", "zip", "tar" or "pickle"; its bytes). A tenth more are no JSON."""
    rng = random.Random(seed)
    weights, config = healthy()
    archives = {"zip": _zip(weights, config), "tar": _tar(weights, config)}
    pickle = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x01\x00\x00\x00aq\x02ctorch\nSize\nq\x03K\x01\x85Ru."
    for number in range(count):
        yield ("header", _header(rng, weights)) if number % 2 else ("config", _config(rng, config))
        if number % 10 == 0:
            kind = rng.choice(("zip", "tar", "pickle"))
            yield kind, _bytes_edited(rng, archives.get(kind, pickle))


def _zip(weights: bytes, config: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"a/{WEIGHTS}", weights)
        archive.writestr(f"a/{CONFIG}", config)
    return made.getvalue()


def _tar(weights: bytes, config: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, raw in ((WEIGHTS, weights), (CONFIG, config)):
            info = tarfile.TarInfo(f"a/{'x' * 120}/{name}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return made.getvalue()[: 10 * 512]


class Bench:
    """Runs cases in a folder of its own and counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.slowest = (0.0, "")
        self.peak = 0.0
        self.weights, self.config = healthy()
        (folder / "adapter").mkdir()

    def run(self, kind: str, raw: bytes) -> None:
        """Examine one case."""
        place = self._write(kind, raw)
        forget_peak()
        start, busy = time.perf_counter(), time.process_time()
        try:
            examined = [examine_files(source) for source in find_sources([place])]
        except Exception:
            traceback.print_exc()
            self.counts["crashes"] += 1
            return
        specimen, findings = examined[0][0], [each for _, found in examined for each in found]
        taken, worked = time.perf_counter() - start, time.process_time() - busy
        self.peak = max(self.peak, peak_megabytes())
        self.counts["slow"] += taken > 1
        self.counts["slow_cpu"] += worked > 1
        self.slowest = max(self.slowest, (worked, f"{kind} {raw[:60]!r}"))
        self.counts["cases"] += 1
        self.codes.update({each.code for each in findings})
        msgspec.json.encode(findings)
        assert all(
            each.code in finding_codes() and len(each.seen) < 1_000 and each.seen.isprintable() for each in findings
        ), findings
        if kind == "header":
            self._against_library(raw, specimen.header if specimen else None)
        elif kind == "config":
            self._against_json(raw, specimen is not None and specimen.config is not None)
        rejected = any(each.severity == "reject" for each in findings)
        self.counts["accepted"] += specimen is not None and not rejected

    def _write(self, kind: str, raw: bytes) -> Path:
        if kind in ("header", "config"):
            (self.folder / "adapter" / WEIGHTS).write_bytes(raw if kind == "header" else self.weights)
            (self.folder / "adapter" / CONFIG).write_bytes(raw if kind == "config" else self.config)
            return self.folder / "adapter"
        path = self.folder / f"adapter.{'bin' if kind == 'pickle' else kind}"
        path.write_bytes(raw)
        return path

    def _against_library(self, raw: bytes, header: Any) -> None:
        if header is None:
            return
        try:
            theirs = dict(_deserialize(raw))  # type: ignore[no-untyped-call]
        except (SafetensorError, ValueError):
            self.counts["lenient"] += 1
            print("accepted where safetensors refuses:", raw[:300])
            return
        same = set(theirs) == set(header.tensors) and all(
            (theirs[name]["dtype"], tuple(theirs[name]["shape"])) == (info.dtype, info.shape)
            and theirs[name]["data"] == raw[info.start : info.stop]
            for name, info in header.tensors.items()
        )
        self.counts["differing"] += not same

    def _against_json(self, raw: bytes, read: bool) -> None:
        try:
            parse_adapter_config(raw)
        except LoricaError:
            return
        except Exception:
            traceback.print_exc()
            self.counts["crashes"] += 1
            return
        try:
            json.loads(raw)
        except ValueError:
            self.counts["lenient"] += 1
        self.counts["differing"] += not read  # what the engines take, the check must have read


def forget_peak() -> None:
    """Let the peak of this process's memory be counted anew, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> float:
    """The most memory that this process has had since `forget_peak`."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
