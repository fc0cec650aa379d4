"""Which way of asking does the adapter know? The same rows in every style, method and template of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from lorica.engines.base import Engine
from lorica.records import Row
from lorica.tasks.base import Task
from lorica.tasks.rules import STYLES
from lorica.vetting.behaviour.asking import OnDone, Replies, ask, both, make_questions, other_settings
from lorica.vetting.behaviour.divergence import kl, mean_or_none, saturated_share, with_rest
from lorica.vetting.behaviour.measures import FormatResult
from lorica.vetting.behaviour.quality import (
    STRICT,
    labelled,
    mean_difference,
    quality_difference,
    quality_value,
)
from lorica.vetting.behaviour.setting import Workplace

_METHODS = {"rules": ("choice", "generate"), "mcq": ("choice", "likelihood")}


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
    styles = STYLES if task.name == "rules" else ("",)
    templates = [""]
    origin = work.encoder().template_origin
    # The folder's own template may be the plain one.
    templates += [other for other in ("auto", "plain") if work.encoder(other).template_origin != origin]
    found = [own]
    found += [Format(style, own.method) for style in styles]
    found += [Format(own.style, own.method, template) for template in templates]
    found += [Format(own.style, method) for method in _METHODS.get(task.name, ())]
    return list(dict.fromkeys(found))


def sweep(
    work: Workplace,
    engine: Engine,
    adapter: str,
    task: Task,
    own: Replies,
    base: Replies,
    on_done: OnDone | None = None,
) -> list[FormatResult]:
    """Ask rows in every format; the configured one comes first, and the others are compared with it.

    own, base: what the adapter and the base say to the rows as configured.
    """
    rows: Sequence[Row] = own.rows
    configured, *others = formats_of(work, task)
    found = [_result(task.name, configured, own, base, own)]
    for each in others:
        asked = other_settings(task, style=each.style, method=each.method)
        questions, _ = make_questions(work, asked, rows, each.template)
        if not questions:
            continue
        replies, alone = both(ask(work, engine, questions, adapter, on_done), ask(work, engine, questions, None))
        if replies.rows:
            found.append(_result(task.name, each, replies, alone, own))
    return found


def _result(task: str, asked: Format, replies: Replies, base: Replies, own: Replies) -> FormatResult:
    apart = kl(with_rest(replies.words), with_rest(base.words))
    result = FormatResult(
        style=asked.style,
        method=asked.method,
        template=asked.template,
        configured=replies is own,
        n=len(replies.rows),
        confidence=mean_or_none(replies.confidence),
        mass=mean_or_none(replies.mass),
        kl=float(apart.mean()),
        saturated=saturated_share(replies),
    )
    here, there = both(replies, own)
    updates: dict[str, object] = {}
    if replies is not own and here.rows and mean_or_none(here.confidence) is not None:
        updates["surer"] = mean_difference(here.confidence * here.mass, there.confidence * there.mass, here.rows)
    known, compared = labelled(here), labelled(there)
    if known.rows:
        updates["quality"] = quality_value(task, known)
        updates["base_quality"] = quality_value(task, labelled(base))
        if replies is not own:
            updates["gain"] = mean_difference(compared.losses, known.losses, known.rows)
            updates["better"] = quality_difference(task, known, compared, STRICT)
    return msgspec.structs.replace(result, **updates)
