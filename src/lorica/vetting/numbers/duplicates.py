"""Which of many adapters are the same, nearly the same, or of one origin.

Copies are found by digest, near copies by the angle between sketches (see `sketch`) and then confirmed
from the files: the inner product of two updates is the sum over modules of s1 s2 tr((B1^T B2)(A2 A1^T)).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from lorica.adapters.arrays import Floats, TensorReader
from lorica.adapters.header import Header, TensorInfo, read_header
from lorica.adapters.layout import Factors, read_layout
from lorica.adapters.specimen import Specimen
from lorica.data.union_find import UnionFind
from lorica.errors import AdapterError
from lorica.names import listed
from lorica.reports.short_names import short_names
from lorica.vetting.findings import Finding, finding
from lorica.vetting.numbers.check import Numbers
from lorica.vetting.numbers.runs import RunMember, find_runs, named_steps
from lorica.vetting.numbers.sketch import SIZE
from lorica.vetting.numbers.spectra import scalings
from lorica.vetting.wording import shown

Entry = tuple[Specimen, Numbers]
Found = dict[str, list[Finding]]
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
_MOST_CONFIRMED = 200
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


def check_duplicates(entries: Sequence[Entry], members: Sequence[RunMember] | None = None) -> dict[str, list[Finding]]:
    """Findings by the specimen's name; a name that nothing was found for is left out.

    members: what tells the training run of each entry, by default their paths alone.
    """
    found: dict[str, list[Finding]] = {}
    members = [RunMember(specimen.given) for specimen, _ in entries] if members is None else members
    names = [shown(specimen.name, 1000) for specimen, _ in entries]
    labels = short_names(names, _NAME)
    context = _Context(find_runs(members), named_steps(members), [labels[name] for name in names])
    same = _copies(entries, context, found)
    leaders = _near(entries, context, same, found)
    _origins(entries, context, [leaders.get(i, i) for i in same], found)
    return found


def cosine(one: Entry, two: Entry) -> float | None:
    """The cosine between two updates, from the files; None when their modules or shapes differ, or one is zero.

    Raises AdapterError when a file cannot be read.
    """
    if one[1].signature != two[1].signature:
        return None
    product = squares_one = squares_two = 0.0
    for first, second in _factors(one[0], two[0]):
        a1, b1, scale1 = first
        a2, b2, scale2 = second
        product += scale1 * scale2 * float(((b1.T @ b2) * (a1 @ a2.T)).sum(dtype=np.float64))
        squares_one += scale1**2 * float(((b1.T @ b1) * (a1 @ a1.T)).sum(dtype=np.float64))
        squares_two += scale2**2 * float(((b2.T @ b2) * (a2 @ a2.T)).sum(dtype=np.float64))
    if not (np.isfinite(product) and squares_one > 0 and squares_two > 0):
        return None
    return float(product / (squares_one * squares_two) ** 0.5)


Half = tuple[Floats, Floats, float]


def _factors(one: Specimen, two: Specimen) -> Iterator[tuple[Half, Half]]:
    """A [r, in], B [out, r] and scaling of every module that both have, one module at a time."""
    layouts = [read_layout(_header(each)) for each in (one, two)]
    factors = [scalings(each.config, layout.modules)[0] for each, layout in zip((one, two), layouts, strict=True)]
    if one.weights is None or two.weights is None:
        return
    with TensorReader(one.weights) as left, TensorReader(two.weights) as right:
        for module in layouts[0].pairs:
            other = layouts[1].modules.get(module.path)
            if other is None or not (other.a and other.b):
                continue
            first = (*_pair(left, module, layouts[0].tensors), factors[0][module.path])
            second = (*_pair(right, other, layouts[1].tensors), factors[1][module.path])
            if first[0].shape[1] == second[0].shape[1] and first[1].shape[0] == second[1].shape[0]:
                yield first, second


def _header(specimen: Specimen) -> Header:
    """Read again where it was not kept: thousands of headers would fill the memory."""
    if specimen.header is not None or specimen.weights is None:
        return specimen.header or Header({}, {})
    return read_header(specimen.weights)


def _pair(reader: TensorReader, module: Factors, tensors: dict[str, TensorInfo]) -> tuple[Floats, Floats]:
    a, b = (reader.read(tensors[name]) for name in (module.a, module.b))
    return a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)


def _copies(entries: Sequence[Entry], context: _Context, found: Found) -> list[int]:
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
            others = [j for j in group if j != i]
            _say_copies(entries, context, i, others, found)
    return first


def _say_copies(entries: Sequence[Entry], context: _Context, i: int, others: list[int], found: Found) -> None:
    specimen, numbers = entries[i]
    say = found.setdefault(specimen.name, []).append
    base = _base(specimen)
    foreign = [j for j in others if base and _base(entries[j][0]) not in ("", base)]
    if foreign:
        other = _base(entries[foreign[0]][0])
        say(
            finding(
                "L253",
                f"the tensors of {_names(context, foreign)}, which names {ascii(other)[1:-1]}, not {ascii(base)[1:-1]}",
                expected="one base model for one set of weights",
                facts={"others": [entries[j][0].name for j in foreign[:20]], "bases": [base, other]},
            )
        )
    changed = [j for j in others if entries[j][1].content_digest != numbers.content_digest]
    if changed:
        other_norm = entries[changed[0]][1].norm
        ratio = numbers.norm / other_norm if other_norm > 0 else 1.0
        how = f"{ratio:.4g} times as strong" if abs(ratio - 1) > 1e-6 else "with another config"
        say(_rescaled(entries, changed, f"the tensors of {_names(context, changed)}, {how}", ratio, 1.0))
    equal = [j for j in others if j not in changed]
    if equal:
        own_run = all(context.may_equal(i, j) for j in equal)
        say(
            finding(
                "L250",
                f"equal to {_names(context, equal)}",
                facts={"others": [entries[j][0].name for j in equal[:20]], "cosine": 1.0, "count": len(equal)},
                severity="note" if own_run else None,
            )
        )


def _rescaled(entries: Sequence[Entry], others: list[int], seen: str, ratio: float, angle: float) -> Finding:
    return finding(
        "L252",
        seen,
        expected="one alpha, rank and set of targets for one update",
        facts={"others": [entries[j][0].name for j in others[:20]], "ratio": ratio, "cosine": angle},
    )


def _near(entries: Sequence[Entry], context: _Context, first: list[int], found: Found) -> dict[int, int]:
    """Findings for updates that point the same way though their tensors differ; returns later -> earlier of each."""
    leaders: dict[int, int] = {}
    confirmed = 0
    for i, j, rough in _close(entries, first, "sketch", CANDIDATE):
        if i in leaders or j in leaders:
            continue  # one of them already stands beside an earlier one
        angle: float | None = rough
        if confirmed < _MOST_CONFIRMED:
            confirmed += 1
            try:
                angle = cosine(entries[j], entries[i])
            except AdapterError:
                continue  # its own findings say that it cannot be read
        if angle is None or abs(angle) < NEAR:
            continue
        leaders[i] = j
        for one, other in ((i, j), (j, i)):
            found.setdefault(entries[one][0].name, []).append(_similar(entries, context, one, other, angle))
    return leaders


def _similar(entries: Sequence[Entry], context: _Context, i: int, j: int, angle: float) -> Finding:
    ratio = entries[i][1].norm / entries[j][1].norm
    own_run = context.runs[i] == context.runs[j]
    name = _names(context, [j])
    if angle < 0:
        return _rescaled(entries, [j], f"the opposite of {name}'s update, {ratio:.4g} times as strong", -ratio, angle)
    # Within a run an update that grew is the training's; one that was multiplied is not.
    if angle >= (PROPORTIONAL if own_run else SAME) and abs(ratio - 1) > 0.02:
        return _rescaled(entries, [j], f"{name}'s update, {ratio:.4g} times as strong", ratio, angle)
    if angle >= SAME and abs(ratio - 1) <= 0.02:
        return finding(
            "L250",
            f"the update of {name}, stored in other numbers",
            facts={"others": [entries[j][0].name], "cosine": angle, "count": 1},
            severity="note" if own_run else None,
        )
    return finding(
        "L251",
        f"cosine {angle:.4f} with the update of {name}",
        expected=f"below {NEAR} for adapters of different data",
        facts={"others": [entries[j][0].name], "cosine": angle, "ratio": ratio},
    )


def _origins(entries: Sequence[Entry], context: _Context, first: list[int], found: Found) -> None:
    """Findings for folds, and for runs that started from the same values.

    first: for each entry, the first of those that were already said to be one update with it.
    """
    folds: dict[tuple[str, str, str], dict[int, str]] = {}
    for i, (specimen, numbers) in enumerate(entries):
        for part in (specimen.name, *reversed(specimen.given.parts[-3:])):
            if hit := _FOLD.search(part):
                stem = part[: hit.start(1)] + "*" + part[hit.end(1) :]
                folds.setdefault((stem, numbers.signature, _base(specimen)), {})[i] = hit[1]
                break
    in_folds: dict[int, tuple[str, str, str]] = {}
    for key, members in folds.items():
        if len(set(members.values())) > 1 and key[1]:
            in_folds |= dict.fromkeys(members, key)
            _say_folds(entries, context, sorted(members), found)
    starts = UnionFind(len(entries))
    for i, j, _ in _close(entries, first, "start", SAME_START):
        starts.join(i, j)
    groups: dict[int, list[int]] = {}
    for i in range(len(entries)):
        groups.setdefault(starts.find(i), []).append(i)
    for group in groups.values():
        for i in group if len(group) > 1 else ():
            others = [
                j
                for j in group
                if first[j] != first[i]
                and context.runs[j] != context.runs[i]
                and not (i in in_folds and in_folds.get(j) == in_folds[i])
            ]
            if others:
                found.setdefault(entries[i][0].name, []).append(
                    finding(
                        "L254",
                        f"lora_A starts as in {_names(context, others)}",
                        facts={"others": [entries[j][0].name for j in others[:20]], "count": len(others)},
                    )
                )


def _say_folds(entries: Sequence[Entry], context: _Context, members: list[int], found: Found) -> None:
    vectors = {i: np.frombuffer(entries[i][1].sketch, "<f4") for i in members if entries[i][1].sketch}
    for i in members:
        others = [j for j in members if j != i]
        angles = [float(vectors[i] @ vectors[j]) for j in others if i in vectors and j in vectors]
        about = f", cosines of updates about {min(angles):.2f} to {max(angles):.2f}" if angles else ""
        found.setdefault(entries[i][0].name, []).append(
            finding(
                "L255",
                f"a fold beside {_names(context, others)}{about}",
                facts={"others": [entries[j][0].name for j in others[:20]], "cosines": angles[:20]},
            )
        )


def _close(entries: Sequence[Entry], first: list[int], kind: str, least: float) -> Iterator[tuple[int, int, float]]:
    """Pairs (later, earlier) of comparable adapters with different tensors, whose vectors' cosine is at least `least`
    in size; for sketches of either sign. One block of rows at a time: memory grows with the number, not its square."""
    groups: dict[str, list[int]] = {}
    for i, (_, numbers) in enumerate(entries):
        if len(getattr(numbers, kind)) == 4 * SIZE and first[i] == i:
            groups.setdefault(numbers.signature, []).append(i)
    for members in groups.values():
        vectors = np.stack([np.frombuffer(getattr(entries[i][1], kind), "<f4") for i in members])
        for begin in range(0, len(members), _BLOCK):
            block = vectors[begin : begin + _BLOCK] @ vectors[: begin + _BLOCK].T
            sizes = np.abs(block) if kind == "sketch" else block
            for row, column in np.argwhere(sizes >= least).tolist():
                if column < begin + row:
                    yield members[begin + row], members[column], float(block[row, column])


def _names(context: _Context, numbers: list[int]) -> str:
    return listed((context.labels[j] for j in numbers), 3)


def _base(specimen: Specimen) -> str:
    """The base model's name without its owner's or folder's, "" where there is none."""
    path = specimen.config.base_model_name_or_path if specimen.config else None
    return (path or "").replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
