"""The levels that need a base model: does the adapter belong to it (L3), and what does it do there (L4)?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import FLOATS, MORE_THAN_PAIRS
from lorica.adapters.member import open_member
from lorica.adapters.raw_adapter import OWN_MODELS, RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.admission.label_names import check_label_names
from lorica.errors import AdapterError, EngineError, LoricaError, MissingExtraError
from lorica.models.base_folder import BaseFolder
from lorica.records import Row
from lorica.tasks import TASKS
from lorica.tasks.base import TaskSettings
from lorica.vetting.base.activation_subspaces import ActivationSubspaces
from lorica.vetting.base.alignment import align, collect_subspaces
from lorica.vetting.base.alignment_findings import check_alignment
from lorica.vetting.base.base_fit import check_fit
from lorica.vetting.base.base_health import check_base_health
from lorica.vetting.base.fit_identity import names_settled
from lorica.vetting.behaviour import judge_behaviour
from lorica.vetting.canary_findings import check_canaries
from lorica.vetting.findings import Finding, finding
from lorica.vetting.levels import Examination
from lorica.vetting.measure.adapter_measurement import AdapterMeasurement, nothing_measured
from lorica.vetting.measure.contamination import without_training_rows
from lorica.vetting.measure.loaded_adapter import LoadedAdapter, load_adapter, load_own_model
from lorica.vetting.measure.measurements import Behaviour, Labelled
from lorica.vetting.measure.model_session import ModelSession, SessionSettings
from lorica.vetting.measure.probe_rows import chosen_rows
from lorica.vetting.measure.scoring import OnDone
from lorica.vetting.passport_check import check_passport
from lorica.vetting.passport_figures import check_figures


class BaseCheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """What trying an adapter on its base gave, besides findings. unable: why a level could not be carried out."""

    behaviour: Behaviour | None = None
    unable: tuple[str, ...] = ()

    @property
    def gain(self) -> float | None:
        """Lower end of the interval of the paired gain over the base on labelled rows; None without them."""
        return None if self._labelled is None else self._labelled.over_base.low

    @property
    def metric(self) -> float | None:
        """The adapter's main metric on labelled rows; None without them."""
        return None if self._labelled is None else self._labelled.adapter.value

    @property
    def _labelled(self) -> Labelled | None:
        return None if self.behaviour is None else self.behaviour.labelled

    @property
    def lines(self) -> tuple[str, ...]:
        """For people, the most telling first."""
        return (*_lines(self.behaviour), *self.unable)

    @property
    def plain(self) -> dict[str, Any]:
        """JSON-able values."""
        measured = None if self.behaviour is None else msgspec.to_builtins(self.behaviour)
        return {"measured": measured, "unable": list(self.unable)}


