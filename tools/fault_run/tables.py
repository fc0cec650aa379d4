"""The log's tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Entry = dict[str, Any]
CAUGHT = ("rejected", "warned", "refused")


def outcome(entry: Entry) -> str:
    """How `check` took a case; "crash" where it raised."""
    return str(entry["check"].get("caught", "crash"))


def hit(entry: Entry, within: int) -> bool:
    """Whether a right cause is among the diagnosis' first ones."""
    return bool(set(entry["causes"]) & set(entry["diagnosis"].get("causes", [])[:within]))


def share(entries: Sequence[Entry], test: Callable[[Entry], bool]) -> float:
    """Of entries; nan without any."""
    return sum(map(test, entries)) / len(entries) if entries else float("nan")


def is_caught(entry: Entry) -> bool:
    """Rejected, refused, or warned of for a right cause."""
    return outcome(entry) in CAUGHT


def by_kind(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """In the order of first appearance."""
    found: dict[str, list[Entry]] = {}
    for each in entries:
        found.setdefault(each["kind"], []).append(each)
    return found


def fault_table(faults: Sequence[Entry]) -> str:
    """One line a kind."""
    lines = [
        f"{'kind':32}{'level':10}{'':7}{'n':>2} {'reject':>6} {'warn':>5} {'miss':>5} {'top1':>5} {'top3':>5}  "
        f"{'PEFT':22} causes that are right"
    ]
    for kind, some in by_kind(faults).items():
        counts = [sum(outcome(each) in names for each in some) for names in (("rejected", "refused"), ("warned",))]
        missed = len(some) - sum(counts)
        ones, threes = (sum(hit(each, within) for each in some) for within in (1, 3))
        causes = ", ".join(sorted({cause for each in some for cause in each["causes"]}))
        lines.append(
            f"{kind:32}{some[0]['level']:10}{'unseen' if some[0]['unseen'] else '':7}{len(some):>2} "
            f"{counts[0]:>6} {counts[1]:>5} {missed:>5} {ones:>5} {threes:>5}  {_peft(some):22} {causes}"
        )
    return "\n".join(lines)


def _peft(some: Sequence[Entry]) -> str:
    said = [peft(each) for each in some]
    return " ".join(f"{name}:{said.count(name)}" for name in ("error", "warning", "silent") if name in said)


def peft(entry: Entry, way: str = "from_pretrained") -> str:
    """error, warning or silent."""
    return str(entry["peft"].get(way, "error"))


def healthy_table(healthy: Sequence[Entry]) -> str:
    """One line a variant: verdict, warnings, leading cause."""
    lines = [f"{'healthy variant':34}{'verdict':10} {'diagnosis':18} {'PEFT':8} warnings"]
    for each in healthy:
        codes = " ".join(f"{code}" for code, severity, _ in each["check"].get("findings", []) if severity != "note")
        lines.append(
            f"{each['kind']:34}{each['check'].get('status', 'crash'):10} "
            f"{next(iter(each['diagnosis'].get('causes', [])), '-'):18} {peft(each):8} {codes}"
        )
    return "\n".join(lines)


LEVELS = ("files", "base", "behaviour")
ROUNDS = ("design", "field", "wild")
"""Kinds that the design names, and two rounds of kinds by authors who had read no check."""


def round_of(entry: Entry) -> str:
    """One of ROUNDS."""
    begins = str(entry["kind"]).split("-", 1)[0]
    return begins if begins in ROUNDS else ROUNDS[0]


def split_lines(faults: Sequence[Entry]) -> list[str]:
    """Figures by level, and by the round in which the kinds were written; cases without harm left out."""
    faults = [each for each in faults if not each.get("harmless")]
    parts = [(name, [each for each in faults if each["level"] == name]) for name in LEVELS]
    parts.append(("base, behaviour", [each for each in faults if each["level"] != "files"]))
    for name in ROUNDS:
        own = [each for each in faults if round_of(each) == name]
        parts.append((name, own))
        parts += [(f"{name} {level}", [each for each in own if each["level"] == level]) for level in LEVELS]
    return [
        f"{name:18} cases {len(some):4}  recall {share(some, is_caught):.4f}  "
        f"rejected {share(some, lambda one: outcome(one) in ('rejected', 'refused')):.4f}  "
        f"any word {share(some, lambda one: outcome(one) not in ('missed', 'crash')):.4f}  "
        f"top-1 {share(some, lambda one: hit(one, 1)):.4f}  top-3 {share(some, lambda one: hit(one, 3)):.4f}"
        for name, some in parts
        if some
    ]


WORDS = ("settled", "likely", "possible")
"""How sure the diagnosis says it is of its leading cause."""


def reliability_lines(faults: Sequence[Entry]) -> list[str]:
    """How often the leading cause is right by the word for it, in two halves of the kinds and in all."""
    faults = [entry for entry in faults if not entry.get("harmless") and entry["diagnosis"].get("certainties")]
    half = {kind: index % 2 for index, kind in enumerate(sorted(by_kind(faults)))}
    halves: list[tuple[str, list[Entry]]] = [
        ("first half of the kinds", [entry for entry in faults if half[entry["kind"]] == 0]),
        ("second half", [entry for entry in faults if half[entry["kind"]] == 1]),
        ("all kinds", faults),
    ]
    lines = []
    for name, entries in halves:
        for word in WORDS:
            chosen = [entry for entry in entries if entry["diagnosis"]["certainties"][0] == word]
            right = sum(hit(entry, 1) for entry in chosen)
            lines.append(
                f"{name:24} {word:9} cases {len(chosen):4}  right {right:4}  {right / max(len(chosen), 1):.3f}"
            )
    return lines


def last_line(faults: Sequence[Entry], healthy: Sequence[Entry]) -> str:
    """The bench's figures as key=value."""
    of = {name: [each for each in faults if each["level"] == name] for name in LEVELS}
    of["base_and_behaviour"] = of["base"] + of["behaviour"]
    unseen = [each for each in faults if each["unseen"]]
    figures: dict[str, float | int] = {f"recall_{name}": share(some, is_caught) for name, some in of.items()}
    figures |= {
        "false_rejects": sum(outcome(each) in ("rejected", "refused", "crash") for each in healthy),
        "false_warnings": sum(outcome(each).startswith("warned") for each in healthy),
        "top1": share(faults, lambda one: hit(one, 1)),
        "top3": share(faults, lambda one: hit(one, 3)),
        "unseen_recall": share(unseen, is_caught),
        "unseen_top1": share(unseen, lambda one: hit(one, 1)),
        "unseen_top3": share(unseen, lambda one: hit(one, 3)),
        "healthy_top1": share(healthy, lambda one: hit(one, 1)),
        **{f"peft_{name}": sum(peft(each) == name for each in faults) for name in ("error", "warning", "silent")},
        "peft_load_adapter_silent": sum(peft(each, "load_adapter") == "silent" for each in faults),
        "crashes": sum("crash" in each[part] for each in [*faults, *healthy] for part in ("check", "diagnosis")),
        "kinds": len(by_kind(faults)),
        "unseen_kinds": len(by_kind(unseen)),
        "healthy": len(healthy),
        "cases": len(faults) + len(healthy),
    }
    return " ".join(
        f"{key}={value if isinstance(value, int) else format(value, '.4f')}" for key, value in figures.items()
    )
