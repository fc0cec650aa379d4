"""`lorica infer`: rows in, answers out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from lorica import signals
from lorica.adapters.member import Member
from lorica.commands import build
from lorica.commands.answered_texts import SCHEMAS
from lorica.commands.arguments import check_not_read, emit, going_on, inform, parser, required, resolve, warn
from lorica.commands.row_progress import row_progress
from lorica.commands.rows import list_skipped, open_rows, reading_log, tell
from lorica.commands.run_log import count_gold, counted, logged_messages, recorded_configuration, run_file
from lorica.commands.submission_option import (
    add_submission_option,
    parse_submission,
    submission_path,
    write_submission_beside,
)
from lorica.commands.trained_rows import TrainedRows
from lorica.config.compose import Resolved
from lorica.config.schema import Config
from lorica.data.digest import file_digest
from lorica.data.journal import Journal, check_same_run
from lorica.data.read_log import ReadLog
from lorica.data.row_timings import write_timings
from lorica.data.write import check_output, check_place
from lorica.engines.base import MergeDecision
from lorica.errors import ConfigError, DataError, EngineError, ResumeError
from lorica.metrics.health import MassHealth, mass_health
from lorica.models.base_folder import BaseFolder
from lorica.names import count_of, is_same_file
from lorica.pipeline.choice_mass import explain_low_mass
from lorica.pipeline.infer import Summary, answer_file
from lorica.pipeline.retrieve import RETRIEVAL_FAILED
from lorica.runs.former_run import finished_record, former_record, restore_former
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import FORMER_RECORD_SUFFIX, RECORD_NAME, TIMINGS_NAME, RunFile, RunRecord, run_folder_of
from lorica.version import __version__

SKIPPED_SUFFIX = ".skipped.jsonl"
_MASS_ROWS = 16  # whose choices are held against what the model would say, before all are asked
_NOTHING_YET = "no row was answered since the start; give the same command again"
# Of a result, that a record keeps.
_FACTS = ("rows", "adapters", "routes", "stages", "flags", "first_error", "reading", "passages", "first_failed_look_up")
_SAMPLE_ROWS = 64  # by which the engine judges the run; not a window, whose size must change nothing


class InferResult(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to the rows of one file of answers; every count is in rows.

    output: the file of answers. complete: whether a resumed run found everything done already. rows: in the output.
    answered: computed by this call, which took `seconds` of wall time. adapters, routes, stages, flags: rows by the
    values of these fields of `Answer`. first_error: id and problem of the first row that failed, "" where none did.
    reading: what of the input was not read. choice_mass: how much of the model's probability the choices had. passages:
    of a knowledge base, `shown` in prompts, `cut` there, and `dropped` for want of room; {} where none were looked up.
    first_failed_look_up: id and problem of the first row whose look-up failed, "" where none did.
    """

    output: Path
    complete: bool = False
    rows: int = 0
    answered: int = 0
    seconds: float = 0.0
    adapters: dict[str, int] = {}
    routes: dict[str, int] = {}
    stages: dict[str, int] = {}
    flags: dict[str, int] = {}
    first_error: str = ""
    reading: dict[str, Any] = {}
    choice_mass: MassHealth | None = None
    passages: dict[str, int] = {}
    first_failed_look_up: str = ""


