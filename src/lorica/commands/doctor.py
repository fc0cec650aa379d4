"""`lorica doctor`: this machine, its measured rates, what is compiled, what `auto` chooses and why, what to mend."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lorica.commands.arguments import emit, parser
from lorica.names import count_of, listed
from lorica.reports.page import ReportTable
from lorica.reports.text_table import plain_table

if TYPE_CHECKING:
    from lorica.hardware import Hardware
    from lorica.precision_choice import Rates

_SIZES = {"6M (lorica_tiny)": 6e6, "135M": 135e6, "0.5B": 5e8, "1.7B": 1.7e9, "8B": 8e9}  # parameters
_EXTRA = re.compile(r"""([\w.-]+).*extra == ["'](\w+)["']""")
_COLLECTIONS = ("all", "dev")  # extras that are made of others, or are not for users


@dataclass(frozen=True)
class Remedy:
    """What is slow or missing here, and what to do about it."""

    problem: str
    fix: str


@dataclass(frozen=True)
class DoctorReport:
    """What the command finds. rates: of one thread, in 10^9 operations a second (`memory`: 10^9 bytes). kernels: the
    target in use, "" and the reason where there is none, and the targets that run here. auto: size of a base ->
    purpose -> choice and reason. extras: extra -> package -> version, "" where that is not installed.
    """

    machine: dict[str, Any]
    rates: dict[str, Any]
    kernels: dict[str, Any]
    auto: dict[str, dict[str, str]]
    versions: dict[str, str]
    extras: dict[str, dict[str, str]]
    problems: list[Remedy] = field(default_factory=list)


def run(arguments: Sequence[str]) -> int:
    """Look at the machine and print what was found."""
    options = parser(
        "doctor",
        "What this machine computes fast and why: its processor and memory, measured rates, the compiled kernels,\n"
        "versions, what model.dtype=auto and training choose for bases of several sizes, and what to mend.\n"
        "Ends with 0 whatever it finds.",
        "  lorica doctor\n  lorica doctor --json",
        overrides=False,
    ).parse_args(list(arguments))
    report = examine()
    emit(report, as_json=options.json, text=_text(report))
    return 0


def examine() -> DoctorReport:
    """Everything that the command says. Without torch only versions."""
    versions, extras = _versions()
    if find_spec("torch") is None:
        missing = Remedy("torch is not installed: nothing can be trained or answered", "pip install 'lorica[local]'")
        return DoctorReport({}, {}, {}, {}, versions, extras, [missing])
    import torch

    from lorica.hardware import this_machine
    from lorica.models.compiled import library
    from lorica.models.cpu.rates import measured_rates

    machine, rates = this_machine(), measured_rates()
    targets = list(library.available_targets())
    kernels = {"target": library.target(), "targets": targets, "reason": library.why_unavailable()}
    threads = torch.get_num_threads()
    return DoctorReport(
        {**asdict(machine), "threads": threads},
        {"prompts": rates.prompts, "steps": rates.steps, "training": rates.training, "memory": rates.memory},
        kernels,
        _choices(machine, rates),
        versions,
        extras,
        _problems(machine, rates, kernels, threads),
    )


def _choices(machine: Hardware, rates: Rates) -> dict[str, dict[str, str]]:
    from lorica.precision_choice import for_accelerator, for_answers, for_training

    choices = {}
    for size_name, size in _SIZES.items():
        answers, training = for_answers(machine, rates, int(size)), for_training(machine, rates, int(size))
        products = "" if training.products == training.weights else f", multiplied in {training.products}"
        choices[size_name] = {
            "answers": f"{answers.dtype}: {answers.reason}",
            "training": f"{training.weights}{products}: {training.reason}",
        }
        if machine.accelerator is not None:
            choice = for_accelerator(machine)
            choices[size_name]["on the GPU"] = f"{choice.dtype}: {choice.reason}"
    return choices


def _problems(machine: Hardware, rates: Rates, kernels: dict[str, Any], threads: int) -> list[Remedy]:
    from lorica.models.compiled import build, library
    from lorica.models.cpu.rates import cache_problem

    problems = []
    if not kernels["target"]:
        fix = "install a C compiler, then: python -m lorica.models.compiled.build"
        if library.is_switched_off():
            fix = f"unset {library.TARGET_VARIABLE}"
        elif build.why_not() == "" and not kernels["reason"].startswith("this processor"):
            fix = "python -m lorica.models.compiled.build"
        problems.append(Remedy(f"the compiled kernels are not used: {kernels['reason']}; torch's are slower", fix))
    for name, value in machine.limits.items():
        problems.append(Remedy(f"{name}={value} keeps a library from instructions of this processor", f"unset {name}"))
    if threads < machine.cores:
        limits = [name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)]
        fix = f"engine.threads={machine.cores}" + (f", or unset {' and '.join(limits)}" if limits else "")
        problems.append(Remedy(f"torch uses {threads} of {machine.cores} cores", fix))
    if machine.multiplies("bfloat16") and rates.prompts["bfloat16"] < rates.prompts["float32"]:
        problem = "bfloat16 is slower than float32, though the processor has instructions for it"
        problems.append(Remedy(problem, "look for another version of torch; auto does not choose it"))
    if reason := cache_problem():
        problem = f"each command measures the rates anew: {reason}"
        problems.append(Remedy(problem, "set LORICA_CACHE_DIR to a folder of yours"))
    return problems


