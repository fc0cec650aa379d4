"""Is a folder another tool's (MLX, AdapterHub, diffusers, kohya)? Then that is said, and not that it is a broken one of
PEFT: to copy it again, to rename it, or to write a peft_type into it would lead nowhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lorica.adapters.header import Header
from lorica.adapters.json_document import short_text
from lorica.adapters.methods import FORMATS, NO_METHOD, Method, method_of_config, method_of_files, method_of_names
from lorica.vetting.findings import Finding, finding

# What is true of PEFT's folders only: files that are missing or have other names, a config without peft_type, a pickle
# that PEFT could save anew.
_OF_PEFT = ("L001", "L002", "L003", "L005", "L012", "L017", "L058")


def tool_of(raw_config: Mapping[str, Any] | None, header: Header | None, file_names: Sequence[str]) -> Method | None:
    """The format of another tool that config, tensors or, where these are not there, file names show. file_names:
    of the folder's own files."""
    claimed = method_of_config(raw_config or {})
    if claimed is not None:
        return FORMATS.get(claimed[0])
    if header is not None:
        named_method = method_of_names(header.tensors)
        return None if named_method is None else FORMATS.get(named_method[0])
    peft_type = None if raw_config is None else raw_config.get("peft_type")
    if isinstance(peft_type, str) and peft_type.strip().lower() not in NO_METHOD:
        return None
    by_files = method_of_files(file_names)
    return None if by_files is None else by_files[1]


def as_of_tool(
    tool_method: Method, header: Header | None, file_names: Sequence[str], findings: Sequence[Finding]
) -> list[Finding]:
    """The findings on a folder of this tool's. Where there is a header, level 1 names the tool."""
    remaining = [problem for problem in findings if problem.code not in _OF_PEFT]
    if header is not None:
        return remaining
    tool_files = sorted(
        (file_name for file_name in file_names if is_file_of(tool_method, file_name)),
        key=lambda file_name: file_name.endswith(".json"),
    )
    first_file = next(iter(tool_files), "")
    in_file = f", in {short_text(first_file)}" if first_file else ""
    actual = f"it is {tool_method.title}{in_file}; Lorica reads PEFT's LoRA"
    format_key = next(format_key for format_key, method in FORMATS.items() if method is tool_method)
    return [*remaining, finding("L102", actual, fix=tool_method.reader, file=first_file, facts={"method": format_key})]


def is_file_of(tool_method: Method, file_name: str) -> bool:
    """Whether the tool calls a file so."""
    return bool(tool_method.files) and re.fullmatch(tool_method.files, file_name.lower()) is not None