def run(arguments: Sequence[str]) -> int:
    """Answer a file and say what happened to its rows."""
    command = parser(
        "infer",
        "Answer a file of rows: each is routed to its adapter (task, subject, general, base), rendered, scored or\n"
        "generated, parsed, and written in input order. Interrupted? Add inference.resume=true to the same command.",
        "  lorica infer task=rules input=posts.csv output=answers.csv adapters.dir=runs/rules\n"
        "  lorica infer task=saq input=questions.jsonl output=answers.jsonl adapters.dir=runs/saq\n"
        "  lorica infer task=rules task.columns.body=text task.constants.rule='No advertising' input=sms.jsonl "
        "output=out.parquet\n"
        "  lorica infer task=rules input=test.csv output=answers.csv --submission row_id=id,rule_violation=score",
    )
    add_submission_option(command)
    options = command.parse_args(list(arguments))
    submission_columns = parse_submission(options.submission)
    resolved = resolve(options.overrides)
    if submission_columns and resolved.config.output:
        path = submission_path(Path(resolved.config.output))
        check_not_read({"--submission": path}, [Path(resolved.config.input)])
        check_place(path)
    try:
        infer_result = infer_file(
            resolved, words=arguments, resume_command=going_on("infer", arguments, "inference.resume=true")
        )
    except KeyboardInterrupt as stop:
        signals.say(stop, _NOTHING_YET)
        raise
    output_files = {"output": str(infer_result.output)}
    if submission_columns:
        output_files["submission"] = str(write_submission_beside(infer_result.output, submission_columns))
    if infer_result.complete:
        emit(output_files | {"complete": True}, as_json=options.json, text=f"{infer_result.output} is already complete")
        return 0
    emit(output_files | _summary_dict(infer_result), as_json=options.json, text=_text(infer_result))
    if infer_result.choice_mass is not None and infer_result.choice_mass.low:
        warn(infer_result.choice_mass.problem)
    if failed_look_ups := infer_result.flags.get(RETRIEVAL_FAILED, 0):
        asked_rows = count_of(failed_look_ups, "row was", "rows were")
        warn(f"{asked_rows} asked without passages, first {infer_result.first_failed_look_up}")
    failed_rows = infer_result.flags.get("error", 0)
    if failed_rows:
        inform(f"{count_of(failed_rows, 'row')} failed, first {infer_result.first_error}")
    return EngineError.exit_code if 0 < failed_rows == infer_result.rows else 0


def infer_file(resolved: Resolved, *, words: Sequence[str] = (), resume_command: str) -> InferResult:
    """Answer the `input` of the configuration into its `output`, and record the run in `OUTPUT.run/`.

    words: of the command line; () from Python. resume_command: what goes on after an interruption; whatever raises here
    carries it as a note.
    """
    config = resolved.config
    input_path, output = _input_and_output(config)
    task, base, adapter_folders = build.build_task(config), build.base_folder(config), build.adapter_folders(config)
    # Reading a file takes seconds and answering it hours: a bad last row or subject must not wait until the end.
    read_log = reading_log(config)
    gold_counts = Counter[bool]()
    trained = TrainedRows(task, adapter_folders)
    rows = trained.noted(count_gold(open_rows(config, task, input_path, read_log=read_log), gold_counts))
    sample_rows = list(itertools.islice(rows, _SAMPLE_ROWS))
    row_counts = build.count_routes(config, task, base, itertools.chain(sample_rows, rows), adapter_folders)
    tell(read_log)
    adapters = build.open_adapters(adapter_folders)
    pipeline = build.build_pipeline(config, base, adapters)
    merging = pipeline.maybe_merge(row_counts, sample_rows)
    if merging.reason and (merging.merged or config.engine.merge == "always"):
        inform(merging.reason)
    manifest = build.manifest(
        config, base, adapters, pipeline, {"input": file_digest(input_path), "output": output.name}
    )
    folder = Path(config.run_dir) if config.run_dir else output.with_name(output.name + ".partial")
    run_folder = run_folder_of(output)
    if config.inference.resume:
        finished = _finished(output, manifest, began_anew=Journal.is_in(folder))
        if finished is not None:
            _remove_journal(folder, manifest)
            restore_former(run_folder)
            return finished
    record = _run_record(resolved, manifest, base, adapters, gold_counts)
    with (
        Journal.open(folder, manifest, resume=config.inference.resume) as journal,
        _nothing_lost(journal, resume_command),
        RunFolder.create(run_folder, record, words=words, resume=not journal.empty, owned=True) as run_log,
        logged_messages(run_log),
        _former_kept(journal, run_log),
    ):
        if mass_warning := explain_low_mass(pipeline, sample_rows[:_MASS_ROWS]):
            warn(mass_warning)
        with row_progress(row_counts.total()) as advance, _telling_change(input_path, manifest["input"]):
            summary = answer_file(
                pipeline,
                open_rows(config, task, input_path),
                journal,
                output,
                window_rows=config.inference.window_rows,
                csv_guard=config.inference.csv_guard,
                on_done=counted(advance, run_log),
                warmup_rows=sample_rows[:_MASS_ROWS] if config.inference.warmup else (),
                amended=trained.flagged,
            )
        result = _result(summary, output, list_skipped(read_log, output.with_name(output.name + SKIPPED_SUFFIX)))
        _record_result(run_log, result, trained.summary() | _facts(merging, read_log), journal)
        journal.remove()
    return result


