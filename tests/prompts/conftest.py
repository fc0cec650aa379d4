"""Model folders to encode with: a tiny ChatML tokenizer made here, and real ones from the shared data."""

from __future__ import annotations

import functools
import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from lorica.prompts.encoder import Encoder

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "tokenizers"

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "The post breaks the rule because it sells watches.",
    "Answer Yes or No.",
    "assistant user system",
] * 20


@functools.cache
def load_encoder(folder: Path) -> Encoder:
    """`Encoder.load`, once for each folder of a test session."""
    return Encoder.load(folder)


def write_folder(folder: Path, tokenizer: Tokenizer, *, template: str | None = CHATML, **config: Any) -> Path:
    """A folder with tokenizer.json, tokenizer_config.json and, unless None, chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def tiny_tokenizer(*added: AddedToken) -> Tokenizer:
    """A byte-level BPE with 400 entries; every text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(list(added))
    return tokenizer


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the embedded model's: byte-level BPE, ChatML, three control tokens, one added tag."""
    tokenizer = tiny_tokenizer(AddedToken("<tool_call>", special=False))
    return write_folder(tmp_path_factory.mktemp("tiny"), tokenizer, eos_token="<|im_end|>")


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks a real tokenizer by its folder name; skips where the shared data is absent."""
    made: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if not SHARED.is_dir():
            pytest.skip("the shared data folder is not beside the repository")
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name.replace(".", "_"))
            sources = [*(SHARED / name).iterdir()]
            if name == "qwen2.5-instruct":  # it shares vocabulary and merges with qwen3
                sources += [SHARED / "qwen3" / "vocab.json.gz", SHARED / "qwen3" / "merges.txt.gz"]
            for source in sources:
                target = made[name] / source.name.removesuffix(".gz")
                if source.suffix == ".gz":
                    target.write_bytes(gzip.decompress(source.read_bytes()))
                else:
                    shutil.copyfile(source, target)
            model = made[name] / "tokenizer.model"
            if model.is_file():
                sentencepiece_to_json(model).save(str(made[name] / "tokenizer.json"))
                model.unlink()
        return made[name]

    return unpack


def sentencepiece_to_json(path: Path) -> Tokenizer:
    """A sentencepiece BPE model as a fast tokenizer, read without the sentencepiece package."""
    pieces = [(piece.decode(), kind) for piece, kind in _pieces(path.read_bytes())]
    vocabulary = {piece: index for index, (piece, _) in enumerate(pieces)}
    merges: list[tuple[int, int, tuple[str, str]]] = []
    for piece, index in vocabulary.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((index, vocabulary[left], (left, right)))
    merges.sort()
    model = models.BPE(vocabulary, [pair for *_, pair in merges], fuse_unk=True, byte_fallback=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    control = [piece for piece, kind in pieces if kind in (2, 3)]
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in control])
    return tokenizer


def _pieces(data: bytes) -> Iterator[tuple[bytes, int]]:
    """(piece, type) of each entry of a sentencepiece ModelProto."""
    for field, value in _fields(data):
        if field == 1:
            inner = dict(_fields(value))
            yield inner[1], inner.get(3, 1)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        length = varint() if key & 7 == 2 else {1: 8, 5: 4}[key & 7]
        yield key >> 3, data[position : position + length]
        position += length
