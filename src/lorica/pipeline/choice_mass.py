"""Choice mass: the share of the model's probability that the choices have, measured on a few rows before a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np

from lorica.metrics.health import mass_health
from lorica.pipeline.answer import Pipeline
from lorica.records import Generate, Output, Row, Sampling, ScoreChoices
from lorica.tasks.base import choice_mass

_TEXT_TOKENS = 4
# Another spelling is named where the choices have so many times the probability in it.
_FAR_MORE = 5.0
_SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda text: f" {text}",
    lambda text: f"\n{text}",
    str.lower,
    str.upper,
    lambda text: f"({text}",
    lambda text: f"**{text}",
    lambda text: f'"{text}',
    lambda text: f'{{"answer": "{text}',
)


def explain_low_mass(pipeline: Pipeline, rows: Sequence[Row]) -> str:
    """Why the choices of these rows have little probability mass, and what the model would say; "" where it is enough.

    Raises what the engine raises.
    """
    if pipeline.task.settings.method != "choice":
        return ""
    requests = [request for request in pipeline.requests(rows) if isinstance(request, ScoreChoices)]
    mass = mass_health(_choice_masses(pipeline.engine.run(requests)))
    if mass is None or not mass.low:
        return ""
    hints = [*_other_spelling(pipeline, rows, requests, mass.median), *_preferred_text(pipeline, requests)]
    return "in the first rows " + "; ".join([mass.problem, *hints])


def _choice_masses(outputs: Iterable[Output]) -> list[float | None]:
    return [None if output.error else choice_mass(output.logprobs) for output in outputs]


def _other_spelling(pipeline: Pipeline, rows: Sequence[Row], requests: Sequence[ScoreChoices], own: float) -> list[str]:
    """A spelling of the choices with far more probability mass than their own, if there is one."""
    by_id = {row.id: pipeline.task.choices(row) or () for row in rows}
    medians = []
    for spell in _SPELLINGS:
        spelt = []
        for request in requests:
            choices = tuple(pipeline.encoder.encode_choice(spell(text)) for text in by_id[request.id])
            if len(set(choices)) == len(request.choices) and not set(choices) & set(request.choices):
                spelt.append(msgspec.structs.replace(request, choices=choices))
        mass = mass_health(_choice_masses(pipeline.engine.run(spelt)))
        medians.append(0.0 if mass is None else mass.median)
    best = int(np.argmax(medians))
    if medians[best] < _FAR_MORE * own or medians[best] < _FAR_MORE / 100:
        return []
    texts = ", ".join(repr(_SPELLINGS[best](text)) for text in by_id[requests[0].id])
    return [f"spelt {texts} they have {medians[best]:.3g}"]


def _preferred_text(pipeline: Pipeline, requests: Sequence[ScoreChoices]) -> list[str]:
    """How the model's own answer most often begins."""
    encoder, sampling = pipeline.encoder, Sampling(max_new_tokens=_TEXT_TOKENS)
    free = [Generate(choose.id, choose.prompt, sampling, encoder.stop_tokens, choose.adapter) for choose in requests]
    texts = Counter(encoder.decode(output.tokens) for output in pipeline.engine.run(free) if not output.error)
    if not texts:
        return []
    text, count = texts.most_common(1)[0]
    return [f"the model would rather write {text!r} ({count} of {texts.total()} rows)"]
