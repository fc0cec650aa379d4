"""The field's words: old words do not come back, one word stands for one thing, and names say what a value is.

docs/glossary.md has the words, what each means here and where it lives.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "lorica"
MODULES = sorted(SOURCE.rglob("*.py"))

# Names of modules, classes and functions that the field has a word for, and that word.
OLD_WORDS = {
    "Beginnings": "PrefixCache",
    "beginnings": "prefix_cache",
    "Lanes": "DecodeWorkerPool",
    "lanes": "decode_workers",
    "Execution": "Executor",
    "Generation": "DecodeBatch",
    "Waiting": "PendingSequence",
    "Passes": "ModelRunner",
    "Piece": "PackedSequence",
    "Pass": "PackedBatch",
    "Branches": "TokenTree",
    "branches": "token_tree",
    "TiledAttention": "BatchInvariantAttention",
    "Picker": "SequenceSampler",
    "holds_stop": "a function of stop_strings",
    "RepeatableEngine": "BatchInvariantEngine",
    "room_for": "max_new_tokens_for",
    "Turn": "RotaryEmbedding",
    "take_apart": "split_qkv_and_rotate",
    "Codes": "QuantizedWeight",
    "RestoredProduct": "WeightOnlyLinear",
    "Updates": "BatchedLora",
    "FactorMemory": "StackedFactorCache",
    "Choose": "ScoreChoices",
    "stop_texts": "stop",
    "run_kept": "run_resumable",
    "TEXTS_TOGETHER": "GENERATION_GROUP",
    "check_reach": "check_layer_coverage",
    "Fit": "TrainJob",
    "Union": "UnionFind",
    "RowShape": "RowSchema",
    "Draft": "MessageBuilder",
    "WrittenTask": "GenerationTask",
    "Reading": "ParsedAnswer",
    "Specimen": "RawAdapter",
    "Tried": "BaseCheckResult",
    "Workplace": "ModelSession",
    "Replies": "ScoredRows",
    "unseen": "contamination",
    "sweep": "scale_sweep or format_sweep",
    "bond": "factor_correlation",
    "strangers": "outlier layers",
    "spelt": "tokenizer_roundtrip",
    "UnreadError": "UnsupportedRegex",
    "Asked": "TargetSpec",
    "Means": "DiagnosisInputs",
    "Ran": "ExperimentResult",
    "verbs": "commands",
}
# A local name of these says nothing of its value.
VAGUE_WORDS = """
each found place seen one ones asked known kept given thing things told made said whole part parts other others what
which these those them rest left right both here there came went stood lies way kind
"""
VAGUE = frozenset(VAGUE_WORDS.split())
VAGUE_SHARE = 0.01
MEAN_LENGTH = 6.9
# Files that bear the same name by intention: a command its name, `base` the interface of a package's modules.
SHARED_FILE_NAMES = {"__init__.py", "base.py"}


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def _defined(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno


def _bindings(path: Path) -> Iterator[str]:
    """Every name that is bound: variables, loop variables, parameters."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_fields_words_are_used(path: Path) -> None:
    old = [(name, line) for name, line in _defined(path) if name.lstrip("_") in OLD_WORDS]
    old += [(part, 0) for part in path.relative_to(SOURCE).with_suffix("").parts if part in OLD_WORDS]
    assert not old, "; ".join(f"line {line}: {name} is {OLD_WORDS[name.lstrip('_')]}" for name, line in old)


def test_no_class_is_defined_twice() -> None:
    files = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ClassDef):
                files[node.name].append(str(path.relative_to(SOURCE)))
    assert not {name: paths for name, paths in files.items() if len(paths) > 1}


def test_no_file_name_stands_for_two_things() -> None:
    files = defaultdict(list)
    for path in MODULES:
        if path.name not in SHARED_FILE_NAMES and path.parent.name != "commands":
            files[path.name].append(str(path.relative_to(SOURCE)))
    assert not {name: paths for name, paths in files.items() if len(paths) > 1}


def test_names_say_what_a_value_is() -> None:
    names = [name for path in MODULES for name in _bindings(path) if name not in ("self", "cls", "_")]
    vague = sum(name in VAGUE for name in names)
    assert vague <= VAGUE_SHARE * len(names), f"{vague} of {len(names)} names are vague"
    mean = sum(map(len, names)) / len(names)
    assert mean >= MEAN_LENGTH, f"names are {mean:.2f} characters long in the mean"


def test_docstrings_say_something() -> None:
    empty = re.compile(r"^(the same|as it is|see above)\b.{0,12}$", re.IGNORECASE)
    for path in MODULES:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.get_docstring(node) or ""
                assert not empty.match(text), f"{path.relative_to(SOURCE)}: {node.name}: {text!r}"
