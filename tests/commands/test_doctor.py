"""`lorica doctor` says what the machine is and what to mend, and always ends well."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

pytest.importorskip("torch")

from lorica import cli
from lorica.commands import doctor
from lorica.hardware import Accelerator, this_machine
from lorica.models.cpu.rates import measured_rates


def test_the_report_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"machine", "rates", "kernels", "auto", "versions", "extras", "problems"}
    assert report["machine"]["instruction_sets"] == list(this_machine().instruction_sets)
    assert report["rates"]["prompts"] == measured_rates().prompts
    for choices in report["auto"].values():
        assert choices["answers"].partition(":")[0] in ("float32", "int16", "bfloat16")
        assert choices["training"].partition(":")[0].split(",")[0] in ("float32", "int16", "bfloat16")
    assert all(problem["problem"] and problem["fix"] for problem in report["problems"])
    assert report["versions"]["lorica"]


def test_the_report_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for words in (
        "processor:",
        "instructions:",
        "kernels:",
        "float32",
        "model.dtype=auto",
        "extra local: torch",
        "mend",
    ):
        assert words in text


def test_what_is_slow_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = replace(this_machine(), cores=64, limits={"ONEDNN_MAX_CPU_ISA": "AVX2"})
    kernels = {"target": "", "targets": [], "reason": "not built"}
    for name in ("OMP_NUM_THREADS", "LORICA_CPU_TARGET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    problems = doctor._problems(machine, measured_rates(), kernels, threads=1)
    texts = [f"{problem.problem} -> {problem.fix}" for problem in problems]
    assert any("not built" in text and "lorica.models.compiled.build" in text for text in texts)
    assert any("unset ONEDNN_MAX_CPU_ISA" in text for text in texts)
    assert "torch uses 1 of 64 cores -> engine.threads=64, or unset MKL_NUM_THREADS" in texts
    monkeypatch.setenv("LORICA_CPU_TARGET", "none")
    kernels["reason"] = "LORICA_CPU_TARGET is none"
    fixes = [problem.fix for problem in doctor._problems(machine, measured_rates(), kernels, threads=64)]
    assert "unset LORICA_CPU_TARGET" in fixes
    assert not any("compiled.build" in fix for fix in fixes)


def test_a_gpu_is_shown_with_what_auto_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = replace(this_machine(), accelerator=Accelerator("T4", (7, 5), 16 << 30))
    choices = doctor._choices(machine, measured_rates())
    assert choices["135M"]["on the GPU"].startswith("float16: T4 (compute capability 7.5)")
    report = replace(doctor.examine(), machine={**asdict(machine), "threads": 2})
    assert "GPU: T4, compute capability 7.5, 16 GiB" in doctor._text(report)


def test_without_torch_there_is_still_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    report = doctor.examine()
    assert "pip install 'lorica[local]'" in doctor._text(report)
    assert report.machine == {}
