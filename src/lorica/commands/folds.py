"""`lorica folds`: the folds' average, their ensemble or the best fold: which is better on rows that none has seen?"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.folder import open_adapter
from lorica.commands import build
from lorica.commands.adapter_answers import adapter_answers
from lorica.commands.arguments import as_path, emit, inform, parser, resolve, split_words, warn
from lorica.commands.average import AverageResult, average_folders
from lorica.commands.eval_report import comparison_dict, comparison_text, evaluation_dict
from lorica.commands.gold_file import GoldFile, read_gold
from lorica.commands.next_command import infer_command, next_settings
from lorica.commands.rows import open_rows
from lorica.commands.run_log import add_run_option, recorded_run, run_file
from lorica.config.schema import Config
from lorica.data.digest import file_digest, ids_digest
from lorica.data.near_duplicates import join_rewritten, text_digest
from lorica.data.union_find import UnionFind
from lorica.data.write import write_answers
from lorica.ensemble.blends import blend_scores, to_answers, vote
from lorica.ensemble.members import EnsembleMember, degenerate_reasons
from lorica.errors import AdapterError, ConfigError, DataError, ResumeError, UsageError
from lorica.metrics.metric_table import find_metric
from lorica.names import count_of, shell_line
from lorica.pipeline.compare import FileComparison, compare
from lorica.pipeline.evaluate import Evaluation
from lorica.records import Answer
from lorica.runs.fold_files import FoldsState, read_state, trained_texts

AVERAGE, ENSEMBLE = "average", "ensemble"
ROWS_NAME = "answered-rows.sha256"
"""Beside the answers: the digest of the file of rows that they answer."""

_EXAMPLES = """  lorica folds runs/folds test.csv task=rules
  lorica folds runs/folds test.csv --rank 16 task=rules model=qwen3_0_6b
  lorica folds runs/folds test.csv --leave-out-trained task=rules --json"""


@dataclass(frozen=True)
class FoldsComparison:
    """The average of the folds, their ensemble and the best fold on the same rows.

    run_dir: of the folds. task: its name. best: the fold whose own held-out rows were answered best: the test rows did
    not choose it. average: None where the folds have none, and `no_average` says why. files: name -> answers, those of
    every fold among them. trained_on: ids of test rows that were left out, since folds were trained on their texts.
    metric_names: the task's, the main one first. pooling: what pooling the out-of-fold scores costs, in a sentence.
    """

    run_dir: Path
    task: str
    best: str
    average: AverageResult | None
    no_average: str
    files: Mapping[str, Path]
    trained_on: tuple[str, ...]
    evaluations: Mapping[str, Evaluation]
    comparison: FileComparison
    metric_names: tuple[str, ...]
    pooling: str

    @property
    def choice(self) -> str:
        """What to use: `AVERAGE`, `ENSEMBLE` or the best fold's name."""
        return self._decision[0]

    @property
    def verdict(self) -> str:
        """What to use, in a sentence."""
        return self._decision[1]

    @property
    def _decision(self) -> tuple[str, str]:
        if all(math.isnan(pair.test.difference.value) for pair in self.comparison.pairs):
            difference = self.comparison.pairs[0].test.difference
            return self.best, (
                f"What is better cannot be told on these rows: {self.comparison.metric} {difference}. {self.best}, the "
                "best fold, was answered best out of fold."
            )
        better = {frozenset((pair.first, pair.second)): pair.better for pair in self.comparison.pairs}
        ensemble_over_best = better[frozenset((ENSEMBLE, self.best))]
        if self.average is not None:
            average_over_best = better[frozenset((AVERAGE, self.best))]
            if better[frozenset((AVERAGE, ENSEMBLE))] == ENSEMBLE:
                return ENSEMBLE, (
                    "The ensemble beats the average by more than the choice of rows explains: answer with all folds."
                )
            if average_over_best == AVERAGE:
                return AVERAGE, (
                    "The average beats the best fold, and the ensemble is not shown to beat it: use the average."
                )
            if average_over_best == self.best:
                return self.best, (
                    f"The average is WORSE than {self.best} alone: answer with that, or with the ensemble."
                )
        if ensemble_over_best == ENSEMBLE:
            return ENSEMBLE, f"The ensemble beats {self.best}, the best fold: answer with all folds."
        return self.best, (
            f"Nothing here is shown to beat {self.best}, the best fold: answer with one adapter, or judge on more rows."
        )


