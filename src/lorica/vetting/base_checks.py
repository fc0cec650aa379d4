"""The levels that need a base model: does the adapter belong to it (L3), and what does it do there (L4)?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import msgspec

from lorica.adapters.passport import PASSPORT_NAME, to_passport
from lorica.adapters.raw_adapter import RawAdapter
from lorica.errors import AdapterError, EngineError, LoricaError
from lorica.records import Row
from lorica.tasks import TASKS
from lorica.tasks.base import TaskSettings
from lorica.vetting.base.activation_subspaces import ActivationSubspaces
from lorica.vetting.base.alignment import align, collect_subspaces
from lorica.vetting.base.alignment_findings import check_alignment
from lorica.vetting.base.base_fit import check_fit
from lorica.vetting.base.base_loss import check_sense, sense
from lorica.vetting.base.fit_identity import names_settled
from lorica.vetting.behaviour.asking import OnDone
from lorica.vetting.behaviour.examine import examine_behaviour
from lorica.vetting.behaviour.measures import Behaviour
from lorica.vetting.behaviour.seen import unseen
from lorica.vetting.behaviour.setting import Setting, Workplace
from lorica.vetting.canary_findings import check_canaries
from lorica.vetting.findings import Finding
from lorica.vetting.levels import Examination
from lorica.vetting.passport_check import check_passport


class BaseCheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """What trying an adapter on its base gave, besides findings. unable: why a level could not be carried out.

    gain: the lower end of the interval of the paired gain over the base on labelled rows, metric: the adapter's own;
    None without them.
    """

    behaviour: Behaviour | None = None
    unable: tuple[str, ...] = ()

    @property
    def gain(self) -> float | None:
        """See above."""
        labelled = None if self.behaviour is None else self.behaviour.labelled
        return None if labelled is None else labelled.over_base.low

    @property
    def metric(self) -> float | None:
        """See above."""
        labelled = None if self.behaviour is None else self.behaviour.labelled
        return None if labelled is None else labelled.adapter.value

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
    """A base model on which adapters are tried one after the other; it is loaded once, when it is needed."""

    def __init__(
        self, setting: Setting, rows: Sequence[Row] | None, *, top: int = 4, on_done: OnDone | None = None
    ) -> None:
        self._setting = setting
        self._rows = rows
        self._top = top
        self._on_done = on_done

    @cached_property
    def _directions(self) -> ActivationSubspaces:
        return collect_subspaces(self._setting.base)

    @cached_property
    def _workplace(self) -> Workplace:
        return Workplace(self._setting)

    @cached_property
    def _sense(self) -> list[Finding]:
        engine = self._workplace.engine(all_kinds=False)
        return check_sense(sense(engine, self._workplace.encoder(), self._setting.base))

    def _workplace_for(self, specimen: RawAdapter) -> Workplace:
        """Where the adapter is asked: as the setting says, else as its own passport does."""
        setting = self._setting
        if setting.task:
            return self._workplace
        try:
            passport = to_passport(specimen.documents.get(PASSPORT_NAME))
        except AdapterError:
            return self._workplace
        prompt = passport.prompt
        if prompt.task not in TASKS:
            return self._workplace
        task_settings = TaskSettings(method=prompt.method or "", style=prompt.style or "")
        return self._workplace.asking(replace(setting, task=prompt.task, task_settings=task_settings))

    def run(self, examination: Examination) -> tuple[Examination, BaseCheckResult]:
        """Levels 3 and 4. What is broken on disk already is held against the base's files alone.

        Raises ModelError for a base that is none.
        """
        specimen, layout = examination.specimen, examination.layout
        if specimen is None or layout is None:
            return examination, BaseCheckResult(unable=("not tried on the base: nothing of it could be read",))
        rejected = any(finding.severity == "reject" for finding in examination.findings)
        findings = check_fit(specimen, layout, self._setting.base)
        passport = check_passport(specimen, self._setting.base, earlier=examination.findings)
        findings += [finding for finding in passport if finding not in examination.findings]
        unable: list[str] = []
        fits = not any(finding.code.startswith("L30") and finding.severity == "reject" for finding in findings)
        if layout.pairs and specimen.weights is not None and fits:
            try:
                findings += check_alignment(align(specimen, layout, self._directions))
            except LoricaError as error:
                unable.append(f"the alignment with the base could not be measured: {error.message}")
            try:
                findings += self._sense
            except LoricaError as error:
                unable.append(f"the base could not be asked plain text: {error.message}")
        examination = examination.add(names_settled(findings), 3)
        if self._top < 4 or rejected or not fits:
            reason = "it is rejected already" if rejected or not fits else ""
            return examination, BaseCheckResult(
                unable=(*unable, *([f"not asked anything: {reason}"] if reason else []))
            )
        return self._check_behaviour(examination, unable)

    def _check_behaviour(self, examination: Examination, unable: list[str]) -> tuple[Examination, BaseCheckResult]:
        assert examination.specimen is not None
        assert examination.layout is not None
        try:
            work = self._workplace_for(examination.specimen)
            rows, contamination = self._rows, list[Finding]()
            if rows:
                rows, contamination = unseen(examination.specimen, rows, work.setting.load_task())
            behaviour, findings = examine_behaviour(
                examination.specimen, examination.layout, work.setting, rows, work=work, on_done=self._on_done
            )
            findings += contamination
            engine = work.engine(
                all_kinds=bool(examination.specimen.config and examination.specimen.config.unsupported())
            )
            name = work.new_name()
            findings += check_canaries(examination.specimen, engine, name)
            with suppress(EngineError):  # without a passport it was not added
                engine.remove_adapter(name)
        except LoricaError as error:
            return examination, BaseCheckResult(unable=(*unable, f"could not be asked: {error.message}"))
        level = None if any(finding.code == "L400" for finding in findings) else 4
        return examination.add(findings, level), BaseCheckResult(behaviour=behaviour, unable=tuple(unable))


def _lines(behaviour: Behaviour | None) -> list[str]:
    """The measures that people ask for first."""
    if behaviour is None:
        return []
    lines = []
    if (labelled := behaviour.labelled) is not None:
        lines.append(
            f"{labelled.metric} on {labelled.n} rows: adapter {labelled.adapter}, base {labelled.base}, "
            f"with shuffled inputs {labelled.shuffled}"
        )
        lines.append(f"gain over the base {labelled.over_base}")
    if (away := behaviour.divergence) is not None:
        changed = "" if away.changed is None else f", another best answer in {away.changed:.0%}"
        lines.append(f"{away.kl:.3g} nats from the base on {away.n} prompts{changed} ({behaviour.source})")
    return lines
