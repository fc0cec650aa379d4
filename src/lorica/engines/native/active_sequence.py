"""A sequence that is being decoded: its tokens so far, its slot of the KV cache, and when it is finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lorica.engines.base import Decode
from lorica.engines.native.packed_batch import PackedSequence
from lorica.engines.native.sampler import SequenceSampler
from lorica.engines.native.stop_strings import contains_stop_string
from lorica.records import Output


@dataclass(eq=False)
class ActiveSequence:
    """index: of its request. seq: its suffix. slot: of the KV cache. last_token: the newest, not cached yet."""

    index: int
    seq: PackedSequence
    sampler: SequenceSampler
    max_new_tokens: int
    slot: int
    last_token: int = -1

    @property
    def cached(self) -> int:
        """Tokens in its cache slot."""
        return self.seq.length + len(self.sampler.tokens) - 1

    @property
    def max_cached(self) -> int:
        """Tokens that its cache slot may come to hold."""
        return self.seq.length + self.max_new_tokens

    @property
    def position(self) -> int:
        """Of the last token."""
        return self.seq.start + self.cached

    def append(self, token: int, detokenize: Decode | None) -> Output | None:
        """Add the next token; returns the output if that ends the sequence: by a stop token, stop string or length."""
        request, tokens = self.sampler.request, self.sampler.tokens
        finish: Literal["stop", "length"] | None = None
        if token in request.stop_tokens:
            finish = "stop"
        else:
            tokens.append(token)
            self.last_token = token
            if detokenize is not None and contains_stop_string(detokenize, tokens, request.stop):
                finish = "stop"
            elif len(tokens) == self.max_new_tokens:
                finish = "length"
        return None if finish is None else Output(id=request.id, tokens=tuple(tokens), finish=finish)
