"""What would settle a diagnosis that is still open, and the command to type next."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from contextlib import suppress

from lorica.adapters.passport import PASSPORT_NAME, read_passport
from lorica.errors import AdapterError
from lorica.models.locate import EMBEDDED, embedded_names, typed_base
from lorica.vetting.diagnosis.experiments import EXPERIMENTS
from lorica.vetting.diagnosis.inputs import GIVE, Context, Need
from lorica.vetting.diagnosis.posterior import Hypothesis, all_causes
from lorica.vetting.findings import Finding, finding_codes

# The weights are a pickle.
_PICKLE = "L012"
# Causes that a base which was named with --expected-base, and suits better, explains.
_OF_THE_BASE = ("wrong_size", "wrong_base", "wrong_revision")


def settling(hypotheses: Sequence[Hypothesis], missing: Collection[Need]) -> list[str]:
    """What to give so that experiments could decide among the causes that are still possible, the most telling
    first."""
    leading, *runners_up = hypotheses
    rival_hypotheses = [hypothesis for hypothesis in runners_up if hypothesis.certainty != "unlikely"]
    if not rival_hypotheses and leading.certainty == "settled":
        return []
    settling_hints = []
    for input_name in missing:
        needing = [experiment.separates for experiment in EXPERIMENTS if input_name in experiment.needs]
        separated = {cause for separates in needing for cause in separates}
        titles = [hypothesis.title for hypothesis in (leading, *rival_hypotheses) if hypothesis.cause in separated]
        if titles:
            settling_hints.append((len(titles), f"{GIVE[input_name]} would decide about: {'; '.join(titles[:4])}"))
    return [hint_text for _, hint_text in sorted(settling_hints, key=lambda settling_hint: -settling_hint[0])]


def next_command(leading: Hypothesis, context: Context) -> str:
    """One command line, which works as it is once the words in capitals are replaced."""
    adapter_path, inputs = str(context.specimen.given), context.inputs
    if leading.cause == "unreadable" and any(finding.code == "L010" for finding in context.findings):
        return f"git -C {shlex.quote(adapter_path)} lfs pull"
    base_match = context.match
    fitting = runnable(base_match.candidates[0]) if base_match and base_match.candidates else ""
    command_line = _template(leading, context).format(
        path=shlex.quote(adapter_path),
        base=shlex.quote(typed_base(inputs.base)) if inputs.base is not None else _embedded_base(context) or "BASE",
        rows=shlex.quote(inputs.rows_file) if inputs.rows_file else "ROWS",
        task=inputs.task or _passport_task(context) or "TASK",
        format=_best_format(leading),
        fitting=shlex.quote(fitting) if fitting else "THE_BASE_IT_FITS",
        home=shlex.quote(str(context.home)),
    )
    return command_line.strip()


def _template(leading: Hypothesis, context: Context) -> str:
    if context.home is not None and leading.cause in _OF_THE_BASE:
        return "lorica diagnose {path} --base {home}"
    specimen, inputs = context.specimen, context.inputs
    if leading.certainty not in ("settled", "likely"):
        # What gives the experiments that are missing.
        rows = "MORE_ROWS" if inputs.rows and inputs.task else "{rows}"
        with_rows = "" if inputs.base is None else f" --rows {rows} --task {{task}}"
        return "lorica diagnose {path} --base {base}" + with_rows
    if leading.cause == "healthy" and (not specimen.folder.is_dir() or PASSPORT_NAME in specimen.files):
        # A passport is made for a folder, and once.
        return "lorica check {path} --base {base}"
    return all_causes()[leading.cause].command


def _embedded_base(context: Context) -> str:
    """The embedded base that the config names, as it is typed; "" for all others, which may not be here."""
    config = context.specimen.raw_config
    base_name = config.get("base_model_name_or_path") if config else None
    typed_name = runnable(base_name) if isinstance(base_name, str) else ""
    return typed_name if typed_name.startswith(EMBEDDED) else ""


def _passport_task(context: Context) -> str:
    """The task that the passport says the adapter was trained for; "" where none says it."""
    with suppress(AdapterError):  # a broken passport is among the findings
        passport = read_passport(context.specimen.folder)
        return "" if passport is None else passport.prompt.task or ""
    return ""


def runnable(base_name: str) -> str:
    """A base model's name as it is typed: those that are shipped are not found under the names of their table."""
    short_name = base_name.rpartition("/")[2].removeprefix(EMBEDDED).replace("-", "_")
    return f"{EMBEDDED}{short_name}" if short_name in embedded_names() else base_name


def first_step(cause: str, findings: Sequence[Finding]) -> str:
    """What has to be done by hand before the command tells something new; "" for nothing."""
    if cause == "unreadable" and is_pickle(findings):
        return finding_codes()[_PICKLE].fix
    return all_causes()[cause].first


def is_pickle(findings: Sequence[Finding]) -> bool:
    """Whether all that was wrong with the files is that their weights are a pickle, which is not opened."""
    rejected_codes = {finding.code for finding in findings if finding.level == 0 and finding.severity == "reject"}
    return rejected_codes == {_PICKLE}


def _best_format(leading: Hypothesis) -> str:
    """The overrides of the format that did better, from the evidence of the format sweep."""
    sweep_text = next((bearing.text for bearing in leading.evidence_for if bearing.source == "format_sweep"), "")
    prefixes = ("task.style=", "model.chat_template=")
    return " ".join(override for override in sweep_text.split() if override.startswith(prefixes))
