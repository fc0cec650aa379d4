"""What a diagnosis can ask about one adapter, each answer worked out once and only when it is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from lorica.adapters.config import CONFIG_NAME, read_adapter_config
from lorica.adapters.fingerprint import Match
from lorica.adapters.folder import MORE_THAN_PAIRS, WEIGHTS_NAME, open_adapter
from lorica.adapters.header import read_header
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.engines.base import Engine
from lorica.errors import LoricaError
from lorica.models.families import read_decoder_config, read_json_object
from lorica.prompts.encoder import Encoder
from lorica.records import Row
from lorica.tasks.base import Task
from lorica.vetting.behaviour.setting import Setting, Workplace
from lorica.vetting.diagnosis.trial import Scored, Trial, refusal
from lorica.vetting.diagnosis.variants import Repair, repaired, with_config
from lorica.vetting.findings import Finding

Need = Literal["base", "rows", "expected", "answers"]

# How to give what is missing, for "what would settle the rest".
GIVE: dict[Need, str] = {
    "base": "the base model's folder (--base B)",
    "rows": "labelled rows (--rows F task=...)",
    "expected": "the bases it may belong to (--expected-base OTHER ...)",
    "answers": "the answers that are doubted (--answers F)",
}
# Rows beyond this number sharpen nothing that the experiments decide, and each experiment answers all of them.
MOST_ROWS = 128


@dataclass(frozen=True)
class DiagnosisInputs:
    """What a person gave to diagnose with; whatever is missing only narrows what can be tested.

    base: the base model's folder. rows: labelled rows of the setting's task. expected: further bases the adapter may
    belong to. answers: a file of answers or scores that somebody doubts. setting: how the base is asked; None asks as
    `Setting(base)` says. work: the base loaded already, to share it among diagnoses. rows_file: where the rows came
    from, for messages.
    """

    base: Path | None = None
    rows: tuple[Row, ...] = ()
    expected: tuple[Path, ...] = ()
    answers: Path | None = None
    setting: Setting | None = None
    work: Workplace | None = None
    rows_file: str = ""

    @property
    def task(self) -> str:
        """The name of the rows' task, "" when none is known."""
        return self.setting.task if self.setting is not None else ""

    def has(self, need: Need) -> bool:
        """Whether this was given."""
        return {
            "base": self.base is not None,
            "rows": bool(self.rows) and bool(self.task),
            "expected": bool(self.expected),
            "answers": self.answers is not None,
        }[need]


class Asked(NamedTuple):
    """How rows were asked."""

    task: Task
    encoder: Encoder


@dataclass(frozen=True)
class LoadedAdapter:
    """The adapter as an engine can take it. folder: None when it can take it in no way. refused: why not as it is.
    repair: what had to be mended so that it could be taken; None when nothing had to.
    """

    folder: Path | None
    refused: str = ""
    repair: Repair | None = None


