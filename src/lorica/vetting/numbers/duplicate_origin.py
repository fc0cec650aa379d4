"""Of equal adapters, which is the original and which the copy: by what their passports and records say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from lorica.adapters.passport import PASSPORT_NAME
from lorica.adapters.raw_adapter import RawAdapter
from lorica.vetting.findings import Finding

# proven: its passport is that of its files. altered: a passport or a training record says that it was changed.
Origin = Literal["altered", "unknown", "proven"]

_ORDER: tuple[Origin, ...] = ("altered", "unknown", "proven")
_CHANGED = frozenset(("L342", "L343"))
_DOUBTED = frozenset(("L340", "L341", "L348", "L350"))
_COPIES = frozenset(("L250", "L252", "L253"))


def duplicate_origin(adapter: RawAdapter, findings: Sequence[Finding]) -> Origin:
    """What an adapter's own papers say of it. findings: those on its files."""
    codes = {problem.code for problem in findings}
    if codes & _CHANGED:
        return "altered"
    # A passport that cannot be read as JSON is a finding on that file.
    of_passport = (problem for problem in findings if problem.file == PASSPORT_NAME)
    doubted = codes & _DOUBTED or any(problem.severity != "note" for problem in of_passport)
    return "proven" if PASSPORT_NAME in adapter.files and not doubted else "unknown"


def downgrade_originals(
    duplicates: Mapping[str, Sequence[Finding]], standings: Mapping[str, Origin]
) -> dict[str, list[Finding]]:
    """Findings on copies, by name, with those on the original turned into notes.

    standings: by name, in the order the adapters were given. The original is the one whose papers say most for it; of
    files that are equal to the last bit and equally known, the first that was given is the one to keep. Updates at
    another scale that nobody's papers tell apart stay warnings on both sides.
    """
    positions = {adapter_name: position for position, adapter_name in enumerate(standings)}
    ranks = {adapter_name: _ORDER.index(standing) for adapter_name, standing in standings.items()}
    # What equals a proven one to the last bit has the config of its training, too; likewise what equals an altered one.
    shared_ranks = ranks | {
        adapter_name: _ORDER.index(_shared_standing(adapter_name, findings, standings))
        for adapter_name, findings in duplicates.items()
        if adapter_name in standings
    }

    def cleared(adapter_name: str, duplicate: Finding) -> Finding:
        twins = [twin for twin in duplicate.facts.get("others", ()) if twin in ranks]
        if duplicate.code not in _COPIES or duplicate.severity == "note" or not twins or adapter_name not in ranks:
            return duplicate
        is_equal = duplicate.code == "L250"
        rank_of = ranks if is_equal else shared_ranks
        best_rank = max(rank_of[twin] for twin in twins)
        comes_first = positions[adapter_name] < min(positions[twin] for twin in twins)
        is_first = is_equal and rank_of[adapter_name] == best_rank and comes_first
        if rank_of[adapter_name] <= best_rank and not is_first:
            return duplicate
        fix = "keep this one" if is_first else "nothing: by its papers this is the original"
        return msgspec.structs.replace(duplicate, severity="note", fix=fix)

    return {
        adapter_name: [cleared(adapter_name, duplicate) for duplicate in findings]
        for adapter_name, findings in duplicates.items()
    }


def _shared_standing(adapter_name: str, findings: Sequence[Finding], standings: Mapping[str, Origin]) -> Origin:
    """The standing of what an adapter equals to the last bit, where its own is unknown."""
    if standings[adapter_name] != "unknown":
        return standings[adapter_name]
    twins = {twin for duplicate in findings if duplicate.code == "L250" for twin in duplicate.facts["others"]}
    decided = {standings[twin] for twin in twins if twin in standings} - {"unknown"}
    return decided.pop() if len(decided) == 1 else "unknown"
