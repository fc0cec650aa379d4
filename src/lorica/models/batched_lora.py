"""LoRA of many adapters in one pass, in few products: short spans of different adapters are bundled.

A bundle multiplies all its tokens with the A matrices of all its adapters, laid side by side, blanks what is another
adapter's, and multiplies the rest with all B matrices: a few larger products instead of many tiny ones. Layers of one
input (query, key, value) share the product with A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.models.compiled import bindings
from lorica.models.lora import LoraPair, LoraSpan, LoraWeights

# A bundle grows while its tokens times the ranks of its adapters stay within this: beyond, what is computed only to be
# blanked costs more than the calls that are saved.
_BUNDLE_CELLS = 4096
_CACHED_TOKENS = 256  # passes up to this size are steps of generation, which repeat with the same adapters


@dataclass(frozen=True, eq=False)
class _Bundle:
    spans: tuple[LoraSpan, ...]

    @property
    def start(self) -> int:
        return self.spans[0].start

    @property
    def stop(self) -> int:
        return self.spans[-1].stop

    @property
    def key(self) -> tuple[int, ...]:
        return tuple(id(span.adapter) for span in self.spans)


@dataclass(frozen=True, eq=False)
class _Factors:
    """a [R, in]: the A matrices of all paths and adapters. parts: for each output, its columns of the middle and its
    B [out, columns]. ranks, scalings: of each block of columns, with the number of its adapter in the bundle.
    """

    a: Tensor
    parts: tuple[tuple[int, slice, Tensor], ...]
    blocks: tuple[tuple[int, int, float], ...]


class FactorMemory:
    """The joined matrices of the adapters that are being continued: steps of generation come with the same ones."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], tuple[tuple[LoraSpan, ...], dict[tuple[str, ...], _Factors | None]]] = {}

    def of(self, bundle: _Bundle, paths: tuple[str, ...], dtype: torch.dtype | None) -> _Factors | None:
        """Joined once for a bundle's adapters, and kept until `keep_only` drops them."""
        # The spans are kept with what was made of them, so that no other adapter takes their identity.
        _, made = self._kept.setdefault(bundle.key, (bundle.spans, {}))
        if paths not in made:
            made[paths] = _join(bundle, paths, dtype)
        return made[paths]

    def keep_only(self, bundles: Sequence[_Bundle]) -> None:
        """Forget the adapters of all other bundles."""
        keys = {bundle.key for bundle in bundles}
        for key in [key for key in self._kept if key not in keys]:
            del self._kept[key]


