"""Which of many adapters are the same, nearly the same, or of one origin.

Copies are found by digest, near copies by the angle between sketches (see `sketch`) and then confirmed
from the files: the inner product of two updates is the sum over modules of s1 s2 tr((B1^T B2)(A2 A1^T)).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lorica.adapters.arrays import Floats, TensorReader
from lorica.adapters.header import Header, TensorInfo, read_header
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import LoraModule, map_tensors
from lorica.data.union_find import UnionFind
from lorica.errors import AdapterError
from lorica.names import listed
from lorica.reports.short_names import short_names
from lorica.vetting.finding_codes import Severity
from lorica.vetting.findings import Finding, finding
from lorica.vetting.numbers.check_numbers import WeightStatistics
from lorica.vetting.numbers.module_updates import scalings
from lorica.vetting.numbers.sketch import SIZE
from lorica.vetting.numbers.training_runs import RunMember, find_runs, named_steps
from lorica.vetting.wording import shown

Entry = tuple[RawAdapter, WeightStatistics]
# Columns of a name in a finding.
_NAME = 60

# Sketches of updates with a true cosine of NEAR are hardly ever further apart than CANDIDATE.
CANDIDATE, NEAR = 0.95, 0.99
# Above it, two updates are one update and rounding.
SAME = 0.9999
# Above it, and of another size, an update was multiplied: training turns what it lets grow.
PROPORTIONAL = 0.99999
# A's rows after short training still point where they started; unrelated starts are below 0.3.
SAME_START = 0.7
# Beyond so many confirmations the sketch's own angle is taken: a run may save hundreds of checkpoints.
_MAX_CONFIRMED = 200
_BLOCK = 256
_FOLD = re.compile(r"(?i)(?:^|[^a-z])(?:fold|cv)[-_ ]?(\d{1,3})(?:$|[^0-9])")


class _Comparison:
    """All entries beside each other, in their order. runs: equal numbers for adapters of one training run. steps: as
    their paths give them. findings: by the adapter's name."""

    def __init__(self, entries: Sequence[Entry], members: Sequence[RunMember]) -> None:
        self.entries = entries
        self.runs, self.steps = find_runs(members), named_steps(members)
        self.findings: dict[str, list[Finding]] = {}
        names = [shown(adapter.name, 1000) for adapter, _ in entries]
        labels = short_names(names, _NAME)
        self._labels = [labels[name] for name in names]  # as findings show them, all of them different

    def may_equal(self, i: int, j: int) -> bool:
        """Whether two adapters are of one run and not of two steps of it, so that to be equal is no news."""
        return self.runs[i] == self.runs[j] and (
            None in (self.steps[i], self.steps[j]) or self.steps[i] == self.steps[j]
        )

    def labels(self, indices: Sequence[int]) -> str:
        """Adapters for a message."""
        return listed((self._labels[i] for i in indices), 3)

    def report(
        self,
        index: int,
        code: str,
        actual: str,
        related: Sequence[int],
        facts: dict[str, Any],
        *,
        expected: str = "",
        severity: Severity | None = None,
    ) -> None:
        """A finding on one adapter about others."""
        facts = {"others": [self.entries[i][0].name for i in related[:20]], **facts}
        result = finding(code, actual, expected=expected, facts=facts, severity=severity)
        self.findings.setdefault(self.entries[index][0].name, []).append(result)

    def report_rescaled(self, index: int, actual: str, related: Sequence[int], ratio: float, angle: float) -> None:
        """A finding on an update that is another one at another scale."""
        expected = "one alpha, rank and set of targets for one update"
        self.report(index, "L252", actual, related, {"ratio": ratio, "cosine": angle}, expected=expected)


def check_duplicates(entries: Sequence[Entry], members: Sequence[RunMember] | None = None) -> dict[str, list[Finding]]:
    """Findings by the adapter's name; a name that nothing was found for is left out.

    members: what tells the training run of each entry, by default their paths alone.
    """
    members = [RunMember(adapter.given) for adapter, _ in entries] if members is None else members
    comparison = _Comparison(entries, members)
    same = _find_copies(comparison)
    leaders = _near_copies(comparison, same)
    first = [leaders.get(i, i) for i in same]
    _shared_starts(comparison, first, _folds(comparison))
    return comparison.findings


def cosine(first: Entry, second: Entry) -> float | None:
    """The cosine between two updates, from the files; None when their modules or shapes differ, or one is zero.

    Raises AdapterError when a file cannot be read.
    """
    if first[1].signature != second[1].signature:
        return None
    product = left_square = right_square = 0.0
    for left_factors, right_factors in _factors(first[0], second[0]):
        product += _inner_product(left_factors, right_factors)
        left_square += _inner_product(left_factors, left_factors)
        right_square += _inner_product(right_factors, right_factors)
    if not (np.isfinite(product) and left_square > 0 and right_square > 0):
        return None
    return float(product / (left_square * right_square) ** 0.5)


ScaledFactors = tuple[Floats, Floats, float]  # A [r, in], B [out, r], scaling


