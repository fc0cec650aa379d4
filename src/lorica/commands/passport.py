"""`lorica passport`: a passport for an adapter from elsewhere, or the check of one that is there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.member import Member, open_member
from lorica.adapters.passport import (
    PASSPORT_NAME,
    SCHEMA,
    CanaryFacts,
    MetricsFacts,
    Passport,
    read_passport,
    write_passport,
)
from lorica.commands.arguments import as_base, as_path, emit, parser, resolve, with_base
from lorica.config.schema import Config
from lorica.engine_table import ENGINES
from lorica.errors import AdapterError, UsageError
from lorica.locks import lock_folder
from lorica.models.base_folder import BaseFolder
from lorica.names import visible

# A gap below this is no proof of anything, in nats.
_NO_GAP = 1e-5


def run(arguments: Sequence[str]) -> int:
    """Make or check a passport; the exit code of --check is its verdict, 0 or 10 to 12."""
    options = _parse(arguments)
    if options.schema:
        print(SCHEMA.read_text("utf-8"), end="")
        return 0
    if options.check:
        return _check(options)
    config = _config(options)
    adapter = open_member(options.adapter)  # before the lock: a folder that is none is not made one
    with lock_folder(options.adapter, doing="making a passport", fix="wait until it ends"):
        passport, passport_path = make(adapter, options, config)
    plain_values = {"path": str(passport_path), "passport": msgspec.to_builtins(passport)}
    emit(plain_values, as_json=options.json, text=_text(passport, passport_path))
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = parser(
        "passport",
        "Write lorica.json beside an adapter from elsewhere: digests of its files, its base, the tokenizer and the\n"
        "template, and canaries with the log-probabilities of base and adapter. What `lorica train` makes has one\n"
        "already. With --check: verify what is there, and write nothing.",
        "  lorica passport adapters/news --base Qwen/Qwen3-0.6B task=rules\n"
        "  lorica passport adapters/news --base models/qwen task=rules --rows labelled.csv\n"
        "  lorica passport runs/rules/rules --base embedded:lorica_tiny --check",
        overrides=False,
    )
    command.add_argument("adapter", nargs="?", type=as_path, help="the adapter's folder")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="task=..., model.dtype=..., engine=..., ...")
    command.add_argument(
        "--base", type=as_base, default="", help="base model: a folder, a Hugging Face id, or embedded:lorica_tiny"
    )
    command.add_argument("--rows", type=as_path, help="labelled rows of the task: adds metrics with intervals")
    command.add_argument("--canaries-from", choices=("probes", "rows"), default="probes",
                       help="where the prompts come from: shipped texts (default), or --rows, whose texts then stand "
                       "in the passport")  # fmt: skip
    command.add_argument("--full", action="store_true", help="hash the base's weight files as a whole, not their ends")
    command.add_argument("--force", action="store_true", help="write over a passport that is there")
    check_help = "verify digests and canaries; exit code: 0 trusted, 10 warnings, 11 rejected, 12 unchecked"
    command.add_argument("--check", action="store_true", help=check_help)
    command.add_argument("--schema", action="store_true", help="print the JSON Schema of lorica.json")
    options = command.parse_args(list(arguments))
    if options.adapter is None and not options.schema:
        raise UsageError("lorica passport: no adapter is named", fix="lorica passport DIR --base BASE")
    if options.adapter is not None and "=" in options.adapter.name and not options.adapter.exists():
        raise UsageError(f"lorica passport: {options.adapter} is no folder", fix="name the adapter first")
    if not options.schema and not options.check and not options.base:
        raise UsageError("lorica passport needs the base model", fix="lorica passport DIR --base BASE")
    if options.canaries_from == "rows" and options.rows is None:
        raise UsageError("--canaries-from rows needs the rows", fix="add --rows FILE")
    return options


def _config(options: argparse.Namespace) -> Config:
    config = resolve(with_base(options.overrides, options.base)).config
    engine_name = config.engine.name
    if not ENGINES[engine_name].runs_model:
        raise UsageError(f"engine={engine_name} computes nothing, so it proves nothing", fix="leave engine=native")
    return config


def make(adapter: Member, options: argparse.Namespace, config: Config) -> tuple[Passport, Path]:
    """Make the passport that a command line asks for, and write it.

    Raises AdapterError for an adapter that has a passport already, that changes nothing, or that is written meanwhile.
    """
    from lorica.admission.make_passport import make_passport, measure_on_rows, prompt_facts
    from lorica.admission.provenance import base_facts
    from lorica.commands import build
    from lorica.commands.rows import read_and_tell

    adapter_folder = adapter.path
    earlier_passport = _before(adapter_folder, force=options.force)
    base_model = build.base_folder(config)
    task = _task(options, config, adapter_folder)
    if task is None and options.rows is not None:
        raise UsageError("--rows needs the task they belong to", fix="add task=rules, task=mcq, task=saq or task=qa")
    encoder = build.build_encoder(config, base_model)
    labelled_rows = [] if options.rows is None else read_and_tell(config, task, options.rows)
    if not options.force:
        _vet(adapter_folder, base_model.path)
    engine = build.build_engine(config, base_model, proof=True)
    engine.add_adapter(visible(adapter_folder.name), adapter)
    canaries = _canaries(options, engine, adapter_folder, task, encoder, base_model, labelled_rows)
    settings = build.answer_settings(config, base_model)
    if task is not None and labelled_rows:
        metrics = measure_on_rows(
            task, encoder, engine, visible(adapter_folder.name), labelled_rows, settings, row_source="given"
        )
    else:
        metrics = MetricsFacts(on="none", note="no labelled rows were given")
    passport = make_passport(
        adapter,
        base=base_facts(
            base_model, model_name=config.model.path, revision=config.model.revision, with_digests=options.full
        ),
        prompt=prompt_facts(encoder, task, build.prompt_settings(config)),
        canaries=canaries,
        metrics=metrics,
    )
    if adapter.changed:
        raise AdapterError(f"{adapter_folder} was changed while its passport was made", fix="make it again")
    if earlier_passport is not None and earlier_passport.adapter.content == passport.adapter.content:
        # The weights are those it speaks of: what it says of their training stays true.
        passport = msgspec.structs.replace(passport, data=earlier_passport.data, training=earlier_passport.training)
    return passport, write_passport(adapter_folder, passport)


def _vet(folder: Path, base_path: Path) -> None:
    """A passport says that this adapter belongs to this base. Raises AdapterError where a check says otherwise."""
    from lorica.vetting.base.alignment import align, collect_subspaces
    from lorica.vetting.base.alignment_findings import check_alignment
    from lorica.vetting.base.base_fit import check_fit
    from lorica.vetting.base.base_health import check_base_files
    from lorica.vetting.files.sources import find_sources
    from lorica.vetting.levels import examine

    examination = examine(find_sources([folder])[0])
    findings = list(examination.findings)
    if examination.specimen is not None and examination.layout is not None:
        findings += check_fit(examination.specimen, examination.layout, base_path) + check_base_files(base_path)
        decodes = BaseFolder(base_path).encoder_family is None  # the alignment is measured on generated text
        if decodes and not any(finding.severity == "reject" for finding in findings):
            findings += check_alignment(align(examination.specimen, examination.layout, collect_subspaces(base_path)))
    rejected = [finding for finding in findings if finding.severity == "reject"]
    if rejected:
        first = rejected[0]
        raise AdapterError(
            f"{folder} is not given a passport for this base: {first.code} {first.title}: {first.seen}",
            fix=f"look at it with `lorica check {folder} --base {base_path}`; --force makes one all the same",
        )


def _before(adapter_folder: Path, *, force: bool) -> Passport | None:
    """The passport that will be written over. Raises AdapterError when that was not asked for."""
    if not (adapter_folder / PASSPORT_NAME).exists():
        return None
    if not force:
        fix = f"verify it with `lorica passport {adapter_folder} --base BASE --check`; --force makes a new one"
        raise AdapterError(f"{adapter_folder} has a passport already", fix=fix)
    try:
        return read_passport(adapter_folder)
    except AdapterError:
        return None


def _task(options: argparse.Namespace, config: Config, adapter_folder: Path) -> Any:
    """The task of the command line, or else that of Lorica's own training record; None when neither tells."""
    from lorica.admission.provenance import recorded_digests
    from lorica.commands import build
    from lorica.tasks import TASKS, load_task
    from lorica.tasks.base import TaskSettings

    if any(override.partition("=")[0].split(".")[0] == "task" for override in options.overrides):
        return build.build_task(config)
    recorded = recorded_digests(adapter_folder)
    if recorded.get("task") not in TASKS:
        return None
    settings = TaskSettings(method=recorded.get("method", ""), style=recorded.get("style", ""))
    return load_task(recorded["task"], settings)


