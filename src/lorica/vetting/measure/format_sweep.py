"""Which way of asking does the adapter know? The same rows in every style, method and template of the task."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from lorica.engine_table import SEGMENTS
from lorica.errors import ModelError, PromptError
from lorica.models.families import read_json_object
from lorica.records import Message
from lorica.tasks.base import Task
from lorica.vetting.measure.divergence import mean_or_none, row_kl, saturated_share
from lorica.vetting.measure.loaded_adapter import LoadedAdapter
from lorica.vetting.measure.measurements import FormatResult, Skill
from lorica.vetting.measure.model_session import TEMPLATES, ModelSession
from lorica.vetting.measure.quality import HINT, compare, mean_difference, ranking_z, skill
from lorica.vetting.measure.scoring import Floats, ScoredRows, ScoreRequest, align, make_requests, with_settings

# Nats per row that a format that suits a trained adapter gives are 0.1 to 0.5; what one gives to a constant is 0.02.
SUITED = 0.03
# So much more ROC-AUC or accuracy than the base alone is worth a word.
CLEARLY = 0.03
# What promises this much on few rows, in standard errors, is asked on all rows.
_PROMISING = 1.0


@dataclass(frozen=True)
class PromptFormat:
    """One way to ask. template: "" is the session's own."""

    style: str
    method: str
    template: str = ""


class FormatSweep:
    """The rows of `own_scores` in every format that was asked so far; the configured one comes first, and the others
    are compared with it. own_scores, base_scores: what adapter and base say to all rows as configured. few_row_ids: of
    the rows that are asked in every format; the best are then asked all rows, to be sure."""

    def __init__(
        self, adapter: LoadedAdapter, task: Task, own_scores: ScoredRows, base_scores: ScoredRows, few_row_ids: set[str]
    ) -> None:
        self._adapter, self._task = adapter, task
        self._own, self._base, self._few = own_scores, base_scores, few_row_ids
        self.configured, *self.alternatives = formats_of(adapter.session, task)
        scores = own_scores.keep(few_row_ids), base_scores.keep(few_row_ids)
        self._results = {self.configured: _result(self.configured, *scores, *scores, configured=True)}

    @property
    def results(self) -> list[FormatResult]:
        """The configured one first."""
        return list(self._results.values())

    @property
    def tried(self) -> list[PromptFormat]:
        """The other formats that were asked."""
        return [prompt_format for prompt_format in self._results if prompt_format != self.configured]

    @property
    def best(self) -> tuple[PromptFormat, FormatResult] | None:
        """The other format in which the adapter does best; None where none could be asked."""
        format_results = [(prompt_format, self._results[prompt_format]) for prompt_format in self.tried]
        return max(format_results, key=lambda format_result: format_gain(format_result[1]).strength, default=None)

    def ask_usual(self) -> None:
        """Each style, template and method once, the others as configured; the most promising one on all rows."""
        for alternative in self.alternatives:
            self._ask(alternative, self._few)
        self._ask_promising()

    def ask_pairs(self) -> None:
        """Each other style together with each other template."""
        configured = self.configured
        styles = [alternative.style for alternative in self.alternatives if alternative.style != configured.style]
        templates = [alternative.template for alternative in self.alternatives if alternative.template]
        for style, template in itertools.product(styles, templates):
            self._ask(PromptFormat(style, configured.method, template), self._few)
        self._ask_promising()

    def requests(self, prompt_format: PromptFormat, row_ids: set[str] | None = None) -> list[ScoreRequest]:
        """All rows, or some, as they are asked in a format."""
        rows = [row for row in self._own.rows if row_ids is None or row.id in row_ids]
        format_task = with_settings(self._task, style=prompt_format.style, method=prompt_format.method)
        return make_requests(self._adapter.session, format_task, rows, prompt_format.template)[0]

    def _ask(self, prompt_format: PromptFormat, row_ids: set[str]) -> None:
        if prompt_format in self._results and self._results[prompt_format].n >= len(row_ids):
            return
        try:
            requests = self.requests(prompt_format, row_ids)
        except PromptError:  # a template that asks elsewhere
            return
        own_scores, base_scores = align(self._adapter.score(requests), self._adapter.score_base(requests))
        if own_scores.rows:
            as_configured = self._own.keep(row_ids), self._base.keep(row_ids)
            result = _result(prompt_format, own_scores, base_scores, *as_configured, configured=False)
            self._results[prompt_format] = result

    def _ask_promising(self) -> None:
        promise = {
            prompt_format: FormatGain(result.margin.z, result.added.z, result.ranking_z).strength
            for prompt_format, result in self._results.items()
            if result.margin is not None and result.added is not None
        }
        most_promising = max(promise, key=lambda prompt_format: promise[prompt_format], default=None)
        if most_promising is not None and promise[most_promising] >= _PROMISING:
            self._ask(most_promising, {row.id for row in self._own.rows})


