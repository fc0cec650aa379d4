"""The tokenizer in a GGUF file, in the words of a Hugging Face `tokenizer.json` and `tokenizer_config.json`.

Two kinds: byte-level BPE (`tokenizer.ggml.model` gpt2), whose splitting of text into words `tokenizer.ggml.pre` names,
and SentencePiece BPE (llama), whose merges follow from the scores of its pieces.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lorica.errors import ModelError
from lorica.gguf.file_header import MetadataValue, read_header
from lorica.gguf.packed_texts import PackedTexts

# Contractions, words with a mark or space before them, digits, other characters, line breaks, spaces.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _by_words(digits: str) -> list[dict[str, Any]]:
    words = {"Regex": _WORDS.format(digits=digits)}
    return [{"type": "Split", "pattern": words, "behavior": "Isolated", "invert": False}, {**_GPT2, "use_regex": False}]


_PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_GPT2],
    "smollm": [{"type": "Digits", "individual_digits": True}, _GPT2],
    "qwen2": _by_words(r"\p{N}"),  # texts become NFC first
    "llama-bpe": _by_words(r"\p{N}{1,3}"),  # a word that is a token is not merged; texts begin with bos
}
_ALIASES = {"gpt2": "gpt-2", "deepseek-r1-qwen": "qwen2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # `tokenizer.ggml.token_type`
_ROLES = {
    "bos": "bos_token",
    "eos": "eos_token",
    "unknown": "unk_token",
    "padding": "pad_token",
    "seperator": "sep_token",  # as the format spells it
    "cls": "cls_token",
    "mask": "mask_token",
}
# Which tokens of a SentencePiece vocabulary begin and end texts where nothing is stated, as in llama.cpp.
_SENTENCE_PIECE_IDS = {"bos": 1, "eos": 2}
_SPACE = "\u2581"  # what SentencePiece writes for a space
# Of a SentencePiece vocabulary, whose merges are found by splitting each piece everywhere: of one piece, of all.
_MAX_PIECE, _MAX_PIECES = 256, 3_000_000  # characters
_AGAIN = "convert the model anew, or use its Hugging Face folder"


def read_tokenizer(gguf_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """tokenizer.json and tokenizer_config.json; the latter with the chat template, which is data like all of it.

    Raises ModelError for a file without a tokenizer, one of another kind, and one whose parts contradict each other.
    """
    metadata = read_header(gguf_path).metadata
    try:
        return _GgufVocabulary(metadata).tokenizer()
    except _TokenizerError as error:
        raise ModelError(f"{gguf_path}: {error}", fix=_AGAIN) from None


class _TokenizerError(Exception):
    pass


class _GgufVocabulary:
    def __init__(self, metadata: dict[str, MetadataValue]) -> None:
        self._metadata = metadata
        self._tokens = self._texts("tokens")
        self._ids = {token: token_id for token_id, token in enumerate(self._tokens)}
        if len(self._ids) < len(self._tokens):
            duplicate = next(token for token_id, token in enumerate(self._tokens) if self._ids[token] != token_id)
            raise _TokenizerError(f"has the token {duplicate[:40]!r} twice")
        self._types = self._numbers("token_type", 1)

    def tokenizer(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `read_tokenizer`."""
        config = self._config()
        kind = self._get("model")
        if kind == "gpt2":
            parts, adds_bos = self._byte_level()
        elif kind == "llama":
            parts, adds_bos = self._sentence_piece(config.get("unk_token")), True
        else:
            raise _TokenizerError(f"tokenizer.ggml.model is {str(kind)[:40]!r}; read are gpt2 and llama")
        first = config.get("bos_token") if self._flag("add_bos_token", adds_bos) else None
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self._added_tokens(),
            "post_processor": None if first is None else self._post_processor(first),
            **parts,
        }, config

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for role, config_key in _ROLES.items():
            token_id = self._get(f"{role}_token_id")
            if token_id is None and self._get("model") == "llama":
                token_id = _SENTENCE_PIECE_IDS.get(role)
            if token_id is None:
                continue
            if type(token_id) is not int or not 0 <= token_id < len(self._tokens):
                raise _TokenizerError(f"{role}_token_id is {str(token_id)[:40]}; it has {len(self._tokens)} tokens")
            config[config_key] = self._tokens[token_id]
        return config | self._templates()

    def _templates(self) -> dict[str, Any]:
        """The chat template, or those by name of a file without a default one, as tokenizer_config.json holds them."""
        prefix = "tokenizer.chat_template"
        default = self._metadata.get(prefix)
        templates = (
            {prefix: default}
            if default is not None
            else {key: value for key, value in self._metadata.items() if key.startswith(f"{prefix}.")}
        )
        if no_text := next((key for key, value in templates.items() if not isinstance(value, str)), ""):
            raise _TokenizerError(f"{no_text} is no text")
        if default is not None:
            return {"chat_template": default}
        named = [{"name": key.removeprefix(f"{prefix}."), "template": value} for key, value in templates.items()]
        return {"chat_template": named} if named else {}

    def _byte_level(self) -> tuple[dict[str, Any], bool]:
        """The model and its surroundings, and whether texts begin with bos where nothing is stated."""
        stated = self._get("pre")
        pre_tokenizer = _ALIASES.get(str(stated), str(stated))
        if pre_tokenizer not in _PRE_TOKENIZERS:
            shown = "missing, and says how texts are split" if stated is None else repr(str(stated)[:40])
            raise _TokenizerError(f"tokenizer.ggml.pre is {shown}; read are {', '.join((*_PRE_TOKENIZERS, *_ALIASES))}")
        steps, is_llama = _PRE_TOKENIZERS[pre_tokenizer], pre_tokenizer == "llama-bpe"
        return {
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                "ignore_merges": is_llama, "vocab": self._ids, "merges": self._merges(),
            },
            "normalizer": {"type": "NFC"} if pre_tokenizer == "qwen2" else None,
            "pre_tokenizer": steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps},
            "decoder": {**_GPT2, "add_prefix_space": True},
        }, is_llama  # fmt: skip

    def _merges(self) -> list[list[str]]:
        merges = []
        for merge_text in self._texts("merges"):
            pair = merge_text.split(" ")
            if len(pair) != 2 or not {*pair, pair[0] + pair[-1]} <= self._ids.keys():
                raise _TokenizerError(f"the merge {merge_text[:40]!r} is not of two tokens that make a third")
            merges.append(pair)
        return merges

    def _sentence_piece(self, unknown: str | None) -> dict[str, Any]:
        if unknown is None:
            unknown = next(
                (token for token, is_it in zip(self._tokens, self._types == _UNKNOWN, strict=True) if is_it), None
            )
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
        prefix = [{"type": "Prepend", "prepend": _SPACE}] if self._flag("add_space_prefix", True) else []
        first_space = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
        return {
            "model": {
                "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": bool((self._types == _BYTE).any()),
                "ignore_merges": False, "vocab": self._ids, "merges": self._merges_by_score(),
            },
            "normalizer": {"type": "Sequence", "normalizers": [*prefix, spaces]},
            "pre_tokenizer": None,
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    *first_space,
                ],
            },
        }  # fmt: skip

    def _merges_by_score(self) -> list[list[str]]:
        """Each way to make a piece of two others, the best piece first: what SentencePiece does one after the other."""
        lengths = [len(token) for token in self._tokens]
        if max(lengths, default=0) > _MAX_PIECE or sum(lengths) > _MAX_PIECES:
            raise _TokenizerError(
                f"its tokens have up to {max(lengths)} characters and {sum(lengths)} together; allowed are "
                f"{_MAX_PIECE} and {_MAX_PIECES}"
            )
        ids, scores = self._ids, self._numbers("scores", None)
        merges: list[list[str]] = []
        for token_id in np.argsort(-scores, kind="stable").tolist():
            token = self._tokens[token_id]
            pairs = [
                [token[:cut], token[cut:]] for cut in range(1, len(token)) if token[:cut] in ids and token[cut:] in ids
            ]
            merges += sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        return merges

    def _added_tokens(self) -> list[dict[str, Any]]:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": token_id, "content": self._tokens[token_id], **flags, "special": token_type != _USER_DEFINED}
            for token_id, token_type in enumerate(self._types.tolist())
            if token_type in (_UNKNOWN, _CONTROL, _USER_DEFINED) and self._tokens[token_id]
        ]

    def _post_processor(self, first: str) -> dict[str, Any]:
        special = {"SpecialToken": {"id": first, "type_id": 0}}
        texts = [{"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB")]
        return {
            "type": "TemplateProcessing",
            "single": [special, texts[0]],
            "pair": [special, *texts],
            "special_tokens": {first: {"id": first, "ids": [self._ids[first]], "tokens": [first]}},
        }

    def _get(self, name: str) -> MetadataValue | None:
        return self._metadata.get(f"tokenizer.ggml.{name}")

    def _flag(self, name: str, default: bool) -> bool:
        value = self._get(name)
        if value is not None and not isinstance(value, bool):
            raise _TokenizerError(f"tokenizer.ggml.{name} is {str(value)[:40]}, not true or false")
        return default if value is None else value

    def _texts(self, name: str) -> list[str]:
        value = self._get(name)
        if not isinstance(value, PackedTexts):
            raise _TokenizerError(f"holds no tokenizer: tokenizer.ggml.{name} is no list of texts")
        return list(value)

    def _numbers(self, name: str, default: int | None) -> Any:
        """[tokens] a number for each token. Raises where there are fewer or more, or none without a default."""
        value = self._get(name)
        if value is None and default is not None:
            return np.full(len(self._tokens), default)
        if not isinstance(value, np.ndarray) or len(value) != len(self._tokens) or not np.isfinite(value).all():
            raise _TokenizerError(f"tokenizer.ggml.{name} is not a number for each of its {len(self._tokens)} tokens")
        return value
