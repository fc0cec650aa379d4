"""What a diagnosis can ask about one adapter, each answer worked out once and only when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lorica.adapters.config import AdapterConfig, read_adapter_config
from lorica.adapters.fingerprint import BaseMatch
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.engines.base import Engine
from lorica.errors import AdapterError, EngineError, LoricaError
from lorica.models.base_folder import BaseFolder
from lorica.records import Row
from lorica.vetting.diagnosis.repair import Repair, repaired
from lorica.vetting.findings import Finding
from lorica.vetting.measure.adapter_measurement import AdapterMeasurement
from lorica.vetting.measure.contamination import without_training_rows
from lorica.vetting.measure.format_sweep import PromptFormat
from lorica.vetting.measure.loaded_adapter import LoadedAdapter, load_adapter, needs_transformers
from lorica.vetting.measure.measurements import Behaviour
from lorica.vetting.measure.model_session import ModelSession, SessionSettings
from lorica.vetting.measure.probe_rows import chosen_rows
from lorica.vetting.numbers.check_numbers import WeightStatistics

Need = Literal["base", "rows", "expected", "answers", "writer", "classifier"]

# How to give what is missing, for "what would settle the rest".
GIVE: dict[Need, str] = {
    "base": "the base model's folder (--base B)",
    "rows": "labelled rows (--rows F task=...)",
    "expected": "the bases it may belong to (--expected-base OTHER ...)",
    "answers": "the answers that are doubted (--answers F)",
}


@dataclass(frozen=True)
class DiagnosisInputs:
    """What a person gave to diagnose with; whatever is missing only narrows what can be tested.

    base: the base model's folder. rows: labelled rows of the session's task. expected: further bases the adapter may
    belong to. answers: a file of answers or scores that somebody doubts. session: how the base is asked, and what was
    answered in earlier diagnoses; None asks as `SessionSettings(base)` says. rows_file: where the rows came from, for
    messages.
    """

    base: Path | None = None
    rows: tuple[Row, ...] = ()
    expected: tuple[Path, ...] = ()
    answers: Path | None = None
    session: ModelSession | None = None
    rows_file: str = ""

    @property
    def task(self) -> str:
        """The name of the rows' task, "" when none is known."""
        return self.session.settings.task if self.session is not None else ""

    @property
    def writes(self) -> bool:
        """Whether the base is a language model, as it is taken to be until one is given that is not."""
        return self.session is None or self.session.settings.writes

    def has(self, need: Need) -> bool:
        """Whether this was given. writer, classifier: a base that is a language model, or scores choices alone."""
        return {
            "base": self.base is not None,
            "rows": bool(self.rows) and bool(self.task),
            "expected": bool(self.expected),
            "answers": self.answers is not None,
            "writer": self.writes,
            "classifier": not self.writes,
        }[need]


@dataclass(frozen=True)
class MeasuredAdapter:
    """The adapter as it is measured. measurement: None when no engine takes it in any form. refused: why not as it is.
    repair: what had to be mended so that it could be taken; None when nothing had to.
    """

    measurement: AdapterMeasurement | None
    refused: str = ""
    repair: Repair | None = None


