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
from lorica.vetting.findings import Finding, Severity, finding
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
        adapter_names = [shown(adapter.name, 1000) for adapter, _ in entries]
        labels = short_names(adapter_names, _NAME)
        # As findings show them, all of them different.
        self._labels = [labels[adapter_name] for adapter_name in adapter_names]

    def may_equal(self, first_index: int, second_index: int) -> bool:
        """Whether two adapters are of one run and not of two steps of it, so that to be equal is no news."""
        steps = {self.steps[first_index], self.steps[second_index]}
        return self.runs[first_index] == self.runs[second_index] and (None in steps or len(steps) == 1)

    def labels(self, indices: Sequence[int]) -> str:
        """Adapters for a message."""
        return listed((self._labels[index] for index in indices), 3)

    def report(
        self,
        index: int,
        finding_code: str,
        actual: str,
        related: Sequence[int],
        finding_facts: dict[str, Any],
        *,
        expected: str = "",
        severity: Severity | None = None,
    ) -> None:
        """A finding on one adapter about others."""
        others = [self.entries[related_index][0].name for related_index in related[:20]]
        facts = {"others": others, **finding_facts}
        result = finding(finding_code, actual, expected=expected, facts=facts, severity=severity)
        self.findings.setdefault(self.entries[index][0].name, []).append(result)


def check_duplicates(entries: Sequence[Entry], members: Sequence[RunMember] | None = None) -> dict[str, list[Finding]]:
    """Findings by the adapter's name; a name that nothing was found for is left out.

    members: what tells the training run of each entry, by default their paths alone.
    """
    members = [RunMember(adapter.given) for adapter, _ in entries] if members is None else members
    comparison = _Comparison(entries, members)
    copy_leaders = _find_copies(comparison)
    leaders = _near_copies(comparison, copy_leaders)
    first_members = [leaders.get(leader, leader) for leader in copy_leaders]
    _shared_starts(comparison, first_members, _folds(comparison))
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


def _inner_product(first_factors: ScaledFactors, second_factors: ScaledFactors) -> float:
    """Of two updates: s1 s2 tr((B1ᵀ B2)(A2 A1ᵀ))."""
    a1, b1, scale1 = first_factors
    a2, b2, scale2 = second_factors
    return scale1 * scale2 * float(((b1.T @ b2) * (a1 @ a2.T)).sum(dtype=np.float64))


def _factors(first_adapter: RawAdapter, second_adapter: RawAdapter) -> Iterator[tuple[ScaledFactors, ScaledFactors]]:
    """The factors of every module that both have, one module at a time."""
    left_map, right_map = map_tensors(_header(first_adapter)), map_tensors(_header(second_adapter))
    left_scales, _ = scalings(first_adapter.config, left_map.modules)
    right_scales, _ = scalings(second_adapter.config, right_map.modules)
    if first_adapter.weights is None or second_adapter.weights is None:
        return
    with TensorReader(first_adapter.weights) as left_reader, TensorReader(second_adapter.weights) as right_reader:
        for module in left_map.pairs:
            right_module = right_map.modules.get(module.path)
            if right_module is None or not (right_module.a and right_module.b):
                continue
            a1, b1 = _pair(left_reader, module, left_map.tensors)
            a2, b2 = _pair(right_reader, right_module, right_map.tensors)
            if a1.shape[1] == a2.shape[1] and b1.shape[0] == b2.shape[0]:
                yield (a1, b1, left_scales[module.path]), (a2, b2, right_scales[module.path])


def _header(adapter: RawAdapter) -> Header:
    """Read again where it was not kept: thousands of headers would fill the memory."""
    if adapter.header is not None or adapter.weights is None:
        return adapter.header or Header({}, {})
    return read_header(adapter.weights)


def _pair(reader: TensorReader, module: LoraModule, tensors: dict[str, TensorInfo]) -> tuple[Floats, Floats]:
    a_matrix, b_matrix = (reader.read(tensors[tensor_name]) for tensor_name in (module.a, module.b))
    return a_matrix.reshape(a_matrix.shape[0], -1), b_matrix.reshape(b_matrix.shape[0], -1)