def run(arguments: Sequence[str]) -> int:
    """Answer, compare, print and write."""
    options = _parse(arguments)
    resolved = resolve(options.overrides)
    with recorded_run(options.run, "folds", arguments, resolved, {"gold": [options.test]}) as run_log:
        result = compare_folds(
            resolved.config,
            options.run_dir,
            options.test,
            output=options.output,
            rank=options.rank,
            leave_out_trained=options.leave_out_trained,
        )
        if run_log is not None:
            name = result.comparison.metric
            metrics = {f"{member}: {name}": measured.metrics[name] for member, measured in result.evaluations.items()}
            run_log.write_metrics(metrics, main=next(iter(metrics)))
            outputs = [run_file("answers", path) for path in result.files.values()]
            run_log.update(rows=next(iter(result.evaluations.values())).n, outputs=outputs)
    text = _comparison_text(result, options.test, options.overrides)
    emit(_comparison_dict(result), as_json=options.json, text=text)
    return 0


def compare_folds(
    config: Config,
    run_dir: Path,
    test: Path,
    *,
    output: Path | None = None,
    rank: int = 0,
    leave_out_trained: bool = False,
) -> FoldsComparison:
    """Average the folds in `run_dir`, answer the rows of `test` (with gold) by all of them, and compare.

    output: folder of the answers, `run_dir`/on-TEST where it is None. rank: of the average, 0 for the exact one.
    leave_out_trained: judge without the rows that folds were trained on. Raises DataError where there are any and it is
    off, for folds that did not finish, and for rows without gold.
    """
    state = read_state(run_dir)
    folders = _fold_folders(run_dir, state, config.task.name)
    gold = read_gold(config, test, [])
    trained = trained_texts(run_dir)
    near_twins = _near_twins(config, gold, Path(state.source), trained)
    gold, trained_on = _without_trained(gold, trained, near_twins, leave_out=leave_out_trained)
    average, no_average = _average(run_dir, list(folders.values()), rank)
    answered_by = dict(folders) if average is None else {**folders, AVERAGE: average.output}
    folder = output or run_dir / f"on-{test.stem}"
    _refuse_other_rows(folder, test)
    answers = _answer(config, gold, answered_by, state, folder)
    members = [EnsembleMember(name, answers[name]) for name in folders]
    answers[ENSEMBLE] = {answer.id: answer for answer in _blend(gold, members)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ROWS_NAME).write_text(file_digest(test) + "\n", encoding="utf-8")
    files = {name: folder / f"{name}.csv" for name in answers}
    for name, path in files.items():
        write_answers(path, answers[name].values(), csv_guard=config.inference.csv_guard)
    compared = [name for name in (AVERAGE, ENSEMBLE, state.best) if name in answers]
    judged_sets = {name: gold.judge(answers[name], str(files[name])) for name in compared}
    return FoldsComparison(
        run_dir,
        config.task.name,
        state.best,
        average,
        no_average,
        files,
        trained_on,
        {name: gold.evaluate(judged) for name, judged in judged_sets.items()},
        compare(gold.task, judged_sets),
        tuple(gold.task.metric_names),
        state.pooling,
    )


def _refuse_other_rows(folder: Path, test: Path) -> None:
    """Raise DataError where a folder holds answers to other rows than those of `test`."""
    answered = folder / ROWS_NAME
    if answered.is_file() and answered.read_text("utf-8", "replace").strip() != file_digest(test):
        raise DataError(
            f"holds answers to other rows than those of {test}",
            path=folder,
            fix="name another folder with --output, or delete this one",
        )


def _fold_folders(run_dir: Path, state: FoldsState, task_name: str) -> dict[str, Path]:
    """The folders of the folds' adapters, which are those that the scores in `run_dir` are of."""
    if not state.best:
        raise DataError("its folds did not finish", path=run_dir, fix="go on with training.resume=true")
    if state.manifest.get("task") != task_name:
        raise ConfigError(
            f"{run_dir} holds folds of the task {state.manifest.get('task')}, and task={task_name}",
            fix=f"task={state.manifest.get('task')}, with the other settings that they were trained with",
        )
    folders = {name: run_dir / name for name in state.adapters}
    for name, adapter in build.open_adapters(folders).items():
        if adapter.digest != state.adapters[name]:
            fix = "put it back, or train them again"
            raise DataError("is not the adapter that these folds trained", path=folders[name], fix=fix)
    return folders


