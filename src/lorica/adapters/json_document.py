"""Small JSON documents beside an adapter's weights, read with caps and without believing a word of them."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, Literal

from lorica.adapters.header import foreign_format
from lorica.errors import AdapterError
from lorica.file_signatures import Content, recognise

MAX_DEPTH = 64
# Objects, lists, texts and values that are counted before parsing, so that a small file cannot make the parser build
# hundreds of megabytes.
MAX_VALUES = 500_000

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


def read_capped(path: Path, most: int) -> bytes:
    """The first `most` bytes of a regular file. OSError for anything else, without opening it: a pipe would block."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError(0, "it is a pipe, a device or a socket", str(path))
    with path.open("rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "it was exchanged while it was opened", str(path))
        return file.read(most)


def read_object(raw: bytes, most_bytes: int) -> tuple[dict[str, Any] | None, list[DocumentError]]:
    """Bytes -> (the JSON object, what is wrong with it). None where there is no object.

    The object is there beside a problem where one can say which value is meant: a key that is given twice has its last
    value, as in Python's reader; NaN and Infinity are None. Whoever is strict refuses at the first problem.
    """
    values, problems = read_json(raw, most_bytes)
    if values is not None and not isinstance(values, dict):
        problems.append(DocumentError("not an object", f"holds a JSON {type(values).__name__}, not an object"))
        return None, problems
    if values is None and not problems:
        problems.append(DocumentError("not an object", "holds a JSON null, not an object"))
    return values, problems


def read_json(raw: bytes, most_bytes: int, *, allow_nan: bool = False) -> tuple[Any, list[DocumentError]]:
    """Bytes -> (the value, what is wrong with it), like `read_object` for any value. allow_nan: NaN and Infinity are
    numbers, as Python writes them."""
    problems: list[DocumentError] = []
    foreign = foreign_format(raw)
    if foreign is not None:
        return None, [DocumentError("foreign", f"is {foreign[0]}", fix=foreign[1], content=recognise(raw))]
    if len(raw) > most_bytes:
        return None, [DocumentError("too large", f"is larger than {most_bytes} bytes")]
    if sum(map(raw.count, (b"{", b"[", b","))) > MAX_VALUES:
        return None, [DocumentError("too large", f"holds more than {MAX_VALUES} values")]

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(items)
        if len(mapping) != len(items) and len(problems) < 10:
            keys = [key for key, _ in items]
            earlier_keys: set[str] = set()
            twice = next(key for key in keys if key in earlier_keys or earlier_keys.add(key))  # type: ignore[func-returns-value]
            problems.append(DocumentError("duplicate", f"gives the key {short_text(twice, quoted=True)} twice"))
        return mapping

    def constant(text: str) -> float | None:
        if allow_nan:
            return float(text)
        if len(problems) < 10:
            problems.append(DocumentError("constant", f"holds {text}, which is not JSON"))
        return None

    try:
        values = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError:
        return None, [DocumentError("nested", "is nested too deeply")]
    except UnicodeDecodeError as error:
        return None, [DocumentError("not UTF-8", f"is not UTF-8 (byte {error.start})")]
    except json.JSONDecodeError as error:
        return None, [DocumentError("not JSON", f"is not JSON: {error.msg} (line {error.lineno})")]
    except ValueError as error:  # a number with thousands of digits
        return None, [DocumentError("not JSON", f"is not JSON: {error}")]
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_deep(values):
        return None, [DocumentError("nested", f"is nested too deeply (over {MAX_DEPTH} levels)")]
    if _SURROGATE.search(raw) and not _is_encodable(values):
        return None, [DocumentError("text", "holds a broken text (a lone surrogate)")]
    return values, problems


def short_text(value: object, *, quoted: bool = False, most: int = 100) -> str:
    """A text from a file as it may be shown: one line, no control characters, not long."""
    text = str(value)
    shown = text[: most + 1]
    if quoted or not shown.isprintable():
        shown = ascii(shown)
    return shown if len(text) <= most else shown[:most] + "..."


# UTF-8 cannot hold a surrogate; only an escape can bring one in.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _is_encodable(values: Any) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_deep(values: Any) -> bool:
    level = [values]
    for _ in range(MAX_DEPTH):
        nested = []
        for container in level:
            if isinstance(container, dict):
                nested += [value for value in container.values() if isinstance(value, dict | list)]
            elif isinstance(container, list):
                nested += [value for value in container if isinstance(value, dict | list)]
        if not nested:
            return False
        level = nested
    return True
