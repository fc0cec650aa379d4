"""`lorica ensemble`: one file of answers out of several, and whether it is better than the best of them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from lorica.commands import build
from lorica.commands.arguments import check_not_read, emit, inform, parser, resolve, split_words, warn
from lorica.commands.ensemble_report import EnsembleResult, ensemble_dict, ensemble_text, serving_text
from lorica.commands.ensemble_request import (
    FOLD,
    BlendRequest,
    add_request_options,
    check_request,
    listed_members,
    rank_groups,
)
from lorica.commands.evaluated_file import evaluated_files
from lorica.commands.gold_file import GoldFile, read_gold
from lorica.commands.pages.ensemble_page import ensemble_page
from lorica.commands.pages.eval_page_rows import write_rows
from lorica.commands.pages.page_files import WriteTable, add_html_option, file_facts, write_pages
from lorica.commands.rows import id_names
from lorica.commands.run_log import add_run_option, recorded_run, run_file
from lorica.commands.submission_option import (
    add_submission_option,
    parse_submission,
    submission_path,
    write_submission_beside,
)
from lorica.commands.trained_rows import add_trained_option, run_beside, trained_row_ids, with_flag
from lorica.config.schema import Config
from lorica.data.write import check_place, read_answers, write_answers
from lorica.ensemble.blends import blend_scores, to_answers, vote
from lorica.ensemble.calibrated import CalibratedBlend, fit_calibrated, load_blend, save_blend
from lorica.ensemble.members import (
    EnsembleMember,
    Scores,
    check_alignment,
    degenerate_reasons,
    rank_correlations,
    vote_reasons,
)
from lorica.ensemble.stacking import LogisticModel, cross_fitted, fit_logistic
from lorica.errors import DataError, UsageError
from lorica.metrics.metric_table import find_metric
from lorica.names import count_of, listed
from lorica.pipeline.compare import PairComparison, compare
from lorica.pipeline.evaluate import estimate_metric
from lorica.pipeline.judged_answers import JudgedAnswer, bootstrap_clusters
from lorica.records import Answer
from lorica.reports.page import Report

BLEND = "the blend"

_EXAMPLES = """  lorica ensemble a.csv b.csv c.csv --output blend.csv
  lorica ensemble test_a.csv test_b.csv --output blend.csv --submission row_id=id,rule_violation=score
  lorica ensemble a.csv b.csv --gold train.csv --within rule task=rules
  lorica ensemble runs/*/out_of_fold.csv --gold train.csv --within fold task=rules
  lorica ensemble a.csv b.csv --gold train.csv --method stack --save stack.json task=rules
  lorica ensemble test_a.csv test_b.csv --model stack.json --output blend.csv task=rules
  lorica ensemble scores/*.csv --gold train.csv task=rules config=working.yaml"""


@dataclass(frozen=True)
class FittedBlend:
    """The blend's answers, in the order of the rows, what they are worth, and what they were made of."""

    result: EnsembleResult
    answers: list[Answer]
    members: list[EnsembleMember]
    gold: GoldFile | None


@dataclass(frozen=True)
class _Plan:
    """What is blended: members in order, their weights (sum 1), over rows. groups: [n] names, within which ranks are
    taken; clusters: [n] what folds keep together. labels: [n] gold, where it is known and 0 or 1. columns: the scores
    [n] of each member; () for a vote, which asks for none."""

    members: tuple[EnsembleMember, ...]
    weights: tuple[float, ...]
    columns: tuple[Scores, ...]
    row_ids: list[str]
    method: str
    power: float
    groups: list[str] | None
    clusters: list[str] | None
    labels: list[int]

    @property
    def names(self) -> list[str]:
        return [member.name for member in self.members]

    def subset(self, kept: Sequence[int]) -> _Plan:
        """The plan with the members at these positions; their weights sum to 1 again. Raises DataError where all of
        them are 0."""
        total = sum(self.weights[index] for index in kept)
        if not total:
            names = [self.names[index] for index in kept]
            raise DataError(
                f"only members of weight 0 are left to blend: {listed(names, 5)}", path=names[0], fix="give it a weight"
            )
        return replace(
            self,
            members=tuple(self.members[index] for index in kept),
            weights=tuple(self.weights[index] / total for index in kept),
            columns=tuple(self.columns[index] for index in kept) if self.columns else (),
        )

    def answers(self) -> list[Answer]:
        """The blend's answers; those of a stack are cross-fitted. Raises DataError for scores that a power mean cannot
        take."""
        if self.method == "vote":
            return vote(self.members, self.weights, self.row_ids)
        if self.method == "stack":
            blended = cross_fitted(self.names, self.columns, self.labels, groups=self.clusters)
            return to_answers(self.row_ids, blended)
        for name, scores in zip(self.names, self.columns, strict=True):
            if self.method == "power" and scores.min() < 0:
                problem = f"a power mean takes scores from 0 on, and the lowest is {scores.min():g}"
                fix = "--method rank takes scores of any scale"
                raise DataError(problem, path=name, row_id=self.row_ids[int(scores.argmin())], fix=fix)
        blended = blend_scores(self.columns, self.weights, self.method, groups=self.groups, power=self.power)
        return to_answers(self.row_ids, blended)


def run(arguments: Sequence[str]) -> int:
    """Blend, measure, print and write."""
    options = _parse(arguments)
    resolved = resolve(options.overrides)
    inputs = {"answers": options.request.files, "gold": [options.gold], "model": [options.model]}
    with recorded_run(options.run, "ensemble", arguments, resolved, inputs) as run_log:
        blend = blend_files(resolved.config, options.request)
        result, answers = blend.result, blend.answers
        output = options.request.output
        written = {} if output is None else {"answers": output}
        if options.submission_columns:
            written["submission"] = write_submission_beside(output, options.submission_columns)
        reports = write_pages(lambda: _page(result, blend.gold, answers, blend.members), options.html, run_log)
        if run_log is not None:
            outputs = [run_file(role, path, rows=len(answers)) for role, path in written.items()]
            metrics = {f"{name}: {result.metric}": result.estimates[name] for name in result.estimates}
            run_log.write_metrics(metrics, main=f"{BLEND}: {result.metric}" if metrics else "")
            run_log.update(rows=len(answers), outputs=[*outputs, *reports])
        text = ensemble_text(result)
        if options.request.save is not None:
            text += f"\n\n{serving_text(result, options.request.save, options.overrides)}"
        emit(ensemble_dict(result), as_json=options.json, text=text)
    return 0


def blend_files(config: Config, request: BlendRequest) -> FittedBlend:
    """Blend, measure and write what was asked for. Raises UsageError for a request that contradicts itself, DataError
    for files that cannot be blended."""
    check_request(request)
    gold = None
    if request.gold is not None:
        allow = request.allow_training_rows
        # Folds stand in the answers, and may stand in a column.
        columns = [request.within or ""] if request.within != FOLD and request.rows is None else []
        gold = read_gold(config, request.gold, columns, allow_training_rows=allow)
    members, unlisted = listed_members(_read_members(config, request.files, gold), config)
    if request.model is not None:
        answers = _apply_model(request.model, members)
        result = EnsembleResult("model", tuple(member.name for member in members), (), unlisted, {})
    else:
        plan = _plan(request, config, members, gold)
        plan, degenerate = _without_degenerate(plan)
        _tell_copies(plan)
        answers = plan.answers()
        result = _measure(plan, answers, gold, unlisted | degenerate)
        if request.save is not None:
            save_blend(request.save, _fitted(plan))
    answers = _flagged(answers, [member for member in members if member.name in result.members], gold)
    if request.output is not None:
        write_answers(request.output, answers, csv_guard=config.inference.csv_guard)
        inform(f"{count_of(len(answers), 'row')} written to {request.output}")
    return FittedBlend(result, answers, members, gold)


def _flagged(answers: list[Answer], members: Sequence[EnsembleMember], gold: GoldFile | None) -> list[Answer]:
    """The blend's answers, flagged where a member's adapter was trained on the row's own label. With gold these rows
    were refused or allowed when it was read; without, they are told here."""
    trained_ids = {
        row_id: None
        for member in members
        for row_id in trained_row_ids(run_beside(Path(member.name)), member.answers.values())
    }
    if trained_ids and gold is None:
        warn(
            f"an adapter was trained on the own labels of {count_of(len(trained_ids), 'row')} "
            f"({listed(list(trained_ids), 3)}); their blended scores prove nothing, and are flagged"
        )
    return [with_flag(answer) if answer.id in trained_ids else answer for answer in answers]


def _page(
    result: EnsembleResult, gold: GoldFile | None, answers: Sequence[Answer], members: Sequence[EnsembleMember]
) -> tuple[Report, WriteTable | None]:
    inputs = [Path(member.name) for member in members]
    if gold is None:
        return ensemble_page(result, (), None, file_facts(inputs)), None
    by_best = sorted(result.members, key=lambda name: name != result.best)
    answers_of = {member.name: member.answers for member in members}
    judged_sets = {BLEND: _judge(gold, answers, BLEND)}
    judged_sets |= {name: gold.judge(answers_of[name], name) for name in by_best}
    files = evaluated_files(gold, judged_sets, {name: gold.evaluate(judged) for name, judged in judged_sets.items()})
    page = ensemble_page(result, files, gold.task, file_facts([*inputs, gold.path]))
    return page, partial(write_rows, files, gold.task)


def _read_members(config: Config, files: Sequence[Path], gold: GoldFile | None) -> list[EnsembleMember]:
    if gold is not None:
        return [EnsembleMember(str(path), gold.read_answers(path)) for path in files]
    names = id_names(config, build.build_task(config))
    return [
        EnsembleMember(str(path), {answer.id: answer for answer in read_answers(path, id_names=names)})
        for path in files
    ]


def _plan(request: BlendRequest, config: Config, members: Sequence[EnsembleMember], gold: GoldFile | None) -> _Plan:
    if gold is None:
        row_ids = check_alignment(members)
    else:
        row_ids = [row.id for row in gold.rows]
        for member in members:
            member.require(row_ids, str(gold.path), fix="blend files that answer the rows with gold")
    groups = rank_groups(config, request, gold, members, row_ids)
    weights = request.weights or [1 / len(request.files)] * len(request.files)
    weight_of_file = dict(zip(map(str, request.files), weights, strict=True))
    has_labels = gold is not None and {row.gold for row in gold.rows} <= {0, 1}
    return _Plan(
        tuple(members),
        tuple(weight_of_file[member.name] for member in members),
        () if request.method == "vote" else tuple(member.scores(row_ids) for member in members),
        row_ids,
        request.method,
        request.power,
        groups,
        bootstrap_clusters(gold.rows) if gold is not None else None,
        [int(row.gold) for row in gold.rows if isinstance(row.gold, int)] if gold is not None and has_labels else [],
    ).subset(range(len(members)))


def _without_degenerate(plan: _Plan) -> tuple[_Plan, dict[str, str]]:
    """The plan without the members that add nothing, and why of each. Raises DataError where none is left."""
    reason_of_each = (
        [vote_reasons(member, plan.row_ids) for member in plan.members]
        if plan.method == "vote"
        else [degenerate_reasons(scores) for scores in plan.columns]
    )
    reasons = {name: reason for name, reason in zip(plan.names, reason_of_each, strict=True) if reason}
    usable = [index for index, name in enumerate(plan.names) if name not in reasons]
    if not usable:
        name, reason = next(iter(reasons.items()))
        if plan.method == "vote":
            problem, fix = "answers that a vote could count", "--method rank or mean blends scores"
        else:
            problem, fix = "scores that a blend could use", "see `lorica check --scores FILE`"
        raise DataError(f"no file has {problem}: {reason}", path=name, fix=fix)
    return plan.subset(usable), reasons


def _tell_copies(plan: _Plan) -> None:
    """Warn of members with the very scores of an earlier one: whoever gave a file twice did not mean to."""
    first_with: dict[bytes, str] = {}
    for name, scores in zip(plan.names, plan.columns, strict=True) if plan.columns else ():
        earlier = first_with.setdefault(scores.tobytes(), name)
        if earlier != name:
            warn(f"{name} has the same scores as {earlier} in every row, and doubles its weight: leave one out")


def _measure(plan: _Plan, answers: Sequence[Answer], gold: GoldFile | None, left_out: dict[str, str]) -> EnsembleResult:
    """The blend beside its members, and what each adds."""
    correlations = tuple(map(tuple, rank_correlations(plan.columns).tolist())) if plan.columns else ()
    result = EnsembleResult(
        plan.method, tuple(plan.names), correlations, left_out, dict(zip(plan.names, plan.weights, strict=True))
    )
    if gold is None:
        return result
    blend = _judge(gold, answers, BLEND)
    judged_sets = {BLEND: blend} | {member.name: gold.judge(member.answers, member.name) for member in plan.members}
    metrics = [find_metric(name) for name in gold.task.metric_names]
    # The main one; of a vote, which gives answers and no scores, the first that takes answers.
    main_metric = next((metric for metric in metrics if plan.method != "vote" or not metric.takes_scores), metrics[0])
    estimates = {name: estimate_metric(main_metric, judged, seed=0) for name, judged in judged_sets.items()}
    best = max(plan.names, key=lambda name: estimates[name].value)

    def over(rival: Mapping[str, list[JudgedAnswer]]) -> PairComparison:
        return compare(gold.task, {BLEND: blend, **rival}, metric_name=main_metric.name).pairs[0]

    pairs = {}
    for index, name in enumerate(plan.names):
        others = [position for position in range(len(plan.members)) if position != index]
        if any(plan.weights[position] for position in others):
            smaller = plan.subset(others)
            reduced_name = f"without {name}"
            reduced = _judge(gold, smaller.answers(), reduced_name)
            pairs[name] = over({reduced_name: reduced})
    over_best = over({best: judged_sets[best]})
    return replace(
        result, metric=main_metric.name, estimates=estimates, best=best, over_best=over_best, over_without=pairs
    )


def _judge(gold: GoldFile, answers: Sequence[Answer], name: str) -> list[JudgedAnswer]:
    return gold.judge({answer.id: answer for answer in answers}, name)


def _fitted(plan: _Plan) -> CalibratedBlend | LogisticModel:
    """The model that serves rows to come, fitted on all rows with gold."""
    if plan.method == "stack":
        return fit_logistic(plan.names, plan.columns, plan.labels)
    return fit_calibrated(plan.names, plan.columns, plan.weights, plan.labels)


def _apply_model(model_file: Path, members: Sequence[EnsembleMember]) -> list[Answer]:
    model = load_blend(model_file)
    if len(members) != len(model.names):
        problem = f"it blends {len(model.names)} files ({', '.join(model.names)}), and {len(members)} are given"
        fix = "give the same members in the same order"
        raise DataError(problem, path=model_file, fix=fix)
    paths, fitted_paths = [Path(member.name) for member in members], list(map(Path, model.names))
    file_names, fitted_names = [path.name for path in paths], [path.name for path in fitted_paths]
    if _reordered(paths, fitted_paths) or _reordered(file_names, fitted_names):
        problem = f"it was fitted on {', '.join(model.names)}, in this order, and the files are given in another"
        fix = "give them in its order"
        raise DataError(problem, path=model_file, fix=fix)
    row_ids = check_alignment(members)
    return to_answers(row_ids, model.predict([member.probabilities(row_ids) for member in members]))


def _reordered(names: Sequence[Path | str], fitted_names: Sequence[Path | str]) -> bool:
    return names != fitted_names and Counter(names) == Counter(fitted_names)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = parser(
        "ensemble",
        "Blend files of answers to the same rows into one, aligned by id. With --gold: what each member is worth and\n"
        "adds, and whether the blend beats its best member by more than the choice of rows explains. Files whose\n"
        "scores are all alike are left out and named. docs/ensemble.md says which method is for what.",
        _EXAMPLES,
        overrides=False,
    )
    command.add_argument("words", nargs="*", metavar="FILE ... [key=value ...]", help="files of answers; task=...")
    add_request_options(command)
    add_submission_option(command)
    add_trained_option(command)
    add_html_option(command, beside="all rows")
    add_run_option(command)
    options = command.parse_args(list(arguments))
    files, options.overrides = split_words(options.words)
    values = {field.name: getattr(options, field.name) for field in fields(BlendRequest) if field.name != "files"}
    options.request = BlendRequest(files, **values)
    check_request(options.request)
    options.submission_columns = parse_submission(options.submission)
    if options.submission_columns:
        if options.request.output is None:
            raise UsageError("--submission is written beside the blend", fix="add --output blend.csv")
        request, path = options.request, submission_path(options.request.output)
        check_not_read({"--submission": path}, [*request.files, request.gold, request.rows])
        check_place(path)
    return options
