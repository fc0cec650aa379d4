"""Which files `lorica ensemble` blends, where the configuration lists adapters (`lorica check --keep-working`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lorica.adapters.member import open_member
from lorica.config.schema import Config
from lorica.ensemble.members import EnsembleMember
from lorica.errors import AdapterError, DataError
from lorica.runs.stored_run import record_of_answers


def listed_members(members: Sequence[EnsembleMember], config: Config) -> tuple[list[EnsembleMember], dict[str, str]]:
    """The members whose adapter `adapters.paths` lists; all where it lists none. And the names of the others, with the
    reason. Raises DataError where the list leaves none."""
    adapter_paths = config.adapters.paths
    if not adapter_paths:
        return list(members), {}
    digests = _digests(adapter_paths)
    is_listed = {member.name: _is_listed(member, adapter_paths, digests) for member in members}
    unlisted = {name: "its adapter is not in adapters.paths" for name, listed in is_listed.items() if not listed}
    if len(unlisted) == len(members):
        raise DataError(
            f"this file and {len(members) - 1} others are of no adapter in adapters.paths: "
            + ", ".join(sorted(adapter_paths)),
            path=members[0].name,
            fix="keep the run folders beside the files (FILE.run tells the adapter), name each file after its adapter, "
            "or leave config=FILE out",
        )
    return [member for member in members if is_listed[member.name]], unlisted


def _digests(adapter_paths: Mapping[str, str]) -> set[str]:
    """Of the listed adapters that can be opened."""
    digests = set()
    for path in adapter_paths.values():
        try:
            digests.add(open_member(Path(path)).digest)
        except AdapterError:
            continue  # its file can still be told by its name
    return digests


def _is_listed(member: EnsembleMember, adapter_names: Mapping[str, str], digests: set[str]) -> bool:
    """By the weights that the run's record names; without a record by the adapters in the answers, or by the file's
    name: the adapter's, or a word of it that no other has (`a.csv` of `a/rules` and `b/rules`)."""
    answering = {answer.adapter for answer in member.answers.values()}
    record = record_of_answers(Path(member.name))
    if record is not None and digests and (used := {record.adapters.get(name, name) for name in answering}):
        return used <= digests
    words = Counter(word for name in adapter_names for word in name.split("/"))
    stem = Path(member.name).name.split(".")[0]
    return stem in adapter_names or words[stem] == 1 or answering <= set(adapter_names)
