"""How findings speak of many things at once, and of texts that come from files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lorica.names import listed as listed_texts

_LONGEST = 96


def shown(text: object, longest: int = _LONGEST) -> str:
    """A text of a file for people: printable ASCII, shortened in the middle."""
    plain = ascii(str(text))[1:-1].replace("\\\\", "\\").replace("\\'", "'")
    if len(plain) <= longest:
        return plain
    head = (longest - 3) * 2 // 3
    return f"{plain[:head]}...{plain[len(plain) - (longest - 3 - head) :]}"


def some(names: Sequence[str], of: int | None = None, noun: str = "modules") -> str:
    """ "56 of 112 modules, first model.layers.0.self_attn.q_proj"."""
    total = f" of {of}" if of is not None and of != len(names) else ""
    plural = noun.removesuffix("s") if len(names) == 1 and not total else noun
    lead = "" if len(names) == 1 else "first "
    return f"{len(names)}{total} {plural}, {lead}{shown(names[0])}"


def listed(names: Iterable[object], limit: int = 6) -> str:
    """ "a, b, c and 4 more"."""
    return listed_texts(map(shown, names), limit)


def numbers(values: Iterable[int]) -> str:
    """Whole numbers as ranges: "0-11, 13, 15-27"."""
    spans: list[list[int]] = []
    for value in sorted(set(values)):
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans[:8]) + (
        f" and {len(spans) - 8} more ranges" if len(spans) > 8 else ""
    )


def figure(value: float) -> str:
    """A number in few digits: 2, 0.25, 1.41, 1e-05."""
    return f"{value:.3g}"