class FormatGain(NamedTuple):
    """How much better the adapter knows a format than the configured one, in standard errors. margin: of the gold
    choices against those as configured. added: against the base in this format. ranking: of the ROC-AUC."""

    margin: float = 0.0
    added: float = 0.0
    ranking: float = 0.0

    @property
    def strength(self) -> float:
        """Of the better one of two proofs: right answers that are more probable, or a better ranking."""
        return max(min(self.margin, self.added), self.ranking)


def format_gain(result: FormatResult) -> FormatGain:
    """Nothing where the adapter adds nothing in this format to what the base knows: in some the base itself does
    better."""
    margin, added = result.margin, result.added
    if margin is None or added is None:
        return FormatGain()
    # Nor is more probability in a worse ranking any of training's.
    suited = min(added.mean, margin.mean) >= SUITED and (result.better or 0.0) >= 0
    beyond_base = (result.quality or 0.0) - max(0.5, result.base_quality or 0.0)
    ranking = result.ranking_z if beyond_base > CLEARLY else 0.0
    if max(margin.z, ranking) >= HINT and result.error:
        # Where a ranking is at chance, no probability makes the format the right one.
        if Skill(result.quality, result.error).above_chance < HINT:
            return FormatGain()
        suited = suited and (beyond_base / result.error >= HINT or added.mean >= 3 * SUITED)
    return FormatGain(margin.z, added.z, ranking) if suited else FormatGain(ranking=ranking)


def formats_of(session: ModelSession, task: Task) -> list[PromptFormat]:
    """The configured format first, then each that differs in style or template, then the other methods."""
    settings = task.settings
    configured = PromptFormat(settings.style, settings.method)
    # The folder's own template may be the plain one.
    of_encoder = session.encoder().reads_segments
    templates = [template for template in ("auto", "plain") if _is_another(session, template)]
    templates += other_templates(session)
    formats = [configured]
    formats += [PromptFormat(style, configured.method) for style in task.styles if of_encoder or style != SEGMENTS]
    formats += [PromptFormat(configured.style, configured.method, template) for template in templates]
    formats += [PromptFormat(configured.style, method) for method in task.methods]
    return list(dict.fromkeys(formats))


def _is_another(session: ModelSession, template: str) -> bool:
    """Whether it can be asked in, and is not the configured one."""
    try:
        return session.encoder(template).template_origin != session.encoder().template_origin
    except PromptError:  # of the folder's own, which is why another one is configured
        return False


def other_templates(session: ModelSession) -> list[str]:
    """Well-known chat templates whose markers are tokens of this base, and that write another prompt than its own: what
    an adapter was trained with when the base's own was changed since."""
    try:
        tokenizer = read_json_object(session.settings.base / "tokenizer.json")
        markers = {added_token["content"] for added_token in tokenizer.get("added_tokens", ())}
    except (ModelError, TypeError, KeyError):
        return []
    sample_messages = (Message("system", "Answer."), Message("user", "Why?"))
    own_prompt = session.encoder().render(sample_messages)
    usable_templates = [template_name for template_name, needed in TEMPLATES.items() if markers.issuperset(needed)]
    return [
        template_name
        for template_name in usable_templates
        if session.encoder(template_name).render(sample_messages) != own_prompt
    ]


def _result(
    prompt_format: PromptFormat,
    own_scores: ScoredRows,
    base_scores: ScoredRows,
    configured_scores: ScoredRows,
    configured_base: ScoredRows,
    *,
    configured: bool,
) -> FormatResult:
    result = FormatResult(
        style=prompt_format.style,
        method=prompt_format.method,
        template=prompt_format.template,
        configured=configured,
        n=len(own_scores.rows),
        confidence=mean_or_none(own_scores.confidence),
        mass=mean_or_none(own_scores.mass),
        kl=float(row_kl(own_scores, base_scores).mean()),
        saturated=saturated_share(own_scores),
    )
    present, present_own = align(own_scores, configured_scores)
    present_base, present_own_base = align(base_scores, configured_base)
    updates: dict[str, object] = {}
    if not configured and present.rows and mean_or_none(present.confidence) is not None:
        updates["surer"] = mean_difference(_sure(present), _sure(present_own), present.rows)
        updates["base_surer"] = mean_or_none(_sure(present_base) - _sure(present_own_base))
    labelled, configured_rows, base_rows = present.labelled, present_own.labelled, base_scores.labelled
    if labelled.rows:
        quality, configured_quality = skill(labelled), skill(configured_rows)
        updates |= {"quality": quality.value, "error": quality.error, "base_quality": skill(base_rows).value}
        updates["added"] = compare(own_scores.labelled, base_rows)
        if not configured:
            updates["margin"] = compare(labelled, configured_rows)
            updates["ranking_z"] = ranking_z(quality, configured_quality)
            if quality.value is not None and configured_quality.value is not None:
                updates["better"] = quality.value - configured_quality.value
    return msgspec.structs.replace(result, **updates)


def _sure(scored: ScoredRows) -> Floats:
    """[n]: the probability of the best choice among all that could be said."""
    joint_probability: Floats = scored.confidence * scored.mass
    return joint_probability
