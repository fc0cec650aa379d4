"""L0: is an adapter safe to read, and are its files what their names say? Nothing but headers and small files is read.

Every rule that a file breaks has its own code. What can be read in spite of a finding is in the raw adapter, so that
later levels say more.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.classifier_config import read_model_config
from lorica.adapters.config import CONFIG_NAME, MAX_CONFIG_BYTES, AdapterConfig
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.header import Header, HeaderError, read_header
from lorica.adapters.json_document import read_capped, short_text
from lorica.adapters.methods import method_of_files
from lorica.adapters.raw_adapter import OWN_MODELS, Kind, RawAdapter
from lorica.adapters.registry import SHALLOW_CONFIG, TRAINING_RECORD, member_config
from lorica.errors import AdapterError
from lorica.file_signatures import Content, recognise
from lorica.names import listed
from lorica.vetting.files.configs import examine_config
from lorica.vetting.files.documents import read_documents, training_record
from lorica.vetting.files.listing import OF_TRAINING
from lorica.vetting.files.pickles import PickleScan, scan_pickle
from lorica.vetting.files.safe_folder import SafeFolder, open_safe_folder
from lorica.vetting.files.sources import AdapterSource
from lorica.vetting.files.tools import as_of_tool, is_file_of, tool_of
from lorica.vetting.files.unpack import opened
from lorica.vetting.findings import Finding, finding, unreadable

__all__ = ["examine_files", "opened"]

_PICKLE_NAME = "adapter_model.bin"
_INDEX_NAME = WEIGHTS_NAME + ".index.json"
_SHARD = re.compile(r"adapter_model-\d+-of-\d+\.(?:safetensors|bin)", re.IGNORECASE)
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill")
_CODE_SUFFIXES = (
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


def examine_files(source: AdapterSource) -> tuple[RawAdapter | None, list[Finding]]:
    """L0 of one adapter: (all that could be read of it, what is wrong). None when neither config nor header could.

    Of an archive that is not `opened`, only what was read stays: its files are gone when this returns. Nothing raises
    for what a file holds.
    """
    if source.kind == "archive" and not source.unpacked:
        with opened(source) as unpacked:
            return examine_files(unpacked)
    findings = list(source.findings)
    rejected = any(problem.severity == "reject" for problem in findings)
    if source.kind == "archive" and rejected and source.path.is_dir() and not any(source.path.iterdir()):
        return None, findings  # nothing came out of the archive, and it is known why
    try:
        folder = open_safe_folder(source, findings)
    except OSError as error:
        return None, [*findings, finding("L008", f"the folder cannot be read ({error.strerror})")]
    adapter = RawAdapter(
        name=source.name,
        given=source.user_path,
        kind=source.kind,
        folder=folder.path,
        files=folder.files | source.members,
    )
    if not folder.single and folder.find(CONFIG_NAME) is None and member_config(folder.path) is not None:
        return _own_model(adapter, folder, findings), findings
    raw_config, config = _config(folder, findings)
    weights, header = _weights(folder, source, findings)
    # Beside what is no adapter's file at all, it is not the config that is missing.
    if folder.find(CONFIG_NAME) is None and not any(problem.code == "L011" for problem in findings):
        _add_missing_config(folder, findings)
    file_names = folder.top_level()
    if (tool := tool_of(raw_config, header, file_names)) is not None:
        findings = as_of_tool(tool, header, file_names, findings)
    documents: dict[str, Any] = {}
    card_text = ""
    if not folder.single:
        documents, card_text = read_documents(folder.path, folder.files, findings)
        findings += _unread_files(folder, weights)
    if source.run is not None and TRAINING_RECORD not in documents:
        record = training_record(source.run)
        documents |= {} if record is None else {TRAINING_RECORD: record}
    if raw_config is None and header is None:
        return None, findings
    contents = {"weights": weights, "raw_config": raw_config, "config": config, "header": header}
    return msgspec.structs.replace(adapter, **contents, documents=documents, card=card_text), findings


def _own_model(adapter: RawAdapter, folder: SafeFolder, findings: list[Finding]) -> RawAdapter:
    """An encoder classifier, or a shallow model, as far as it can be read. adapter: what its place alone says."""
    kind: Kind = "shallow" if (folder.path / SHALLOW_CONFIG).is_file() else "classifier"
    config_name, weights_name = OWN_MODELS[kind]
    weights_path, raw_config, header = folder.path / weights_name, None, None
    with suppress(AdapterError):  # which opening it says
        raw_config = read_model_config(folder.path, config_name)
    if folder.find(weights_name) is None:
        findings.append(finding("L003", f"there is {folder.describe()}", expected=weights_name))
    elif folder.allows(weights_name):
        try:
            header = read_header(weights_path)
        except HeaderError as error:
            findings.append(_header_finding(error, weights_path, weights_name))
    documents, card_text = read_documents(folder.path, folder.files, findings)
    findings += _unread_files(folder, weights_path)
    weights = None if header is None else weights_path
    contents = {"kind": kind, "weights": weights, "raw_config": raw_config, "header": header}
    return msgspec.structs.replace(adapter, **contents, documents=documents, card=card_text)


def _add_missing_config(folder: SafeFolder, findings: list[Finding]) -> None:
    """Add what is missing: the config, or the weights with it."""
    no_weights = next((problem for problem in findings if problem.code == "L003"), None)
    if no_weights is not None:
        findings.remove(no_weights)
        findings.append(finding("L001", f"the folder holds {folder.describe()}"))
        return
    if folder.find(TRAINING_RECORD):
        actual = f"its training did not end; there is {folder.describe()}"
        findings.append(finding("L002", actual, fix="go on with training.resume=true"))
        return
    config_above, suggested_fix = folder.path.parent / CONFIG_NAME, ""
    if not folder.single and config_above.is_file():
        suggested_fix = "there is one in the folder above: if it belongs to these weights, copy it here "
        suggested_fix += f"({config_above})"
    actual = f"beside the weights lies {folder.describe()}"
    findings.append(finding("L002", actual, fix=suggested_fix))


def _config(folder: SafeFolder, findings: list[Finding]) -> tuple[dict[str, Any] | None, AdapterConfig | None]:
    file_name = folder.find(CONFIG_NAME)
    if file_name is None:
        return None, None
    _require_name(file_name, CONFIG_NAME, findings)
    if not folder.allows(file_name):
        return None, None
    try:
        config_bytes = read_capped(folder.path / file_name, MAX_CONFIG_BYTES + 1)
    except OSError as error:
        findings.append(unreadable(error, file_name))
        return None, None
    raw_config, config, problems = examine_config(config_bytes)
    findings += [msgspec.structs.replace(problem, file=file_name) for problem in problems]
    return raw_config, config


def _require_name(file_name: str, name: str, findings: list[Finding]) -> None:
    if file_name != name:
        actual = f"it is called {short_text(file_name)}"
        findings.append(finding("L004", actual, fix=f"rename it to {name}", file=file_name))


def _weights(folder: SafeFolder, source: AdapterSource, findings: list[Finding]) -> tuple[Path | None, Header | None]:
    """(the safetensors file, its header); what stands in its place becomes findings."""
    file_name = source.path.name if folder.single else folder.find(WEIGHTS_NAME)
    if file_name is None:
        file_name = _weights_substitute(folder, findings)
    elif not folder.single:
        _require_name(file_name, WEIGHTS_NAME, findings)
    if file_name is None or not folder.allows(file_name):
        return None, None
    weights_path = folder.path / file_name
    if file_name.lower().endswith(".npz") and method_of_files([file_name]) is not None:
        return None, None  # whose it is says more than what it is packed in
    if file_name.lower().endswith(_PICKLE_SUFFIXES):
        findings.append(_pickle(weights_path, file_name))
        return None, None
    if not folder.single:
        findings += _pickle_beside(folder)
    try:
        header = read_header(weights_path)
    except HeaderError as error:
        findings.append(_header_finding(error, weights_path, file_name))
        return (None if error.problem in ("foreign", "special", "unreadable") else weights_path), None
    if not header.tensors:
        findings.append(finding("L039", "its header lists none", file=file_name))
    return weights_path, header


def _weights_substitute(folder: SafeFolder, findings: list[Finding]) -> str | None:
    """The file to take for the weights when there is none of the right name; None when there is none at all."""
    file_names = folder.top_level()
    shards = [file_name for file_name in file_names if _SHARD.fullmatch(file_name) or file_name.lower() == _INDEX_NAME]
    if shards:
        actual = f"{len(shards)} files, first {short_text(shards[0])}"
        findings.append(finding("L006", actual, file=shards[0]))
        return None
    if (pickled := folder.find(_PICKLE_NAME)) is not None:
        return pickled
    open_formats = [name for name in file_names if name.lower().endswith((".safetensors", ".gguf"))]
    pickles = [name for name in file_names if name.lower().endswith(_PICKLE_SUFFIXES)]
    candidates = open_formats + [name for name in pickles if not OF_TRAINING.fullmatch(name)]
    usual_method = method_of_files(file_names)
    # Of several files of one tool, the one without a step in its name is the last.
    of_tool = [name for name in candidates if usual_method is not None and is_file_of(usual_method[1], name)]
    of_tool = [name for name in of_tool if len(name) == min(map(len, of_tool))]
    weights_name = next((names[0] for names in (of_tool, open_formats, candidates) if len(names) == 1), None)
    if weights_name is None:
        if candidates:
            first_names = ", ".join(short_text(name) for name in candidates[:5])
            actual = f"there are {len(candidates)}: {first_names}" + (" ..." if len(candidates) > 5 else "")
            findings.append(finding("L017", actual, facts={"files": candidates[:100]}))
        else:
            findings.append(finding("L003", f"there is {folder.describe()}", expected=WEIGHTS_NAME))
        return None
    if weights_name.lower().endswith(".safetensors"):
        actual = f"the weights are in {short_text(weights_name)}"
        suggested_fix = f"if it is PEFT's, rename it to {WEIGHTS_NAME}"
        findings.append(finding("L005", actual, fix=suggested_fix, file=weights_name))
    return weights_name


def _header_finding(error: HeaderError, weights_path: Path, file_name: str) -> Finding:
    if error.content is Content.LFS_POINTER:
        return finding("L010", f"it {error.reason}", expected="a safetensors file", file=file_name)
    if error.content in (Content.PICKLE, Content.ZIP) or error.problem in ("length", "truncated", "too large"):
        # A pickle of an old protocol begins like nothing in particular: its first 8 bytes read as an absurd length.
        pickle_scan = _scan(weights_path)
        if pickle_scan is not None and pickle_scan.pickled and (pickle_scan.imports or error.content is Content.PICKLE):
            return _pickle(weights_path, file_name, pickle_scan)
    if error.problem == "length" and file_name.lower().endswith(".gguf"):
        finding_code, actual = "L011", "its name says that it is GGUF"
        suggested_fix = "use the PEFT adapter it was converted from"
    else:
        finding_code, suggested_fix = _HEADER_CODES[error.problem], error.fix if error.content else ""
        actual = error.reason if error.reason.startswith(("tensor", "header")) else f"it {error.reason}"
    return finding(finding_code, actual, expected="a safetensors file", fix=suggested_fix, file=file_name)


def _scan(pickle_path: Path) -> PickleScan | None:
    try:
        return scan_pickle(pickle_path)
    except OSError:
        return None


def _pickle(pickle_path: Path, file_name: str, pickle_scan: PickleScan | None = None) -> Finding:
    """A finding for a file that claims to be, or is, a pickle."""
    try:
        content = recognise(read_capped(pickle_path, 64))
        pickle_scan = pickle_scan or scan_pickle(pickle_path)
    except OSError as error:
        return unreadable(error, file_name)
    if content is not None and content not in (Content.PICKLE, Content.ZIP):
        finding_code = "L010" if content is Content.LFS_POINTER else "L011"
        return finding(finding_code, f"it is {content}", expected=f"{WEIGHTS_NAME}", file=file_name)
    facts: dict[str, Any] = {"imports": list(pickle_scan.imports), "complete": pickle_scan.complete}
    if pickle_scan.dangerous:
        shown_imports = ", ".join(short_text(import_name) for import_name in pickle_scan.dangerous[:5])
        facts["dangerous"] = list(pickle_scan.dangerous)
        return finding("L013", f"loading it would import {shown_imports}", file=file_name, facts=facts)
    limitation = "" if pickle_scan.complete else " as far as it can be scanned"
    imports = ", ".join(short_text(import_name) for import_name in pickle_scan.imports[:5]) or "nothing"
    return finding("L012", f"it would import {imports}{limitation}", file=file_name, facts=facts)


def _pickle_beside(folder: SafeFolder) -> list[Finding]:
    """`adapter_model.bin` beside the safetensors file: other loaders may take it."""
    file_name = folder.find(_PICKLE_NAME)
    if file_name is None or file_name not in folder.files:
        return []
    pickle_scan = _scan(folder.path / file_name)
    if pickle_scan is not None and pickle_scan.dangerous:
        return [_pickle(folder.path / file_name, file_name, pickle_scan)]
    actual = f"{short_text(file_name)}, {folder.files[file_name]} bytes, is a pickle and not read"
    return [finding("L015", actual, file=file_name)]


def _unread_files(folder: SafeFolder, weights: Path | None) -> list[Finding]:
    suffixes, weights_name = (*_PICKLE_SUFFIXES, *_CODE_SUFFIXES), "" if weights is None else weights.name
    names = (name for name in folder.files if name.lower().endswith(suffixes))
    never_read = [name for name in names if name != weights_name and name.lower() != _PICKLE_NAME]
    if not never_read:
        return []
    listed_names = listed((short_text(file_name, max_chars=60) for file_name in never_read), 8)
    return [finding("L014", f"{len(never_read)}: {listed_names}", facts={"files": never_read[:100]})]
