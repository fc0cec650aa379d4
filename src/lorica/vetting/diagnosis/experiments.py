"""The experiments, in one visible table: what each asks, which causes it separates, what it needs and costs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from lorica.vetting.diagnosis import on_base, on_files, on_rows, sweeps
from lorica.vetting.diagnosis.inputs import Context, Need
from lorica.vetting.diagnosis.posterior import Evidence
from lorica.vetting.measure.adapter_measurement import AdapterMeasurement


class Experiment(msgspec.Struct, frozen=True):
    """One experiment. asks: its question. separates: causes that its outcome moves most. needs: what must
    have been given. cost: about how long it takes, 0 for reading files, 1 for one pass over the rows. run: carries it
    out; no evidence means that it could tell nothing. unless: what makes it needless, for others then tell the same and
    more. after: experiments whose outcome it compares.
    """

    name: str
    asks: str
    separates: list[str]
    needs: tuple[Need, ...]
    cost: float
    run: Callable[[Context], list[Evidence]]
    unless: tuple[Need, ...] = ()
    after: tuple[str, ...] = ()


def _on_rows(
    experiment: Callable[[Context, AdapterMeasurement], list[Evidence]],
) -> Callable[[Context], list[Evidence]]:
    """An experiment on labelled rows, for where there are none, or the adapter cannot be asked them."""
    return lambda context: [] if context.measurement is None else experiment(context, context.measurement)


# The cheap ones first. All of cost 0 are always run; of the others, those that separate the leading causes.
EXPERIMENTS = (
    Experiment(
        "fingerprint", "which known bases do its shapes fit?",
        ["wrong_size"], (), 0, on_files.fingerprint, ("base",),
    ),
    Experiment(
        "record", "is it configured as it was trained?",
        ["altered", "over_scaled", "under_scaled", "not_applied", "incomplete", "wrong_revision", "wrong_base"],
        (), 0, on_files.compare_record,
    ),
    Experiment(
        "partners", "were the two halves of each pair trained together?",
        ["broken_weights"], (), 0, on_files.match_halves,
    ),
    Experiment(
        "tokenizer", "is its tokenizer the base's?",
        ["tokenizer_mismatch", "prompt_mismatch"], ("base",), 0, on_files.compare_tokenizers,
    ),
    Experiment("fit", "do its shapes fit the base?", ["wrong_size", "incomplete"], ("base",), 0, on_base.fit_base),
    Experiment(
        "fit_elsewhere", "do its shapes fit a base that was expected?",
        ["wrong_size"], ("base", "expected"), 0, on_base.fit_elsewhere,
    ),
    Experiment(
        "passport", "are files and base those of its passport?",
        ["altered", "wrong_revision", "wrong_base"], (), 0, on_base.check_passport_here,
    ),
    Experiment(
        "answers", "are the answers healthy?",
        ["parser_fallbacks", "generation_settings", "ignores_input", "hard_labels", "inverted"],
        ("answers",), 0, on_files.judge_answers,
    ),
    Experiment(
        "base_text", "does the base itself predict plain text?",
        ["tokenizer_mismatch", "wrong_base", "wrong_revision"], ("base", "writer"), 0.5, on_base.read_text,
    ),
    Experiment(
        "alignment", "do its directions belong to this base's activations?",
        ["wrong_base", "healthy", "hard_task", "broken_weights", "wrong_revision"],
        ("base", "writer"), 1, on_base.align_base,
    ),
    Experiment(
        "mend", "does it load as it is and, if not, does a mended copy work?",
        ["not_applied", "broken_weights", "wrong_size", "incomplete", "altered", "unsupported", "healthy", "hard_task"],
        ("base", "rows"), 1, on_rows.mend,
    ),
    Experiment(
        "canaries", "does the effect that its passport promises arrive?",
        ["over_scaled", "under_scaled", "not_applied", "no_effect", "wrong_base", "wrong_revision", "altered",
         "broken_weights"],
        ("base",), 1, on_base.ask_canaries,
    ),
    Experiment(
        "skill", "does it make the right answers more probable?",
        ["healthy", "hard_task", "inverted", "no_effect", "ignores_input", "hard_labels", "wrong_base",
         "prompt_mismatch", "not_applied"],
        ("base", "rows"), 1, _on_rows(on_rows.how_skilled),
    ),
    Experiment(
        "align_elsewhere", "does it belong to a base that was expected?",
        ["wrong_base", "wrong_revision"], ("base", "expected", "writer"), 2, on_base.align_elsewhere,
    ),
    Experiment(
        "skill_elsewhere", "does it do better on a base that was expected?",
        ["wrong_base", "wrong_revision"],
        ("base", "rows", "expected", "classifier"), 2, _on_rows(on_rows.skill_elsewhere),
    ),
    Experiment(
        "inputs", "does it do better with another input?",
        ["prompt_mismatch", "ignores_input", "healthy", "hard_task"],
        ("base", "rows", "classifier"), 1, _on_rows(on_rows.vary_inputs),
    ),
    Experiment(
        "swapped_texts", "does its answer depend on the text?",
        ["ignores_input", "hard_task", "healthy"], ("base", "rows"), 1, _on_rows(on_rows.shuffle_texts),
    ),
    Experiment(
        "other_tasks", "does it do more to another task than to these rows?",
        ["prompt_mismatch", "under_scaled", "no_effect", "inverted", "healthy", "hard_task"],
        ("base", "rows", "writer"), 0.5, _on_rows(on_rows.other_tasks),
    ),
    Experiment(
        "learnable", "can a simple baseline learn these rows?",
        ["hard_task", "healthy"], ("base", "rows"), 2, _on_rows(on_rows.learnable),
    ),
    Experiment(
        "scale_sweep", "under which scale are the right answers most probable?",
        ["over_scaled", "under_scaled", "hard_labels", "healthy", "hard_task"],
        ("base", "rows"), 8, _on_rows(sweeps.sweep_scale),
    ),
    Experiment(
        "format_sweep", "does another prompt format do better?",
        ["prompt_mismatch", "healthy", "hard_task", "wrong_base", "tokenizer_mismatch"],
        ("base", "rows", "writer"), 6, _on_rows(sweeps.sweep_formats),
    ),
    Experiment(
        "scale_or_format", "is the other format better than the better scale, or still better at it?",
        ["over_scaled", "under_scaled", "prompt_mismatch"],
        ("base", "rows", "writer"), 0.1, _on_rows(sweeps.weigh_rivals), (), ("scale_sweep", "format_sweep"),
    ),
    Experiment(
        "behaviour", "how does it behave on probes?",
        ["ignores_input", "hard_labels", "generation_settings", "parser_fallbacks", "tokenizer_mismatch", "over_scaled",
         "under_scaled", "no_effect", "prompt_mismatch", "inverted", "healthy"],
        ("base",), 10, on_base.behave, ("rows",),
    ),
    Experiment(
        "kind_sweep", "is one kind of module at a wrong scale?",
        ["over_scaled", "under_scaled", "healthy", "altered"], ("base", "rows"), 15, _on_rows(sweeps.sweep_kinds),
    ),
)  # fmt: skip
