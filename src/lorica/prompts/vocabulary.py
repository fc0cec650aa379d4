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
        wordlike = self.content.isspace() or all(
            character.isalnum() or character.isspace() for character in self.content
        )
        return self.special or not wordlike


class Vocabulary:
    """Encodes runs of plain text, finds a template's markers, decodes."""

    def __init__(self, tokenizer: Mapping[str, Any], origin: str) -> None:
        """tokenizer: the decoded tokenizer.json. Raises PromptError when the library refuses it."""
        added_tokens = msgspec.convert(tokenizer.get("added_tokens") or [], list[AddedToken])
        self._markers = {
            added_token.content: added_token
            for added_token in added_tokens
            if added_token.is_marker and added_token.content
        }
        # Thoughts are told from answers by their tags.
        self._special_ids = {
            added_token.id for added_token in added_tokens if added_token.special and not is_tag(added_token.content)
        }
        # Leftmost-longest, as the tokenizer's own automaton matches; `(?!)` matches nothing.
        longest_first = sorted(self._markers, key=len, reverse=True)
        alternatives = "|".join(map(re.escape, longest_first)) or "(?!)"
        self._marker = re.compile(f"({alternatives})")
        self._marker_start = re.compile(f"(?=(?:{alternatives}))")
        self._has_space_rules = any(added_token.lstrip or added_token.rstrip for added_token in self._markers.values())
        self._tokenizers = _variants(tokenizer, set(self._markers), origin)
        unknown = _unknown_token(tokenizer["model"])
        self._forbidden = {added_token.id for added_token in self._markers.values() if added_token.content != unknown}
        self._encode_cached = functools.lru_cache(maxsize=_CACHED_RUNS)(self._encode_now)

    def marker_id(self, content: str) -> int | None:
        """The id of a marker, or None when `content` is not one."""
        added_token = self._markers.get(content)
        return None if added_token is None else added_token.id

    def first_marker(self, prompt_text: str) -> int | None:
        """The id of the marker that `prompt_text` opens with, after white space; None for anything else."""
        marker_match = self._marker.match(prompt_text.lstrip()) or self._marker.match(prompt_text)
        return self._markers[marker_match.group()].id if marker_match else None

    def ends_with_marker(self, prompt_text: str) -> bool:
        """Whether the last thing in `prompt_text` that yields a token is a marker."""
        pieces = self.split(prompt_text)
        return bool(pieces) and isinstance(pieces[-1], int)

    def mask_markers(self, prompt_text: str, stand_ins: Mapping[str, str]) -> str:
        """`prompt_text` with the first character of each marker replaced, so that `split` finds none."""
        starts = [marker_match.start() for marker_match in self._marker_start.finditer(prompt_text)]
        if not starts:
            return prompt_text
        pieces, end = [], 0
        for piece_start in starts:
            pieces += [prompt_text[end:piece_start], stand_ins[prompt_text[piece_start]]]
            end = piece_start + 1
        return "".join(pieces) + prompt_text[end:]

    def has_marker(self, prompt_text: str) -> bool:
        """Whether any marker occurs in `prompt_text`."""
        return self._marker.search(prompt_text) is not None

    @property
    def marker_initials(self) -> list[str]:
        """The characters that markers start with, sorted."""
        return sorted({content[0] for content in self._markers})

    def split(self, text: str) -> list[int | str]:
        """Marker ids and the runs of plain text between them, in order; empty runs are left out."""
        pieces = self._marker.split(text)
        if self._has_space_rules:
            self._strip_beside_markers(pieces)
        text_runs: list[int | str] = []
        for piece_index, text_piece in enumerate(pieces):
            if piece_index % 2:
                text_runs.append(self._markers[text_piece].id)
            elif text_piece:
                text_runs.append(text_piece)
        return text_runs

    def encode(self, text_run: str, position: RunPosition) -> tuple[int, ...]:
        """Token ids of plain text; never the id of a marker."""
        if len(text_run) > _CACHED_RUN_CHARS:
            return self._encode_now(text_run, position)
        return self._encode_cached(text_run, position)

    def offsets(self, prompt_text: str) -> list[tuple[int, int]]:
        """The character span of each token of `prompt_text` as a continuation of other text."""
        return list(self._tokenizers["continuation"].encode(prompt_text, add_special_tokens=False).offsets)

    def count(self, prompt_text: str) -> int:
        """About how many tokens `prompt_text` has: exact up to 65,536 characters, beyond that counted in pieces."""
        pieces = range(0, len(prompt_text), _COUNTED_PIECE_CHARS)
        tokenizer = self._tokenizers["continuation"]
        return sum(
            len(
                tokenizer.encode(
                    prompt_text[piece_start : piece_start + _COUNTED_PIECE_CHARS], add_special_tokens=False
                )
            )
            for piece_start in pieces
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, without special tokens but for the tags of thoughts; unknown ids are left out."""
        text_tokens = [token_id for token_id in tokens if token_id not in self._special_ids]
        return str(self._tokenizers["start"].decode(text_tokens, skip_special_tokens=False))

    def decode_with_special(self, tokens: Sequence[int]) -> str:
        """The text of token ids with every special token written out, for people to read."""
        return str(self._tokenizers["start"].decode(list(tokens), skip_special_tokens=False))

    def opening_tokens(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text (a beginning-of-text token, or nothing)."""
        return tuple(self._tokenizers["start"].encode("", add_special_tokens=True).ids)

    def pair_marks(self) -> tuple[list[str], list[str], list[str]]:
        """The markers that the tokenizer itself puts before, between and behind a pair of texts; [] for none."""
        pair = self._tokenizers["start"].encode("a", "a", add_special_tokens=True)
        first, second = pair.sequence_ids.index(0), pair.sequence_ids.index(1)
        marks = [
            "" if sequence is not None else mark for mark, sequence in zip(pair.tokens, pair.sequence_ids, strict=True)
        ]
        opening, between, ending = (
            [mark for mark in span if mark in self._markers]
            for span in (marks[:first], marks[first:second], marks[second:])
        )
        return opening, between, ending

    def entries(self) -> dict[str, int]:
        """Every entry and its id, added tokens included."""
        return dict(self._tokenizers["start"].get_vocab(with_added_tokens=True))

    def token_id(self, content: str) -> int | None:
        """The id of a marker or of any other entry of the vocabulary with exactly this spelling."""
        identifier = self._tokenizers["start"].token_to_id(content)
        return None if identifier is None else int(identifier)

    def renumbered(self, tokens: Collection[int]) -> dict[str, int | None]:
        """Of these markers those that the file gives one id and the tokenizers library another: spelling -> the
        library's.
        """
        library_ids = {
            content: self.token_id(content)
            for content, added_token in self._markers.items()
            if added_token.id in tokens
        }
        return {content: number for content, number in library_ids.items() if number != self._markers[content].id}

    def _strip_beside_markers(self, pieces: list[str]) -> None:
        for piece_index in range(1, len(pieces), 2):
            added_token = self._markers[pieces[piece_index]]
            if added_token.lstrip:
                pieces[piece_index - 1] = pieces[piece_index - 1].rstrip()
            if added_token.rstrip:
                pieces[piece_index + 1] = pieces[piece_index + 1].lstrip()

    def _ids(self, prompt_text: str, position: RunPosition) -> tuple[int, ...]:
        return tuple(self._tokenizers[position].encode(prompt_text, add_special_tokens=False).ids)

    def _encode_now(self, text_run: str, position: RunPosition) -> tuple[int, ...]:
        token_ids = self._ids(text_run, position)
        if self._forbidden.isdisjoint(token_ids):
            return token_ids
        # A vocabulary may spell a marker as an ordinary piece (Unigram models do): keep its letters apart.
        cut_points = [
            0,
            *(marker_match.start() + 1 for marker_match in self._marker_start.finditer(text_run)),
            len(text_run),
        ]
        pieces = [text_run[piece_start:piece_end] for piece_start, piece_end in itertools.pairwise(cut_points)]
        split = [
            token_id
            for piece_index, text_piece in enumerate(pieces)
            for token_id in self._ids(text_piece, "continuation" if piece_index else position)
        ]
        if self._forbidden.isdisjoint(split):
            return tuple(split)
        raise PromptError(
            "the tokenizer turns plain text of this row into a control token",
            fix="use a model whose control tokens cannot be spelt, or remove the text from the row",
        )


def _unknown_token(model: Mapping[str, Any]) -> str | None:
    """What stands for text that the vocabulary lacks; Unigram models number it."""
    number, vocabulary = model.get("unk_id"), model.get("vocab")
    if isinstance(number, int) and isinstance(vocabulary, list) and 0 <= number < len(vocabulary):
        return str(vocabulary[number][0])
    return model.get("unk_token")


def _variants(tokenizer: Mapping[str, Any], markers: set[str], origin: str) -> dict[RunPosition, Tokenizer]:
    added_tokens = [
        {**token_entry, "special": bool(token_entry.get("special")) or token_entry["content"] in markers}
        for token_entry in tokenizer.get("added_tokens") or []
    ]
    base_config = {**tokenizer, "added_tokens": added_tokens, "truncation": None, "padding": None}
    built_tokenizers: dict[bytes, Tokenizer] = {}
    variants: dict[RunPosition, Tokenizer] = {}
    edits: list[tuple[RunPosition, Callable[[Any], Any]]] = [
        ("start", lambda component: component),
        ("segment", _without_first_space),
        ("continuation", _without_any_space),
    ]
    for position, edit in edits:
        components = {
            component_key: edit(base_config.get(component_key)) for component_key in ("normalizer", "pre_tokenizer")
        }
        variant_key = msgspec.json.encode(components)
        if variant_key not in built_tokenizers:
            built_tokenizers[variant_key] = _build(msgspec.json.encode({**base_config, **components}), origin)
        variants[position] = built_tokenizers[variant_key]
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
    return _edit(
        component,
        lambda component_node: (
            {**component_node, "prepend_scheme": "never"} if _scheme(component_node) == "first" else component_node
        ),
    )


def _without_any_space(component: Any) -> Any:
    """No prefix space at all: the text goes on in the middle of a run."""

    def edit(component_node: dict[str, Any]) -> dict[str, Any] | None:
        if component_node.get("type") == "Prepend":
            return None
        if _scheme(component_node) is not None:
            return {**component_node, "prepend_scheme": "never"}
        return (
            {**component_node, "add_prefix_space": False}
            if component_node.get("type") == "ByteLevel"
            else component_node
        )

    return _edit(component, edit)


def _scheme(component_node: Mapping[str, Any]) -> Any:
    return component_node.get("prepend_scheme", "always") if component_node.get("type") == "Metaspace" else None


def _edit(component: Any, edit: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Any:
    """Apply `edit` to a normalizer or pre-tokenizer, and to the members of a sequence; None removes it."""
    if component is None:
        return None
    for component_key in ("normalizers", "pretokenizers"):
        if component_key in component:
            members = [_edit(member, edit) for member in component[component_key]]
            return {**component, component_key: [member for member in members if member is not None]}
    return edit(component)
