"""Attempts: studies one after another, each within its minutes, that end in a written decision.

Every attempt divides the rows into training and validation by another seed, tries first what the attempts before it
found best, and compares on the same rows, which no trial of any attempt saw. What was luck of a division does not last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from lorica.commands.arguments import inform
from lorica.commands.pages.page_files import write_pages
from lorica.commands.pages.tune_page import attempts_page, attempts_table
from lorica.commands.run_log import logged_messages
from lorica.commands.tune_plan import StudyPlan, next_attempt
from lorica.commands.tune_result import AttemptsResult, TuneResult, tune_dict
from lorica.commands.tune_session import StudyCall, resumes, run_study, study_record
from lorica.commands.tune_trial import Runner, TrialRunner
from lorica.data.write import atomic_file
from lorica.metrics.paired_tests import holm
from lorica.reports.markdown import to_markdown
from lorica.reports.text_table import plain_table
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import record_json
from lorica.tuning.dimensions import Settings

DECISION_NAME, DECISION_TEXT = "decision.json", "decision.md"


def run_attempts(
    plan: StudyPlan, call: StudyCall, *, make_runner: Callable[[StudyPlan], Runner] = TrialRunner
) -> AttemptsResult:
    """Run the attempts, or go on with them, and write the decision.

    make_runner: as `run_study` takes it. Raises what `run_study` raises.
    """
    resume, count = resumes(plan), plan.config.tune.attempts
    with (
        RunFolder.create(plan.folder, study_record(plan), words=call.words, resume=resume) as run_log,
        logged_messages(run_log),
    ):
        results: list[TuneResult] = []
        earlier: list[Settings] = []
        minutes = plan.config.tune.minutes_per_attempt
        inform(
            f"{count} attempts (attempts=...) of {minutes:g} minutes at most (minutes_per_attempt=...): "
            f"{count * minutes:g} minutes in all"
        )
        for number in range(1, count + 1):
            inform(f"attempt {number} of {count}")
            attempt = next_attempt(plan, number, earlier)
            started = call.started if number == 1 else None
            result = run_study(attempt, replace(call, started=started, html=None), make_runner=make_runner)
            results.append(result)
            if result.best is not None and result.best.number and result.best.settings not in earlier:
                earlier.append(result.best.settings)
        decision = AttemptsResult(plan.folder, tuple(results), _corrected(results))
        _write(run_log, decision, call.html)
    inform(f"run: {plan.folder}")
    return decision


def _corrected(results: Sequence[TuneResult]) -> tuple[float, ...]:
    """The p-value of each attempt's comparison, corrected for their number (Holm); nan where there was none."""
    compared = [index for index, result in enumerate(results) if result.comparison is not None]
    p_values = holm([_p_value(results[index]) for index in compared])
    corrected = dict(zip(compared, p_values, strict=True))
    return tuple(corrected.get(index, math.nan) for index in range(len(results)))


def _p_value(result: TuneResult) -> float:
    return math.nan if result.comparison is None else result.comparison.test.p_value


def attempts_dict(decision: AttemptsResult) -> dict[str, Any]:
    """The decision as values of JSON."""
    return {
        "folder": decision.folder,
        "decision": decision.decision,
        "adopted": decision.adopted,
        "verdict": decision.verdict,
        "command": decision.command,
        "attempts": [
            tune_dict(result) | {"p_corrected": p_value}
            for result, p_value in zip(decision.attempts, decision.p_corrected, strict=True)
        ],
    }


def attempts_text(decision: AttemptsResult) -> str:
    """What was tried, what was found, and the next command."""
    return "\n\n".join(
        [
            plain_table(attempts_table(decision), max_cell=60),
            decision.verdict,
            f"The decision: {decision.folder / DECISION_TEXT}",
            f"Next:\n{decision.command}",
        ]
    )


def _write(run_log: RunFolder, decision: AttemptsResult, html: Path | None) -> None:
    with atomic_file(run_log.path / DECISION_NAME) as decision_file:
        decision_file.write(record_json(attempts_dict(decision)))
    page = attempts_page(decision)
    written = msgspec.structs.replace(page, summary=decision.verdict, footer="")
    with atomic_file(run_log.path / DECISION_TEXT) as text_file:
        text_file.write(f"{to_markdown(written)}\nNext:\n\n```sh\n{decision.command}\n```\n".encode())
    run_log.update(
        outputs=write_pages(lambda: (page, None), html, run_log),
        summary={"attempts": len(decision.attempts), "decision": decision.decision, "verdict": decision.verdict},
    )