def _inner_product(first: ScaledFactors, second: ScaledFactors) -> float:
    """Of two updates: s1 s2 tr((B1ᵀ B2)(A2 A1ᵀ))."""
    a1, b1, scale1 = first
    a2, b2, scale2 = second
    return scale1 * scale2 * float(((b1.T @ b2) * (a1 @ a2.T)).sum(dtype=np.float64))


def _factors(first: RawAdapter, second: RawAdapter) -> Iterator[tuple[ScaledFactors, ScaledFactors]]:
    """The factors of every module that both have, one module at a time."""
    adapters = (first, second)
    tensor_maps = [map_tensors(_header(adapter)) for adapter in adapters]
    scales = [
        scalings(adapter.config, tensor_map.modules)[0]
        for adapter, tensor_map in zip(adapters, tensor_maps, strict=True)
    ]
    if first.weights is None or second.weights is None:
        return
    with TensorReader(first.weights) as left_reader, TensorReader(second.weights) as right_reader:
        for module in tensor_maps[0].pairs:
            right_module = tensor_maps[1].modules.get(module.path)
            if right_module is None or not (right_module.a and right_module.b):
                continue
            a1, b1 = _pair(left_reader, module, tensor_maps[0].tensors)
            a2, b2 = _pair(right_reader, right_module, tensor_maps[1].tensors)
            if a1.shape[1] == a2.shape[1] and b1.shape[0] == b2.shape[0]:
                yield (a1, b1, scales[0][module.path]), (a2, b2, scales[1][module.path])


def _header(adapter: RawAdapter) -> Header:
    """Read again where it was not kept: thousands of headers would fill the memory."""
    if adapter.header is not None or adapter.weights is None:
        return adapter.header or Header({}, {})
    return read_header(adapter.weights)


def _pair(reader: TensorReader, module: LoraModule, tensors: dict[str, TensorInfo]) -> tuple[Floats, Floats]:
    a, b = (reader.read(tensors[name]) for name in (module.a, module.b))
    return a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)


def _find_copies(comparison: _Comparison) -> list[int]:
    """Findings for equal tensors. Returns for each entry the number of the first with the same tensors."""
    groups: dict[str, list[int]] = {}
    for i, (_, numbers) in enumerate(comparison.entries):
        comparable = numbers.weights_digest and not numbers.empty
        groups.setdefault(numbers.weights_digest if comparable else f"none {i}", []).append(i)
    first = list(range(len(comparison.entries)))
    for group in groups.values():
        for i in group:
            first[i] = group[0]
            if len(group) > 1:
                _report_copies(comparison, i, [j for j in group if j != i])
    return first


def _report_copies(comparison: _Comparison, i: int, twins: Sequence[int]) -> None:
    entries = comparison.entries
    adapter, numbers = entries[i]
    base = _base(adapter)
    foreign = [j for j in twins if base and _base(entries[j][0]) not in ("", base)]
    if foreign:
        foreign_base = _base(entries[foreign[0]][0])
        labels = comparison.labels(foreign)
        actual = f"the tensors of {labels}, which names {shown(foreign_base)}, not {shown(base)}"
        expected = "one base model for one set of weights"
        comparison.report(i, "L253", actual, foreign, {"bases": [base, foreign_base]}, expected=expected)
    changed = [j for j in twins if entries[j][1].content_digest != numbers.content_digest]
    if changed:
        other_norm = entries[changed[0]][1].norm
        ratio = numbers.norm / other_norm if other_norm > 0 else 1.0
        how = f"{ratio:.4g} times as strong" if abs(ratio - 1) > 1e-6 else "with another config"
        comparison.report_rescaled(i, f"the tensors of {comparison.labels(changed)}, {how}", changed, ratio, 1.0)
    equal = [j for j in twins if j not in changed]
    if equal:
        severity: Severity | None = "note" if all(comparison.may_equal(i, j) for j in equal) else None
        facts = {"cosine": 1.0, "count": len(equal)}
        comparison.report(i, "L250", f"equal to {comparison.labels(equal)}", equal, facts, severity=severity)


def _near_copies(comparison: _Comparison, first: Sequence[int]) -> dict[int, int]:
    """Findings for updates that point the same way though their tensors differ; returns later -> earlier of each."""
    entries = comparison.entries
    leaders: dict[int, int] = {}
    confirmed = 0
    for i, j, rough in _similar_pairs(entries, first, "sketch", CANDIDATE):
        if i in leaders or j in leaders:
            continue  # one of them already stands beside an earlier one
        angle: float | None = rough
        if confirmed < _MAX_CONFIRMED:
            confirmed += 1
            try:
                angle = cosine(entries[j], entries[i])
            except AdapterError:
                continue  # its own findings say that it cannot be read
        if angle is None or abs(angle) < NEAR:
            continue
        leaders[i] = j
        _report_similar(comparison, i, j, angle)
        _report_similar(comparison, j, i, angle)
    return leaders


