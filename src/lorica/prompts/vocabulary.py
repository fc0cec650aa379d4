"""A tokenizer whose control tokens can be written by a template and never by a user.

Every added token that is not plain white space or a plain word counts as a *marker*. The tokenizer is loaded
with all markers declared special and `encode_special_tokens` on, so that encoding text never yields one;
`split` finds the markers that a template wrote, by the tokenizer's own rule (leftmost, longest).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec
from tokenizers import Tokenizer

from lorica.errors import PromptError
from lorica.thoughts import is_tag

# Where a run of text stands: at the very start, behind a marker, or directly behind other text.
RunPosition = Literal["start", "segment", "continuation"]

_CACHED_RUN_CHARS = 4_000
_CACHED_RUNS = 2_048
_COUNTED_PIECE_CHARS = 65_536


class AddedToken(msgspec.Struct, frozen=True):
    """One entry of `added_tokens` in tokenizer.json."""

    id: int
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False

    @property
    def is_marker(self) -> bool:
        """Whether user text must not produce it: added white space and words are ordinary vocabulary."""
        wordlike = self.content.isspace() or all(char.isalnum() or char.isspace() for char in self.content)
        return self.special or not wordlike


class Vocabulary:
    """Encodes runs of plain text, finds a template's markers, decodes."""

    def __init__(self, tokenizer: Mapping[str, Any], origin: str) -> None:
        """tokenizer: the decoded tokenizer.json. Raises PromptError when the library refuses it."""
        added = msgspec.convert(tokenizer.get("added_tokens") or [], list[AddedToken])
        self._markers = {token.content: token for token in added if token.is_marker and token.content}
        # Thoughts are told from answers by their tags.
        self._special_ids = {token.id for token in added if token.special and not is_tag(token.content)}
        # Leftmost-longest, as the tokenizer's own automaton matches; `(?!)` matches nothing.
        longest_first = sorted(self._markers, key=len, reverse=True)
        alternatives = "|".join(map(re.escape, longest_first)) or "(?!)"
        self._marker = re.compile(f"({alternatives})")
        self._marker_start = re.compile(f"(?=(?:{alternatives}))")
        self._has_space_rules = any(token.lstrip or token.rstrip for token in self._markers.values())
        self._tokenizers = _variants(tokenizer, set(self._markers), origin)
        unknown = tokenizer["model"].get("unk_token")
        self._forbidden = {token.id for token in self._markers.values() if token.content != unknown}
        self._encode_cached = functools.lru_cache(maxsize=_CACHED_RUNS)(self._encode_now)

    def marker_id(self, content: str) -> int | None:
        """The id of a marker, or None when `content` is not one."""
        token = self._markers.get(content)
        return None if token is None else token.id

    def first_marker(self, text: str) -> int | None:
        """The id of the marker that `text` opens with, after white space; None for anything else."""
        match = self._marker.match(text.lstrip()) or self._marker.match(text)
        return self._markers[match.group()].id if match else None

    def ends_with_marker(self, text: str) -> bool:
        """Whether the last thing in `text` that yields a token is a marker."""
        pieces = self.split(text)
        return bool(pieces) and isinstance(pieces[-1], int)

    def mask_markers(self, text: str, stand_ins: Mapping[str, str]) -> str:
        """`text` with the first character of each marker replaced, so that `split` finds none."""
        starts = [match.start() for match in self._marker_start.finditer(text)]
        if not starts:
            return text
        pieces, end = [], 0
        for start in starts:
            pieces += [text[end:start], stand_ins[text[start]]]
            end = start + 1
        return "".join(pieces) + text[end:]

    def has_marker(self, text: str) -> bool:
        """Whether any marker occurs in `text`."""
        return self._marker.search(text) is not None

    @property
    def marker_initials(self) -> list[str]:
        """The characters that markers start with, sorted."""
        return sorted({content[0] for content in self._markers})

    def split(self, text: str) -> list[int | str]:
        """Marker ids and the runs of plain text between them, in order; empty runs are left out."""
        pieces = self._marker.split(text)
        if self._has_space_rules:
            self._strip_beside_markers(pieces)
        runs: list[int | str] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                runs.append(self._markers[piece].id)
            elif piece:
                runs.append(piece)
        return runs

    def encode(self, run: str, position: RunPosition) -> tuple[int, ...]:
        """Token ids of plain text; never the id of a marker."""
        if len(run) > _CACHED_RUN_CHARS:
            return self._encode_now(run, position)
        return self._encode_cached(run, position)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character span of each token of `text` as a continuation of other text."""
        return list(self._tokenizers["continuation"].encode(text, add_special_tokens=False).offsets)

    def count(self, text: str) -> int:
        """About how many tokens `text` has: exact up to 65,536 characters, beyond that counted in pieces."""
        pieces = range(0, len(text), _COUNTED_PIECE_CHARS)
        tokenizer = self._tokenizers["continuation"]
        return sum(
            len(tokenizer.encode(text[start : start + _COUNTED_PIECE_CHARS], add_special_tokens=False))
            for start in pieces
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without special tokens but for the tags of thoughts; unknown ids are left out."""
        text_tokens = [token for token in tokens if token not in self._special_ids]
        return str(self._tokenizers["start"].decode(text_tokens, skip_special_tokens=False))

    def decode_with_special(self, tokens: Sequence[int]) -> str:
        """The text of token ids with every special token written out, for people to read."""
        return str(self._tokenizers["start"].decode(list(tokens), skip_special_tokens=False))

    def opening_tokens(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text (a beginning-of-text token, or nothing)."""
        return tuple(self._tokenizers["start"].encode("", add_special_tokens=True).ids)

    def entries(self) -> dict[str, int]:
        """Every entry and its id, added tokens included."""
        return dict(self._tokenizers["start"].get_vocab(with_added_tokens=True))

    def token_id(self, content: str) -> int | None:
        """The id of a marker or of any other entry of the vocabulary with exactly this spelling."""
        token = self._tokenizers["start"].token_to_id(content)
        return None if token is None else int(token)

    def renumbered(self, tokens: Collection[int]) -> dict[str, int | None]:
        """Of these markers those that the file gives one id and the tokenizers library another: spelling -> the
        library's.
        """
        library_ids = {
            content: self.token_id(content) for content, token in self._markers.items() if token.id in tokens
        }
        return {content: number for content, number in library_ids.items() if number != self._markers[content].id}

    def _strip_beside_markers(self, pieces: list[str]) -> None:
        for index in range(1, len(pieces), 2):
            token = self._markers[pieces[index]]
            if token.lstrip:
                pieces[index - 1] = pieces[index - 1].rstrip()
            if token.rstrip:
                pieces[index + 1] = pieces[index + 1].lstrip()

    def _ids(self, text: str, position: RunPosition) -> tuple[int, ...]:
        return tuple(self._tokenizers[position].encode(text, add_special_tokens=False).ids)

    def _encode_now(self, run: str, position: RunPosition) -> tuple[int, ...]:
        ids = self._ids(run, position)
        if self._forbidden.isdisjoint(ids):
            return ids
        # A vocabulary may spell a marker as an ordinary piece (Unigram models do): keep its letters apart.
        cuts = [0, *(match.start() + 1 for match in self._marker_start.finditer(run)), len(run)]
        pieces = [run[start:stop] for start, stop in itertools.pairwise(cuts)]
        split = [
            token
            for index, piece in enumerate(pieces)
            for token in self._ids(piece, "continuation" if index else position)
        ]
        if self._forbidden.isdisjoint(split):
            return tuple(split)
        raise PromptError(
            "the tokenizer turns plain text of this row into a control token",
            fix="use a model whose control tokens cannot be spelt, or remove the text from the row",
        )


def _variants(tokenizer: Mapping[str, Any], markers: set[str], origin: str) -> dict[RunPosition, Tokenizer]:
    added = [
        {**entry, "special": bool(entry.get("special")) or entry["content"] in markers}
        for entry in tokenizer.get("added_tokens") or []
    ]
    base_config = {**tokenizer, "added_tokens": added, "truncation": None, "padding": None}
    built: dict[bytes, Tokenizer] = {}
    variants: dict[RunPosition, Tokenizer] = {}
    edits: list[tuple[RunPosition, Callable[[Any], Any]]] = [
        ("start", lambda component: component),
        ("segment", _without_first_space),
        ("continuation", _without_any_space),
    ]
    for position, edit in edits:
        components = {key: edit(base_config.get(key)) for key in ("normalizer", "pre_tokenizer")}
        key = msgspec.json.encode(components)
        if key not in built:
            built[key] = _build(msgspec.json.encode({**base_config, **components}), origin)
        variants[position] = built[key]
    return variants


def _build(serialised: bytes, origin: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(serialised.decode())
    except Exception as error:  # the library raises bare Exception
        raise PromptError(
            f"{origin} is not a tokenizer that the tokenizers library reads: {error}",
            fix="save it again with tokenizer.save_pretrained(...)",
        ) from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def _without_first_space(component: Any) -> Any:
    """Metaspace with prepend_scheme "first" adds its space only at the very start of a text."""
    return _edit(component, lambda node: {**node, "prepend_scheme": "never"} if _scheme(node) == "first" else node)


def _without_any_space(component: Any) -> Any:
    """No prefix space at all: the text goes on in the middle of a run."""

    def edit(node: dict[str, Any]) -> dict[str, Any] | None:
        if node.get("type") == "Prepend":
            return None
        if _scheme(node) is not None:
            return {**node, "prepend_scheme": "never"}
        return {**node, "add_prefix_space": False} if node.get("type") == "ByteLevel" else node

    return _edit(component, edit)


def _scheme(node: Mapping[str, Any]) -> Any:
    return node.get("prepend_scheme", "always") if node.get("type") == "Metaspace" else None


def _edit(component: Any, edit: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Any:
    """Apply `edit` to a normalizer or pre-tokenizer, and to the members of a sequence; None removes it."""
    if component is None:
        return None
    for key in ("normalizers", "pretokenizers"):
        if key in component:
            members = [_edit(member, edit) for member in component[key]]
            return {**component, key: [member for member in members if member is not None]}
    return edit(component)
