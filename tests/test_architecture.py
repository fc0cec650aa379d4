"""The rules that a machine can check: ranks, budgets, no work at import, a light core, an explicit surface."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "lorica"

# Imports go strictly downward; packages of one rank never import each other. The only copy of this table.
RANKS = {
    "version": -1,  # records, passports and pages state it
    "errors": -1,  # rank 0 raises them, too
    "memory_limit": -1,  # of this process: hardware states it, training and engines keep to it
    "records": 0,
    "locks": 0,  # journals, trainings and passports hold one; readers ask who does
    "signals": 0,  # the command line ends by them, a training waits with them
    "process_start": 0,  # the command line notes it, time limits count from it
    "file_signatures": 0,  # data, adapters, prompts and models all refuse a file that is something else
    "names": 0,  # of files and subjects, as every package compares and writes them
    "precision": 0,  # the configuration names it, models and engines compute in it, the gate allows for it
    "hardware": 0,  # what multiplies fast: models compute by it, commands choose by it
    "caches": 0,  # models and vetting keep there what took long to find out
    "precision_choice": 1,  # of what `precision` names, by what `hardware` is
    "encoder_families": 0,  # adapters and prompts know an encoder by them, models and engines compute by them
    "engine_table": 0,  # the configuration allows its names, engines load by it
    "thoughts": 0,  # tasks read texts without them, prompts close what a template opens
    "failures": 1,
    "streams": 1,
    "config": 2,  # a task answers for its methods and styles
    "data": 1,
    "tasks": 1,
    "adapters": 1,
    "gguf": 1,  # a base's config, tokenizer and weights in one file
    "routing": 1,
    "metrics": 1,
    "prompts": 2,
    "models": 2,
    "reports": 2,
    "calibration": 2,  # of scores; measured by metrics, kept beside an adapter
    "ensemble": 3,  # blends columns of scores by the metrics of their health, and calibrates them
    "engines": 3,
    "training": 3,
    "runs": 3,  # the folders of runs, with the machine's facts; no torch until a run begins
    "retrieval": 3,  # reads with data, measures with a base's tokenizer, finds models
    "adaptation": 4,  # labels out of rows, judged by metrics and by what makes scores useless to an ensemble
    "shallow": 4,  # fitted by training, embedded by retrieval's encoders, asked as engines are
    "judging": 4,  # asks an engine, or an endpoint, what it makes of answers
    "tuning": 4,  # listens to trainings, and reads keys of the configuration
    "pipeline": 4,  # the stages in a line
    "admission": 5,  # what an adapter proves in an engine, measured by the stages of the pipeline
    "vetting": 6,  # asks the pipeline's stages what an adapter does; its levels 0 to 2 load no torch
    "commands": 7,
    "cli": 8,
    "__main__": 9,  # `python -m lorica`
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PACKAGE_LINES = {"vetting": 16_500, "commands": 16_600}
MAX_LINES_OF_OTHERS = 6_000
# What `import lorica`, `--help` and everything of rank 1 must not drag in.
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "hydra",
    "omegaconf",
    "sklearn",
    "pyarrow",
    "openpyxl",
    "bitsandbytes",
    "tokenizers",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef

MODULES = sorted(SOURCE.rglob("*.py"))
PYTHON = sorted(path for folder in ("src", "tests", "tools", "bench") for path in (ROOT / folder).rglob("*.py"))


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def _package(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def _imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(package inside lorica, line) of every import, lazy ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "lorica" else []
            names = names or [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("lorica."):
                yield name.split(".")[1], node.lineno


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_imports_go_strictly_downward(path: Path) -> None:
    package = _package(path)
    if package == "__init__":
        return  # the public surface stands above everything
    assert package in RANKS, f"{package} has no rank: add it to RANKS with the reason"
    for target, line in _imported(_tree(path)):
        if target == package:
            continue
        assert RANKS[target] < RANKS[package], (
            f"{_id(path)}:{line}: {package} (rank {RANKS[package]}) imports {target} (rank {RANKS[target]})"
        )


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Lazy imports count, too."""
    modules = {_dotted(path): path for path in MODULES if _package(path) != "__init__"}
    imports = {name: set(_modules(_tree(path), modules)) for name, path in modules.items()}
    TopologicalSorter(imports).prepare()  # raises CycleError


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


