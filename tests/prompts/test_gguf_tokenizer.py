"""Tokenizer and chat template of GGUF files, made of real tokenizers as llama.cpp's converter makes them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tools.gguf_files import byte_tokens, gguf_bytes, model_metadata, model_tensors

from lorica.errors import PromptError
from lorica.gguf.tokenizer import read_tokenizer
from lorica.prompts.encoder import Encoder
from lorica.records import Message

from .conftest import SHARED, load_encoder
from .test_parity import TEXTS

ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
MORE_TEXTS = [
    *TEXTS,
    "1 22 333 4444 55555",
    "x  9\t8",
    "don't DON'T we'Re",
    "Ⅷ½ ²³",
    "नमस्ते ภาษาไทย 日本語",
    "\u00a0a\u2003b",
]


def converted(folder: Path, target: Path, pre: str | None, **more: Any) -> Path:
    """The tokenizer of a Hugging Face folder as a GGUF file; pre: None for a SentencePiece vocabulary."""
    encoder = load_encoder(folder)
    parts = json.loads(encoder._vocabulary._tokenizers["start"].to_str())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    entries = sorted(encoder._vocabulary.entries().items(), key=lambda item: item[1])
    tokens = [token for token, _ in entries]
    assert [token_id for _, token_id in entries] == list(range(len(tokens)))
    special = {entry["content"]: 3 if entry["special"] else 4 for entry in parts["added_tokens"]}
    is_byte = (token.startswith("<0x") and len(token) == 6 and pre is None for token in tokens)
    types = [special.get(token, 6 if byte else 1) for token, byte in zip(tokens, is_byte, strict=True)]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama" if pre is None else "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
    }
    if pre is None:
        ranks = {"".join(merge): rank for rank, merge in reversed(list(enumerate(parts["model"]["merges"])))}
        metadata["tokenizer.ggml.scores"] = [-float(ranks.get(token, 10**6)) for token in tokens]
    else:
        merges = parts["model"]["merges"]
        metadata["tokenizer.ggml.pre"] = pre
        metadata["tokenizer.ggml.merges"] = [" ".join(merge) if isinstance(merge, list) else merge for merge in merges]
    for role, name in ROLES.items():
        token = config.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            metadata[f"tokenizer.ggml.{name}_token_id"] = tokens.index(token)
    template = folder / "chat_template.jinja"
    metadata["tokenizer.chat_template"] = template.read_text() if template.is_file() else config["chat_template"]
    shape = {"layers": 1, "hidden": 32, "ffn": 32, "heads": 1, "kv_heads": 1, "head_dim": 32, "vocab": len(tokens)}
    tensors = model_tensors("llama", "Q8_0", shape=shape)
    target.write_bytes(gguf_bytes(model_metadata("llama", shape, **metadata, **more), tensors))
    return target


def languages() -> Iterator[str]:
    """Some of the shared texts: English, Chinese, many languages of children's stories, formulas."""
    data = SHARED.parent
    for name in ("agieval/*.jsonl", "openstax/*.jsonl", "sms_spam/*.jsonl"):
        for path in sorted(data.glob(name)):
            for line in path.read_text("utf-8").splitlines()[::150]:
                yield from (value for value in json.loads(line).values() if isinstance(value, str))
    with gzip.open(data / "stories" / "stories.jsonl.gz", "rt", encoding="utf-8") as stories:
        yield from (json.loads(line)["text"][:1000] for index, line in enumerate(stories) if index % 20 == 0)


@pytest.mark.parametrize(
    ("name", "pre"), [("qwen3", "qwen2"), ("smollm2-360m-instruct", "gpt-2"), ("mistral-7b-instruct-v0.2", None)]
)
def test_prompts_and_texts_have_the_ids_of_the_original(
    name: str, pre: str | None, real: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = real(name)
    theirs, ours = load_encoder(folder), Encoder.load(converted(folder, tmp_path / "model.gguf", pre))
    assert ours.template_digest == theirs.template_digest
    assert ours.stop_tokens == theirs.stop_tokens
    for text in MORE_TEXTS:
        chat = [Message("user", text)]
        expected = theirs.encode(chat, answer="Yes", max_tokens=10_000, truncate="error")
        assert ours.encode(chat, answer="Yes", max_tokens=10_000, truncate="error") == expected, text
        assert ours.decode(expected.tokens) == theirs.decode(expected.tokens)
    texts = [text for text in languages() if text.strip()]
    assert len(texts) > 100
    for text in texts:
        assert ours.encode_choice(text) == theirs.encode_choice(text), text[:200]


def test_smollm_takes_digits_one_by_one(real: Callable[[str], Path], tmp_path: Path) -> None:
    """What the model was trained with; its `tokenizer.json` as transformers 5 saves it has lost that step."""
    folder = real("smollm2-360m-instruct")
    parts, _ = read_tokenizer(converted(folder, tmp_path / "model.gguf", "smollm"))
    ours = Tokenizer.from_str(json.dumps(parts))
    assert ours.encode("in 2024  7", add_special_tokens=False).tokens == ["in", "Ġ", "2", "0", "2", "4", "ĠĠ", "7"]
    stored = json.loads((folder / "tokenizer.json").read_text())
    digits = {"type": "Digits", "individual_digits": True}
    stored["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, stored["pre_tokenizer"]]}
    theirs = Tokenizer.from_str(json.dumps({**stored, "truncation": None}))
    for text in (*MORE_TEXTS, *languages()):
        assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text, add_special_tokens=False).ids


def test_llama_3_takes_up_to_three_digits_whole_words_and_begins_texts(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    metadata = byte_tokens(100) | {"tokenizer.ggml.pre": "llama-bpe"}
    del metadata["tokenizer.ggml.add_bos_token"]
    metadata["tokenizer.ggml.tokens"][60:64] = ["123", "45", "zz", "Ġ"]
    path.write_bytes(gguf_bytes(metadata, {}))
    parts, _ = read_tokenizer(path)
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    assert tokenizer.encode("12345zz").tokens == ["<|im_start|>", "123", "45", "zz"]
    assert tokenizer.encode("ab c").tokens == ["<|im_start|>", "ab", "Ġ", "c"]


def test_a_sentencepiece_vocabulary_that_names_no_ends_has_those_of_llama_cpp(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "\u2581", "a", "\u2581a"],
        "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1],
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -2.0, -3.0, -1.0],
    }
    path.write_bytes(gguf_bytes(metadata, {}))
    parts, config = read_tokenizer(path)
    assert (config["bos_token"], config["eos_token"]) == ("<s>", "</s>")
    assert Tokenizer.from_str(json.dumps(parts)).encode("a").tokens == ["<s>", "\u2581a"]


