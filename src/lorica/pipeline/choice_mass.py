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
    choice_mass = mass_health(_choice_masses(pipeline.engine.run(requests)))
    if choice_mass is None or not choice_mass.low:
        return ""
    hints = [*_other_spelling(pipeline, rows, requests, choice_mass.median), *_preferred_text(pipeline, requests)]
    return "in the first rows " + "; ".join([choice_mass.problem, *hints])


def _choice_masses(outputs: Iterable[Output]) -> list[float | None]:
    return [None if output.error else choice_mass(output.logprobs) for output in outputs]


def _other_spelling(
    pipeline: Pipeline, rows: Sequence[Row], requests: Sequence[ScoreChoices], own_median: float
) -> list[str]:
    """A spelling of the choices with far more probability mass than their own, if there is one."""
    choices_by_id = {row.id: pipeline.task.choices(row) or () for row in rows}
    medians = []
    for respell in _SPELLINGS:
        respelled_requests = []
        for request in requests:
            choices = tuple(
                pipeline.encoder.encode_choice(respell(choice_text)) for choice_text in choices_by_id[request.id]
            )
            if len(set(choices)) == len(request.choices) and not set(choices) & set(request.choices):
                respelled_requests.append(msgspec.structs.replace(request, choices=choices))
        choice_mass = mass_health(_choice_masses(pipeline.engine.run(respelled_requests)))
        medians.append(0.0 if choice_mass is None else choice_mass.median)
    best_index = int(np.argmax(medians))
    if medians[best_index] < _FAR_MORE * own_median or medians[best_index] < _FAR_MORE / 100:
        return []
    spelled_choices = ", ".join(
        repr(_SPELLINGS[best_index](choice_text)) for choice_text in choices_by_id[requests[0].id]
    )
    return [f"spelt {spelled_choices} they have {medians[best_index]:.3g}"]


def _preferred_text(pipeline: Pipeline, requests: Sequence[ScoreChoices]) -> list[str]:
    """How the model's own answer most often begins."""
    encoder, sampling = pipeline.encoder, Sampling(max_new_tokens=_TEXT_TOKENS)
    free_requests = [
        Generate(choose.id, choose.prompt, sampling, encoder.stop_tokens, choose.adapter) for choose in requests
    ]
    generated_texts = Counter(
        encoder.decode(output.tokens) for output in pipeline.engine.run(free_requests) if not output.error
    )
    if not generated_texts:
        return []
    preferred_text, text_count = generated_texts.most_common(1)[0]
    return [f"the model would rather write {preferred_text!r} ({text_count} of {generated_texts.total()} rows)"]
