"""Metrics and configuration of runs in trackio's local store, for its dashboard. Nothing is sent anywhere.

https://huggingface.co/docs/trackio; what is stored lies in TRACKIO_DIR.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from typing import Any

from lorica.errors import MissingExtraError, UsageError
from lorica.runs.select_runs import flatten
from lorica.runs.stored_run import StoredRun

# With one of them set trackio would send what it is given to a server.
_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


def mirror_runs(project: str, runs: Sequence[StoredRun]) -> list[str]:
    """Copy runs into a project of trackio's local store; returns the names of those that were not there yet.

    Raises MissingExtraError without the package, UsageError where trackio is set up to send runs to a server or refuses
    the project's name.
    """
    for variable in _REMOTE:
        if os.environ.get(variable):
            raise UsageError(
                f"{variable} is set: trackio would send the runs to a server, and `mirror` only fills its local store",
                fix=f"unset {variable}",
            )
    try:
        import trackio
    except ImportError as error:
        raise MissingExtraError("trackio", extra="trackio", needed_for="lorica runs mirror") from error
    try:
        stored_names = {stored.name for stored in trackio.Api().runs(project)}
    except ValueError:  # there is no such project yet
        stored_names = set()
    mirrored = []
    for run in runs:
        name = mirror_name(run)
        if name in stored_names:
            continue
        with contextlib.redirect_stdout(io.StringIO()):  # standard output is for the command's result
            _store(trackio, project, name, run)
        mirrored.append(name)
    return mirrored


def mirror_name(run: StoredRun) -> str:
    """What a run is called in trackio: its folder and its start, so that one folder's runs stay apart."""
    return f"{run.path.resolve().name} {run.record.started}"


def _store(trackio: Any, project: str, name: str, run: StoredRun) -> None:
    config = {
        "command": run.record.command,
        "task": run.record.task,
        "status": run.status,
        **flatten(run.record.config),
    }
    try:
        trackio.init(project=project, name=name, config=config, embed=False, auto_log_gpu=False, auto_log_cpu=False)
    except ValueError as error:
        raise UsageError(f"--trackio {project}: {error}", fix="name another project") from error
    values = {
        metric_name if bound == "value" else f"{metric_name} {bound}": number
        for metric_name, metric in run.metrics.items()
        for bound, number in (("value", metric.value), ("low", metric.low), ("high", metric.high))
        if number is not None
    }
    try:
        trackio.log({"seconds": run.record.seconds, **values}, step=0)
    finally:
        trackio.finish()