def _near_twins(config: Config, gold: GoldFile, source: Path, trained: Mapping[str, str]) -> dict[str, str]:
    """Id -> id of a row of `source`, the training file, that has the same text or nearly so; {} where that file cannot
    be read any more, or has not all texts of `trained` (their digests)."""
    try:
        read_rows = [(row, text_digest(gold.task.text(row))) for row in open_rows(config, gold.task, source)]
        # Without rows that training left out, or that were added since.
        trained_rows = [row for row, digest in read_rows if digest in trained]
        if not set(trained) <= {digest for _, digest in read_rows}:
            raise DataError("holds other texts than the folds were trained on", path=source)
    except DataError as error:
        inform(f"near-duplicates of training rows were not looked for: {error.message}")
        return {}
    texts = [gold.task.text(row) for row in (*trained_rows, *gold.rows)]
    union_find = UnionFind(len(texts))
    join_rewritten(texts, union_find)
    trained_ids = {union_find.find(index): row.id for index, row in enumerate(trained_rows)}
    roots = {row.id: union_find.find(index) for index, row in enumerate(gold.rows, start=len(trained_rows))}
    return {row_id: trained_ids[root] for row_id, root in roots.items() if root in trained_ids}


def _without_trained(
    gold: GoldFile, trained: Mapping[str, str], near_twins: Mapping[str, str], *, leave_out: bool
) -> tuple[GoldFile, tuple[str, ...]]:
    """The rows that no fold was trained on, and the ids of the others. trained: digest of a text -> id of its row.
    near_twins: of near-duplicates of training rows, which are told, and are left out as well where `leave_out`."""
    twins = {row.id: trained[digest] for row in gold.rows if (digest := text_digest(gold.task.text(row))) in trained}
    if twins and not leave_out:
        first, twin = next(iter(twins.items()))
        raise DataError(
            f"{len(twins)} of {len(gold.rows)} rows have the text of a row that folds were trained on, here of "
            f"{twin!r}: average and ensemble know them",
            path=gold.path,
            row_id=first,
            fix="give rows that no fold has seen, or --leave-out-trained to judge on the others",
        )
    near_ids = [row_id for row_id in near_twins if row_id not in twins]
    if near_ids and not leave_out:
        warn(
            f"{len(near_ids)} of {len(gold.rows)} rows of {gold.path} have nearly the text of a row that folds were "
            f"trained on, first {near_ids[0]!r} that of {near_twins[near_ids[0]]!r}: all figures are too good there "
            "(--leave-out-trained judges without them)"
        )
    if leave_out:
        twins |= {row_id: near_twins[row_id] for row_id in near_ids}
    unseen = [row for row in gold.rows if row.id not in twins]
    if not unseen:
        raise DataError("folds were trained on every row", path=gold.path, fix="give rows that no fold has seen")
    if twins:
        warn(
            f"{len(twins)} of {len(gold.rows)} rows of {gold.path} are left out: folds were trained on their texts, "
            "or on nearly the same"
        )
    return replace(gold, rows=unseen), tuple(twins)


def _average(run_dir: Path, folders: Sequence[Path], rank: int) -> tuple[AverageResult | None, str]:
    """The mean of the folds' adapters, in `run_dir`/average; or why there is none. One that is there is made again and
    must be equal."""
    target = run_dir / (f"{AVERAGE}-r{rank}" if rank else AVERAGE)
    staged = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        average = average_folders(folders, staged, rank=rank)
    except AdapterError as error:
        return None, f"only LoRA adapters of one base have a mean ({error.message})"
    if not (target / CONFIG_NAME).exists():
        staged.rename(target)
        return replace(average, output=target), ""
    is_same = open_adapter(target).digest == open_adapter(staged).digest
    shutil.rmtree(staged)
    if not is_same:
        raise ResumeError(f"{target}: is not the average of these folds", fix="delete it, and give the command again")
    return replace(average, output=target), ""


def _answer(
    config: Config, gold: GoldFile, folders: Mapping[str, Path], state: FoldsState, output: Path
) -> dict[str, dict[str, Answer]]:
    """Adapter -> row id -> answer. A kill costs one batch: the next call goes on."""
    requested = [(name, row) for name in folders for row in gold.rows]
    rows_digest = ids_digest(row.id for row in gold.rows)
    identity = {"plan": state.manifest["plan"], "input": file_digest(gold.path), "rows": rows_digest}
    answers: dict[str, dict[str, Answer]] = {name: {} for name in folders}
    adapters, journal_folder = build.open_adapters(folders), output / "answers.partial"
    with adapter_answers(config, adapters, requested, journal_folder, identity) as (_, _, answered):
        for name, answer in answered:
            answers[name][answer.id] = answer
    return answers


