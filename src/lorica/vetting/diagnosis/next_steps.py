"""What would settle a diagnosis that is still open, and the command to type next."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from lorica.adapters.passport import PASSPORT_NAME
from lorica.models.locate import EMBEDDED, embedded_names
from lorica.vetting.diagnosis.experiments import EXPERIMENTS
from lorica.vetting.diagnosis.inputs import GIVE, Context, DiagnosisInputs, Need
from lorica.vetting.diagnosis.posterior import Hypothesis
from lorica.vetting.finding_codes import causes, finding_codes
from lorica.vetting.findings import Finding

# The weights are a pickle.
_PICKLE = "L012"
# Where every listed cause is refuted.
_NO_CAUSE = "lorica check {path} --base {base} --json"
# Causes that a base which was named with --expected-base, and suits better, explains.
_OF_THE_BASE = ("wrong_size", "wrong_base", "wrong_revision")


def settling(hypotheses: Sequence[Hypothesis], missing: Collection[Need]) -> list[str]:
    """What to give so that experiments could decide among the causes that are still possible, the most telling
    first."""
    top, *runners_up = hypotheses
    rivals = [hypothesis for hypothesis in runners_up if hypothesis.certainty != "unlikely"]
    if not rivals and top.certainty == "settled":
        return []
    hints = []
    for need in missing:
        separated = {cause for experiment in EXPERIMENTS if need in experiment.needs for cause in experiment.separates}
        titles = [hypothesis.title for hypothesis in (top, *rivals) if hypothesis.cause in separated]
        if titles:
            hints.append((len(titles), f"{GIVE[need]} would decide about: {', '.join(titles[:4])}"))
    return [text for _, text in sorted(hints, key=lambda hint: -hint[0])]


def next_command(top: Hypothesis, context: Context) -> str:
    """One command line, which works as it is once the words in capitals are replaced."""
    path, inputs = str(context.specimen.given), context.inputs
    if top.cause == "unreadable" and any(finding.code == "L010" for finding in context.findings):
        return f"git -C {shlex.quote(path)} lfs pull"
    match = context.match
    fitting = runnable(match.candidates[0]) if match and match.candidates else ""
    return (
        _template(top, context)
        .format(
            path=shlex.quote(path),
            base=shlex.quote(str(inputs.base)) if inputs.base is not None else _embedded_base(context) or "BASE",
            rows=shlex.quote(inputs.rows_file) if inputs.rows_file else "ROWS",
            task=inputs.task or "TASK",
            format=_best_format(top),
            fitting=shlex.quote(fitting) if fitting else "THE_BASE_IT_FITS",
            home=shlex.quote(str(context.home)),
        )
        .strip()
    )


def _template(top: Hypothesis, context: Context) -> str:
    if context.home is not None and top.cause in _OF_THE_BASE:
        return "lorica diagnose {path} --base {home}"
    if top.certainty not in ("settled", "likely"):
        return _undecided(context.inputs)
    specimen = context.specimen
    if top.cause == "healthy" and (not specimen.folder.is_dir() or PASSPORT_NAME in specimen.files):
        # A passport is made for a folder, and once.
        return "lorica check {path} --base {base}"
    return causes()[top.cause].command if top.cause in causes() else _NO_CAUSE


def _undecided(inputs: DiagnosisInputs) -> str:
    """What gives the experiments that are missing."""
    if inputs.base is None:
        return "lorica diagnose {path} --base {base}"
    if not (inputs.rows and inputs.task):
        return "lorica diagnose {path} --base {base} --rows {rows} --task {task}"
    return "lorica diagnose {path} --base {base} --rows MORE_ROWS --task {task}"


def _embedded_base(context: Context) -> str:
    """The embedded base that the config names, as it is typed; "" for all others, which may not be here."""
    config = context.specimen.raw_config
    name = config.get("base_model_name_or_path") if config else None
    typed = runnable(name) if isinstance(name, str) else ""
    return typed if typed.startswith(EMBEDDED) else ""


def runnable(name: str) -> str:
    """A base model's name as it is typed: those that are shipped are not found under the names of their table."""
    short = name.rpartition("/")[2].removeprefix(EMBEDDED).replace("-", "_")
    return f"{EMBEDDED}{short}" if short in embedded_names() else name


def first_step(cause: str, findings: Sequence[Finding]) -> str:
    """What has to be done by hand before the command tells something new; "" for nothing."""
    if cause == "unreadable" and is_pickle(findings):
        return finding_codes()[_PICKLE].fix
    return causes()[cause].first if cause in causes() else ""


def is_pickle(findings: Sequence[Finding]) -> bool:
    """Whether all that was wrong with the files is that their weights are a pickle, which is not opened."""
    codes = {finding.code for finding in findings if finding.level == 0 and finding.severity == "reject"}
    return codes == {_PICKLE}


def _best_format(top: Hypothesis) -> str:
    """The overrides of the format that did better, from the evidence of the format sweep."""
    text = next((item.text for item in top.evidence_for if item.source == "format_sweep"), "")
    return " ".join(word for word in text.split() if word.startswith(("task.style=", "model.chat_template=")))
