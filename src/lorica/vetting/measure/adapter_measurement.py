"""All that is measured of one adapter on its base: each record is made when it is first read, and once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import msgspec

from lorica.records import Row
from lorica.tasks import tasks_with_other_probes
from lorica.vetting.measure.ablations import (
    measure_elsewhere,
    measure_examples,
    measure_inputs,
    measure_labelled,
    word_count_baseline,
)
from lorica.vetting.measure.divergence import measure_divergence, measure_variation
from lorica.vetting.measure.format_sweep import FormatSweep
from lorica.vetting.measure.generated import measure_generated
from lorica.vetting.measure.loaded_adapter import LoadedAdapter
from lorica.vetting.measure.measurements import (
    ENOUGH,
    Behaviour,
    Divergence,
    Elsewhere,
    Examples,
    Generated,
    InputVariant,
    Labelled,
    Variation,
)
from lorica.vetting.measure.model_session import ModelSession
from lorica.vetting.measure.probe_rows import chosen_rows, shipped_rows
from lorica.vetting.measure.quality import quality
from lorica.vetting.measure.scale_sweep import ScaleSweep
from lorica.vetting.measure.scoring import ScoredRows, ScoreRequest, align, concatenate, make_requests

# The sweeps ask rows many times over: so many are enough to tell a clear difference.
_FORMAT_ROWS, _SCALE_ROWS, _EXAMPLE_ROWS = 48, 96, 32
_NOT_A_NUMBER = "not a number"
_OUTSIDE = "outside the model's vocabulary"
# What is not measured where the engine scores its own choices alone, and of a model of its own.
_NEEDS_TEXT = ("other prompt formats", "another task", "sampled texts", "the distribution over words")
_NEEDS_UPDATE = ("the scale of an update",)
# Records that stand in a `Behaviour` under their own names.
_RECORDS = ("divergence", "variation", "examples", "inputs", "labelled", "elsewhere")


class AdapterMeasurement:
    """The records of one adapter. rows: the user's, with gold or without; none: the shipped ones are asked.

    Reading a record raises PromptError and EngineError when the base cannot be asked.
    """

    def __init__(self, adapter: LoadedAdapter, rows: Sequence[Row]) -> None:
        self.adapter = adapter
        self.task = adapter.session.settings.load_task()
        self.source = "rows" if rows else "probes"
        self._rows = rows or shipped_rows(self.task.name)[: adapter.session.settings.probes]

    @cached_property
    def _asked(self) -> tuple[list[ScoreRequest], dict[str, str]]:
        return make_requests(self.adapter.session, self.task, self._rows)

    @cached_property
    def own_scores(self) -> ScoredRows:
        """The rows with the adapter."""
        return self.adapter.score(self._asked[0])

    @cached_property
    def base_scores(self) -> ScoredRows:
        """The rows with the base alone."""
        return self.adapter.score_base(self._asked[0])

    @cached_property
    def own(self) -> ScoredRows:
        """The rows with the adapter, those that the base answered, too."""
        return align(self.own_scores, self.base_scores)[0]

    @cached_property
    def base(self) -> ScoredRows:
        """The rows with the base alone, those that the adapter answered, too."""
        return align(self.own_scores, self.base_scores)[1]

    @cached_property
    def divergence(self) -> Divergence:
        """From the base. On shipped prompts those of the other tasks count, too: what an adapter changes need not show
        in the one that is asked."""
        aligned_pairs = [(self.own, self.base)]
        if self.source == "probes" and self._writes:
            for other_task in tasks_with_other_probes(self.task):
                requests, _ = make_requests(self.adapter.session, other_task, shipped_rows(other_task.name))
                aligned_pairs.append(align(self.adapter.score(requests), self.adapter.score_base(requests)))
        return measure_divergence(*(concatenate(side_scores) for side_scores in zip(*aligned_pairs, strict=True)))

    @cached_property
    def variation(self) -> Variation:
        """From prompt to prompt."""
        return measure_variation(self.own, self.base)

    @cached_property
    def inputs(self) -> tuple[InputVariant, ...]:
        """With parts of the input taken away or exchanged."""
        row_ids = {row.id for row in self._few(_SCALE_ROWS)}
        return measure_inputs(self.adapter, self.task, self.own.keep(row_ids)) if self.source == "rows" else ()

    @cached_property
    def examples(self) -> Examples | None:
        """With the examples in the prompt exchanged."""
        return measure_examples(self.adapter, self.task, self._few(_EXAMPLE_ROWS))

    @cached_property
    def format_sweep(self) -> FormatSweep:
        """The usual formats; more can be asked."""
        row_ids = {row.id for row in self._few(_FORMAT_ROWS)}
        format_sweep = FormatSweep(self.adapter, self.task, self.own, self.base, row_ids)
        format_sweep.ask_usual()
        return format_sweep

    @cached_property
    def scale_sweep(self) -> ScaleSweep:
        """The usual factors; more can be asked."""
        row_ids = {row.id for row in self._few(_SCALE_ROWS)}
        scale_sweep = ScaleSweep(self.adapter, self.requests(row_ids), self.own.keep(row_ids))
        scale_sweep.ask_usual()
        return scale_sweep

    @cached_property
    def labelled(self) -> Labelled | None:
        """None without labelled rows of the user's."""
        own_labelled, base_labelled = self.own.labelled, self.base.labelled
        if self.source != "rows" or not own_labelled.rows:
            return None
        return measure_labelled(self.adapter, self.task, own_labelled, base_labelled)

    @cached_property
    def tfidf(self) -> float | None:
        """The labelled rows' metric of a cross-validated word-count baseline."""
        return word_count_baseline(self.task, self.own.labelled.rows, self.adapter.session.settings.seed)

    @cached_property
    def elsewhere(self) -> Elsewhere | None:
        """What it does to shipped questions of another task."""
        asked = self.source == "rows" and self._writes
        return measure_elsewhere(self.adapter, self.task, self.own, self.base) if asked else None

    @cached_property
    def generated(self) -> Generated | None:
        """What becomes of generated texts."""
        return measure_generated(self.adapter, self.task, self._few(_EXAMPLE_ROWS), self.own)

    def requests(self, row_ids: set[str]) -> list[ScoreRequest]:
        """Some of the rows as they are asked."""
        return [request for request in self._asked[0] if request.row.id in row_ids]

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is not measured because it would make no sense here, in words."""
        return (*(() if self._writes else _NEEDS_TEXT), *(_NEEDS_UPDATE if self.adapter.copies is None else ()))

    @property
    def _writes(self) -> bool:
        return self.adapter.session.settings.writes

    def behaviour(self) -> Behaviour:
        """All records, made now where they were not."""
        counted = self._counted()
        if not self.own.rows:
            return counted
        labelled = self.own.labelled
        probes = self.source == "probes" and bool(labelled.rows)
        enough = self.labelled if len(labelled.rows) >= ENOUGH else None
        return msgspec.structs.replace(
            counted,
            divergence=self.divergence,
            variation=self.variation,
            examples=self.examples,
            inputs=self.inputs,
            formats=tuple(self.format_sweep.results) if self._writes else (),
            scales=() if self.adapter.copies is None else tuple(self.scale_sweep.results),
            labelled=None if enough is None else msgspec.structs.replace(enough, tfidf=self.tfidf),
            elsewhere=self.elsewhere,
            probes_quality=quality(labelled, 0.99) if probes else None,
            generated=self.generated if self._writes else None,
        )

    def so_far(self) -> Behaviour:
        """The records that were made already, or follow from the rows' scores; nothing is asked."""
        records = dict(self.__dict__)
        if "own_scores" not in records or "base_scores" not in records:
            return nothing_measured(self.adapter.session, self.source)
        if self.source == "rows" and self.own.rows:
            records |= {"divergence": self.divergence, "variation": self.variation}
        made = {name: records[name] for name in _RECORDS if name in records}
        sweeps = {"formats": records.get("format_sweep"), "scales": records.get("scale_sweep")}
        made |= {name: tuple(sweep.results) for name, sweep in sweeps.items() if sweep is not None}
        return msgspec.structs.replace(self._counted(), **made)

    def _counted(self) -> Behaviour:
        failed, base_failed = self.own_scores.failed, self.base_scores.failed
        broken, base_broken = (
            {row_id for row_id, reason in reasons.items() if _NOT_A_NUMBER in reason}
            for reasons in (failed, base_failed)
        )
        reasons = [reason for reason in (*self._asked[1].values(), *failed.values()) if _NOT_A_NUMBER not in reason]
        return msgspec.structs.replace(
            nothing_measured(self.adapter.session, self.source),
            engine=self.adapter.engine.info.manifest(),
            n=len(self.own.rows),
            labelled_rows=len(self.own.labelled.rows),
            broken=len(broken - base_broken),
            base_broken=len(base_broken),
            outside_vocabulary=sum(_OUTSIDE in reason for reason in failed.values()),
            left_out=self.left_out,
            errors=dict(Counter(reason[:120] for reason in reasons).most_common(5)),
        )

    def _few(self, max_rows: int) -> list[Row]:
        return chosen_rows(self.own.rows, max_rows, self.adapter.session.settings.seed)


def nothing_measured(session: ModelSession, source: str) -> Behaviour:
    """The record of an adapter that could not be asked."""
    settings = session.settings
    task = settings.load_task()
    return Behaviour(
        engine={},
        task=task.name,
        answer_type=task.answer_type,
        style=task.settings.style,
        method=task.settings.method,
        template=session.encoder().template_origin,
        source=source,
        foreign=source == "probes" and not settings.task,
        n=0,
        labelled_rows=0,
        writes=settings.writes,
    )
