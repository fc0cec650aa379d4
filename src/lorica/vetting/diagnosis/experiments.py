"""The experiments, in one visible table: what each asks, which causes it separates, what it needs and costs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from lorica.vetting.diagnosis import on_answers, on_base, on_files, on_rows, sweeps
from lorica.vetting.diagnosis.inputs import Context, Need
from lorica.vetting.diagnosis.posterior import Evidence


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment. asks: its question. separates: causes that its outcome moves most. needs: what must
    have been given. cost: about how long it takes, 0 for reading files, 1 for one pass over the rows. run: carries it
    out; no evidence means that it could tell nothing. unless: what makes it needless, for others then tell the same and
    more. after: experiments whose outcome it compares.
    """

    name: str
    asks: str
    separates: frozenset[str]
    needs: tuple[Need, ...]
    cost: float
    run: Callable[[Context], list[Evidence]]
    unless: tuple[Need, ...] = ()
    after: tuple[str, ...] = ()


def _experiment(
    name: str,
    question: str,
    separates: str,
    needs: tuple[Need, ...],
    cost: float,
    run: Callable[[Context], list[Evidence]],
    unless: tuple[Need, ...] = (),
    after: tuple[str, ...] = (),
) -> Experiment:
    causes = frozenset(separates.split())
    return Experiment(
        name=name, asks=question, separates=causes, needs=needs, cost=cost, run=run, unless=unless, after=after
    )


# The cheap ones first. All of cost 0 are always run; of the others, those that separate the leading causes.
EXPERIMENTS: tuple[Experiment, ...] = (
    _experiment(
        "fingerprint", "which known bases do its shapes fit?", "wrong_size", (), 0, on_files.fingerprint, ("base",)
    ),
    _experiment(
        "record", "is it configured as it was trained?",
        "altered over_scaled under_scaled not_applied incomplete wrong_revision wrong_base", (), 0,
        on_files.compare_record,
    ),
    _experiment(
        "partners", "were the two halves of each pair trained together?", "broken_weights", (), 0,
        on_files.match_halves,
    ),
    _experiment(
        "tokenizer", "is its tokenizer the base's?", "tokenizer_mismatch prompt_mismatch", ("base",), 0,
        on_files.compare_tokenizers,
    ),
    _experiment("fit", "do its shapes fit the base?", "wrong_size incomplete", ("base",), 0, on_base.fit_base),
    _experiment(
        "fit_elsewhere", "do its shapes fit a base that was expected?", "wrong_size", ("base", "expected"), 0,
        on_base.fit_elsewhere,
    ),
    _experiment(
        "passport", "are files and base those of its passport?", "altered wrong_revision wrong_base", (), 0,
        on_base.check_passport_here,
    ),
    _experiment(
        "answers", "are the answers healthy?",
        "parser_fallbacks generation_settings ignores_input hard_labels inverted", ("answers",), 0,
        on_answers.judge_answers,
    ),
    _experiment(
        "base_text", "does the base itself predict plain text?", "tokenizer_mismatch wrong_base wrong_revision",
        ("base",), 0.5, on_base.read_text,
    ),
    _experiment(
        "alignment", "do its directions belong to this base's activations?",
        "wrong_base healthy hard_task broken_weights wrong_revision", ("base",), 1, on_base.align_base,
    ),
    _experiment(
        "mend", "does it load as it is and, if not, does a mended copy work?",
        "not_applied broken_weights wrong_size incomplete altered unsupported healthy hard_task", ("base", "rows"), 1,
        on_rows.mend,
    ),
    _experiment(
        "canaries", "does the effect that its passport promises arrive?",
        "over_scaled under_scaled not_applied no_effect wrong_base wrong_revision altered broken_weights", ("base",), 1,
        on_base.ask_canaries,
    ),
    _experiment(
        "skill", "does it make the right answers more probable?",
        "healthy hard_task inverted no_effect ignores_input hard_labels wrong_base prompt_mismatch not_applied",
        ("base", "rows"), 1, on_rows.how_skilled,
    ),
    _experiment(
        "align_elsewhere", "does it belong to a base that was expected?", "wrong_base wrong_revision",
        ("base", "expected"), 2, on_base.align_elsewhere,
    ),
    _experiment(
        "swapped_texts", "does its answer depend on the text?", "ignores_input hard_task healthy", ("base", "rows"), 1,
        on_rows.shuffle_texts,
    ),
    _experiment(
        "other_tasks", "does it do more to another task than to these rows?",
        "prompt_mismatch under_scaled no_effect inverted healthy hard_task", ("base", "rows"), 0.5, on_rows.other_tasks,
    ),
    _experiment(
        "learnable", "can a simple baseline learn these rows?", "hard_task healthy", ("base", "rows"), 2,
        on_rows.learnable,
    ),
    _experiment(
        "scale_sweep", "under which scale are the right answers most probable?",
        "over_scaled under_scaled hard_labels healthy hard_task", ("base", "rows"), 8, sweeps.sweep_scale,
    ),
    _experiment(
        "format_sweep", "does another prompt format do better?",
        "prompt_mismatch healthy hard_task wrong_base tokenizer_mismatch", ("base", "rows"), 6, sweeps.sweep_formats,
    ),
    _experiment(
        "scale_or_format", "is the other format better than the better scale, or still better at it?",
        "over_scaled under_scaled prompt_mismatch", ("base", "rows"), 0.1, sweeps.weigh_rivals, (),
        ("scale_sweep", "format_sweep"),
    ),
    _experiment(
        "behaviour", "how does it behave on probes?",
        "ignores_input hard_labels generation_settings parser_fallbacks tokenizer_mismatch over_scaled under_scaled "
        "no_effect prompt_mismatch inverted healthy", ("base",), 10, on_base.behave, ("rows",),
    ),
    _experiment(
        "kind_sweep", "is one kind of module at a wrong scale?", "over_scaled under_scaled healthy altered",
        ("base", "rows"), 15, sweeps.sweep_kinds,
    ),
)  # fmt: skip
