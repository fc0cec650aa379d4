"""The levels that need a base model: does the adapter belong to it (L3), and what does it do there (L4)?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import msgspec

from lorica.adapters.passport import PASSPORT_NAME, to_passport
from lorica.adapters.specimen import Specimen
from lorica.errors import AdapterError, EngineError, LoricaError
from lorica.records import Row
from lorica.tasks import TASKS
from lorica.tasks.base import TaskSettings
from lorica.vetting.base.activation_subspaces import Directions
from lorica.vetting.base.alignment import align, collect
from lorica.vetting.base.alignment_findings import check_alignment
from lorica.vetting.base.fit import check_fit
from lorica.vetting.base.fit_identity import names_settled
from lorica.vetting.base.sense import check_sense, sense
from lorica.vetting.behaviour.asking import OnDone
from lorica.vetting.behaviour.examine import examine_behaviour
from lorica.vetting.behaviour.measures import Behaviour
from lorica.vetting.behaviour.seen import unseen
from lorica.vetting.behaviour.setting import Setting, Workplace
from lorica.vetting.canaries import check_canaries
from lorica.vetting.check import Examination
from lorica.vetting.findings import Finding
from lorica.vetting.passport import check_passport


class Tried(msgspec.Struct, frozen=True, kw_only=True):
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


class Bench:
    """A base model on which adapters are tried one after the other; it is loaded once, when it is needed."""

    def __init__(
        self, setting: Setting, rows: Sequence[Row] | None, *, top: int = 4, on_done: OnDone | None = None
    ) -> None:
        self._setting = setting
        self._rows = rows
        self._top = top
        self._on_done = on_done

    @cached_property
    def _directions(self) -> Directions:
        return collect(self._setting.base)

    @cached_property
    def _workplace(self) -> Workplace:
        return Workplace(self._setting)

    @cached_property
    def _sense(self) -> list[Finding]:
        engine = self._workplace.engine(all_kinds=False)
        return check_sense(sense(engine, self._workplace.encoder(), self._setting.base))

    def _asked(self, specimen: Specimen) -> Workplace:
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
        known = TaskSettings(method=prompt.method or "", style=prompt.style or "")
        return self._workplace.asking(replace(setting, task=prompt.task, task_settings=known))

    def try_on(self, found: Examination) -> tuple[Examination, Tried]:
        """Levels 3 and 4. What is broken on disk already is held against the base's files alone.

        Raises ModelError for a base that is none.
        """
        specimen, layout = found.specimen, found.layout
        if specimen is None or layout is None:
            return found, Tried(unable=("not tried on the base: nothing of it could be read",))
        broken = any(each.severity == "reject" for each in found.findings)
        findings = check_fit(specimen, layout, self._setting.base)
        passport = check_passport(specimen, self._setting.base, known=found.findings)
        findings += [each for each in passport if each not in found.findings]
        unable: list[str] = []
        fits = not any(each.code.startswith("L30") and each.severity == "reject" for each in findings)
        if layout.pairs and specimen.weights is not None and fits:
            try:
                findings += check_alignment(align(specimen, layout, self._directions))
            except LoricaError as error:
                unable.append(f"the alignment with the base could not be measured: {error.message}")
            try:
                findings += self._sense
            except LoricaError as error:
                unable.append(f"the base could not be asked plain text: {error.message}")
        found = found.add(names_settled(findings), 3)
        if self._top < 4 or broken or not fits:
            why = "it is rejected already" if broken or not fits else ""
            return found, Tried(unable=(*unable, *([f"not asked anything: {why}"] if why else [])))
        return self._ask(found, unable)

    def _ask(self, found: Examination, unable: list[str]) -> tuple[Examination, Tried]:
        assert found.specimen is not None
        assert found.layout is not None
        try:
            work = self._asked(found.specimen)
            rows, seen = self._rows, list[Finding]()
            if rows:
                rows, seen = unseen(found.specimen, rows, work.setting.load_task())
            behaviour, findings = examine_behaviour(
                found.specimen, found.layout, work.setting, rows, work=work, on_done=self._on_done
            )
            findings += seen
            engine = work.engine(all_kinds=bool(found.specimen.config and found.specimen.config.unsupported()))
            name = work.new_name()
            findings += check_canaries(found.specimen, engine, name)
            with suppress(EngineError):  # without a passport it was not added
                engine.remove_adapter(name)
        except LoricaError as error:
            return found, Tried(unable=(*unable, f"could not be asked: {error.message}"))
        asked = None if any(each.code == "L400" for each in findings) else 4
        return found.add(findings, asked), Tried(behaviour=behaviour, unable=tuple(unable))


def _lines(found: Behaviour | None) -> list[str]:
    """The measures that people ask for first."""
    if found is None:
        return []
    lines = []
    if (labelled := found.labelled) is not None:
        lines.append(
            f"{labelled.metric} on {labelled.n} rows: adapter {labelled.adapter}, base {labelled.base}, "
            f"with shuffled inputs {labelled.shuffled}"
        )
        lines.append(f"gain over the base {labelled.over_base}")
    if (away := found.divergence) is not None:
        changed = "" if away.changed is None else f", another best answer in {away.changed:.0%}"
        lines.append(f"{away.kl:.3g} nats from the base on {away.n} prompts{changed} ({found.source})")
    return lines