def _run_record(
    resolved: Resolved,
    manifest: dict[str, str],
    base: BaseFolder,
    adapters: Mapping[str, Member],
    gold_counts: Mapping[bool, int],
) -> RunRecord:
    """What the run is given. gold_counts: rows of the input with a gold answer, and without."""
    rows_file = RunFile(
        role="rows",
        path=resolved.config.input,
        digest=manifest["input"],
        rows=sum(gold_counts.values()),
        gold=gold_counts.get(True, 0),
    )
    return RunRecord(
        command="infer",
        **recorded_configuration(resolved),
        manifest=manifest,
        inputs=[rows_file],
        base=base.digest,
        tokenizer=manifest["tokenizer"],
        adapters={adapter_name: adapter.digest for adapter_name, adapter in adapters.items()},
    )


def _facts(merging: MergeDecision, read_log: ReadLog) -> dict[str, Any]:
    return {"merging": merging.reason, SCHEMAS: sorted(read_log.schema_names)}


def _record_result(run_log: RunFolder, result: InferResult, facts: Mapping[str, Any], journal: Journal) -> None:
    """Timings, counts, metrics and the digests of what was written, after which the run is complete."""
    run_log.write_metrics(
        {
            "rows": result.rows,
            "answered": result.answered,
            "seconds": result.seconds,
            **{f"stage.{stage}": count for stage, count in result.stages.items()},
            **{f"flag.{flag}": count for flag, count in result.flags.items()},
        }
    )
    timings_path = run_log.path / TIMINGS_NAME
    write_timings(timings_path, journal.timings())
    outputs = [run_file("answers", result.output, rows=result.rows), run_file("timings", timings_path)]
    run_log.update(rows=result.rows, outputs=outputs, summary={**_summary_dict(result), **facts})
    run_log.finish()


def _input_and_output(config: Config) -> tuple[Path, Path]:
    """Input and output. Raises ConfigError when one is not set or they are one file, DataError for an unusable one."""
    input_path = required(config.input, "input", "rows.csv")
    output_path = required(config.output, "output", "answers.csv")
    if is_same_file(output_path, input_path):
        raise ConfigError(f"input and output are the same file, {input_path}", fix="write the answers to another file")
    if config.run_dir and Path(config.run_dir).exists() and not Path(config.run_dir).is_dir():
        raise ConfigError(f"run_dir={config.run_dir} is a file", fix="name a folder")
    check_output(output_path)
    check_place(run_folder_of(output_path) / RECORD_NAME)
    check_place(output_path.with_name(output_path.name + SKIPPED_SUFFIX))  # a longer name, written when all is answered
    return input_path, output_path


@contextmanager
def _telling_change(input_path: Path, digest: str) -> Iterator[None]:
    """Say where the input is another file after the block than it was before; it is hashed again only where it was
    written."""

    def written() -> tuple[int, int, int]:
        facts = input_path.stat()
        return facts.st_ino, facts.st_size, facts.st_mtime_ns

    before = written()
    yield
    with suppress(DataError, OSError):  # it may be gone
        if written() != before and file_digest(input_path) != digest:
            warn(f"{input_path} was changed while it was answered: rows are answered as they were when they were read")