def _modules(tree: ast.Module, modules: Collection[str]) -> Iterator[str]:
    """Those of `modules` that are imported: of `from a import b`, a.b where that is one."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            full_names = (f"{node.module}.{name}" for name in names)
            names = [name if name in modules else node.module for name in full_names]
        yield from (name for name in names if name in modules)


def test_every_package_has_its_rank_and_every_rank_its_package() -> None:
    found = {_package(path) for path in MODULES} - {"__init__"}
    assert found == set(RANKS)


def test_the_page_on_the_architecture_has_every_package_at_its_rank() -> None:
    page = (ROOT / "docs" / "design" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (-?\d+) \| (`[^|]+) \| ", page, re.MULTILINE)
    assert {name.strip("/"): int(rank) for rank, names in rows for name in re.findall(r"`([^`]+)`", names)} == RANKS


@pytest.mark.parametrize("path", PYTHON, ids=_id)
def test_files_and_functions_stay_short(path: Path) -> None:
    lines = path.read_text("utf-8").count("\n")
    assert lines <= MAX_FILE_LINES, f"{lines} lines; split the file along its data types"
    for node in ast.walk(_tree(path)):
        if isinstance(node, Function):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} at line {node.lineno} has {length} lines"


@pytest.mark.parametrize("package", sorted(RANKS))
def test_packages_keep_their_size(package: str) -> None:
    lines = sum(path.read_text("utf-8").count("\n") for path in MODULES if _package(path) == package)
    most = MAX_PACKAGE_LINES.get(package, MAX_LINES_OF_OTHERS)
    assert lines <= most, (
        f"{lines} lines, not {most}: take out what is said twice, or divide the package by what it knows"
    )


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_public_signatures_name_their_parameters(path: Path) -> None:
    for node in ast.walk(_tree(path)):
        if isinstance(node, Function) and not node.name.startswith("_"):
            assert node.args.kwarg is None, f"{node.name} at line {node.lineno} takes **{node.args.kwarg}"


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_public_things_have_docstrings(path: Path) -> None:
    tree = _tree(path)
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} at line {node.lineno} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_no_work_at_import(path: Path) -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.ClassDef)
    for node in _tree(path).body:
        if isinstance(node, (*allowed, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        condition = ast.unparse(node.test) if isinstance(node, ast.If) else ""
        assert condition in ("TYPE_CHECKING", "__name__ == '__main__'"), (
            f"line {node.lineno}: {type(node).__name__} runs when the module is imported"
        )


@pytest.mark.parametrize("path", [path for path in PYTHON if "bench" not in path.parts], ids=_id)
def test_nothing_outside_bench_imports_it(path: Path) -> None:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert "bench" not in {name.split(".")[0] for name in names}, f"line {node.lineno}: move it to tools/"


def test_there_is_no_module_without_a_name() -> None:
    nameless = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert not [_id(path) for path in PYTHON if path.name in nameless]


@pytest.mark.parametrize(
    "module", ["lorica", "lorica.cli", "lorica.data.read", "lorica.tasks", "lorica.adapters.folder"]
)
def test_the_light_core_stays_light(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & HEAVY


def test_the_command_line_imports_next_to_nothing() -> None:
    code = "import sys, lorica.cli; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & (HEAVY | {"numpy", "msgspec", "rich", "jinja2"})


@pytest.mark.parametrize("command", ["infer", "eval", "config", "runs"])
def test_a_mistake_on_the_command_line_does_not_wait_for_torch(command: str) -> None:
    code = f"import sys, lorica.commands.{command}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT / "src").returncode == 0


def test_the_public_surface_is_explicit() -> None:
    import lorica

    functions = {"adapt", "average", "blend", "calibrate", "check", "compare", "diagnose", "doctor", "evaluate"}
    functions |= {
        "frontier",
        "infer",
        "judge",
        "list_runs",
        "load_pipeline",
        "load_run",
        "score",
        "train",
        "tune",
        "tune_attempts",
        "measure_retrieval",
    }
    results = {
        "RetrievalGain",
        "AdapterCheck",
        "Answer",
        "CheckResult",
        "Diagnosis",
        "Estimate",
        "Evaluation",
        "Finding",
        "InferResult",
    }
    results |= {"AdaptResult", "AverageResult", "CalibrationResult", "DoctorReport", "EnsembleResult", "FileComparison"}
    results |= {
        "EndpointSettings",
        "JudgeResult",
        "PairComparison",
        "FrontierResult",
        "TuneResult",
        "AttemptsResult",
        "RecordPipeline",
        "RunMetric",
        "RunRecord",
        "ScoreResult",
        "StoredRun",
        "TrainResult",
        "TrainingRun",
        "Verdict",
    }
    raised = {"AdapterError", "ConfigError", "DataError", "EngineError", "LoricaError", "MissingExtraError"}
    raised |= {"ModelError", "PromptError", "ResumeError", "TrainingError", "UsageError"}
    assert set(lorica.__all__) == {"__version__"} | functions | results | raised
    assert len(lorica.__all__) == len(set(lorica.__all__))
    assert set(lorica.__all__) <= set(dir(lorica))
    for name in lorica.__all__:
        assert getattr(lorica, name).__doc__
    typed = {alias.asname for node in ast.walk(_tree(SOURCE / "__init__.py")) if isinstance(node, ast.ImportFrom)
             for alias in node.names if alias.asname}  # fmt: skip
    assert typed == functions | results | raised, "what type checkers see is what there is"
    with pytest.raises(AttributeError, match="load_pipelin"):
        _ = lorica.load_pipelin


@pytest.mark.parametrize("path", [path for path in MODULES if _package(path) != "tasks"], ids=_id)
def test_only_a_task_knows_what_is_special_about_it(path: Path) -> None:
    """No comparison with a task's name and no table by it outside `tasks/`: `Task` answers for itself."""
    from lorica.tasks import TASKS

    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            operands = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.MatchValue):
            operands = [node.value]
        else:
            continue
        texts = {leaf.value for operand in operands for leaf in ast.walk(operand) if isinstance(leaf, ast.Constant)}
        assert not texts & set(TASKS), f"line {node.lineno} depends on a task's name; let the task say it"