@dataclass
class Context:
    """One adapter under diagnosis. place: an empty folder for variants. findings, ran: of all checks so far, and the
    levels they belong to. notes: what could not be tested, and why. best: what did best in a
    sweep ("scale", "format"): the factor on the update, and how the rows were asked. home: the one
    of the expected bases to which it belongs.
    """

    specimen: RawAdapter
    layout: TensorMap | None
    inputs: DiagnosisInputs
    place: Path
    match: Match | None = None
    findings: list[Finding] = field(default_factory=list)
    ran: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    best: dict[str, tuple[float, Asked]] = field(default_factory=dict)
    home: Path | None = None
    _made: int = 0
    _names: dict[Path, str] = field(default_factory=dict)
    _alignments: dict[Path, Any] = field(default_factory=dict)

    def new_place(self) -> Path:
        """A folder for the next variant, not made yet."""
        self._made += 1
        return self.place / str(self._made)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The manifest in `training.json`, which `lorica train` leaves; {} without one."""
        document = self.specimen.documents.get("training.json")
        manifest = document.get("manifest") if isinstance(document, dict) else None
        return manifest if isinstance(manifest, dict) else {}

    @cached_property
    def base_modules(self) -> dict[str, tuple[int, int]]:
        """Linear layers of the base: path -> (out_features, in_features); {} without a base the decoder knows."""
        if self.inputs.base is None:
            return {}
        try:
            return read_decoder_config(self.inputs.base).linear_shapes()
        except LoricaError as error:
            self.notes.append(f"the base's layers are not known: {refusal(error)}")
            return {}

    @cached_property
    def base_config(self) -> dict[str, Any]:
        """`config.json` of the base; {} without one."""
        try:
            return read_json_object(self.inputs.base / "config.json") if self.inputs.base is not None else {}
        except LoricaError:
            return {}

    @cached_property
    def work(self) -> Workplace | None:
        """Where the base is asked; None without one."""
        if self.inputs.base is None:
            return None
        return self.inputs.work or Workplace(self.inputs.setting or Setting(self.inputs.base))

    @cached_property
    def engine(self) -> Engine | None:
        """The base loaded, in an engine that applies all of this adapter; None when there is none (`notes` says
        why)."""
        if self.work is None:
            return None
        config, layout = self.specimen.config, self.layout
        more = bool(config is not None and config.unsupported()) or bool(layout is not None and layout.saved)
        more |= layout is not None and any(each.magnitude or each.embedding for each in layout.modules.values())
        try:
            return self.work.engine(all_kinds=more)
        except LoricaError as error:
            self.notes.append(f"the base model cannot be loaded: {refusal(error)}")
            return None

    @cached_property
    def trial(self) -> Trial | None:
        """The labelled rows on the base; None when a part of that is missing (`notes` says which)."""
        if self.engine is None or self.work is None or not self.inputs.rows or not self.inputs.task:
            return None
        rows = chosen(self.inputs.rows)
        if not rows:
            self.notes.append("no row has a gold answer, so nothing that needs labels was tested")
            return None
        setting = self.work.setting
        try:
            trial = Trial(
                self.engine, setting.load_task(), self.work.encoder(), rows, max_tokens=setting.max_input_tokens
            )
            trial.score(None)
        except LoricaError as error:
            self.notes.append(f"the base model could not answer the rows: {refusal(error)}")
            return None
        return trial

    @cached_property
    def subject(self) -> LoadedAdapter:
        """The adapter in the form in which the engine takes it: as it is, else mended."""
        if self.engine is None or self.layout is None or self.specimen.raw_config is None:
            return LoadedAdapter(None, "there is no base, or nothing that can be read")
        try:
            as_it_is = with_config(self.specimen, {}, self.new_place())
            self._use(as_it_is)
            return LoadedAdapter(as_it_is)
        except LoricaError as error:
            refused = refusal(error)
        try:
            made = repaired(self.specimen, self.layout, self.base_modules, self.new_place())
            if made is not None:
                self._use(made.folder)
                return LoadedAdapter(made.folder, refused, made)
        except (LoricaError, ValueError, OSError):
            pass
        return LoadedAdapter(None, refused)

    def name_of(self, folder: Path) -> str:
        """The name under which the engine knows a variant; it is added when it is new. Raises LoricaError."""
        assert self.engine is not None
        if self.trial is not None:
            return self.trial.name_of(folder)
        if folder not in self._names:
            name = f"subject {len(self._names)}"
            self.engine.add_adapter(name, open_adapter(folder, applied=MORE_THAN_PAIRS))
            self._names[folder] = name
        return self._names[folder]

    def _use(self, folder: Path) -> None:
        """Raises LoricaError when the engine does not take it, or its output is no number."""
        if self.trial is not None:
            self.trial.score(folder)
        else:
            self.name_of(folder)

    def alignment(self, base: Path | None) -> Any:
        """The adapter's `Alignment` with a base; None when it cannot be had."""
        from lorica.vetting.base.alignment import align
        from lorica.vetting.base.collect_subspaces import collect_subspaces

        if base is None or self.layout is None or self.specimen.weights is None:
            return None
        if base not in self._alignments:
            try:
                self._alignments[base] = align(self.specimen, self.layout, collect_subspaces(base))
            except LoricaError as error:
                self.notes.append(f"the alignment with {base.name} could not be measured: {refusal(error)}")
                self._alignments[base] = None
        return self._alignments[base]

    def add(self, findings: Sequence[Finding], *, level: int | None = None) -> list[Finding]:
        """Findings of a further check; those that are new. level: the level that is now carried out."""
        new = [each for each in findings if each not in self.findings]
        self.findings += new
        self.ran |= {each.level for each in findings} if level is None else {level}
        return new

    def reread(self, folder: Path) -> RawAdapter:
        """A variant as a specimen of its own, to vary it further. Raises AdapterError."""
        weights = folder / WEIGHTS_NAME
        return msgspec.structs.replace(
            self.specimen,
            folder=folder,
            weights=weights,
            raw_config=json.loads((folder / CONFIG_NAME).read_text("utf-8")),
            config=read_adapter_config(folder),
            header=read_header(weights),
        )

    @contextmanager
    def fewer_rows(self, most: int) -> Iterator[Trial]:
        """Meanwhile `trial` has at most so many rows: for experiments that ask them very often."""
        whole = self.trial
        assert whole is not None
        self.trial = whole.part(most)
        try:
            yield self.trial
        finally:
            self.trial.forget_all()
            self.trial = whole

    def close(self) -> None:
        """Take every variant out of the engine again, so that the next diagnosis may use the same engine."""
        if "trial" in self.__dict__ and self.trial is not None:
            self.trial.forget_all()
        for name in self._names.values():
            assert self.engine is not None
            self.engine.remove_adapter(name)
        self._names.clear()

    def scored(self, changed: Path, asked: Asked | None = None) -> Scored | None:
        """The rows with a variant that is needed once only; None when the engine does not take it."""
        assert self.trial is not None
        task, encoder = asked or (None, None)
        try:
            return self.trial.score(changed, task=task, encoder=encoder)
        except LoricaError:
            return None
        finally:
            self.trial.forget(changed)


def chosen(rows: Sequence[Row]) -> list[Row]:
    """At most MOST_ROWS labelled rows, spread evenly; for yes-or-no gold, both answers as equally as they allow."""
    labelled = [row for row in rows if row.gold is not None]
    kinds = {row.gold for row in labelled if isinstance(row.gold, int)}
    if kinds != {0, 1}:
        return _spread(labelled, MOST_ROWS)
    sides = [[row for row in labelled if row.gold == side] for side in (0, 1)]
    half = MOST_ROWS // 2
    least = min(len(sides[0]), len(sides[1]), half)
    picked = [row for side in sides for row in _spread(side, max(half, MOST_ROWS - least))]
    places = {row.id: number for number, row in enumerate(labelled)}
    return sorted(picked, key=lambda row: places[row.id])


def _spread(rows: Sequence[Row], most: int) -> list[Row]:
    if len(rows) <= most:
        return list(rows)
    return [rows[number * len(rows) // most] for number in range(most)]