@dataclass
class Context:
    """One adapter under diagnosis. folder: an empty one for copies of it. findings: of all checks so far. notes: what
    could not be tested, and why. better_factor, better_format: what a sweep found better than as it is used. home: the
    one of the expected bases to which it belongs.
    """

    specimen: RawAdapter
    layout: TensorMap | None
    inputs: DiagnosisInputs
    folder: Path
    match: BaseMatch | None = None
    numbers: WeightStatistics | None = None
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    better_factor: float | None = None
    better_format: PromptFormat | None = None
    home: Path | None = None
    _made: int = 0
    _loaded: list[LoadedAdapter] = field(default_factory=list)
    _alignments: dict[Path, Any] = field(default_factory=dict)

    def new_folder(self) -> Path:
        """A folder for the next variant, not made yet."""
        self._made += 1
        return self.folder / str(self._made)

    @cached_property
    def base_modules(self) -> dict[str, tuple[int, int]]:
        """Linear layers of the base: path -> (out_features, in_features); {} without a base the decoder knows."""
        try:
            return {} if self.inputs.base is None else BaseFolder(self.inputs.base).decoder_config.linear_shapes()
        except LoricaError as error:
            self.notes.append(f"the base's layers are not known: {refusal(error)}")
            return {}

    @cached_property
    def session(self) -> ModelSession | None:
        """Where the base is asked; None without one."""
        if self.inputs.base is None:
            return None
        return self.inputs.session or ModelSession(SessionSettings(self.inputs.base))

    @cached_property
    def engine(self) -> Engine | None:
        """The base loaded, in an engine that applies all of this adapter; None when it cannot be asked (`notes` says
        why)."""
        if self.session is None:
            return None
        config, layout = self.specimen.config, self.layout
        try:
            self.session.encoder()
            more_than_pairs = config is not None and layout is not None and needs_transformers(config, layout)
            return self.session.engine(more_than_pairs=more_than_pairs)
        except LoricaError as error:
            self.notes.append(f"the base model cannot be asked: {refusal(error)}")
            return None

    @cached_property
    def rows(self) -> list[Row]:
        """The rows that are asked, without those of its training; none where no row has gold (`notes` says so)."""
        if self.session is None or not self.inputs.rows or not self.inputs.task:
            return []
        settings = self.session.settings
        rows, findings = without_training_rows(self.specimen, self.inputs.rows, settings.load_task())
        self.findings += findings
        rows = chosen_rows(rows, settings.rows, settings.seed)
        if any(row.gold is not None for row in rows):
            return list(rows)
        self.notes.append("no row has a gold answer, so nothing that needs labels was tested")
        return []

    @cached_property
    def subject(self) -> MeasuredAdapter:
        """The adapter in the form in which the engine takes it: as it is, else mended."""
        if self.engine is None or self.layout is None or self.specimen.raw_config is None:
            return MeasuredAdapter(None, "there is no base, or nothing that can be read")
        try:
            return MeasuredAdapter(self._measure(self.specimen.config, self.specimen.weights))
        except LoricaError as error:
            refused = refusal(error)
        try:
            repair = repaired(self.specimen, self.layout, self.base_modules, self.new_folder())
            if repair is not None:
                config, weights = read_adapter_config(repair.folder), repair.folder / WEIGHTS_NAME
                return MeasuredAdapter(self._measure(config, weights), refused, repair)
        except (LoricaError, ValueError, OSError):
            pass
        return MeasuredAdapter(None, refused)

    @cached_property
    def measurement(self) -> AdapterMeasurement | None:
        """The adapter on labelled rows; None when there are none, or no engine takes it in any form."""
        measurement = self.subject.measurement if self.rows else None
        if measurement is None or measurement.own.labelled.rows:
            return measurement
        reason = next(iter(measurement.base_scores.failed.values()), "none could be asked")
        self.notes.append(f"the base model could not answer the rows: {reason}")
        return None

    @property
    def measured(self) -> Behaviour | None:
        """What was measured so far."""
        subject: MeasuredAdapter | None = self.__dict__.get("subject")
        return None if subject is None or subject.measurement is None else subject.measurement.so_far()

    def measure_on(self, base: Path) -> AdapterMeasurement:
        """The adapter as it is on the rows, with another base. Raises LoricaError where that base does not take it."""
        assert self.session is not None
        session = ModelSession(replace(self.session.settings, base=base))
        return self._measure(self.specimen.config, self.specimen.weights, session)

    def _measure(
        self, config: AdapterConfig | None, weights: Path | None, session: ModelSession | None = None
    ) -> AdapterMeasurement:
        """Raises LoricaError when the engine does not take the adapter, or its output is no number."""
        session = session or self.session
        assert session is not None
        assert self.layout is not None
        if config is None or weights is None:
            raise AdapterError(f"{self.specimen.given}: its config or weights cannot be read")
        is_sound = all(finding.severity != "reject" for finding in self.findings)
        folder = self.new_folder()
        adapter = load_adapter(session, config, weights, self.layout, folder, other_engine=is_sound)
        self._loaded.append(adapter)
        measurement = AdapterMeasurement(adapter, self.rows)
        if self.rows:
            base_failures = measurement.base_scores.failed
            for row_id, reason in measurement.own_scores.failed.items():
                if row_id not in base_failures:
                    raise EngineError(reason)
        return measurement

    def alignment(self, base_folder: Path | None) -> Any:
        """The adapter's `Alignment` with a base; None when it cannot be had."""
        from lorica.vetting.base.alignment import align
        from lorica.vetting.base.collect_subspaces import collect_subspaces

        if base_folder is None or self.layout is None or self.specimen.weights is None:
            return None
        if base_folder not in self._alignments:
            try:
                self._alignments[base_folder] = align(self.specimen, self.layout, collect_subspaces(base_folder))
            except LoricaError as error:
                self.notes.append(f"the alignment with {base_folder.name} could not be measured: {refusal(error)}")
                self._alignments[base_folder] = None
        return self._alignments[base_folder]

    def add(self, findings: Sequence[Finding]) -> list[Finding]:
        """Findings of a further check; those that are new."""
        new_findings = [finding for finding in findings if finding not in self.findings]
        self.findings += new_findings
        return new_findings

    def close(self) -> None:
        """Take everything out of the engine again, so that the next diagnosis may use the same one."""
        for adapter in self._loaded:
            adapter.close()
        self._loaded.clear()


def refusal(error: LoricaError) -> str:
    """Why an engine refused, in one line without the path in front."""
    return error.message.split(": ", 1)[-1][:200]
