"""L0: is an adapter safe to read, and are its files what their names say? Nothing but headers and small files is read.

Every rule that a file breaks has its own code (`lorica.vetting.codes.files`). What can be read in spite of a finding is
in the specimen, so that later levels say more.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.config import CONFIG_NAME, MAX_CONFIG_BYTES, AdapterConfig
from lorica.adapters.document import read_capped, short_text
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.header import Header, HeaderError, read_header
from lorica.adapters.methods import method_of_files
from lorica.adapters.registry import TRAINING_RECORD
from lorica.adapters.specimen import Specimen
from lorica.formats import Content, recognise
from lorica.names import listed
from lorica.vetting.files.configs import examine_config
from lorica.vetting.files.documents import read_documents, run_record
from lorica.vetting.files.listing import OF_TRAINING
from lorica.vetting.files.pickles import PickleScan, scan_pickle
from lorica.vetting.files.place import Place, open_place
from lorica.vetting.files.sources import Source
from lorica.vetting.files.tools import as_of_tool, is_file_of, tool_of
from lorica.vetting.files.unpack import opened
from lorica.vetting.findings import Finding, finding

__all__ = ["examine_files", "opened"]

_PICKLE_NAME = "adapter_model.bin"
_INDEX_NAME = WEIGHTS_NAME + ".index.json"
_SHARD = re.compile(r"adapter_model-\d+-of-\d+\.(?:safetensors|bin)", re.IGNORECASE)
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill")
_CODE = (
    ".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1", ".js", ".jar", ".ipynb", ".npy",
    ".npz", ".h5", ".mlmodel", ".onnx",
)  # fmt: skip

_HEADER_CODES = {
    "unreadable": "L008",
    "special": "L007",
    "foreign": "L011",
    "empty": "L020",
    "short": "L021",
    "length": "L022",
    "truncated": "L023",
    "not UTF-8": "L024",
    "not JSON": "L025",
    "nested": "L026",
    "duplicate": "L027",
    "too many": "L028",
    "metadata": "L029",
    "oversized metadata": "L030",
    "name": "L031",
    "entry": "L032",
    "dtype": "L033",
    "shape": "L034",
    "size": "L035",
    "overlap": "L036",
    "hole": "L037",
    "trailing": "L038",
    "too large": "L040",
}


def examine_files(source: Source) -> tuple[Specimen | None, list[Finding]]:
    """L0 of one adapter: (all that could be read of it, what is wrong). None when neither config nor header could.

    Of an archive that is not `opened`, only what was read stays: its files are gone when this returns. Nothing raises
    for what a file holds.
    """
    if source.kind == "archive" and not source.unpacked:
        with opened(source) as unpacked:
            return examine_files(unpacked)
    found = list(source.findings)
    rejected = any(each.severity == "reject" for each in found)
    if source.kind == "archive" and rejected and source.place.is_dir() and not any(source.place.iterdir()):
        return None, found  # nothing came out of the archive, and it is known why
    try:
        place = open_place(source, found)
    except OSError as error:
        return None, [*found, finding("L008", f"the folder cannot be read ({error.strerror})")]
    raw_config, config = _config(place, found)
    weights, header = _weights(place, source, found)
    # Beside what is no adapter's file at all, it is not the config that is missing.
    if place.find(CONFIG_NAME) is None and not any(other.code == "L011" for other in found):
        _say_no_config(place, found)
    names = place.top()
    if (tool := tool_of(raw_config, header, names)) is not None:
        found = as_of_tool(tool, header, names, found)
    documents: dict[str, Any] = {}
    card = ""
    if not place.single:
        documents, card = read_documents(place.folder, place.files, found, place.allows)
        found += _beside(place, weights)
    if source.run is not None and TRAINING_RECORD not in documents:
        record = run_record(source.run, TRAINING_RECORD)
        documents |= {} if record is None else {TRAINING_RECORD: record}
    if raw_config is None and header is None:
        return None, found
    specimen = Specimen(
        name=source.name,
        given=source.given,
        kind=source.kind,
        folder=place.folder,
        weights=weights,
        raw_config=raw_config,
        config=config,
        header=header,
        files=place.files | source.members,
        documents=documents,
        card=card,
    )
    return specimen, found


def _say_no_config(place: Place, found: list[Finding]) -> None:
    """Add what is missing: the config, or the weights with it."""
    lost = [each for each in found if each.code == "L003"]
    for each in lost:
        found.remove(each)
        found.append(finding("L001", f"the folder holds {place.listing()}", expected=f"{CONFIG_NAME} and weights"))
    if lost:
        return
    if place.find(TRAINING_RECORD):
        seen = f"its training did not end; there is {place.listing()}"
        found.append(finding("L002", seen, expected=CONFIG_NAME, fix="go on with training.resume=true"))
        return
    above = place.folder.parent / CONFIG_NAME
    fix = f"there is one in the folder above: if it belongs to these weights, copy it here ({above})"
    has_one = not place.single and above.is_file()
    seen = f"beside the weights lies {place.listing()}"
    found.append(finding("L002", seen, expected=CONFIG_NAME, fix=fix if has_one else ""))


def _config(place: Place, found: list[Finding]) -> tuple[dict[str, Any] | None, AdapterConfig | None]:
    name = place.find(CONFIG_NAME)
    if name is None:
        return None, None
    if name != CONFIG_NAME:
        found.append(finding("L004", f"it is called {short_text(name)}", fix=f"rename it to {CONFIG_NAME}", file=name))
    if not place.allows(name, severity="reject"):
        return None, None
    try:
        raw = read_capped(place.folder / name, MAX_CONFIG_BYTES + 1)
    except OSError as error:
        found.append(finding("L008", f"it cannot be read ({error.strerror})", file=name))
        return None, None
    raw_config, config, problems = examine_config(raw)
    found += [msgspec.structs.replace(each, file=name) for each in problems]
    return raw_config, config


def _weights(place: Place, source: Source, found: list[Finding]) -> tuple[Path | None, Header | None]:
    """(the safetensors file, its header); what stands in its place becomes findings."""
    name = source.place.name if place.single else place.find(WEIGHTS_NAME)
    if name is None:
        name = _substitute(place, found)
    elif not place.single and name != WEIGHTS_NAME:
        found.append(finding("L004", f"it is called {short_text(name)}", fix=f"rename it to {WEIGHTS_NAME}", file=name))
    if name is None or not place.allows(name, severity="reject"):
        return None, None
    path = place.folder / name
    if name.lower().endswith(".npz") and method_of_files([name]) is not None:
        return None, None  # whose it is says more than what it is packed in
    if name.lower().endswith(_PICKLES):
        found.append(_pickle(path, name))
        return None, None
    if not place.single:
        found += _second_copy(place)
    try:
        header = read_header(path)
    except HeaderError as error:
        found.append(_header_finding(error, path, name))
        return (None if error.problem in ("foreign", "special", "unreadable") else path), None
    if not header.tensors:
        found.append(finding("L039", "its header lists none", file=name))
    return path, header


def _substitute(place: Place, found: list[Finding]) -> str | None:
    """The file to take for the weights when there is none of the right name; None when there is none at all."""
    names = place.top()
    shards = [name for name in names if _SHARD.fullmatch(name) or name.lower() == _INDEX_NAME]
    if shards:
        found.append(
            finding(
                "L006", f"{len(shards)} files, first {short_text(shards[0])}", expected=WEIGHTS_NAME, file=shards[0]
            )
        )
        return None
    if (pickled := place.find(_PICKLE_NAME)) is not None:
        return pickled
    open_formats = [name for name in names if name.lower().endswith((".safetensors", ".gguf"))]
    others = open_formats + [
        name for name in names if name.lower().endswith(_PICKLES) and not OF_TRAINING.fullmatch(name)
    ]
    usual = method_of_files(names)
    # Of several files of one tool, the one without a step in its name is the last.
    mine = [name for name in others if usual is not None and is_file_of(usual[1], name)]
    mine = [name for name in mine if len(name) == min(map(len, mine))]
    chosen = next((names[0] for names in (mine, open_formats, others) if len(names) == 1), None)
    if chosen is None:
        if others:
            listed = ", ".join(short_text(name) for name in others[:5])
            seen = f"there are {len(others)}: {listed}" + (" ..." if len(others) > 5 else "")
            found.append(finding("L017", seen, expected=WEIGHTS_NAME, facts={"files": others[:100]}))
        else:
            found.append(finding("L003", f"there is {place.listing()}", expected=WEIGHTS_NAME))
        return None
    if chosen.lower().endswith(".safetensors"):
        seen = f"the weights are in {short_text(chosen)}"
        fix = f"if it is PEFT's, rename it to {WEIGHTS_NAME}"
        found.append(finding("L005", seen, expected=WEIGHTS_NAME, fix=fix, file=chosen))
    return chosen


def _header_finding(error: HeaderError, path: Path, name: str) -> Finding:
    if error.content is Content.LFS_POINTER:
        return finding("L010", f"it {error.reason}", expected="a safetensors file", file=name)
    if error.content in (Content.PICKLE, Content.ZIP) or error.problem in ("length", "truncated", "too large"):
        # A pickle of an old protocol begins like nothing in particular: its first 8 bytes read as an absurd length.
        scan = _scan(path)
        if scan is not None and scan.pickled and (scan.imports or error.content is Content.PICKLE):
            return _pickle(path, name, scan)
    if error.problem == "length" and name.lower().endswith(".gguf"):
        fix = "use the PEFT adapter it was converted from"
        return finding("L011", "its name says that it is GGUF", expected="a safetensors file", fix=fix, file=name)
    code = _HEADER_CODES[error.problem]
    seen = error.reason if error.reason.startswith(("tensor", "header")) else f"it {error.reason}"
    fix = error.fix if error.content else ""
    return finding(code, seen, expected="a safetensors file", fix=fix, file=name)


def _scan(path: Path) -> PickleScan | None:
    try:
        return scan_pickle(path)
    except OSError:
        return None


def _pickle(path: Path, name: str, scan: PickleScan | None = None) -> Finding:
    """A finding for a file that claims to be, or is, a pickle."""
    try:
        content = recognise(read_capped(path, 64))
        scan = scan or scan_pickle(path)
    except OSError as error:
        return finding("L008", f"it cannot be read ({error.strerror})", file=name)
    if content is not None and content not in (Content.PICKLE, Content.ZIP):
        code = "L010" if content is Content.LFS_POINTER else "L011"
        return finding(code, f"it is {content}", expected=f"{WEIGHTS_NAME}", file=name)
    facts = {"imports": list(scan.imports), "complete": scan.complete}
    if scan.dangerous:
        shown = ", ".join(short_text(each) for each in scan.dangerous[:5])
        return finding(
            "L013",
            f"loading it would import {shown}",
            expected="nothing but what tensors need",
            file=name,
            facts=facts | {"dangerous": list(scan.dangerous)},
        )
    whole = "" if scan.complete else " as far as it can be scanned"
    seen = f"it would import {', '.join(short_text(each) for each in scan.imports[:5]) or 'nothing'}{whole}"
    return finding("L012", seen, expected=WEIGHTS_NAME, file=name, facts=facts)


def _second_copy(place: Place) -> list[Finding]:
    """`adapter_model.bin` beside the safetensors file: other loaders may take it."""
    name = place.find(_PICKLE_NAME)
    if name is None or name not in place.files or not place.allows(name):
        return []
    scan = _scan(place.folder / name)
    if scan is not None and scan.dangerous:
        return [_pickle(place.folder / name, name, scan)]
    return [finding("L015", f"{short_text(name)}, {place.files[name]} bytes, is a pickle and not read", file=name)]


def _beside(place: Place, weights: Path | None) -> list[Finding]:
    taken = {weights.name} if weights is not None else set()
    never = [
        name
        for name in place.files
        if name.lower().endswith((*_PICKLES, *_CODE)) and name not in taken and name.lower() != _PICKLE_NAME
    ]
    if not never:
        return []
    names = listed((short_text(name, most=60) for name in never), 8)
    return [finding("L014", f"{len(never)}: {names}", facts={"files": never[:100]})]
