"""The tokenizer that measures passages: the embedded base's, another base model's, or an encoder's. User text never
becomes a special token."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tokenizers import Tokenizer

from lorica.data.digest import bytes_digest
from lorica.errors import LoricaError, RetrievalError
from lorica.models.locate import EMBEDDED, locate_model

DEFAULT_TOKENIZER = EMBEDDED + "lorica_tiny"
_BLOCK = 1 << 16  # characters that are encoded together
_LONGEST = 32  # characters that count as one token at most


class SplitTokenizer:
    """Token spans of a text. digest: over all that decides them. unknown_id: of the token that stands for what the
    vocabulary lacks; -1 where nothing is lacking."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """tokenizer: is changed: nothing is cut, padded or read as a special token."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        plain, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
        at = next((index for index in range(len(whole)) if whole[index : index + len(plain)] == plain), 0)
        self._around = (whole[:at], whole[at + len(plain) :])
        unknown_id = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "")
        self.unknown_id = -1 if unknown_id is None else unknown_id
        self.digest = bytes_digest(tokenizer.to_str().encode())

    def spans(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of each token in the text's characters; long texts are encoded in blocks that end at a space."""
        spans: list[tuple[int, int]] = []
        start = 0
        while start < len(text):
            end = start + _BLOCK
            if end < len(text):
                end = max(text.rfind(" ", start, end), text.rfind("\n", start, end)) + 1 or end
            encoding = self._tokenizer.encode(text[start:end], add_special_tokens=False)
            for first, last in encoding.offsets:
                # A vocabulary may have one token for a word of any length, which would be a passage of any length.
                spans.extend((start + cut, start + min(cut + _LONGEST, last)) for cut in range(first, last, _LONGEST))
            start = end
        return spans

    def ids(self, text: str) -> list[int]:
        """The ids of a text's tokens, without special ones."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def with_special(self, ids: Sequence[int]) -> list[int]:
        """Ids with the special tokens that the encoder expects around them."""
        before, behind = self._around
        return [*before, *ids, *behind]


def open_tokenizer(name: str) -> SplitTokenizer:
    """The tokenizer of a model folder, `embedded:NAME` or a Hugging Face id in the cache. Raises RetrievalError."""
    try:
        folder = locate_model(name, environ=os.environ)
    except LoricaError as error:
        raise RetrievalError(f"--tokenizer {name}: {error.message}", fix="give a model's folder") from error
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise RetrievalError(f"{folder}: holds no tokenizer.json", fix="give a folder with one")
    try:
        return SplitTokenizer(Tokenizer.from_file(str(path)))
    except Exception as error:  # the library raises bare Exception
        raise RetrievalError(f"{path}: is no tokenizer ({error})", fix="download the model's folder again") from error
