"""Of equal adapters, which is the original and which the copy: by what their passports and records say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from lorica.adapters.passport import PASSPORT_NAME
from lorica.adapters.specimen import Specimen
from lorica.vetting.findings import Finding

# proven: its passport is that of its files. altered: a passport or a training record says that it was changed.
Standing = Literal["altered", "unknown", "proven"]

_ORDER: tuple[Standing, ...] = ("altered", "unknown", "proven")
_CHANGED = frozenset(("L342", "L343"))
_DOUBTED = frozenset(("L340", "L341", "L348", "L350"))
_COPIES = frozenset(("L250", "L252", "L253"))


def standing(specimen: Specimen, findings: Sequence[Finding]) -> Standing:
    """What an adapter's own papers say of it. findings: those on its files."""
    codes = {each.code for each in findings}
    if codes & _CHANGED:
        return "altered"
    # A passport that cannot be read as JSON is a finding on that file.
    doubted = codes & _DOUBTED or any(each.file == PASSPORT_NAME and each.severity != "note" for each in findings)
    return "proven" if PASSPORT_NAME in specimen.files and not doubted else "unknown"


def clear_originals(alike: Mapping[str, Sequence[Finding]], known: Mapping[str, Standing]) -> dict[str, list[Finding]]:
    """Findings on copies, by name, with those on the original turned into notes.

    known: name -> standing, in the order the adapters were given. The original is the one whose papers say most for it;
    of files that are equal to the last bit and equally known, the first that was given is the one to keep. Updates at
    another scale that nobody's papers tell apart stay warnings on both sides.
    """
    place = {name: number for number, name in enumerate(known)}
    # What equals a proven one to the last bit has the config of its training, too; likewise what equals an altered one.
    shared = {name: _shared(name, findings, known) for name, findings in alike.items() if name in known}

    def cleared(name: str, each: Finding) -> Finding:
        others = [other for other in each.facts.get("others", ()) if other in known]
        if each.code not in _COPIES or each.severity == "note" or not others or name not in known:
            return each
        told = known if each.code == "L250" else {**known, **shared}
        mine, best = _rank(told[name]), max(_rank(told[other]) for other in others)
        first = each.code == "L250" and mine == best and place[name] < min(place[other] for other in others)
        if mine > best or first:
            fix = "keep this one" if first else "nothing: by its papers this is the original"
            return msgspec.structs.replace(each, severity="note", fix=fix)
        return each

    return {name: [cleared(name, each) for each in findings] for name, findings in alike.items()}


def _shared(name: str, findings: Sequence[Finding], known: Mapping[str, Standing]) -> Standing:
    if known[name] != "unknown":
        return known[name]
    equal = {
        known[other] for each in findings if each.code == "L250" for other in each.facts["others"] if other in known
    }
    told = equal - {"unknown"}
    return told.pop() if len(told) == 1 else "unknown"


def _rank(known: Standing) -> int:
    return _ORDER.index(known)