def _find_copies(comparison: _Comparison) -> list[int]:
    """Findings for equal tensors. Returns for each entry the number of the first with the same tensors."""
    groups: dict[str, list[int]] = {}
    for index, (_, numbers) in enumerate(comparison.entries):
        comparable = numbers.weights_digest and not numbers.empty
        groups.setdefault(numbers.weights_digest if comparable else f"none {index}", []).append(index)
    leaders = list(range(len(comparison.entries)))
    for members in groups.values():
        for index in members:
            leaders[index] = members[0]
            if len(members) > 1:
                _report_copies(comparison, index, [twin for twin in members if twin != index])
    return leaders


def _report_copies(comparison: _Comparison, index: int, twins: Sequence[int]) -> None:
    entries = comparison.entries
    adapter, numbers = entries[index]
    base_name = _base(adapter)
    foreign_twins = [twin for twin in twins if base_name and _base(entries[twin][0]) not in ("", base_name)]
    if foreign_twins:
        foreign_base = _base(entries[foreign_twins[0]][0])
        labels = comparison.labels(foreign_twins)
        actual = f"the tensors of {labels}, which names {shown(foreign_base)}, not {shown(base_name)}"
        comparison.report(index, "L253", actual, foreign_twins, {"bases": [base_name, foreign_base]})
    changed = [twin for twin in twins if entries[twin][1].content_digest != numbers.content_digest]
    if changed:
        other_norm = entries[changed[0]][1].norm
        norm_ratio = numbers.norm / other_norm if other_norm > 0 else 1.0
        difference = f"{norm_ratio:.4g} times as strong" if abs(norm_ratio - 1) > 1e-6 else "with another config"
        actual = f"the tensors of {comparison.labels(changed)}, {difference}"
        comparison.report(index, "L252", actual, changed, {"ratio": norm_ratio, "cosine": 1.0})
    equal_twins = [twin for twin in twins if twin not in changed]
    if equal_twins:
        severity: Severity | None = "note" if all(comparison.may_equal(index, twin) for twin in equal_twins) else None
        facts = {"cosine": 1.0, "count": len(equal_twins)}
        actual = f"equal to {comparison.labels(equal_twins)}"
        comparison.report(index, "L250", actual, equal_twins, facts, severity=severity)


def _near_copies(comparison: _Comparison, first_members: Sequence[int]) -> dict[int, int]:
    """Findings for updates that point the same way though their tensors differ; returns later -> earlier of each."""
    entries = comparison.entries
    leaders: dict[int, int] = {}
    confirmed = 0
    for index, twin, sketch_cosine in _similar_pairs(entries, first_members, "sketch", CANDIDATE):
        if index in leaders or twin in leaders:
            continue  # one of them already stands beside an earlier one
        update_cosine: float | None = sketch_cosine
        if confirmed < _MAX_CONFIRMED:
            confirmed += 1
            try:
                update_cosine = cosine(entries[twin], entries[index])
            except AdapterError:
                continue  # its own findings say that it cannot be read
        if update_cosine is None or abs(update_cosine) < NEAR:
            continue
        leaders[index] = twin
        _report_similar(comparison, index, twin, update_cosine)
        _report_similar(comparison, twin, index, update_cosine)
    return leaders


def _report_similar(comparison: _Comparison, index: int, twin: int, update_cosine: float) -> None:
    norm_ratio = comparison.entries[index][1].norm / comparison.entries[twin][1].norm
    own_run = comparison.runs[index] == comparison.runs[twin]
    twin_label = comparison.labels([twin])
    strength = f"{norm_ratio:.4g} times as strong"
    if update_cosine < 0:
        actual = f"the opposite of {twin_label}'s update, {strength}"
        comparison.report(index, "L252", actual, [twin], {"ratio": -norm_ratio, "cosine": update_cosine})
    # Within a run an update that grew is the training's; one that was multiplied is not.
    elif update_cosine >= (PROPORTIONAL if own_run else SAME) and abs(norm_ratio - 1) > 0.02:
        actual = f"{twin_label}'s update, {strength}"
        comparison.report(index, "L252", actual, [twin], {"ratio": norm_ratio, "cosine": update_cosine})
    elif update_cosine >= SAME and abs(norm_ratio - 1) <= 0.02:
        actual = f"the update of {twin_label}, stored in other numbers"
        severity: Severity | None = "note" if own_run else None
        comparison.report(index, "L250", actual, [twin], {"cosine": update_cosine, "count": 1}, severity=severity)
    else:
        actual = f"cosine {update_cosine:.4f} with the update of {twin_label}"
        expected = f"below {NEAR} for adapters of different data"
        facts = {"cosine": update_cosine, "ratio": norm_ratio}
        comparison.report(index, "L251", actual, [twin], facts, expected=expected)


