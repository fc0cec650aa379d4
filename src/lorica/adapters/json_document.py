"""Small JSON documents beside an adapter's weights, read with caps and without believing a word of them."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from lorica.adapters.header import foreign_format
from lorica.errors import AdapterError
from lorica.file_signatures import Content, recognise

MAX_DEPTH = 64
# Objects, lists, texts and values that are counted before parsing, so that a small file cannot make the parser build
# hundreds of megabytes.
MAX_VALUES = 500_000

Document = TypeVar("Document")

Problem = Literal[
    "foreign", "too large", "not UTF-8", "not JSON", "nested", "not an object", "duplicate", "constant", "text",
    "method", "type", "range",
]  # fmt: skip


class DocumentError(AdapterError):
    """A document that breaks a rule. problem: which. content: what the file is instead, where its first bytes tell."""

    def __init__(self, problem: Problem, message: str, *, fix: str = "", content: Content | None = None) -> None:
        super().__init__(message, fix=fix)
        self.problem = problem
        self.content = content


def read_capped(file_path: Path, max_bytes: int) -> bytes:
    """The first `max_bytes` bytes of a regular file. OSError for anything else, without opening it, since a pipe
    would block."""
    status = file_path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError(0, "it is a pipe, a device or a socket", str(file_path))
    with file_path.open("rb") as json_file:
        if not stat.S_ISREG(os.fstat(json_file.fileno()).st_mode):
            raise OSError(0, "it was exchanged while it was opened", str(file_path))
        return json_file.read(max_bytes)


def read_object(json_bytes: bytes, most_bytes: int) -> tuple[dict[str, Any] | None, list[DocumentError]]:
    """Bytes -> (the JSON object, what is wrong with it). None where there is no object.

    The object is there beside a problem where one can say which value is meant: a key that is given twice has its last
    value, as in Python's reader; NaN and Infinity are None. Whoever is strict refuses at the first problem.
    """
    parsed_values, problems = read_json(json_bytes, most_bytes)
    if parsed_values is not None and not isinstance(parsed_values, dict):
        problems.append(DocumentError("not an object", f"holds a JSON {type(parsed_values).__name__}, not an object"))
        return None, problems
    if parsed_values is None and not problems:
        problems.append(DocumentError("not an object", "holds a JSON null, not an object"))
    return parsed_values, problems


def read_document(
    document_path: Path, max_bytes: int, convert: Callable[[Any], Document], *, fix: str
) -> Document | None:
    """The JSON object in a file as `convert` makes a document of it; None where there is no file. Raises AdapterError
    for a broken one. fix: what to do with one that is."""
    try:
        content = read_capped(document_path, max_bytes + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AdapterError(f"{document_path}: cannot be read ({error.strerror})") from error
    try:
        values, problems = read_object(content, max_bytes)
        if problems:
            raise AdapterError(problems[0].message, fix=problems[0].fix or fix)
        return convert(values)
    except AdapterError as error:
        raise AdapterError(f"{document_path}: {error.message}", fix=error.fix) from None


def convert_document(
    values: Any, document_type: type[Document], *, title: str, format_number: int, fix: str
) -> Document:
    """Parsed JSON as a document of this format. title: what it is called. Raises AdapterError naming the first place
    that is wrong."""
    version = values.get("format") if isinstance(values, dict) else None
    if type(version) is int and version > format_number:
        raise AdapterError(
            f"a {title} of format {version}; this version reads {format_number}", fix="install a newer Lorica"
        )
    try:
        return msgspec.convert(values, document_type)
    except (msgspec.ValidationError, RecursionError) as error:
        raise AdapterError(f"not a {title}: {ascii(str(error))[1:-1][:200]}", fix=fix) from None


def read_json(json_bytes: bytes, most_bytes: int, *, allow_nan: bool = False) -> tuple[Any, list[DocumentError]]:
    """Bytes -> (the value, what is wrong with it), like `read_object` for any value. allow_nan: NaN and Infinity are
    numbers, as Python writes them."""
    problems: list[DocumentError] = []
    foreign = foreign_format(json_bytes)
    if foreign is not None:
        return None, [DocumentError("foreign", f"is {foreign[0]}", fix=foreign[1], content=recognise(json_bytes))]
    if len(json_bytes) > most_bytes:
        return None, [DocumentError("too large", f"is larger than {most_bytes} bytes")]
    if sum(map(json_bytes.count, (b"{", b"[", b","))) > MAX_VALUES:
        return None, [DocumentError("too large", f"holds more than {MAX_VALUES} values")]

    def pairs(key_value_pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(key_value_pairs)
        if len(mapping) != len(key_value_pairs) and len(problems) < 10:
            pair_keys = [key for key, _ in key_value_pairs]
            keys: set[str] = set()
            duplicate_key = next(key for key in pair_keys if key in keys or keys.add(key))  # type: ignore[func-returns-value]
            problems.append(DocumentError("duplicate", f"gives the key {short_text(duplicate_key, quoted=True)} twice"))
        return mapping

    def constant(constant_text: str) -> float | None:
        if allow_nan:
            return float(constant_text)
        if len(problems) < 10:
            problems.append(DocumentError("constant", f"holds {constant_text}, which is not JSON"))
        return None

    try:
        parsed_values = json.loads(json_bytes.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError:
        return None, [DocumentError("nested", "is nested too deeply")]
    except UnicodeDecodeError as error:
        return None, [DocumentError("not UTF-8", f"is not UTF-8 (byte {error.start})")]
    except json.JSONDecodeError as error:
        return None, [DocumentError("not JSON", f"is not JSON: {error.msg} (line {error.lineno})")]
    except ValueError as error:  # a number with thousands of digits
        return None, [DocumentError("not JSON", f"is not JSON: {error}")]
    if json_bytes.count(b"{") + json_bytes.count(b"[") > MAX_DEPTH and _is_deep(parsed_values):
        return None, [DocumentError("nested", f"is nested too deeply (over {MAX_DEPTH} levels)")]
    if _SURROGATE.search(json_bytes) and not _is_encodable(parsed_values):
        return None, [DocumentError("text", "holds a broken text (a lone surrogate)")]
    return parsed_values, problems


def short_text(shown_value: object, *, quoted: bool = False, max_chars: int = 100) -> str:
    """A text from a file as it may be shown: one line, no control characters, not long."""
    value_text = str(shown_value)
    shown_text = value_text[: max_chars + 1]
    if quoted or not shown_text.isprintable():
        shown_text = ascii(shown_text)
    return shown_text if len(value_text) <= max_chars else shown_text[:max_chars] + "..."


# UTF-8 cannot hold a surrogate; only an escape can bring one in.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _is_encodable(parsed_values: Any) -> bool:
    try:
        json.dumps(parsed_values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_deep(parsed_values: Any) -> bool:
    level_containers = [parsed_values]
    for _ in range(MAX_DEPTH):
        nested = []
        for container in level_containers:
            if isinstance(container, dict):
                nested += [nested_value for nested_value in container.values() if isinstance(nested_value, dict | list)]
            elif isinstance(container, list):
                nested += [nested_value for nested_value in container if isinstance(nested_value, dict | list)]
        if not nested:
            return False
        level_containers = nested
    return True
