"""Levels 0 to 2 of a check, which need nothing but an adapter's files. Loads no torch.

L0 files      check_files
L1 structure  check_structure, check_claims, check_passport, check_calibration
L2 numbers    check_numbers
L3 base       in base_checks.py: check_fit, check_passport, check_alignment, check_base_health
L4 behaviour  in base_checks.py: judge_behaviour, check_canaries
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from lorica.adapters.bases import bases_named
from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.fingerprint import AdapterShapes, BaseMatch, describe_match, match_bases, shapes_of
from lorica.adapters.folder import snapshot
from lorica.adapters.json_document import short_text
from lorica.adapters.methods import FORMATS
from lorica.adapters.raw_adapter import OWN_MODELS, RawAdapter
from lorica.adapters.registry import training_owner
from lorica.adapters.tensor_map import TensorMap, map_tensors
from lorica.locks import describe as describe_owner
from lorica.vetting.calibration_check import check_calibration
from lorica.vetting.check_classifier import check_opens, check_values, classifier_profile
from lorica.vetting.claims.check_claims import check_claims
from lorica.vetting.claims.named_bases import NamedBase
from lorica.vetting.claims.training_evidence import TrainingEvidence, training_evidence
from lorica.vetting.files.check_files import examine_files
from lorica.vetting.files.sources import AdapterSource
from lorica.vetting.findings import Finding, Verdict, finding, judge
from lorica.vetting.numbers.check_numbers import WeightStatistics, check_numbers
from lorica.vetting.passport_check import check_passport
from lorica.vetting.profile import Profile, profile
from lorica.vetting.structure.check_structure import check_structure
from lorica.vetting.wording import shown


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """All that the checks learned of one adapter so far. What could not be read is None. ran: the levels carried out.
    fits: which bases its shapes fit, in words, the base it names before others. snapshot: size and times of its files
    before they were read."""

    source: AdapterSource
    profile: Profile
    findings: tuple[Finding, ...]
    ran: tuple[int, ...]
    specimen: RawAdapter | None = None
    layout: TensorMap | None = None
    match: BaseMatch | None = None
    fits: str = ""
    numbers: WeightStatistics | None = None
    evidence: TrainingEvidence | None = None
    snapshot: dict[str, tuple[int, int, int]] = {}

    @property
    def verdict(self) -> Verdict:
        """What the findings add up to."""
        rejected = any(finding.severity == "reject" for finding in self.findings)
        readable = rejected or self.specimen is not None
        # Nobody makes a passport for what is rejected: that it has none is no news.
        findings = [finding for finding in self.findings if not (rejected and finding.code == "L340")]
        return judge(self.source.name, str(self.source.user_path), findings, self.ran, readable=readable)

    def add(self, findings: Iterable[Finding], level: int | None = None) -> Examination:
        """This examination with further findings and, where given, a further level carried out."""
        levels_run = self.ran if level is None or level in self.ran else (*self.ran, level)
        return msgspec.structs.replace(self, findings=(*self.findings, *findings), ran=levels_run)

    def slim(self) -> Examination:
        """This examination without what only levels 3 and 4 need, so that thousands of them take little memory."""
        specimen = self.specimen
        if specimen is not None:
            specimen = msgspec.structs.replace(specimen, header=None, documents={}, card="")
        return msgspec.structs.replace(self, layout=None, specimen=specimen)


def examine(source: AdapterSource, *, max_level: int = 2) -> Examination:
    """Levels 0 to 2, or fewer, of an opened source. Never raises for what is in the files."""
    snapshot_before = snapshot(source.path)
    if CONFIG_NAME not in snapshot_before and (owner := training_owner(source.path)):
        return _unchecked(source, finding("L018", f"an adapter is being trained: {describe_owner(owner)}"))
    try:
        examination = msgspec.structs.replace(_examine(source, max_level), snapshot=snapshot_before)
    except Exception as error:
        # A mistake of ours over one adapter must not hide what is found in a thousand others.
        message = f"{type(error).__name__}: {short_text(str(error))}"
        return _unchecked(source, finding("L099", message))
    return require_unchanged(examination)


def require_unchanged(examination: Examination) -> Examination:
    """The examination; where its files changed since they were read, one that only says so."""
    if not examination.ran or snapshot(examination.source.path) == examination.snapshot:
        return examination
    return _unchecked(examination.source, finding("L018", "its files were changed or removed while they were read"))


def _unchecked(source: AdapterSource, *findings: Finding, ran: tuple[int, ...] = (), method: str = "") -> Examination:
    empty_profile = Profile(name=source.name, path=str(source.user_path), kind=source.kind, method=method)
    return Examination(source=source, profile=empty_profile, findings=findings, ran=ran)


def _examine(source: AdapterSource, max_level: int) -> Examination:
    specimen, findings = examine_files(source)
    if specimen is None:
        titles = (FORMATS[finding.facts["method"]].title for finding in findings if finding.code == "L102")
        return _unchecked(source, *findings, ran=_ran(findings), method=next(titles, ""))
    own_model = specimen.kind in OWN_MODELS  # which has no pairs to compare with a base's
    layout = None if own_model or specimen.header is None else map_tensors(specimen.header)
    examination = Examination(
        source=source,
        profile=classifier_profile(specimen) if own_model else profile(specimen, layout),
        findings=tuple(findings),
        ran=_ran(findings),
        specimen=specimen,
        layout=layout,
        evidence=training_evidence(specimen),
    )
    if own_model:
        return _own_model(examination, specimen, max_level)
    if layout is None or max_level < 1:
        return examination
    examination = _structure(examination, specimen, layout)
    if specimen.weights is None or max_level < 2:
        return examination
    numbers, number_findings = check_numbers(specimen, layout)
    return msgspec.structs.replace(examination.add(number_findings, 2), numbers=numbers)


def _own_model(examination: Examination, specimen: RawAdapter, max_level: int) -> Examination:
    if specimen.weights is None or specimen.header is None or max_level < 1:
        return examination
    passport = check_passport(specimen, None, earlier=examination.findings)
    examination = examination.add(check_opens(specimen) + passport + check_calibration(specimen), 1)
    if max_level < 2:
        return examination
    return examination.add(check_values(specimen, specimen.weights, specimen.header), 2)


def _ran(findings: Sequence[Finding]) -> tuple[int, ...]:
    """The levels that looking at the files carried out: another tool's folder is told by its names alone."""
    return (0, 1) if any(finding.level == 1 for finding in findings) else (0,)