def _blend(gold: GoldFile, members: Sequence[EnsembleMember]) -> list[Answer]:
    """The mean of the folds' scores: they are of one kind; where answers are no scores, a vote."""
    row_ids, weights = [row.id for row in gold.rows], [1 / len(members)] * len(members)
    if gold.task.answer_type != "score":
        return vote(members, weights, row_ids)
    columns = [member.scores(row_ids) for member in members]
    for member, scores in zip(members, columns, strict=True):
        if reasons := degenerate_reasons(scores):
            warn(f"{member.name}: {reasons}; it is in the ensemble all the same")
    return to_answers(row_ids, blend_scores(columns, weights, "mean"))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = parser(
        "folds",
        "After `lorica train folds=K`: average the folds' adapters into one, answer the rows of TEST (with gold) by\n"
        "it, by every fold and by their ensemble, and compare average, ensemble and best fold pair by pair. No fold\n"
        "may have been trained on a row of TEST: its training rows are no test of an average. Give the settings that\n"
        "the folds were trained with.",
        _EXAMPLES,
        overrides=False,
    )
    command.add_argument("words", nargs="*", metavar="RUN_DIR TEST [key=value ...]", help="the folds; rows with gold")
    command.add_argument("--rank", type=int, default=0, help="cut the average to this rank (0: exact)")
    command.add_argument("--output", type=as_path, metavar="DIR", help="where answers are written (RUN_DIR/on-TEST)")
    command.add_argument(
        "--leave-out-trained", action="store_true", help="leave out rows of TEST whose texts folds were trained on"
    )
    add_run_option(command)
    options = command.parse_args(list(arguments))
    paths, options.overrides = split_words(options.words)
    if len(paths) != 2:
        fix = "lorica folds RUN_DIR TEST task=..."
        raise UsageError(f"lorica folds needs two paths, the folds and rows with gold; got {len(paths)}", fix=fix)
    options.run_dir, options.test = paths
    if options.run_dir.is_file():
        raise UsageError(
            f"{options.run_dir} is a file, and the first path is the folder of the folds",
            fix="lorica folds RUN_DIR TEST task=...",
        )
    if options.rank < 0:
        raise UsageError(f"--rank {options.rank}; allowed: 0 (exact) or more", fix="--rank 16")
    return options


def _comparison_dict(result: FoldsComparison) -> dict[str, Any]:
    average = result.average
    return {
        "best_fold": result.best,
        "average": None
        if average is None
        else {"path": average.output, "rank": average.rank, "error": average.error, "digests": average.digests},
        "no_average": result.no_average or None,
        "files": {name: evaluation_dict(evaluation) for name, evaluation in result.evaluations.items()},
        **comparison_dict(result.comparison),
        "answers": result.files,
        "left_out": result.trained_on,
        "verdict": result.verdict,
    }


def _comparison_text(result: FoldsComparison, test: Path, overrides: Sequence[str]) -> str:
    """Tables, what was compared, the verdict and the commands that follow it. test: the file of rows. overrides: those
    of the command."""
    average = result.average
    cost = "" if average is None else f"{average.error:.2%} of the update is lost" if average.error else "exact"
    fold_count = sum(name not in (AVERAGE, ENSEMBLE) for name in result.files)
    notes = [
        f"{AVERAGE}: none: {result.no_average}"
        if average is None
        else f"{AVERAGE}: {average.output}, rank {average.rank}, {cost}; one pass for a row",
        f"{ENSEMBLE}: of {fold_count} folds, {fold_count} passes for a row",
        f"{result.best}: the fold whose own held-out rows were answered best; {test} did not choose it",
    ]
    if result.trained_on:
        notes.append(f"left out: {count_of(len(result.trained_on), 'row')} whose texts folds were trained on")
    if result.pooling:
        notes.append(f"out of fold, {result.pooling}")
    tables = comparison_text(result.comparison, result.evaluations, result.metric_names)
    return "\n\n".join([tables, "\n".join(notes), f"{result.verdict}\n{_next_commands(result, overrides)}"])


def _next_commands(result: FoldsComparison, overrides: Sequence[str]) -> str:
    """How rows to come are answered by what the verdict says."""
    run_dir, task = result.run_dir, result.task
    if result.choice != ENSEMBLE:
        average = result.average if result.choice == AVERAGE else None
        adapter = run_dir / result.choice if average is None else average.output
        return f"-> {infer_command(f'adapters.paths.{task}={adapter}', overrides)}"
    names = [name for name in result.files if name not in (AVERAGE, ENSEMBLE)]
    lines = [infer_command(f"adapters.paths.{task}={run_dir / name}", overrides, f"{name}.csv") for name in names]
    method = "mean" if find_metric(result.comparison.metric).takes_scores else "vote"
    files = shell_line(*(f"{name}.csv" for name in names))
    lines.append(f"lorica ensemble {files} --method {method} --output answers.csv {next_settings(overrides)}")
    return "\n".join(f"-> {line}" for line in lines)
