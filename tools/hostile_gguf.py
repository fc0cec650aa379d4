"""Mutated GGUF files by a seed, files at the caps, and what reading them as a base model makes of them."""

from __future__ import annotations

import random
import struct
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lorica.errors import LoricaError
from lorica.gguf.file_header import MAX_ENTRIES, MAX_STRINGS, MAX_TENSORS
from lorica.models.base_folder import BaseFolder
from lorica.models.weights import load_decoder
from lorica.prompts.encoder import Encoder
from lorica.vetting.base.base_modules import read_base
from lorica.vetting.base.fit_text import read_tokenizer_files
from lorica.vetting.base.stored_matrices import stored_matrices
from tools.gguf_files import byte_tokens, gguf_bytes, model_metadata, model_tensors, text

SHAPE = {"layers": 1, "hidden": 256, "ffn": 256, "heads": 2, "kv_heads": 1, "head_dim": 128, "vocab": 100}
_TYPES = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q5_K", "Q6_K", "F16", "F32", "BF16")
_NUMBERS = (0, 1, 2, 31, 32, 33, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
_TOKENS = (
    b"\0", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"GGUF", b"llama", b"qwen2", b"qwen3", b"gemma", b"{{", b"{%", b"}}",
    b"tokenizer.ggml.model", b"gpt2", b"\x7f\xf8", b"\xe2\x96\x81", b"nan", b"\x1b[31m", b"weight", b"blk.0.",
)  # fmt: skip


def healthy(seed: int = 0) -> bytes:
    """A small model of each family and block type in turn, with tokenizer and template."""
    family, type_name = ("llama", "qwen2", "qwen3")[seed % 3], _TYPES[seed % len(_TYPES)]
    metadata = model_metadata(family, SHAPE, **byte_tokens(SHAPE["vocab"]))
    return gguf_bytes(metadata, model_tensors(family, type_name, tied=seed % 2 == 0, shape=SHAPE))


def cases(seed: int, count: int) -> Iterator[bytes]:
    """Each a sound file with a few bytes changed, most of them in its header."""
    rng = random.Random(seed)
    sources = [healthy(number) for number in range(3 * len(_TYPES))]
    for _ in range(count):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            _mutate(rng, data)
        yield bytes(data)


def _mutate(rng: random.Random, data: bytearray) -> None:
    end = min(len(data), 6_000) if rng.random() < 0.9 else len(data)  # the header has about 5,000 bytes
    start, mutation = rng.randrange(max(end, 1)), rng.randrange(9)
    if mutation == 0 and data:
        data[start] ^= 1 << rng.randrange(8)
    elif mutation == 1:
        data[start : start + 8] = struct.pack("<Q", rng.choice(_NUMBERS))
    elif mutation == 2:
        data[start : start + 4] = struct.pack("<I", rng.choice(_NUMBERS) % 2**32)
    elif mutation == 3:
        del data[start:]
    elif mutation == 4:
        del data[start : start + rng.choice((1, 4, 8, 64))]
    elif mutation == 5:
        data[start:start] = data[rng.randrange(end) :][: rng.choice((4, 8, 60, 400))]
    elif mutation == 6:
        token = rng.choice(_TOKENS)
        data[start : start + len(token)] = token
    else:
        _exchange_field(rng, data, end)


def _exchange_field(rng: random.Random, data: bytearray, end: int) -> None:
    """A number that stands for something: a count in front, a text's length, the value behind a known key."""
    if rng.random() < 0.3:
        start = rng.choice((4, 8, 16))
        data[start : start + 8] = struct.pack("<Q", rng.choice(_NUMBERS))
        return
    name = rng.choice((b"llama.", b"qwen2.", b"qwen3.", b"tokenizer.", b"general.", b"blk.0.", b"token_embd"))
    start = data.find(name, rng.randrange(max(end - 1, 1)))
    if start > 8:
        start += rng.choice((-8, len(name), rng.randrange(60)))
        data[start : start + 8] = struct.pack("<Q", rng.choice(_NUMBERS))


def heavy() -> Iterator[tuple[str, bytes]]:
    """(what is large, the file): what costs a reader the most for its size."""
    head = b"GGUF" + struct.pack("<I", 3)
    empty_texts = struct.pack("<IIQ", 9, 8, MAX_STRINGS) + bytes(8 * MAX_STRINGS)
    entry = struct.pack("<QI", 0, 7)
    tokens = byte_tokens(SHAPE["vocab"])
    yield "a million texts", head + struct.pack("<QQ", 0, 1) + text("k") + empty_texts
    yield "a million and one", head + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, MAX_STRINGS + 1)
    yield (
        "entries",
        head
        + struct.pack("<QQ", 0, MAX_ENTRIES)
        + b"".join(text(f"key.{number}") + struct.pack("<IB", 7, 1) for number in range(MAX_ENTRIES)),
    )
    yield "equal keys", head + struct.pack("<QQ", 0, MAX_ENTRIES) + (entry + b"\x01") * MAX_ENTRIES
    tensor = struct.pack("<IQIQ", 1, 1, 0, 0)
    yield (
        "tensors",
        head
        + struct.pack("<QQ", MAX_TENSORS, 0)
        + b"".join(text(f"t{number}") + struct.pack("<IQIQ", 1, 8, 0, 64 * number) for number in range(MAX_TENSORS))
        + bytes(64 * MAX_TENSORS),
    )
    yield "equal tensors", head + struct.pack("<QQ", MAX_TENSORS, 0) + (text("t") + tensor) * MAX_TENSORS
    yield "numbers", head + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 0, 2**26) + bytes(2**26)
    yield "a long template", gguf_bytes({**tokens, "tokenizer.chat_template": "a" * (4 << 20)}, {})
    yield "long tokens", gguf_bytes(
        {**tokens, "tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0] * 100,
         "tokenizer.ggml.tokens": [chr(0x4E00 + number) + "a" * 20_000 for number in range(100)],
         "tokenizer.ggml.token_type": [1] * 100},
        {},
    )  # fmt: skip


class Bench:
    """Reads cases in a folder of its own, in every way in which a base model is read, and counts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.gguf"
        self.counts: Counter[str] = Counter()
        self.slowest = (0.0, "")

    def run(self, raw: bytes, title: str = "") -> None:
        """Read one case; what raises anything but a LoricaError is a crash."""
        self.path.write_bytes(raw)
        start = time.process_time()
        try:
            self.counts["accepted"] += self._read()
        except Exception:
            traceback.print_exc()
            self.counts["crashes"] += 1
        seconds = time.process_time() - start
        self.counts["cases"] += 1
        self.counts["slow"] += seconds > 1
        self.slowest = max(self.slowest, (seconds, title or f"case {self.counts['cases']}"))

    def _read(self) -> bool:
        sound = True
        for reader in (self._config, self._modules, self._tokenizer, self._weights):
            try:
                reader()
            except LoricaError as error:
                sound = False
                if not error.message.isprintable():
                    raise ValueError(error.message) from error
        return sound

    def _config(self) -> None:
        base = BaseFolder(self.path)
        assert base.digest
        assert all(note.isprintable() for note in base.notes)

    def _modules(self) -> None:
        read_base(self.path)
        for matrix in stored_matrices(self.path).values():
            matrix.rows(2)

    def _tokenizer(self) -> None:
        read_tokenizer_files(self.path)
        Encoder.load(self.path)

    def _weights(self) -> None:
        base = BaseFolder(self.path)
        load_decoder(base, as_stored=True)
        load_decoder(base)
