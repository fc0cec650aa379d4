"""What `lorica ensemble` is asked for, from the command line or from Python: which files are blended (of adapters that
the configuration lists, where it lists some), and within what ranks are taken (`--within COLUMN`)."""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorica.adapters.member import open_member
from lorica.commands import build
from lorica.commands.arguments import as_path, check_not_read, parse_weights
from lorica.commands.gold_file import GoldFile
from lorica.commands.rows import open_rows, table_options
from lorica.config.schema import Config
from lorica.data.group_columns import GroupColumns
from lorica.data.write import check_output, check_place
from lorica.ensemble.blends import METHODS
from lorica.ensemble.members import EnsembleMember
from lorica.errors import AdapterError, DataError, UsageError
from lorica.names import count_of
from lorica.runs.stored_run import record_of_answers

FOLD = "fold"
"""What `--within` calls the adapter of a fold that gave an out-of-fold score, where the rows have no such column."""

# Adapters of folds are called so by `commands.fold_report.fold_name`.
_OF_FOLD = re.compile(r"fold-\d+")


@dataclass(frozen=True)
class BlendRequest:
    """What `lorica ensemble` is asked for; its options say what each is."""

    files: Sequence[Path]
    gold: Path | None = None
    method: str = "rank"
    weights: Sequence[float] | None = None
    within: str | None = None
    rows: Path | None = None
    power: float = 2.0
    output: Path | None = None
    save: Path | None = None
    model: Path | None = None
    allow_training_rows: bool = False


def add_request_options(command: argparse.ArgumentParser) -> None:
    """The options that make a `BlendRequest`."""
    method_help = "; ".join(f"{name}: {about}" for name, about in METHODS.items())
    command.add_argument("--method", choices=tuple(METHODS), default="rank", help=f"{method_help} (%(default)s)")
    command.add_argument("--gold", type=as_path, help="the rows with their gold answers")
    command.add_argument(
        "--within",
        metavar="COLUMN",
        help="take ranks within each value of this column, such as rule; `fold` within the folds of out-of-fold scores",
    )
    command.add_argument(
        "--rows", type=as_path, help="the file of rows that holds the column, where --gold is not given"
    )
    command.add_argument("--weights", type=parse_weights, metavar="W,...", help="one for each file; their sum is 1")
    command.add_argument("--power", type=float, default=2.0, help="the exponent of --method power (%(default)s)")
    command.add_argument("--output", type=as_path, help="where to write the blend (.csv, .jsonl or .parquet)")
    command.add_argument(
        "--save",
        "--calibrate",
        type=as_path,
        metavar="FILE.json",
        help="write the fitted blend: the stack, or with other methods the mean of calibrated probabilities, which "
        "needs no table to rank in and serves a single row",
    )
    command.add_argument("--model", type=as_path, metavar="FILE.json", help="blend by what --save wrote")


def check_request(request: BlendRequest) -> None:
    """Raises UsageError for requests that contradict each other."""
    count, method, weights, within = len(request.files), request.method, request.weights, request.within
    has_gold, has_model, has_save = (path is not None for path in (request.gold, request.model, request.save))
    named_twice = len({path.resolve() for path in request.files}) < count
    wrong_power = request.power == 0 or not math.isfinite(request.power)
    refusals = (
        (
            count < (1 if has_model or within else 2),
            f"{count_of(count, 'file')}; a blend needs two or more",
            "name the files of answers (one is enough with --within, which ranks it)",
        ),
        (named_twice, "a file is named twice", "name each once; --weights gives it more say"),
        (
            weights is not None and len(weights) != count,
            f"--weights has {len(weights or ())} numbers for {count} files",
            "give one for each file, in their order",
        ),
        (method == "stack" and weights is not None, "a stack finds its weights", "leave --weights out"),
        (
            method == "stack" and not has_gold and not has_model,
            "a stack is fitted on rows with gold",
            "add --gold FILE",
        ),
        (has_save and not has_gold, "--save fits on rows with gold", "add --gold FILE"),
        (has_save and method == "vote", "a vote has nothing to fit", "leave --save out"),
        (
            within not in (None, FOLD) and not (has_gold or request.rows),
            "--within needs the rows",
            "add --gold or --rows FILE",
        ),
        (
            bool(within) and method in ("vote", "stack"),
            f"a {method} has no ranks",
            "leave --within out, or --method rank",
        ),
        (has_model and has_gold, "--model fits nothing", "leave --gold out"),
        *_idle_options(request),
        (wrong_power, f"--power {request.power:g}", "give another exponent, such as 2"),
    )
    for is_refused, problem, fix in refusals:
        if is_refused:
            raise UsageError(f"lorica ensemble: {problem}", fix=fix)
    written = [path.resolve() for path in (request.output, request.save) if path is not None]
    if len(set(written)) < len(written):
        raise UsageError(f"lorica ensemble: --output and --save are one file, {request.save}", fix="name another file")
    outputs = {"--output": request.output, "--save": request.save}
    check_not_read(outputs, [*request.files, request.gold, request.rows, request.model])
    if request.output is not None:
        check_output(request.output)
    if request.save is not None:
        check_place(request.save)