def _folds(comparison: _Comparison) -> dict[int, tuple[str, str, str]]:
    """Findings for the folds of one cross-validation, by their names; returns what the folds of one have in common."""
    folds: dict[tuple[str, str, str], dict[int, str]] = {}
    for index, (adapter, numbers) in enumerate(comparison.entries):
        for component in (adapter.name, *reversed(adapter.given.parts[-3:])):
            if fold_match := _FOLD.search(component):
                stem_pattern = component[: fold_match.start(1)] + "*" + component[fold_match.end(1) :]
                folds.setdefault((stem_pattern, numbers.signature, _base(adapter)), {})[index] = fold_match[1]
                break
    in_folds: dict[int, tuple[str, str, str]] = {}
    for fold_key, fold_numbers in folds.items():
        if len(set(fold_numbers.values())) > 1 and fold_key[1]:
            in_folds |= dict.fromkeys(fold_numbers, fold_key)
            _report_folds(comparison, sorted(fold_numbers))
    return in_folds


def _report_folds(comparison: _Comparison, members: Sequence[int]) -> None:
    sketches = {index: comparison.entries[index][1].sketch for index in members}
    vectors = {index: np.frombuffer(sketch, "<f4") for index, sketch in sketches.items() if sketch}
    for index in members:
        other_folds = [fold_index for fold_index in members if fold_index != index]
        compared = [fold_index for fold_index in other_folds if index in vectors and fold_index in vectors]
        angles = [float(vectors[index] @ vectors[fold_index]) for fold_index in compared]
        cosine_text = f", cosines of updates about {min(angles):.2f} to {max(angles):.2f}" if angles else ""
        actual = f"a fold beside {comparison.labels(other_folds)}{cosine_text}"
        comparison.report(index, "L255", actual, other_folds, {"cosines": angles[:20]})


def _shared_starts(
    comparison: _Comparison, first_members: Sequence[int], in_folds: dict[int, tuple[str, str, str]]
) -> None:
    """Findings for runs that started from the same values. first_members: for each entry, the first of those
    that were already said to be one update with it."""
    starts = UnionFind(len(comparison.entries))
    for index, twin, _ in _similar_pairs(comparison.entries, first_members, "start", SAME_START):
        starts.join(index, twin)
    groups: dict[int, list[int]] = {}
    for index in range(len(comparison.entries)):
        groups.setdefault(starts.find(index), []).append(index)
    for members in groups.values():
        for index in members:
            relatives = [
                twin
                for twin in members
                if first_members[twin] != first_members[index]
                and comparison.runs[twin] != comparison.runs[index]
                and not (index in in_folds and in_folds.get(twin) == in_folds[index])
            ]
            if relatives:
                actual = f"lora_A starts as in {comparison.labels(relatives)}"
                comparison.report(index, "L254", actual, relatives, {"count": len(relatives)})


def _similar_pairs(
    entries: Sequence[Entry], first_members: Sequence[int], vector_name: str, minimum: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs (later, earlier) of comparable adapters with different tensors, whose vectors' cosine is at least
    `minimum` in size; for sketches of either sign. One block of rows at a time: memory grows with the number, not
    its square."""
    groups: dict[str, list[int]] = {}
    for index, (_, numbers) in enumerate(entries):
        if len(getattr(numbers, vector_name)) == 4 * SIZE and first_members[index] == index:
            groups.setdefault(numbers.signature, []).append(index)
    for members in groups.values():
        vectors = np.stack([np.frombuffer(getattr(entries[index][1], vector_name), "<f4") for index in members])
        for block_start in range(0, len(members), _BLOCK):
            similarities = vectors[block_start : block_start + _BLOCK] @ vectors[: block_start + _BLOCK].T
            sizes = np.abs(similarities) if vector_name == "sketch" else similarities
            for block_row, column in np.argwhere(sizes >= minimum).tolist():
                if column < block_start + block_row:
                    yield members[block_start + block_row], members[column], float(similarities[block_row, column])


def _base(adapter: RawAdapter) -> str:
    """The base model's name without its owner's or folder's, "" where there is none."""
    base_path = adapter.config.base_model_name_or_path if adapter.config else None
    return (base_path or "").replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