def _remove_journal(folder: Path, manifest: Mapping[str, str]) -> None:
    """Remove the journal of a run that was killed after all else was done; another run's stays."""
    if Journal.is_in(folder):
        with suppress(ResumeError):
            Journal.open(folder, manifest, resume=True).remove()


@contextmanager
def _nothing_lost(journal: Journal, resume_command: str) -> Iterator[None]:
    """Whatever ends the block: keep what is committed and say how to go on, or leave no trace of an empty journal."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # of a disk that fails; the error that ended the run is the one to tell
            if journal.empty:
                journal.remove()
            else:
                error.add_note(
                    f"{journal.done} rows and the batches since are kept in {journal.folder}; go on: {resume_command}"
                )
        raise


@contextmanager
def _former_kept(journal: Journal, run_log: RunFolder) -> Iterator[None]:
    """Where the block ends with nothing answered, the record of the output that is still there comes back."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if journal.empty:
                run_log.withdraw()
        raise


def _result(summary: Summary, output_path: Path, reading: dict[str, Any]) -> InferResult:
    counts: dict[str, Any] = {
        name: dict(value) if isinstance(value, Counter) else value for name, value in vars(summary).items()
    }
    masses = mass_health(counts.pop("masses"))
    return InferResult(output=output_path, reading=reading, choice_mass=masses, **counts)


def _summary_dict(infer_result: InferResult) -> dict[str, Any]:
    """The counts as plain values, with the version that made them."""
    plain_values: dict[str, Any] = msgspec.to_builtins(infer_result, enc_hook=str)
    del plain_values["output"], plain_values["complete"]
    return plain_values | {"version": __version__}


def _finished(output_path: Path, manifest: dict[str, str], *, began_anew: bool) -> InferResult | None:
    """The result of this very run where it has ended. began_anew: whether another one began after it, which is to be
    resumed.

    Raises ResumeError where another run has ended, a resume does not write over its output, and for a record that an
    earlier version of Lorica left beside it.
    """
    run_folder = run_folder_of(output_path)
    if not output_path.is_file():
        return None
    start_anew = f"run it without inference.resume=true, which writes over {output_path}; or name another output"
    try:
        finished = former_record(run_folder) or finished_record(run_folder)
    except DataError as error:
        if began_anew:
            return None
        raise ResumeError(error.message, fix=start_anew) from error
    if finished is None:
        former_path = output_path.with_name(output_path.name + FORMER_RECORD_SUFFIX)
        if former_path.is_file():
            raise ResumeError(
                f"{former_path} is the record of an earlier version of Lorica, which this version does not read: its "
                f"runs are kept in {run_folder_of(output_path)}/",
                fix=f"{output_path} is whole: keep it as it is; or {start_anew}",
            )
        return None
    answers_digests = [file.digest for file in finished.outputs if file.role == "answers"]
    if finished.manifest == manifest and answers_digests == [file_digest(output_path)]:
        counts = {name: finished.summary[name] for name in _FACTS if name in finished.summary}
        return InferResult(output=output_path, complete=True, **counts)
    if not began_anew:
        check_same_run(output_path, finished.manifest, manifest, otherwise=start_anew)
        inform(f"{output_path} was changed after its run had ended: it is made again")
    return None


def _text(result: InferResult) -> str:
    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"

    rows_per_second = result.answered / result.seconds if result.seconds else 0.0
    resumed = f" ({result.rows - result.answered} from before)" if result.answered < result.rows else ""
    mass_line = "" if result.choice_mass is None else f"\n  choice mass: {result.choice_mass}"
    passages_line = f"\n  passages: {listed(result.passages)}" if result.passages else ""
    return (
        f"{count_of(result.rows, 'row')}{resumed} in {result.seconds:.1f} s ({rows_per_second:.1f} rows/s) "
        f"-> {result.output}\n"
        f"  adapters: {listed(result.adapters)}\n"
        f"  stages:   {listed(result.stages)}\n"
        f"  flags:    {listed(result.flags)}{passages_line}{mass_line}"
    )
