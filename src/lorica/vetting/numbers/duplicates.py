"""Which of many adapters are the same, nearly the same, or of one origin.

Copies are found by digest, near copies by the angle between sketches (see `sketch`) and then confirmed
from the files: the inner product of two updates is the sum over modules of s1 s2 tr((B1^T B2)(A2 A1^T)).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from lorica.adapters.arrays import Floats, TensorReader
from lorica.adapters.header import Header, TensorInfo, read_header
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import LoraModule, map_tensors
from lorica.data.union_find import UnionFind
from lorica.errors import AdapterError
from lorica.names import listed
from lorica.reports.short_names import short_names
from lorica.vetting.findings import Finding, finding
from lorica.vetting.numbers.check_numbers import WeightStatistics
from lorica.vetting.numbers.module_updates import scalings
from lorica.vetting.numbers.sketch import SIZE
from lorica.vetting.numbers.training_runs import RunMember, find_runs, named_steps
from lorica.vetting.wording import shown

Entry = tuple[RawAdapter, WeightStatistics]
FindingsByName = dict[str, list[Finding]]
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


class _Context(msgspec.Struct, frozen=True):
    """What holds of all entries together, in their order. runs: equal numbers for adapters of one training run.
    steps: as their paths give them. labels: names as findings show them, all of them different."""

    runs: Sequence[int]
    steps: Sequence[int | None]
    labels: Sequence[str]

    def may_equal(self, i: int, j: int) -> bool:
        """Whether two adapters are of one run and not of two steps of it, so that to be equal is no news."""
        return self.runs[i] == self.runs[j] and (
            None in (self.steps[i], self.steps[j]) or self.steps[i] == self.steps[j]
        )


def check_duplicates(entries: Sequence[Entry], members: Sequence[RunMember] | None = None) -> FindingsByName:
    """Findings by the adapter's name; a name that nothing was found for is left out.

    members: what tells the training run of each entry, by default their paths alone.
    """
    findings: FindingsByName = {}
    members = [RunMember(adapter.given) for adapter, _ in entries] if members is None else members
    names = [shown(adapter.name, 1000) for adapter, _ in entries]
    labels = short_names(names, _NAME)
    context = _Context(find_runs(members), named_steps(members), [labels[name] for name in names])
    same = _find_copies(entries, context, findings)
    leaders = _near_copies(entries, context, same, findings)
    _shared_starts(entries, context, [leaders.get(i, i) for i in same], findings)
    return findings


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


def _find_copies(entries: Sequence[Entry], context: _Context, findings: FindingsByName) -> list[int]:
    """Findings for equal tensors. Returns for each entry the number of the first with the same tensors."""
    groups: dict[str, list[int]] = {}
    for i, (_, numbers) in enumerate(entries):
        comparable = numbers.weights_digest and not numbers.empty
        groups.setdefault(numbers.weights_digest if comparable else f"none {i}", []).append(i)
    first = list(range(len(entries)))
    for group in groups.values():
        for i in group:
            first[i] = group[0]
        for i in group if len(group) > 1 else ():
            twins = [j for j in group if j != i]
            _report_copies(entries, context, i, twins, findings)
    return first


def _report_copies(
    entries: Sequence[Entry], context: _Context, i: int, twins: list[int], findings: FindingsByName
) -> None:
    adapter, numbers = entries[i]
    report = findings.setdefault(adapter.name, []).append
    base = _base(adapter)
    foreign = [j for j in twins if base and _base(entries[j][0]) not in ("", base)]
    if foreign:
        foreign_base = _base(entries[foreign[0]][0])
        actual = f"the tensors of {_labels(context, foreign)}, which names {shown(foreign_base)}, not {shown(base)}"
        facts: dict[str, Any] = {"others": _some_names(entries, foreign), "bases": [base, foreign_base]}
        report(finding("L253", actual, expected="one base model for one set of weights", facts=facts))
    changed = [j for j in twins if entries[j][1].content_digest != numbers.content_digest]
    if changed:
        other_norm = entries[changed[0]][1].norm
        ratio = numbers.norm / other_norm if other_norm > 0 else 1.0
        how = f"{ratio:.4g} times as strong" if abs(ratio - 1) > 1e-6 else "with another config"
        report(_rescaled(entries, changed, f"the tensors of {_labels(context, changed)}, {how}", ratio, 1.0))
    equal = [j for j in twins if j not in changed]
    if equal:
        own_run = all(context.may_equal(i, j) for j in equal)
        actual = f"equal to {_labels(context, equal)}"
        facts = {"others": _some_names(entries, equal), "cosine": 1.0, "count": len(equal)}
        report(finding("L250", actual, facts=facts, severity="note" if own_run else None))


def _rescaled(entries: Sequence[Entry], twins: list[int], actual: str, ratio: float, angle: float) -> Finding:
    facts = {"others": _some_names(entries, twins), "ratio": ratio, "cosine": angle}
    return finding("L252", actual, expected="one alpha, rank and set of targets for one update", facts=facts)


def _near_copies(
    entries: Sequence[Entry], context: _Context, first: list[int], findings: FindingsByName
) -> dict[int, int]:
    """Findings for updates that point the same way though their tensors differ; returns later -> earlier of each."""
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
                continue  # its own findings report that it cannot be read
        if angle is None or abs(angle) < NEAR:
            continue
        leaders[i] = j
        for own_index, other_index in ((i, j), (j, i)):
            findings.setdefault(entries[own_index][0].name, []).append(
                _similarity(entries, context, own_index, other_index, angle)
            )
    return leaders


def _similarity(entries: Sequence[Entry], context: _Context, i: int, j: int, angle: float) -> Finding:
    ratio = entries[i][1].norm / entries[j][1].norm
    own_run = context.runs[i] == context.runs[j]
    name = _labels(context, [j])
    if angle < 0:
        return _rescaled(entries, [j], f"the opposite of {name}'s update, {ratio:.4g} times as strong", -ratio, angle)
    # Within a run an update that grew is the training's; one that was multiplied is not.
    if angle >= (PROPORTIONAL if own_run else SAME) and abs(ratio - 1) > 0.02:
        return _rescaled(entries, [j], f"{name}'s update, {ratio:.4g} times as strong", ratio, angle)
    if angle >= SAME and abs(ratio - 1) <= 0.02:
        actual = f"the update of {name}, stored in other numbers"
        facts = {"others": [entries[j][0].name], "cosine": angle, "count": 1}
        return finding("L250", actual, facts=facts, severity="note" if own_run else None)
    actual = f"cosine {angle:.4f} with the update of {name}"
    facts = {"others": [entries[j][0].name], "cosine": angle, "ratio": ratio}
    return finding("L251", actual, expected=f"below {NEAR} for adapters of different data", facts=facts)


def _shared_starts(entries: Sequence[Entry], context: _Context, first: list[int], findings: FindingsByName) -> None:
    """Findings for folds, and for runs that started from the same values.

    first: for each entry, the first of those that were already said to be one update with it.
    """
    folds: dict[tuple[str, str, str], dict[int, str]] = {}
    for i, (adapter, numbers) in enumerate(entries):
        for component in (adapter.name, *reversed(adapter.given.parts[-3:])):
            if match := _FOLD.search(component):
                stem = component[: match.start(1)] + "*" + component[match.end(1) :]
                folds.setdefault((stem, numbers.signature, _base(adapter)), {})[i] = match[1]
                break
    in_folds: dict[int, tuple[str, str, str]] = {}
    for key, members in folds.items():
        if len(set(members.values())) > 1 and key[1]:
            in_folds |= dict.fromkeys(members, key)
            _report_folds(entries, context, sorted(members), findings)
    starts = UnionFind(len(entries))
    for i, j, _ in _similar_pairs(entries, first, "start", SAME_START):
        starts.join(i, j)
    groups: dict[int, list[int]] = {}
    for i in range(len(entries)):
        groups.setdefault(starts.find(i), []).append(i)
    for group in groups.values():
        for i in group if len(group) > 1 else ():
            relatives = [
                j
                for j in group
                if first[j] != first[i]
                and context.runs[j] != context.runs[i]
                and not (i in in_folds and in_folds.get(j) == in_folds[i])
            ]
            if relatives:
                actual = f"lora_A starts as in {_labels(context, relatives)}"
                facts = {"others": _some_names(entries, relatives), "count": len(relatives)}
                findings.setdefault(entries[i][0].name, []).append(finding("L254", actual, facts=facts))


def _report_folds(entries: Sequence[Entry], context: _Context, members: list[int], findings: FindingsByName) -> None:
    vectors = {i: np.frombuffer(entries[i][1].sketch, "<f4") for i in members if entries[i][1].sketch}
    for i in members:
        other_folds = [j for j in members if j != i]
        angles = [float(vectors[i] @ vectors[j]) for j in other_folds if i in vectors and j in vectors]
        about = f", cosines of updates about {min(angles):.2f} to {max(angles):.2f}" if angles else ""
        actual = f"a fold beside {_labels(context, other_folds)}{about}"
        facts = {"others": _some_names(entries, other_folds), "cosines": angles[:20]}
        findings.setdefault(entries[i][0].name, []).append(finding("L255", actual, facts=facts))


def _similar_pairs(
    entries: Sequence[Entry], first: list[int], vector_name: str, minimum: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs (later, earlier) of comparable adapters with different tensors, whose vectors' cosine is at least `least`
    in size; for sketches of either sign. One block of rows at a time: memory grows with the number, not its square."""
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


def _labels(context: _Context, numbers: list[int]) -> str:
    return listed((context.labels[j] for j in numbers), 3)


def _some_names(entries: Sequence[Entry], indices: Sequence[int]) -> list[str]:
    return [entries[i][0].name for i in indices[:20]]


def _base(adapter: RawAdapter) -> str:
    """The base model's name without its owner's or folder's, "" where there is none."""
    path = adapter.config.base_model_name_or_path if adapter.config else None
    return (path or "").replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