def _versions() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    versions, extras = {"lorica": _version("lorica")}, dict[str, dict[str, str]]()
    try:
        requirements = importlib.metadata.requires("lorica") or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        match = _EXTRA.match(requirement)
        if match is None:
            package = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
            versions[package] = _version(package)
        elif match[2] not in _COLLECTIONS:
            extras.setdefault(match[2], {})[match[1]] = _version(match[1])
    return versions, extras


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _text(report: DoctorReport) -> str:
    lines = _machine_lines(report) if report.machine else []
    lines.append("packages: " + listed([f"{name} {version}" for name, version in report.versions.items()], 20))
    for extra, packages in report.extras.items():
        names = [f"{name} {version}" if version else f"{name} is missing" for name, version in packages.items()]
        install = "" if all(packages.values()) else f" (pip install 'lorica[{extra}]')"
        lines.append(f"  extra {extra}: {', '.join(names)}{install}")
    lines += ["", "to mend:" if report.problems else "nothing to mend"]
    lines += [f"  {problem.problem}\n    -> {problem.fix}" for problem in report.problems]
    return "\n".join(lines)


def _machine_lines(report: DoctorReport) -> list[str]:
    machine, rates = report.machine, report.rates
    memory = f"{machine['memory_bytes'] / 2**30:.1f} GiB" if machine["memory_bytes"] else "of unknown size"
    lines = [
        f"processor: {machine['processor']}, {machine['architecture']}, {count_of(machine['cores'], 'core')}, "
        f"{count_of(machine['threads'], 'thread')}; memory {memory}, read at {rates['memory']:.0f} GB/s by one thread",
        f"instructions: {' '.join(machine['instruction_sets']) or 'none that matter'}",
    ]
    if machine["accelerator"]:
        gpu = machine["accelerator"]
        lines.append(
            f"GPU: {gpu['name']}, compute capability {'.'.join(map(str, gpu['capability']))}, "
            f"{gpu['memory_bytes'] / 2**30:.0f} GiB"
        )
    kernels = report.kernels
    in_use = f"compiled, {kernels['target']} in use of {', '.join(kernels['targets'])}"
    lines.append(f"kernels: {kernels['reason'] or in_use}")
    rows = [
        (name, *(f"{rates[use][name]:.0f}" if name in rates[use] else "" for use in ("prompts", "steps", "training")))
        for name in rates["prompts"]
    ]
    columns = ("10^9 operations/s of one thread", "prompts", "decode steps", "training")
    lines += ["", plain_table(ReportTable(columns, tuple(rows)))]
    lines += ["", "what model.dtype=auto is, by parameters of the base:"]
    for size_name, choices in report.auto.items():
        lines += [f"  {size_name:<17} {purpose:<10} {choice}" for purpose, choice in choices.items()]
    return [*lines, ""]
