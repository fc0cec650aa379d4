"""What would settle a diagnosis that is still open, and the command to type next."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from lorica.adapters.passport import PASSPORT_NAME
from lorica.models.locate import EMBEDDED, embedded_names
from lorica.vetting.diagnosis.context import Context, Means
from lorica.vetting.diagnosis.evidence import NONE, Hypothesis
from lorica.vetting.diagnosis.experiments import EXPERIMENTS, GIVE, Need
from lorica.vetting.findings import Finding

# A rival this probable is worth settling.
OPEN = 0.05
# A cause less probable than this is not named: it would be wrong more often than right.
DECIDED = 0.5

# Cause -> what to type. {path}, {base}, {task}, {rows}: as given, or a word in capitals that says what to put there.
_NEXT: dict[str, str] = {
    "unreadable": "lorica check {path}",
    "unsupported": "lorica check {path}",
    "incomplete": "lorica check {path} --base {base}",
    "not_applied": "lorica check {path} --base {base}",
    "no_effect": "lorica train task={task} input={rows} run_dir=NEW_RUN",
    "broken_weights": "lorica check {path}",
    "wrong_size": "lorica diagnose {path} --base {fitting}",
    "wrong_base": "lorica diagnose {path} --base {base} --expected-base ANOTHER_BASE_OF_THIS_SHAPE",
    "wrong_revision": "lorica diagnose {path} --base THE_REVISION_IT_WAS_TRAINED_ON",
    "altered": "lorica check {path} --base {base}",
    "over_scaled": "lorica diagnose {path} --base {base} --rows {rows} --task {task}",
    "under_scaled": "lorica diagnose {path} --base {base} --rows {rows} --task {task}",
    "prompt_mismatch": "lorica diagnose {path} --base {base} --rows {rows} --task {task} {format}",
    "tokenizer_mismatch": "lorica diagnose {path} --base THE_BASE_WITH_ITS_TOKENIZER",
    "inverted": "lorica diagnose {path} --base {base} --rows {rows} --task {task} "
    "task.positive_labels=[THE_NEGATIVE_LABEL] task.negative_labels=[THE_POSITIVE_LABEL]",
    "hard_labels": "lorica train task={task} input={rows} run_dir=NEW_RUN training.epochs=FEWER",
    "ignores_input": "lorica train task={task} input={rows} run_dir=NEW_RUN",
    "generation_settings": "lorica infer task={task} input={rows} output=ANSWERS inference.do_sample=false "
    "inference.max_new_tokens=256",
    "parser_fallbacks": "lorica infer task={task} input={rows} output=ANSWERS task.method=choice",
    "hard_task": "lorica train task={task} input=MORE_ROWS run_dir=NEW_RUN",
    "healthy": "lorica passport {path} --base {base}",
    NONE: "lorica check {path} --base {base} --json",
}
# What has to be done by hand before the command tells something new.
FIRST: dict[str, str] = {
    "over_scaled": "set lora_alpha (or use_rslora, alpha_pattern) in adapter_config.json to the values of training",
    "under_scaled": "set lora_alpha (or use_rslora, alpha_pattern) in adapter_config.json to the values of training",
    "unreadable": "fetch or copy the files again",
    "broken_weights": "fetch or copy the weights again; if they are the same, train again",
    "incomplete": "copy the whole folder again, or save it again where it was trained",
    "not_applied": "save it again with PEFT's save_pretrained, or correct target_modules and the tensors' names",
    "altered": "put config and weights of one and the same training together again",
}


def settling(hypotheses: Sequence[Hypothesis], missing: Collection[Need]) -> list[str]:
    """What to give so that experiments could decide among the causes that are still possible, the most telling
    first."""
    top = hypotheses[0]
    rivals = {each.cause for each in hypotheses[1:] if each.posterior >= OPEN}
    if not rivals and top.posterior >= 1 - OPEN:
        return []
    possible = rivals | {top.cause}
    found = []
    for need in missing:
        decided = sorted(
            {cause for each in EXPERIMENTS if need in each.needs for cause in each.separates} & possible,
            key=lambda cause: next(-each.posterior for each in hypotheses if each.cause == cause),
        )
        if decided:
            titles = [each.title for each in hypotheses if each.cause in decided][:4]
            found.append((len(decided), f"{GIVE[need]} would decide about: {', '.join(titles)}"))
    return [text for _, text in sorted(found, key=lambda each: -each[0])]


def next_command(top: Hypothesis, context: Context) -> str:
    """One command line, which works as it is once the words in capitals are replaced."""
    path, means = str(context.specimen.given), context.means
    if top.cause == "unreadable" and any(each.code == "L010" for each in context.findings):
        return f"git -C {shlex.quote(path)} lfs pull"
    match = context.match
    fitting = runnable(match.candidates[0]) if match and match.candidates else ""
    if context.home is not None and top.cause in ("wrong_size", "wrong_base", "wrong_revision"):
        wanted = "lorica diagnose {path} --base {home}"
    elif top.posterior < DECIDED:
        wanted = _undecided(means)
    elif top.cause == "healthy" and (not context.specimen.folder.is_dir() or PASSPORT_NAME in context.specimen.files):
        # A passport is made for a folder, and once.
        wanted = "lorica check {path} --base {base}"
    else:
        wanted = _NEXT[top.cause]
    return wanted.format(
        path=shlex.quote(path),
        base=shlex.quote(str(means.base)) if means.base is not None else _named(context) or "BASE",
        rows=shlex.quote(means.rows_file) if means.rows_file else "ROWS",
        task=means.task or "TASK",
        format=_best_format(top),
        fitting=shlex.quote(fitting) if fitting else "THE_BASE_IT_FITS",
        home=shlex.quote(str(context.home)),
    ).strip()


def _undecided(means: Means) -> str:
    """What gives the experiments that are missing."""
    if means.base is None:
        return "lorica diagnose {path} --base {base}"
    if not (means.rows and means.task):
        return "lorica diagnose {path} --base {base} --rows {rows} --task {task}"
    return "lorica diagnose {path} --base {base} --rows MORE_ROWS --task {task}"


def _named(context: Context) -> str:
    """The embedded base that the config names, as it is typed; "" for all others, which may not be here."""
    config = context.specimen.raw_config
    named = config.get("base_model_name_or_path") if config else None
    typed = runnable(named) if isinstance(named, str) else ""
    return typed if typed.startswith(EMBEDDED) else ""


def runnable(name: str) -> str:
    """A base model's name as it is typed: those that are shipped are not found under the names of their table."""
    short = name.rpartition("/")[2].removeprefix(EMBEDDED).replace("-", "_")
    return f"{EMBEDDED}{short}" if short in embedded_names() else name


def first_step(cause: str, findings: Sequence[Finding]) -> str:
    """What has to be done by hand before the command tells something new; "" for nothing."""
    if cause == "unreadable" and is_pickle(findings):
        return (
            "`lorica convert DIR OUT` reads its tensors and runs nothing of it; or save it again where it was made, "
            "with save_pretrained(..., safe_serialization=True)"
        )
    return FIRST.get(cause, "")


def is_pickle(findings: Sequence[Finding]) -> bool:
    """Whether all that was wrong with the files is that their weights are a pickle, which is not opened."""
    return {each.code for each in findings if each.level == 0 and each.severity == "reject"} == {"L012"}


def _best_format(top: Hypothesis) -> str:
    """The overrides of the format that did better, from the evidence of the format sweep."""
    said = next((each.text for each in top.evidence_for if each.source == "format_sweep"), "")
    words = [word for word in said.split() if word.startswith(("task.style=", "model.chat_template="))]
    return " ".join(words)