def _structure(examination: Examination, specimen: RawAdapter, layout: TensorMap) -> Examination:
    shapes = shapes_of(layout, specimen.config)
    base_match: BaseMatch | None = match_bases(shapes)
    structure = check_structure(specimen, layout)
    claims = check_claims(specimen, layout, base_match)
    if any(finding.code in ("L113", "L144") for finding in structure):
        # Of swapped or packed halves the shapes tell nothing about the base.
        claims = [finding for finding in claims if finding.code != "L163"]
    findings = structure + claims + check_passport(specimen, None, earlier=examination.findings)
    findings += check_calibration(specimen)
    # Without a config that can be read hardly anything of it could be compared.
    if any(finding.code == "L102" for finding in structure):
        base_match = None  # another tool's names say nothing here
    objected = any(finding.level == 1 and finding.severity != "note" for finding in findings)
    compared = specimen.config is not None or objected
    fit_text = "" if base_match is None else _fits(specimen, shapes, base_match)
    return msgspec.structs.replace(examination.add(findings, 1 if compared else None), match=base_match, fits=fit_text)


def _fits(specimen: RawAdapter, shapes: AdapterShapes, matched: BaseMatch) -> str:
    """Which bases the shapes fit, the one that the config names first; or that the table does not know that one."""
    base_name = (specimen.config.base_model_name_or_path if specimen.config else None) or ""
    named_bases = bases_named(base_name)
    description = describe_match(shapes, matched, named_bases)
    if named_bases or not matched.candidates or not NamedBase(CONFIG_NAME, base_name).is_informative:
        return description
    return f"{description}; {shown(base_name)}, which the config names, is not among those known by shape"
