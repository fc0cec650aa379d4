"""Each module's own tensors: halves, shapes, ranks, magnitudes and biases, against each other and the config.

A: (rank, inputs, ...) and B: (outputs, rank, ...), further dimensions for convolutions; an embedding's A is
(rank, vocabulary). A module with several experts' parameters holds rank x experts rows.
"""

from __future__ import annotations

import math
from collections import Counter

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.layout import Factors, Layout
from lorica.vetting.findings import Finding, finding
from lorica.vetting.structure.targets import Asked
from lorica.vetting.wording import figure, listed, some

_WHOLE = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL", "C64")
# Outside of these the effective scaling is worth a look; both ends are legal.
_SCALING = (0.05, 8.0)


def check_pairs(asked: Asked | None, layout: Layout) -> list[Finding]:
    """Findings about halves, shapes, ranks, DoRA magnitudes, biases and element types."""
    usable, found = _shapes(asked, layout)
    found += _halves(layout) + _types(layout)
    found += _ranks(asked, layout, usable) + _magnitudes(asked, layout, usable) + _biases(asked, layout)
    if asked is not None:
        found += _scaling(asked, layout, usable)
    return found


def usable_pairs(asked: Asked | None, layout: Layout) -> list[Factors]:
    """Pairs whose factors have sound shapes and stand the right way round."""
    return _shapes(asked, layout)[0]


def _halves(layout: Layout) -> list[Finding]:
    half = [each for each in layout.modules.values() if bool(each.a) != bool(each.b)]
    if not half:
        return []
    lost = Counter("lora_A" if each.b else "lora_B" for each in half)
    missing = " and ".join(f"{count} times {name}" for name, count in sorted(lost.items()))
    return [
        finding(
            "L110",
            f"{missing} is missing: {some([each.path for each in half], len(layout.modules))}",
            expected="lora_A and lora_B in every module",
            file=WEIGHTS_NAME,
            facts={"modules": len(half), "of": len(layout.modules), **lost},
        )
    ]


def _shapes(asked: Asked | None, layout: Layout) -> tuple[list[Factors], list[Finding]]:
    """The pairs that can be judged further, and what is wrong with the others."""
    shapeless, turned, unequal, usable = [], [], [], []
    for each in layout.pairs:
        a, b = layout.shape(each.a), layout.shape(each.b)
        if len(a) != len(b) or not 2 <= len(a) <= 5 or 0 in a or 0 in b:
            shapeless.append((each.path, a, b))
        elif _is_turned(asked, each, a, b):
            turned.append((each.path, a, b))
        elif a[0] != b[1]:
            unequal.append((each.path, a, b))
        else:
            usable.append(each)
    total = len(layout.modules)
    found = []
    for code, bad, expected in (
        ("L114", shapeless, "two dimensions (more for convolutions), none of them 0"),
        ("L113", turned, "lora_A (rank, inputs), lora_B (outputs, rank)"),
        ("L111", unequal, "the first dimension of lora_A equal to the second of lora_B"),
    ):
        if bad:
            path, a, b = bad[0]
            seen = f"{some([one[0] for one in bad], total)}: lora_A {list(a)}, lora_B {list(b)}"
            facts = {"modules": len(bad), "of": total, "first": path, "a": list(a), "b": list(b)}
            facts |= _gone(bad) if code == "L114" else {}
            found.append(finding(code, seen, expected=expected, file=WEIGHTS_NAME, facts=facts))
    return usable, found