class BaseChecker:
    """A base model on which adapters are tried one after the other; it is loaded once, when it is needed.

    top: the highest level. deep: whether the health of the base model itself is examined, too.
    """

    def __init__(
        self,
        settings: SessionSettings,
        rows: Sequence[Row] | None,
        *,
        top: int = 4,
        deep: bool = False,
        on_done: OnDone | None = None,
    ) -> None:
        self._settings = settings
        self._rows = rows
        self._top, self._deep = top, deep
        self._on_done = on_done

    @cached_property
    def _directions(self) -> ActivationSubspaces:
        return collect_subspaces(self._settings.base)

    @cached_property
    def _session(self) -> ModelSession:
        return ModelSession(self._settings)

    @cached_property
    def _health(self) -> list[Finding]:
        return check_base_health(self._session) if self._deep else []

    def _session_for(self, specimen: RawAdapter) -> ModelSession:
        """Where the adapter is asked: in its own engine where it has one, and as the setting says, else as its own
        passport does."""
        settings = self._settings
        if specimen.engine_name:
            settings = settings.for_engine(specimen.engine_name)
        return self._session.with_settings(settings if settings.task else _as_passport(specimen, settings))

    def run(self, examination: Examination) -> tuple[Examination, BaseCheckResult]:
        """Levels 3 and 4. What is broken on disk already is held against the base's files alone.

        Raises ModelError for a base that is none.
        """
        specimen, layout = examination.specimen, examination.layout
        if specimen is not None and specimen.kind in OWN_MODELS:
            return self._try_own_model(examination, specimen)
        if specimen is None or layout is None:
            return examination, BaseCheckResult(unable=("not tried on the base: nothing of it could be read",))
        rejected = any(finding.severity == "reject" for finding in examination.findings)
        findings = check_fit(specimen, layout, self._settings.base)
        passport = check_passport(specimen, self._settings.base, earlier=examination.findings)
        findings += [finding for finding in passport if finding not in examination.findings]
        unable: list[str] = []
        fits_base = not any(finding.code.startswith("L30") and finding.severity == "reject" for finding in findings)
        decodes = BaseFolder(self._settings.base).encoder_family is None  # the alignment is measured on generated text
        if layout.pairs and specimen.weights is not None and fits_base and decodes:
            try:
                findings += check_alignment(align(specimen, layout, self._directions))
            except LoricaError as error:
                unable.append(f"the alignment with the base could not be measured: {error.message}")
        try:
            findings += self._health
        except LoricaError as error:
            unable.append(f"the base's own health could not be examined: {error.message}")
        examination = examination.add(names_settled(findings), 3)
        if self._top < 4 or rejected or not fits_base:
            unable += ["not asked anything: it is rejected already"] if rejected or not fits_base else []
            return examination, BaseCheckResult(unable=tuple(unable))
        return self._check_behaviour(examination, unable)

    def _try_own_model(self, examination: Examination, specimen: RawAdapter) -> tuple[Examination, BaseCheckResult]:
        """Levels 3 and 4 of a model of its own: has it the base's tokens, and does it give what its passport says?"""
        passport = check_passport(specimen, self._settings.base, earlier=examination.findings)
        examination = examination.add([finding for finding in passport if finding not in examination.findings], 3)
        if self._top < 4 or any(finding.severity == "reject" for finding in examination.findings):
            return examination, BaseCheckResult()
        session = self._session_for(specimen)
        if labels := check_labels(specimen, session):
            return examination.add(labels, 4), BaseCheckResult(unable=("not asked anything: it is for another task",))
        try:
            adapter = load_own_model(session, specimen.folder, on_done=self._on_done)
        except AdapterError as error:
            return examination.add([finding("L400", error.message, fix=error.fix)]), BaseCheckResult()
        except LoricaError as error:
            return examination, BaseCheckResult(unable=(f"could not be asked: {error.message}",))
        try:
            findings = check_canaries(specimen, adapter.engine, adapter.name)
            behaviour, measured = measure(specimen, adapter, self._rows or ())
        except LoricaError as error:
            return examination, BaseCheckResult(unable=(f"could not be asked: {error.message}",))
        finally:
            adapter.close()
        return examination.add([*findings, *measured], 4), BaseCheckResult(behaviour=behaviour)

    def _check_behaviour(self, examination: Examination, unable: list[str]) -> tuple[Examination, BaseCheckResult]:
        assert examination.specimen is not None
        assert examination.layout is not None
        try:
            session = self._session_for(examination.specimen)
            behaviour, findings = check_behaviour(
                examination.specimen, examination.layout, session, self._rows or (), on_done=self._on_done
            )
            config = examination.specimen.config
            engine = session.engine(more_than_pairs=bool(config and config.unsupported()))
            canaries_title = f"canaries of {examination.specimen.name}"
            try:
                findings += check_canaries(examination.specimen, engine, canaries_title)
            finally:
                with suppress(EngineError):  # without a passport it was not added
                    engine.remove_adapter(canaries_title)
        except LoricaError as error:
            return examination, BaseCheckResult(unable=(*unable, f"could not be asked: {error.message}"))
        level_run = None if any(finding.code == "L400" for finding in findings) else 4
        return examination.add(findings, level_run), BaseCheckResult(behaviour=behaviour, unable=tuple(unable))


