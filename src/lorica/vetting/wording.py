"""How findings speak of many things at once, and of texts that come from files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lorica.names import listed as listed_texts

_LONGEST = 96


def shown(file_text: object, longest: int = _LONGEST) -> str:
    """A text of a file for people: printable ASCII, shortened in the middle."""
    printable = ascii(str(file_text))[1:-1].replace("\\\\", "\\").replace("\\'", "'")
    if len(printable) <= longest:
        return printable
    head_length = (longest - 3) * 2 // 3
    return f"{printable[:head_length]}...{printable[len(printable) - (longest - 3 - head_length) :]}"


def some(names: Sequence[str], of: int | None = None, noun: str = "modules") -> str:
    """ "56 of 112 modules, first model.layers.0.self_attn.q_proj"."""
    total_text = f" of {of}" if of is not None and of != len(names) else ""
    plural = noun.removesuffix("s") if len(names) == 1 and not total_text else noun
    lead_text = "" if len(names) == 1 else "first "
    return f"{len(names)}{total_text} {plural}, {lead_text}{shown(names[0])}"


def listed(names: Iterable[object], limit: int = 6) -> str:
    """ "a, b, c and 4 more"."""
    return listed_texts(map(shown, names), limit)


def numbers(values: Iterable[int]) -> str:
    """Whole numbers as ranges: "0-11, 13, 15-27"."""
    number_spans: list[list[int]] = []
    for number in sorted(set(values)):
        if number_spans and number == number_spans[-1][1] + 1:
            number_spans[-1][1] = number
        else:
            number_spans.append([number, number])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in number_spans[:8]]
    return ", ".join(texts) + (f" and {len(number_spans) - 8} more ranges" if len(number_spans) > 8 else "")


def figure(number: float) -> str:
    """A number in few digits: 2, 0.25, 1.41, 1e-05."""
    return f"{number:.3g}"