class Updates:
    """What the adapters of one pass add to the base's products."""

    def __init__(
        self,
        spans: Sequence[LoraSpan],
        tokens: int,
        memory: FactorMemory | None = None,
        *,
        bundle: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        """spans: disjoint, in order. tokens: of the pass. memory: where steps of generation keep joined matrices.
        bundle: False keeps every span alone, so that its rounding does not depend on its neighbours. dtype: the
        precision in which matrices are multiplied, whatever they are kept in; None for the latter.
        """
        self._dtype = dtype
        self._bundles = _bundle(spans) if bundle else [_Bundle((span,)) for span in spans]
        self._memory = memory if tokens <= _CACHED_TOKENS else None
        self._masks: dict[tuple[int, tuple[tuple[int, int, float], ...]], Tensor] = {}
        if memory is not None:
            memory.keep_only(self._bundles if self._memory is not None else ())

    def add(self, paths: tuple[str, ...], widths: Sequence[int], x: Tensor, y: Tensor, first: int = 0) -> None:
        """Add to y, in place, what the adapters of x's tokens give for it.

        x [N, in] are the tokens first.. of the pass; y [N, sum of widths] holds the results of the modules `paths`
        side by side, `widths` columns each.
        """
        for number, bundle in enumerate(self._bundles):
            start, stop = max(bundle.start, first), min(bundle.stop, first + len(x))
            if start >= stop:
                continue
            factors = (
                _join(bundle, paths, self._dtype)
                if self._memory is None
                else self._memory.of(bundle, paths, self._dtype)
            )
            if factors is None:
                continue
            part = slice(start - first, stop - first)
            middle = F.linear(x[part].to(factors.a.dtype), factors.a)
            middle *= self._mask(number, factors)[start - bundle.start : stop - bundle.start]
            for output, columns, b in factors.parts:
                begin = sum(widths[:output])
                _add_product(y[part, begin : begin + widths[output]], middle[:, columns], b)

    def _mask(self, number: int, factors: _Factors) -> Tensor:
        """[tokens of the bundle, R]: the scaling of each token's own adapter, 0 in the columns of others."""
        key = (number, factors.blocks)
        if key not in self._masks:
            bundle, a = self._bundles[number], factors.a
            mask = a.new_zeros(bundle.stop - bundle.start, len(a))
            column = 0
            for rank, owner, scaling in factors.blocks:
                span = bundle.spans[owner]
                mask[span.start - bundle.start : span.stop - bundle.start, column : column + rank] = scaling
                column += rank
            self._masks[key] = mask
        return self._masks[key]


def _add_product(y: Tensor, middle: Tensor, b: Tensor) -> None:
    # y [N, out] += middle [N, r] b^T
    if y.dtype == b.dtype:
        y.addmm_(middle, b.t())
    else:
        y += F.linear(middle, b)


def _bundle(spans: Sequence[LoraSpan]) -> list[_Bundle]:
    bundles: list[_Bundle] = []
    gathered: list[LoraSpan] = []
    ranks = 0
    for span in spans:
        rank = _rank(span.adapter)
        if gathered and (span.stop - gathered[0].start) * (ranks + rank) > _BUNDLE_CELLS:
            bundles.append(_Bundle(tuple(gathered)))
            gathered, ranks = [], 0
        gathered.append(span)
        ranks += rank
    return [*bundles, _Bundle(tuple(gathered))] if gathered else bundles


def _rank(adapter: LoraWeights) -> int:
    return max((len(pair.a) for pair in adapter.pairs.values()), default=0)


def _join(bundle: _Bundle, paths: tuple[str, ...], dtype: torch.dtype | None) -> _Factors | None:
    """None when no adapter of the bundle changes any of these modules."""
    a: list[Tensor] = []
    blocks: list[tuple[int, int, float]] = []
    parts: list[tuple[int, slice, Tensor]] = []
    column = 0
    for output, path in enumerate(paths):
        found = [(owner, span.adapter.pairs.get(path)) for owner, span in enumerate(bundle.spans)]
        pairs: list[tuple[int, LoraPair]] = [(owner, pair) for owner, pair in found if pair is not None]
        if not pairs:
            continue
        begin = column
        for owner, pair in pairs:
            a.append(pair.a.to(dtype))
            blocks.append((len(pair.a), owner, pair.scaling))
            column += len(pair.a)
        each = [pair.b.to(dtype) for _, pair in pairs]
        b = each[0] if len(each) == 1 else torch.cat(each, dim=1)
        parts.append((output, slice(begin, column), b))
    if not a:
        return None
    return _Factors(a[0] if len(a) == 1 else torch.cat(a), tuple(parts), tuple(blocks))


class CompiledUpdates:
    """`Updates` by the compiled kernel, which takes every span alone: bfloat16 on a CPU."""

    def __init__(self, spans: Sequence[LoraSpan]) -> None:
        """spans: disjoint."""
        self._adapters = [span.adapter for span in spans]
        self._spans = np.array([(span.start, span.stop) for span in spans], np.int64)
        self._tables: dict[tuple[str, ...], bindings.Integers | None] = {}
        self._held: list[Tensor] = []  # what the tables point to, where adapters have it otherwise

    def add(self, paths: tuple[str, ...], widths: Sequence[int], x: Tensor, y: Tensor, first: int = 0) -> None:
        """See `Updates.add`; y is contiguous."""
        pairs = self._table(paths)
        if pairs is not None:
            layout = bindings.update_layout(widths, x.shape[1])
            bindings.add_updates(x.to(torch.bfloat16), y, first, self._spans, pairs, layout)

    def touches(self, paths: tuple[str, ...]) -> bool:
        """Whether any adapter changes any of these modules."""
        return self._table(paths) is not None

    def _table(self, paths: tuple[str, ...]) -> bindings.Integers | None:
        if paths not in self._tables:
            found = [adapter.pairs.get(path) for adapter in self._adapters for path in paths]
            pairs = [None if one is None else self._of(one) for one in found]
            self._tables[paths] = bindings.update_pairs(pairs) if any(found) else None
        return self._tables[paths]

    def _of(self, pair: LoraPair) -> tuple[Tensor, Tensor, float]:
        a, b = (each.to(torch.bfloat16).contiguous() for each in (pair.a, pair.b))
        self._held += [each for each, own in ((a, pair.a), (b, pair.b)) if each is not own]
        return a, b, pair.scaling


AnyUpdates = Updates | CompiledUpdates