def check_behaviour(
    specimen: RawAdapter,
    layout: TensorMap,
    session: ModelSession,
    rows: Sequence[Row] = (),
    *,
    on_done: OnDone | None = None,
) -> tuple[Behaviour, list[Finding]]:
    """Level 4: ask the adapter and its base, and judge what they say.

    rows: the user's, with gold or without; none: the shipped prompts, of which only what holds whatever the adapter was
    trained for can reject it. on_done(n): n more prompts are answered. An adapter that cannot be loaded is a finding.
    Raises ModelError, MissingExtraError, PromptError and EngineError for a base that cannot be asked, ConfigError for
    an unknown task, and AdapterError for a specimen without a config or weights.
    """
    session.settings.load_task()
    if specimen.config is None or specimen.weights is None:
        raise AdapterError(f"{specimen.name}: without a readable config and weights nothing can be asked")
    with TemporaryDirectory(prefix="lorica-behaviour-") as folder:
        try:
            adapter = load_adapter(session, specimen.config, specimen.weights, layout, Path(folder), on_done=on_done)
        except (AdapterError, MissingExtraError) as error:
            error_text = error.message.replace(str(Path(folder) / "copy-1"), specimen.name)
            refused = _cannot_load(specimen.config, layout, error, error_text)
            return nothing_measured(session, "rows" if rows else "probes"), [refused]
        try:
            return measure(specimen, adapter, rows)
        finally:
            adapter.close()


def measure(specimen: RawAdapter, adapter: LoadedAdapter, rows: Sequence[Row]) -> tuple[Behaviour, list[Finding]]:
    """What an adapter, or a model of its own, does in its engine, and what that means. rows: see `check_behaviour`."""
    started, settings = time.monotonic(), adapter.session.settings
    rows, findings = without_training_rows(specimen, rows, settings.load_task())
    rows = chosen_rows(rows, settings.rows, settings.seed)
    behaviour = AdapterMeasurement(adapter, rows).behaviour()
    behaviour = msgspec.structs.replace(behaviour, seconds=time.monotonic() - started)
    return behaviour, [*judge_behaviour(behaviour), *check_figures(specimen, behaviour), *findings]


def check_labels(specimen: RawAdapter, session: ModelSession) -> list[Finding]:
    """Whether the labels that a model of its own names, and the task that it was trained for, are those that it is
    asked; nothing where no task is named."""
    if not session.settings.task:
        return []
    try:
        check_label_names(session.settings.load_task(), {specimen.name: open_member(specimen.folder)})
    except AdapterError as error:
        return [finding("L442", error.message.replace(str(specimen.folder), specimen.name), fix=error.fix)]
    return []


def _as_passport(specimen: RawAdapter, settings: SessionSettings) -> SessionSettings:
    """The settings with task, method and style of the passport; as they are without one."""
    prompt = None if specimen.passport is None else specimen.passport.prompt
    if prompt is None or prompt.task not in TASKS:
        return settings
    task_settings = TaskSettings(method=prompt.method or "", style=prompt.style or "")
    return replace(settings, task=prompt.task, task_settings=task_settings)


def _cannot_load(
    config: AdapterConfig, layout: TensorMap, error: AdapterError | MissingExtraError, error_text: str
) -> Finding:
    """What no engine here applies is no fault of the adapter."""
    other_dtypes = {tensor_info.dtype for tensor_info in layout.tensors.values()} - set(FLOATS)
    reasons = config.unsupported(MORE_THAN_PAIRS)
    actual = f"it uses what no engine here applies: {'; '.join(reasons)}" if reasons else error_text
    facts = {"unsupported": reasons, "dtypes": sorted(other_dtypes)}
    blameless = bool(other_dtypes or reasons) or isinstance(error, MissingExtraError)
    return finding("L400", actual, fix=error.fix, severity="note" if blameless else "reject", facts=facts)


def _lines(behaviour: Behaviour | None) -> list[str]:
    """The measures that people ask for first."""
    if behaviour is None:
        return []
    text_lines = []
    if (labelled := behaviour.labelled) is not None:
        scores = f"adapter {labelled.adapter}, base {labelled.base}, with shuffled inputs {labelled.shuffled}"
        text_lines += [f"{labelled.metric} on {labelled.n} rows: {scores}", f"gain over the base {labelled.over_base}"]
        if labelled.metric != "accuracy" and labelled.gold_top is not None:
            right_anyway = f"one answer to all rows is right for {labelled.gold_top:.3f}"
            text_lines.append(f"accuracy {labelled.accuracy_interval}; {right_anyway}")
    if (divergence := behaviour.divergence) is not None:
        changed = "" if divergence.changed is None else f", another best answer in {divergence.changed:.0%}"
        distance = f"{divergence.kl:.3g} nats from the base on {divergence.n} prompts"
        text_lines.append(f"{distance}{changed} ({behaviour.source})")
    if behaviour.left_out:
        text_lines.append(f"left out, as it would make no sense here: {', '.join(behaviour.left_out)}")
    return text_lines