def _gone(bad: list[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> dict[str, int]:
    """How many of these modules have a half without values, and one that is flat: what sharded trainers save of
    parameters that nobody gathered."""
    return {
        "empty": sum(0 in a or 0 in b for _, a, b in bad),
        "flat": sum(len(a) == 1 or len(b) == 1 for _, a, b in bad),
    }


def _is_turned(asked: Asked | None, each: Factors, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether the rank stands where inputs and outputs belong."""
    if len(a) != 2 or a[1] != b[0] or (asked is not None and asked.of_parameters(each.path)):
        return False
    rank = None if asked is None else asked.rank(each.path)
    if a[0] == b[1]:  # they agree as they stand: only the config's rank can tell, if it fits the other way
        return rank is not None and a[0] != rank and a[1] == rank
    return a[1] == rank or a[1] < min(a[0], b[1])


def _types(layout: Layout) -> list[Finding]:
    factors = layout.factors()
    found = []
    whole = [name for name, info in factors.items() if info.dtype in _WHOLE]
    if whole:
        wrong = sorted({factors[name].dtype for name in whole})
        found.append(
            finding(
                "L115",
                f"{some(whole, len(factors), 'factors')}: {', '.join(wrong)}",
                expected="F32, BF16 or F16",
                file=WEIGHTS_NAME,
                facts={"tensors": len(whole), "of": len(factors), "types": wrong},
            )
        )
    types = Counter(info.dtype for info in factors.values())
    if len(types) > 1 and not whole:
        seen = ", ".join(f"{count} {name}" for name, count in types.most_common())
        found.append(finding("L116", seen, file=WEIGHTS_NAME, facts={"types": dict(types)}))
    return found


def _ranks(asked: Asked | None, layout: Layout, usable: list[Factors]) -> list[Finding]:
    if asked is None:
        return []
    wrong = []
    allowed = {asked.config.r, *asked.config.rank_pattern.values()}
    for each in usable:
        rank = layout.shape(each.a)[0]
        if asked.of_parameters(each.path):
            # rank x experts; which of the module's parameters it is, the file does not say.
            fits = any(rank % one == 0 for one in allowed)
            expected = asked.config.r
        else:
            known = asked.rank(each.path)
            fits = rank in allowed if known is None else rank == known
            expected = asked.config.r if known is None else known
        if not fits:
            wrong.append((each.path, rank, expected))
    if not wrong:
        return []
    seen = Counter(rank for _, rank, _ in wrong)
    wanted = Counter(expected for _, _, expected in wrong)
    return [
        finding(
            "L112",
            f"{some([one[0] for one in wrong], len(usable))}: rank {listed(sorted(seen))} in the tensors",
            expected=f"rank {listed(sorted(wanted))}, by r and rank_pattern of {CONFIG_NAME}",
            file=CONFIG_NAME,
            facts={
                "modules": len(wrong),
                "of": len(usable),
                "ranks": {str(rank): count for rank, count in seen.items()},
                "expected": sorted(wanted),
            },
        )
    ]


def _magnitudes(asked: Asked | None, layout: Layout, usable: list[Factors]) -> list[Finding]:
    have = [each for each in layout.modules.values() if each.magnitude]
    total, found = len(layout.modules), []
    if asked is not None and have and not asked.config.use_dora:
        found.append(
            finding(
                "L119",
                f"{some([each.path for each in have], total)}: magnitudes, and use_dora is false",
                expected="use_dora true",
                file=CONFIG_NAME,
                facts={"modules": len(have), "of": total},
            )
        )
    if asked is not None and asked.config.use_dora and len(have) < total:
        lack = [each.path for each in layout.modules.values() if not each.magnitude]
        found.append(
            finding(
                "L120",
                f"no magnitude in {some(lack, total)}",
                expected="lora_magnitude_vector in every module",
                file=WEIGHTS_NAME,
                facts={"modules": len(lack), "of": total},
            )
        )
    wrong = [
        each.path
        for each in usable
        if each.magnitude and math.prod(layout.shape(each.magnitude)) != layout.shape(each.b)[0]
    ]
    if wrong:
        each = layout.modules[wrong[0]]
        long, outputs = math.prod(layout.shape(each.magnitude)), layout.shape(each.b)[0]
        seen = f"{some(wrong, total)}: {long} magnitudes for {outputs} outputs"
        found.append(finding("L121", seen, expected="one for each output", file=WEIGHTS_NAME, facts={"n": len(wrong)}))
    return found


def _biases(asked: Asked | None, layout: Layout) -> list[Finding]:
    if asked is None:
        return []
    flag = bool(asked.config.other.get("lora_bias"))
    have = [each.path for each in layout.modules.values() if any(name.endswith(".bias") for name in each.more)]
    if bool(have) == flag and (not flag or len(have) == len(layout.modules)):
        return []
    if not layout.modules:
        return []
    lack = [path for path in layout.modules if path not in set(have)]
    seen = f"lora_bias is {str(flag).lower()}; " + (
        f"no bias in {some(lack, len(layout.modules))}" if flag else f"biases in {some(have, len(layout.modules))}"
    )
    facts = {"flag": flag, "with_bias": len(have), "of": len(layout.modules)}
    return [finding("L122", seen, expected="lora_B.bias exactly if lora_bias is true", file=CONFIG_NAME, facts=facts)]


def scalings(asked: Asked, layout: Layout) -> dict[str, float]:
    """Path -> factor of B A x (alpha / r, alpha / sqrt(r) with rsLoRA) where the config tells it."""
    found = {}
    for each in layout.pairs:
        alpha, rank = asked.alpha(each.path), asked.rank(each.path)
        if alpha is None or rank is None or rank <= 0 or asked.of_parameters(each.path):
            continue
        found[each.path] = alpha / math.sqrt(rank) if asked.config.use_rslora else alpha / rank
    return found


def _scaling(asked: Asked, layout: Layout, usable: list[Factors]) -> list[Finding]:
    factors = scalings(asked, layout)
    if not factors or not usable:
        return []
    low, high = min(factors.values()), max(factors.values())
    kind = "alpha / sqrt(r), rsLoRA" if asked.config.use_rslora else "alpha / r"
    facts = {
        "lowest": low,
        "highest": high,
        "r": asked.config.r,
        "alpha": asked.config.lora_alpha,
        "rslora": asked.config.use_rslora,
        "alpha_pattern": bool(asked.config.alpha_pattern),
        "rank_pattern": bool(asked.config.rank_pattern),
    }
    found = []
    if high > _SCALING[1] or low < _SCALING[0]:
        span = figure(low) if low == high else f"{figure(low)} to {figure(high)}"
        seen = f"{kind} = {span} (r {asked.config.r}, lora_alpha {figure(asked.config.lora_alpha)})"
        usual = f"mostly {figure(_SCALING[0])} to {figure(_SCALING[1])}"
        found.append(finding("L138", seen, expected=usual, file=CONFIG_NAME, facts=facts))
    if high > 1.01 * low:
        lost = asked.config.rank_pattern and not asked.config.alpha_pattern
        found.append(
            finding(
                "L142",
                f"{kind} from {figure(low)} to {figure(high)}"
                + ("; rank_pattern without alpha_pattern, as when one was lost" if lost else ""),
                file=CONFIG_NAME,
                facts=facts,
            )
        )
    return found