def _idle_options(request: BlendRequest) -> list[tuple[bool, str, str]]:
    """Options that would change nothing beside the others: (whether one is given, the problem, what to do)."""
    is_changed = {
        "--method": request.method not in ("rank", "stack"),
        "--weights": request.weights is not None,
        "--within": bool(request.within),
    }
    return [
        *(
            (
                request.model is not None and is_set,
                f"--model blends as it was fitted, whatever {option} says",
                f"leave {option} out",
            )
            for option, is_set in is_changed.items()
        ),
        (
            request.power != BlendRequest.power and request.method != "power",
            f"--power {request.power:g} is the exponent of --method power",
            "add --method power, or leave --power out",
        ),
        (
            request.rows is not None and not request.within,
            "--rows names the file that holds the column of --within",
            "add --within COLUMN, or leave --rows out",
        ),
    ]


def listed_members(members: Sequence[EnsembleMember], config: Config) -> tuple[list[EnsembleMember], dict[str, str]]:
    """The members whose adapter `adapters.paths` lists; all where it lists none. And the names of the others, with the
    reason. Raises DataError where the list leaves none."""
    adapter_paths = config.adapters.paths
    if not adapter_paths:
        return list(members), {}
    digests = _digests(adapter_paths)
    is_listed = {member.name: _is_listed(member, adapter_paths, digests) for member in members}
    unlisted = {name: "its adapter is not in adapters.paths" for name, listed in is_listed.items() if not listed}
    if len(unlisted) == len(members):
        raise DataError(
            f"this file and {len(members) - 1} others are of no adapter in adapters.paths: "
            + ", ".join(sorted(adapter_paths)),
            path=members[0].name,
            fix="keep the run folders beside the files (FILE.run tells the adapter), name each file after its adapter, "
            "or leave config=FILE out",
        )
    return [member for member in members if is_listed[member.name]], unlisted


def _digests(adapter_paths: Mapping[str, str]) -> set[str]:
    """Of the listed adapters that can be opened."""
    digests = set()
    for path in adapter_paths.values():
        try:
            digests.add(open_member(Path(path)).digest)
        except AdapterError:
            continue  # its file can still be told by its name
    return digests


def _is_listed(member: EnsembleMember, adapter_names: Mapping[str, str], digests: set[str]) -> bool:
    """By the weights that the run's record names; without a record by the adapters in the answers, or by the file's
    name: the adapter's, or a word of it that no other has (`a.csv` of `a/rules` and `b/rules`)."""
    answering = {answer.adapter for answer in member.answers.values()}
    record = record_of_answers(Path(member.name))
    if record is not None and digests and (used := {record.adapters.get(name, name) for name in answering}):
        return used <= digests
    words = Counter(word for name in adapter_names for word in name.split("/"))
    stem = Path(member.name).name.split(".")[0]
    return stem in adapter_names or words[stem] == 1 or answering <= set(adapter_names)


def rank_groups(
    config: Config,
    request: BlendRequest,
    gold: GoldFile | None,
    members: Sequence[EnsembleMember],
    row_ids: Sequence[str],
) -> list[str] | None:
    """The value of each row [n]; None where ranks are taken over all. Of `--within fold` it is the fold that gave the
    members' out-of-fold scores, where these are such.

    Raises DataError for a column that is none, for rows that the file of rows lacks, and for members that were divided
    into different folds.
    """
    if not request.within:
        return None
    if request.within == FOLD and (folds := _folds_of(members, row_ids)):
        return folds
    if request.within == FOLD and gold is None and request.rows is None:
        problem = "its answers are no out-of-fold scores: not each is of an adapter fold-1, fold-2, ..."
        fix = "give out_of_fold.csv of `lorica train folds=5`, or --gold or --rows FILE with a column fold"
        raise DataError(problem, path=request.files[0], fix=fix)
    rows_file = request.rows or (request.files[0] if gold is None else gold.path)
    if gold is not None and request.within in gold.by:
        value_of_row = gold.by[request.within]
    else:
        task = build.build_task(config)
        columns_to_read = GroupColumns(task.schemas, [request.within])
        for _ in open_rows(config, task, rows_file, schemas=columns_to_read.schemas):
            pass
        columns_to_read.check(rows_file, table_options(config))
        value_of_row = columns_to_read.values[request.within]
    missing = [row_id for row_id in row_ids if row_id not in value_of_row]
    if missing:
        raise DataError(
            f"it lacks {len(missing)} of the {len(row_ids)} rows of the answers, and ranks are taken within "
            f"{request.within!r}",
            path=rows_file,
            row_id=missing[0],
            fix="name the file of rows that was answered: --rows FILE",
        )
    return [value_of_row[row_id] for row_id in row_ids]


def _folds_of(members: Sequence[EnsembleMember], row_ids: Sequence[str]) -> list[str]:
    """The fold that answered each row [n]; [] where a member's answers are not all of folds. Raises DataError where two
    members' folds differ."""
    folds = [[member.answers[row_id].adapter for row_id in row_ids] for member in members]
    if not all(_OF_FOLD.fullmatch(fold) for member_folds in folds for fold in member_folds):
        return []
    for member, member_folds in zip(members, folds, strict=True):
        for row_id, fold, first_fold in zip(row_ids, member_folds, folds[0], strict=True):
            if fold != first_fold:
                raise DataError(
                    f"it was scored by {fold}, and in {members[0].name} by {first_fold}: ranks within folds need "
                    "members that were divided alike",
                    path=member.name,
                    row_id=row_id,
                    fix="rank each file alone first (lorica ensemble FILE --within fold --output RANKED.csv), and "
                    "blend the ranked files",
                )
    return folds[0]