def test_the_template_of_a_file_is_data_in_the_sandbox(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"

    def with_template(template: str) -> Path:
        shape = {"layers": 1, "hidden": 32, "ffn": 32, "heads": 1, "kv_heads": 1, "head_dim": 32, "vocab": 120}
        metadata = model_metadata("llama", shape, **byte_tokens(120)) | {"tokenizer.chat_template": template}
        path.write_bytes(gguf_bytes(metadata, model_tensors("llama", "Q8_0", shape=shape)))
        return path

    sound = byte_tokens(120)["tokenizer.chat_template"]
    assert Encoder.load(with_template(sound)).template_origin == str(path)
    for hostile in (
        "{{ ().__class__.__base__.__subclasses__() }}",
        "{{ messages.__class__.__mro__ }}",
        "{% for a in range(10**9) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{{ unclosed",
    ):
        with pytest.raises(PromptError):
            Encoder.load(with_template(hostile))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokenizer.ggml.model": "bert"}, "'bert'"),
        ({"tokenizer.ggml.pre": "tekken"}, "'tekken'"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre is missing"),
        ({"tokenizer.chat_template": None, "tokenizer.chat_template.tool_use": 5}, "no text"),
        ({"tokenizer.ggml.tokens": None}, "holds no tokenizer"),
        ({"tokenizer.ggml.tokens": "abc"}, "holds no tokenizer"),
        ({"tokenizer.ggml.tokens": ["a"] * 100}, "'a' twice"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "'a b c'"),
        ({"tokenizer.ggml.merges": ["a zz"]}, "'a zz'"),
        ({"tokenizer.ggml.merges": ["ab"]}, "'ab'"),
        ({"tokenizer.ggml.merges": ["a c"]}, "'a c'"),
        ({"tokenizer.ggml.token_type": [1]}, "for each of its 100 tokens"),
        ({"tokenizer.ggml.eos_token_id": 100}, "eos_token_id is 100"),
        ({"tokenizer.ggml.bos_token_id": "a"}, "bos_token_id is a"),
        ({"tokenizer.ggml.add_bos_token": 1}, "not true or false"),
        ({"tokenizer.chat_template": 5}, "no text"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.scores"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [float("nan")] * 100}, "tokenizer.ggml.scores"),
    ],
)
def test_what_contradicts_itself_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "model.gguf"
    metadata = {key: value for key, value in (byte_tokens(100) | changes).items() if value is not None}
    path.write_bytes(gguf_bytes(metadata, {}))
    with pytest.raises(PromptError) as caught:
        Encoder.load(path)
    assert reason in caught.value.message
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokenizer.ggml.eos_token_id": None}, "names no end-of-text token"),
        (
            {"tokenizer.chat_template": None, "tokenizer.chat_template.tool_use": "{{ messages }}"},
            "chat templates ['tool_use'] and none is called 'default'",
        ),
    ],
)
def test_what_a_model_cannot_be_asked_without_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "model.gguf"
    shape = {"layers": 1, "hidden": 32, "ffn": 32, "heads": 1, "kv_heads": 1, "head_dim": 32, "vocab": 120}
    entries = {**model_metadata("llama", shape, **byte_tokens(120)), **changes}
    metadata = {key: value for key, value in entries.items() if value is not None}
    path.write_bytes(gguf_bytes(metadata, model_tensors("llama", "Q8_0", shape=shape)))
    with pytest.raises(PromptError) as caught:
        Encoder.load(path)
    assert reason in caught.value.message
    assert "tokenizer_config.json" not in caught.value.fix
