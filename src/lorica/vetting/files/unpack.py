"""Opening a source: an archive's adapter is unpacked into a private folder, and what was refused becomes findings."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from lorica.adapters.json_document import short_text
from lorica.adapters.methods import method_of_files
from lorica.errors import AdapterError
from lorica.vetting.files.archives import (
    DAMAGED,
    SUFFIXES,
    ArchiveBombError,
    ArchiveMember,
    TooManyMembersError,
    adapters_in,
    allowance,
    copy_members,
    leads_out,
    walk,
)
from lorica.vetting.files.documents import CARD, DOCUMENTS
from lorica.vetting.files.sources import AdapterSource
from lorica.vetting.findings import Finding, finding

# What a member that is not unpacked is, by its finding.
_REFUSED = {"L084": "are links", "L086": "are", "L089": "are there twice"}


@contextmanager
def opened(source: AdapterSource) -> Iterator[AdapterSource]:
    """The source, ready to be examined. An archive's adapter lies in a private temporary folder meanwhile.

    Whatever is wrong with the archive is in the `findings` of what is given; it never raises for a file's contents.
    Raises AdapterError when there is no place to unpack to.
    """
    if source.kind != "archive" or source.unpacked:
        yield source
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="lorica-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_room(source, error) from error
    with folder as private:
        yield _unpack(source, Path(private))


def _no_room(source: AdapterSource, error: OSError) -> AdapterError:
    return AdapterError(
        f"{source.path}: cannot be unpacked into the temporary folder ({error.strerror})",
        fix="set TMPDIR to a folder with room",
    )


def _unpack(source: AdapterSource, target_folder: Path) -> AdapterSource:
    findings: list[Finding] = []
    packed: dict[str, int] = {}
    try:
        members = [member for member, _ in walk(source.path)]
        safe_members = _safe_members(members, findings)
        folder = _adapter_folder(safe_members, source, findings)
        if folder is not None:
            targets, packed = _select_members(safe_members, folder, findings)
            member_sizes = {member.name: member.size for member in safe_members}
            announced = sum(member_sizes[member_name] for member_name in targets)
            if announced > allowance(source.path.stat().st_size):
                raise ArchiveBombError(f"its files announce {announced} bytes")
            copy_members(source.path, targets, target_folder)
        elif any(member.name.rpartition("/")[2] == "data.pkl" for member in safe_members):
            return msgspec.structs.replace(source, unpacked=True, findings=tuple(findings))  # torch.save's archive
    except TooManyMembersError as error:
        findings.append(finding("L081", f"it has {error}"))
    except ArchiveBombError as error:
        archive_size = source.path.stat().st_size
        expected = f"at most {allowance(archive_size)} bytes unpacked"
        findings.append(finding("L082", f"{archive_size} bytes packed; {error}", expected=expected))
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(source, error) from error
        findings.append(finding("L080", f"it cannot be unpacked: {short_text(error) or type(error).__name__}"))
    return msgspec.structs.replace(source, path=target_folder, unpacked=True, members=packed, findings=tuple(findings))


def _safe_members(members: Sequence[ArchiveMember], findings: list[Finding]) -> list[ArchiveMember]:
    leading_out = [member for member in members if leads_out(member.name)]
    if leading_out:
        findings.append(_members_finding("L083", leading_out, "lead out of it or are no plain paths"))
    special = [member for member in members if member.entry_type == "special"]
    if special:
        findings.append(_members_finding("L085", special, "are no files"))
    refused_ids = {id(member) for member in (*leading_out, *special)}
    return [member for member in members if id(member) not in refused_ids]


def _adapter_folder(members: Sequence[ArchiveMember], source: AdapterSource, findings: list[Finding]) -> str | None:
    if source.inner:
        return source.inner
    folders = adapters_in(list(members))
    if len(folders) > 1:
        shown_folders = ", ".join(short_text(folder) for folder in folders[:5])
        findings.append(finding("L088", f"it holds {len(folders)}: {shown_folders}", facts={"adapters": len(folders)}))
        return None
    if folders:
        return folders[0]
    names = (member.name for member in members if member.name.lower().endswith(".safetensors"))
    weights_folders = {name.rpartition("/")[0] for name in names}
    return weights_folders.pop() if len(weights_folders) == 1 else None


def _select_members(
    members: Sequence[ArchiveMember], folder: str, findings: list[Finding]
) -> tuple[dict[str, str], dict[str, int]]:
    """(member -> file name to unpack it to, name below the folder -> bytes of what stays packed)."""
    targets: dict[str, str] = {}
    packed: dict[str, int] = {}
    refused: dict[str, list[ArchiveMember]] = {finding_code: [] for finding_code in _REFUSED}
    for member in members:
        member_path = member.name.removeprefix("./")
        relative_path = member_path.removeprefix(f"{folder}/") if folder else member_path
        if member.entry_type == "folder" or (folder and relative_path == member_path):
            continue
        if "/" in relative_path or not is_wanted(relative_path):
            packed[relative_path] = member.size
        elif member.entry_type == "link":
            refused["L084"].append(member)
        elif member.encrypted:
            refused["L086"].append(member)
        elif relative_path in targets.values():
            refused["L089"].append(member)
        else:
            targets[member.name] = relative_path
    findings += [_members_finding(code, named, _REFUSED[code]) for code, named in refused.items() if named]
    nested = [member_name for member_name in packed if member_name.lower().endswith(SUFFIXES)]
    if nested:
        first_names = ", ".join(short_text(member_name) for member_name in nested[:5])
        findings.append(finding("L087", f"{len(nested)}: {first_names}"))
    return targets, packed


def is_wanted(member_name: str) -> bool:
    """Whether examining an adapter reads a file of this name in its folder."""
    lower_name = member_name.lower()
    is_adapters = lower_name.endswith(".safetensors") or lower_name.startswith(("adapter_", CARD.lower()))
    return is_adapters or lower_name in DOCUMENTS or method_of_files([member_name]) is not None


def _members_finding(finding_code: str, members: Sequence[ArchiveMember], description: str) -> Finding:
    first_name = short_text(members[0].name, quoted=True)
    return finding(finding_code, f"{len(members)} {description}, first {first_name}", facts={"members": len(members)})