def _canaries(
    options: argparse.Namespace, engine: Any, folder: Path, task: Any, encoder: Any, base: BaseFolder, rows: list[Any]
) -> CanaryFacts:
    from lorica.admission.canaries import make_canaries
    from lorica.admission.make_passport import shipped_canaries
    from lorica.admission.probes import row_probes

    adapter_name = visible(folder.name)
    if options.canaries_from == "rows":
        row_step = max(1, len(rows) // 64)
        canaries = make_canaries(
            engine, adapter_name, row_probes(task, rows[::row_step][:64], encoder, base), canary_kind="rows"
        )
    else:
        canaries = shipped_canaries(engine, adapter_name, task, encoder, base)
    if canaries.gap < _NO_GAP:
        raise AdapterError(
            f"{folder}: base and adapter say the same to every probe (largest difference {canaries.gap:.2g}), so a "
            "passport would prove nothing",
            fix=f"look at it with `lorica check {folder}`: a zero lora_B, or names that are dropped",
        )
    return canaries


def _check(options: argparse.Namespace) -> int:
    """Verify what is there. Nothing is written."""
    from lorica.vetting.findings import EXIT_CODES, judge

    findings, readable = _verify(options)
    verdict = judge(
        options.adapter.name, str(options.adapter), findings, (0, 3) if options.base else (0,), readable=readable
    )
    plain_verdict = {**msgspec.to_builtins(verdict), "exit_code": EXIT_CODES[verdict.status]}
    outcome: str = verdict.status
    if not options.base and verdict.status == "trusted":
        # Digests agree; whether an engine does with it what the passport says is what canaries are for.
        outcome = "its files are those of the passport; its canaries were not asked"
    text_lines = [f"{options.adapter}: {outcome}"]
    for finding in verdict.findings:
        text_lines.append(f"  {finding.severity:<6} {finding.code} {finding.title}: {finding.seen}")
        if finding.fix and (finding.severity != "note" or finding.code == "L377"):
            text_lines.append(f"         -> {finding.fix}")
    emit(plain_verdict, as_json=options.json, text="\n".join(text_lines))
    return EXIT_CODES[verdict.status]


def _verify(options: argparse.Namespace) -> tuple[list[Any], bool]:
    """Findings, and whether there was a passport to judge by."""
    from lorica.vetting.files.check_files import examine_files
    from lorica.vetting.files.sources import find_sources
    from lorica.vetting.files.unpack import opened

    sources = find_sources([options.adapter])
    if len(sources) != 1:
        raise AdapterError(f"{options.adapter} holds {len(sources)} adapters", fix="name one of them")
    with opened(sources[0]) as adapter_source:
        specimen, findings = examine_files(adapter_source)
        if specimen is not None:
            findings += _by_passport(options, specimen, findings)
    return findings, not any(finding.code == "L340" for finding in findings)


def _by_passport(options: argparse.Namespace, specimen: Any, file_findings: list[Any]) -> list[Any]:
    """What the passport says of the files and, with a base, what its canaries find there."""
    from lorica.vetting.findings import finding
    from lorica.vetting.passport_check import check_passport

    if not options.base:
        findings = check_passport(specimen, None, earlier=file_findings)
        about_passport = any(
            result.code in ("L340", "L341") or result.file == PASSPORT_NAME for result in [*file_findings, *findings]
        )
        return (
            findings if about_passport else [*findings, finding("L377", "no base model was named", file=PASSPORT_NAME)]
        )
    from lorica.commands import build
    from lorica.vetting.canary_findings import check_canaries

    config = _config(options)
    base_model = build.base_folder(config)
    findings = check_passport(specimen, base_model.path, full=options.full, earlier=file_findings)
    if not any(result.code in ("L340", "L341") for result in findings):
        findings += check_canaries(specimen, build.build_engine(config, base_model, proof=True))
    return findings


def _text(passport: Passport, passport_path: Path) -> str:
    canaries = passport.canaries
    text_lines = [
        f"{passport_path}",
        f"  adapter   {passport.adapter.modules} modules, {passport.adapter.parameters} parameters, "
        f"{passport.adapter.content[:19]}...",
        f"  base      {passport.base.name}, {passport.base.weights[:19]}...",
        f"  prompts   {passport.prompt.task or 'no task: plain questions'} {passport.prompt.style or ''}".rstrip(),
        f"  canaries  {len(canaries.items)} ({canaries.kind}), {canaries.engine} in {canaries.dtype}; the adapter "
        f"moves a log-probability by up to {canaries.gap:.3g}",
    ]
    metric_pairs = zip((passport.metrics.base or {}).items(), (passport.metrics.adapter or {}).values(), strict=True)
    for (metric_name, base_metric), adapter_metric in metric_pairs:
        text_lines.append(
            f"  {metric_name:<9} {_figure(base_metric)} -> {_figure(adapter_metric)}, n={adapter_metric.n}"
        )
    if not passport.metrics.adapter:
        text_lines.append(f"  metrics   none: {passport.metrics.note}")
    return "\n".join(text_lines)


def _figure(metric: Any) -> str:
    return "undefined" if metric.value is None else f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"
