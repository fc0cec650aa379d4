"""Which way of asking does the adapter know? The same rows in every style, method and template of the task."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from lorica.engines.base import Engine
from lorica.errors import ModelError, PromptError
from lorica.models.families import read_json_object
from lorica.records import Message
from lorica.tasks.base import Task
from lorica.vetting.behaviour.asking import Floats, OnDone, Replies, ask, both, make_questions, other_settings
from lorica.vetting.behaviour.divergence import kl, mean_or_none, saturated_share, with_rest
from lorica.vetting.behaviour.measures import FormatResult
from lorica.vetting.behaviour.quality import (
    STRICT,
    labelled,
    mean_difference,
    quality_difference,
    quality_value,
)
from lorica.vetting.behaviour.setting import TEMPLATES, Workplace

# So much more ROC-AUC or accuracy is worth a word.
CLEARLY = 0.03


@dataclass(frozen=True)
class Format:
    """One way to ask. template: "" is the setting's own."""

    style: str
    method: str
    template: str = ""


def formats_of(work: Workplace, task: Task) -> list[Format]:
    """The configured format first, then each that differs in style or template, then the other methods."""
    settings = task.settings
    own = Format(settings.style, settings.method)
    templates = [""]
    # The folder's own template may be the plain one.
    templates += [other for other in ("auto", "plain") if _is_another(work, other)]
    templates += other_templates(work)
    found = [own]
    found += [Format(style, own.method) for style in task.styles]
    found += [Format(own.style, own.method, template) for template in templates]
    found += [Format(own.style, method) for method in task.methods]
    return list(dict.fromkeys(found))


def _is_another(work: Workplace, template: str) -> bool:
    """Whether it can be asked in, and is not the configured one."""
    try:
        return work.encoder(template).template_origin != work.encoder().template_origin
    except PromptError:  # of the folder's own, which is why another one is configured
        return False


def other_templates(work: Workplace) -> list[str]:
    """Well-known chat templates (`setting.TEMPLATES`) whose markers are tokens of this base, and that write another
    prompt than its own: what an adapter was trained with when the base's own was changed since."""
    try:
        tokenizer = read_json_object(work.setting.base / "tokenizer.json")
        markers = {each["content"] for each in tokenizer.get("added_tokens", ())}
    except (ModelError, TypeError, KeyError):
        return []
    sample = (Message("system", "Answer."), Message("user", "Why?"))
    own = work.encoder().render(sample)
    able = [name for name, needed in TEMPLATES.items() if markers.issuperset(needed)]
    return [name for name in able if work.encoder(name).render(sample) != own]


def sweep(
    work: Workplace,
    engine: Engine,
    adapter: str,
    task: Task,
    own: Replies,
    base: Replies,
    few: set[str],
    on_done: OnDone | None = None,
) -> list[FormatResult]:
    """Ask rows in every format; the configured one comes first, and the others are compared with it.

    own, base: what the adapter and the base say to all rows as configured. few: ids of the rows that are asked in
    every format; the one that does best on them, with labels, is then asked all rows, to be sure.
    """
    configured, *others = formats_of(work, task)
    mine, theirs = own.keep(few), base.keep(few)
    found = {configured: _result(task, configured, mine, theirs, mine, theirs, configured=True)}

    def visit(each: Format, wanted: set[str]) -> None:
        rows = [row for row in own.rows if row.id in wanted]
        asked = other_settings(task, style=each.style, method=each.method)
        questions, _ = make_questions(work, asked, rows, each.template)
        replies, alone = both(ask(work, engine, questions, adapter, on_done), ask(work, engine, questions, None))
        if replies.rows:
            before = own.keep(wanted), base.keep(wanted)
            found[each] = _result(task, each, replies, alone, *before, configured=False)

    for each in others:
        visit(each, few)
    promising = [each for each, result in found.items() if is_promising(result)]
    if promising and len(own.rows) > len(few):
        best = max(promising, key=lambda each: _promise(found[each]))
        visit(best, {row.id for row in own.rows})
    return list(found.values())


def is_promising(each: FormatResult) -> bool:
    """Whether the adapter ranks better in this format or, ranking no worse, is surer of what is right."""
    better = None if each.better is None else each.better.value
    return better is not None and (better > CLEARLY or (better >= 0 and each.gain is not None and each.gain.above > 0))


def _promise(each: FormatResult) -> tuple[float, float]:
    better, gain = each.better, each.gain
    return (better.value or 0.0) if better else 0.0, (gain.value or 0.0) if gain else 0.0


def _result(
    task: Task, asked: Format, replies: Replies, base: Replies, own: Replies, own_base: Replies, *, configured: bool
) -> FormatResult:
    result = FormatResult(
        style=asked.style,
        method=asked.method,
        template=asked.template,
        configured=configured,
        n=len(replies.rows),
        confidence=mean_or_none(replies.confidence),
        mass=mean_or_none(replies.mass),
        kl=float(kl(with_rest(replies.words), with_rest(base.words)).mean()),
        saturated=saturated_share(replies),
    )
    here, there = both(replies, own)
    alone, alone_there = both(base, own_base)
    updates: dict[str, object] = {}
    if not configured and here.rows and mean_or_none(here.confidence) is not None:
        updates["surer"] = mean_difference(_sure(here), _sure(there), here.rows)
        updates["base_surer"] = mean_or_none(_sure(alone) - _sure(alone_there))
    known, compared = labelled(here), labelled(there)
    if known.rows:
        updates["quality"] = quality_value(task, known)
        updates["base_quality"] = quality_value(task, labelled(base))
        if not configured:
            updates["gain"] = mean_difference(compared.losses, known.losses, known.rows)
            updates["better"] = quality_difference(task, known, compared, STRICT)
    return msgspec.structs.replace(result, **updates)


def _sure(replies: Replies) -> Floats:
    """[n]: the probability of the best choice among all that could be said."""
    found: Floats = replies.confidence * replies.mass
    return found