def _report_similar(comparison: _Comparison, i: int, j: int, angle: float) -> None:
    ratio = comparison.entries[i][1].norm / comparison.entries[j][1].norm
    own_run = comparison.runs[i] == comparison.runs[j]
    label = comparison.labels([j])
    strength = f"{ratio:.4g} times as strong"
    if angle < 0:
        comparison.report_rescaled(i, f"the opposite of {label}'s update, {strength}", [j], -ratio, angle)
    # Within a run an update that grew is the training's; one that was multiplied is not.
    elif angle >= (PROPORTIONAL if own_run else SAME) and abs(ratio - 1) > 0.02:
        comparison.report_rescaled(i, f"{label}'s update, {strength}", [j], ratio, angle)
    elif angle >= SAME and abs(ratio - 1) <= 0.02:
        actual = f"the update of {label}, stored in other numbers"
        severity: Severity | None = "note" if own_run else None
        comparison.report(i, "L250", actual, [j], {"cosine": angle, "count": 1}, severity=severity)
    else:
        actual = f"cosine {angle:.4f} with the update of {label}"
        expected = f"below {NEAR} for adapters of different data"
        comparison.report(i, "L251", actual, [j], {"cosine": angle, "ratio": ratio}, expected=expected)


def _folds(comparison: _Comparison) -> dict[int, tuple[str, str, str]]:
    """Findings for the folds of one cross-validation, by their names; returns what the folds of one have in common."""
    folds: dict[tuple[str, str, str], dict[int, str]] = {}
    for i, (adapter, numbers) in enumerate(comparison.entries):
        for component in (adapter.name, *reversed(adapter.given.parts[-3:])):
            if match := _FOLD.search(component):
                stem = component[: match.start(1)] + "*" + component[match.end(1) :]
                folds.setdefault((stem, numbers.signature, _base(adapter)), {})[i] = match[1]
                break
    in_folds: dict[int, tuple[str, str, str]] = {}
    for key, fold_numbers in folds.items():
        if len(set(fold_numbers.values())) > 1 and key[1]:
            in_folds |= dict.fromkeys(fold_numbers, key)
            _report_folds(comparison, sorted(fold_numbers))
    return in_folds


def _report_folds(comparison: _Comparison, members: Sequence[int]) -> None:
    sketches = {i: comparison.entries[i][1].sketch for i in members}
    vectors = {i: np.frombuffer(sketch, "<f4") for i, sketch in sketches.items() if sketch}
    for i in members:
        other_folds = [j for j in members if j != i]
        angles = [float(vectors[i] @ vectors[j]) for j in other_folds if i in vectors and j in vectors]
        about = f", cosines of updates about {min(angles):.2f} to {max(angles):.2f}" if angles else ""
        actual = f"a fold beside {comparison.labels(other_folds)}{about}"
        comparison.report(i, "L255", actual, other_folds, {"cosines": angles[:20]})


def _shared_starts(comparison: _Comparison, first: Sequence[int], in_folds: dict[int, tuple[str, str, str]]) -> None:
    """Findings for runs that started from the same values. first: for each entry, the first of those that were already
    said to be one update with it."""
    starts = UnionFind(len(comparison.entries))
    for i, j, _ in _similar_pairs(comparison.entries, first, "start", SAME_START):
        starts.join(i, j)
    groups: dict[int, list[int]] = {}
    for i in range(len(comparison.entries)):
        groups.setdefault(starts.find(i), []).append(i)
    for group in groups.values():
        for i in group:
            relatives = [
                j
                for j in group
                if first[j] != first[i]
                and comparison.runs[j] != comparison.runs[i]
                and not (i in in_folds and in_folds.get(j) == in_folds[i])
            ]
            if relatives:
                actual = f"lora_A starts as in {comparison.labels(relatives)}"
                comparison.report(i, "L254", actual, relatives, {"count": len(relatives)})


def _similar_pairs(
    entries: Sequence[Entry], first: Sequence[int], vector_name: str, minimum: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs (later, earlier) of comparable adapters with different tensors, whose vectors' cosine is at least
    `minimum` in size; for sketches of either sign. One block of rows at a time: memory grows with the number, not
    its square."""
    groups: dict[str, list[int]] = {}
    for i, (_, numbers) in enumerate(entries):
        if len(getattr(numbers, vector_name)) == 4 * SIZE and first[i] == i:
            groups.setdefault(numbers.signature, []).append(i)
    for members in groups.values():
        vectors = np.stack([np.frombuffer(getattr(entries[i][1], vector_name), "<f4") for i in members])
        for begin in range(0, len(members), _BLOCK):
            block = vectors[begin : begin + _BLOCK] @ vectors[: begin + _BLOCK].T
            sizes = np.abs(block) if vector_name == "sketch" else block
            for row, column in np.argwhere(sizes >= minimum).tolist():
                if column < begin + row:
                    yield members[begin + row], members[column], float(block[row, column])


def _base(adapter: RawAdapter) -> str:
    """The base model's name without its owner's or folder's, "" where there is none."""
    path = adapter.config.base_model_name_or_path if adapter.config else None
    return (path or "").replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
