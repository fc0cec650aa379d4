"""What an adapter's folder says of its training: loss curve, validation, folds. Read into facts, then judged gently.

Sources, all optional: trainer_state.json (transformers' Trainer), training.json (Lorica), *_results.json, the config.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.registry import TRAINING_RECORD
from lorica.vetting.claims.json_values import as_mapping, as_real
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import figure, shown

STATE = "trainer_state.json"
_RESULTS = ("all_results.json", "train_results.json", "eval_results.json")
_MAX_POINTS = 200
_MIN_POINTS = 6
# A mean lies lower from this share of itself on.
_MATERIAL = 0.01
# So many standard errors above the rest are no accident for any of the beginnings that are tried.
_SURE = 4.0
# So many of the first points tell one training from another.
_BEGINNING = 8
_MAX_LOGS = 1_000_000
_FOLD = re.compile(r"(?:^|[^a-z])fold[-_ ]?(\d{1,3})(?:[-_ ]?of[-_ ]?(\d{1,3}))?(?!\d)")
# A checkpoint that `lorica train` leaves.
_STEP = re.compile(r"step-(\d{1,9})")

Point = tuple[int, float]


class TrainingEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a training; None or empty where nothing says so. Losses in nats per token.

    sources: files that were read. losses, eval_losses: (step, loss) in their order, at most 200 points; first, last and
    lowest are of all points, as is fell: whether the loss came down from where it began. beginning: the first 8 of
    losses. strange: logged losses or gradient norms that were NaN or infinite. rate, seed, dropout: settings. held_out:
    whether rows were kept for validation. metrics: what was last measured on validation, by name. base_loss,
    trained_loss: without and with the adapter on held-out rows. finished: whether the training came to its end. fold,
    folds: of a cross-validation, by the folder's name or the record. card: README.md is there.
    """

    sources: tuple[str, ...] = ()
    losses: tuple[Point, ...] = ()
    loss_first: float | None = None
    loss_last: float | None = None
    loss_lowest: float | None = None
    fell: bool | None = None
    beginning: tuple[Point, ...] = ()
    eval_losses: tuple[Point, ...] = ()
    eval_last: float | None = None
    eval_lowest: float | None = None
    eval_lowest_step: int | None = None
    strange: int = 0
    metrics: dict[str, float] = {}
    best_metric: float | None = None
    best_checkpoint: str = ""
    steps: int | None = None
    max_steps: int | None = None
    epochs: float | None = None
    rate: float | None = None
    seed: int | None = None
    dropout: float | None = None
    held_out: bool | None = None
    held_out_rows: int | None = None
    training_rows: int | None = None
    base_loss: float | None = None
    trained_loss: float | None = None
    finished: bool | None = None
    fold: int | None = None
    folds: int | None = None
    card: bool = False


def training_evidence(adapter: RawAdapter) -> TrainingEvidence:
    """Everything the documents beside an adapter say of its training. Never raises for what is in them."""
    evidence: dict[str, Any] = {"card": bool(adapter.card.strip())}
    sources = []
    if adapter.config is not None:
        evidence["dropout"] = float(adapter.config.lora_dropout)
    fold_match = _FOLD.search(adapter.name.lower()) or _FOLD.search(str(adapter.given).lower())
    if fold_match:
        evidence |= {"fold": int(fold_match[1]), "folds": int(fold_match[2]) if fold_match[2] else None}
    readers = {STATE: _state, TRAINING_RECORD: _record} | dict.fromkeys(_RESULTS, _results)
    for document_name, read_document in readers.items():
        document = adapter.documents.get(document_name)
        if isinstance(document, Mapping):
            facts = {fact: value for fact, value in read_document(document).items() if value is not None}
            evidence |= {fact: value for fact, value in facts.items() if evidence.get(fact) in (None, (), {})}
            sources.append(document_name)
    step_match = _STEP.fullmatch(adapter.folder.name)
    if step_match:
        evidence = _as_of_step(evidence, int(step_match[1]))
    return TrainingEvidence(sources=tuple(sources), **evidence)


def _as_of_step(facts: dict[str, Any], checkpoint_step: int) -> dict[str, Any]:
    """What a run's record says of a checkpoint in its midst: of what came later it knows nothing."""
    total_steps = facts.get("steps")
    if not total_steps or checkpoint_step >= total_steps:
        return facts
    later_facts = ("loss_last", "trained_loss", "eval_last", "finished")
    earlier = {fact: value for fact, value in facts.items() if fact not in later_facts} | {"steps": checkpoint_step}
    if total_epochs := facts.get("epochs"):
        earlier["epochs"] = total_epochs * checkpoint_step / total_steps
    return earlier


def _state(state: Mapping[str, Any]) -> dict[str, Any]:
    """trainer_state.json of transformers."""
    log_history = state.get("log_history")
    logged = log_history[:_MAX_LOGS] if isinstance(log_history, list) else []
    entries = [entry for entry in logged if isinstance(entry, Mapping)]
    train_curve, strange = _curve(entries, "loss")
    eval_points, eval_strange = _curve(entries, "eval_loss")
    gradient_norms = [entry["grad_norm"] for entry in entries if isinstance(entry.get("grad_norm"), float)]
    evaluations = (entry for entry in reversed(entries) if any(metric.startswith("eval_") for metric in entry))
    metrics = _evaluated(dict(_numbers(next(evaluations, {}))))
    global_step, max_steps = _as_integer(state.get("global_step")), _as_integer(state.get("max_steps"))
    best_checkpoint = state.get("best_model_checkpoint")
    learning_rates = [value for entry in entries for metric, value in _numbers(entry) if metric == "learning_rate"]
    return {
        **_losses(train_curve, eval_points),
        "strange": strange + eval_strange + sum(not math.isfinite(gradient_norm) for gradient_norm in gradient_norms),
        "metrics": {name: value for name, value in metrics.items() if not name.endswith(("per_second", "runtime"))},
        "best_metric": as_real(state.get("best_metric")),
        "best_checkpoint": shown(best_checkpoint, 200) if isinstance(best_checkpoint, str) else "",
        "steps": global_step,
        "max_steps": max_steps,
        "epochs": as_real(state.get("epoch")),
        "rate": max(learning_rates, default=None),
        "held_out": bool(eval_points) or bool(metrics) if entries else None,
        "finished": None if global_step is None or not max_steps or max_steps < 0 else global_step >= max_steps,
    }


def _curve(entries: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[Point], int]:
    """Finite (step, loss) points, and how many were not finite."""
    points, strange = [], 0
    for number, entry in enumerate(entries):
        value = entry.get(metric)
        if isinstance(value, str) and value.lower() in ("nan", "inf", "-inf", "infinity", "-infinity"):
            value = math.nan  # some writers of strict JSON quote them
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            strange += 1
            continue
        step = _as_integer(entry.get("step"))
        points.append((number if step is None else step, float(value)))
    return points, strange


def _losses(train_points: Sequence[Point], eval_points: Sequence[Point]) -> dict[str, Any]:
    values = [loss for _, loss in train_points]
    lowest = min(eval_points, key=lambda point: point[1], default=None)
    return {
        "losses": _thin(train_points),
        "loss_first": values[0] if values else None,
        "loss_last": values[-1] if values else None,
        "loss_lowest": min(values, default=None),
        "fell": _has_fallen(train_points),
        "beginning": tuple(train_points[:_BEGINNING]),
        "eval_losses": _thin(eval_points),
        "eval_last": eval_points[-1][1] if eval_points else None,
        "eval_lowest": lowest[1] if lowest else None,
        "eval_lowest_step": lowest[0] if lowest else None,
    }


def _thirds(values: Sequence[float]) -> tuple[float, float, float]:
    """The means of a curve's beginning, middle and end. At least three values."""
    third_length = len(values) // 3
    first, middle, last = values[:third_length], values[third_length:-third_length], values[-third_length:]
    return statistics.fmean(first), statistics.fmean(middle), statistics.fmean(last)


def _has_fallen(points: Sequence[tuple[int, float]]) -> bool | None:
    """Whether a curve of (step, loss) lies lower than where it began. None where that cannot be told: fewer than
    _MIN_POINTS points, or a log that begins in the middle of a training.

    Either its thirds fall, or what it begins with (1, 2, 4, ... values) stands clear of the noise of the rest.
    """
    values = [loss for _, loss in points]
    if len(values) < _MIN_POINTS or _begins_late([step for step, _ in points]):
        return None
    first_third, middle_third, last_third = _thirds(values)
    if min(middle_third, last_third) < first_third * (1 - _MATERIAL):
        return True
    later_losses = values[len(values) // 3 :]
    later_mean, later_deviation = statistics.fmean(later_losses), statistics.pstdev(later_losses)
    point_count = 1
    while point_count <= len(values) // 3:
        start_excess = math.fsum(values[:point_count]) / point_count - later_mean
        if start_excess > max(_MATERIAL * later_mean, _SURE * later_deviation / math.sqrt(point_count)):
            return True
        point_count *= 2
    return False


def _begins_late(steps: Sequence[int]) -> bool:
    """Whether several entries are missing before the first: a resumed training whose older log was not kept."""
    step_gaps = sorted(later - earlier for earlier, later in pairwise(steps) if later > earlier)
    return bool(step_gaps) and steps[0] > 1 + 3 * step_gaps[len(step_gaps) // 2]


def _thin(points: Sequence[Point]) -> tuple[Point, ...]:
    if len(points) <= _MAX_POINTS:
        return tuple(points)
    return tuple(points[round(index * (len(points) - 1) / (_MAX_POINTS - 1))] for index in range(_MAX_POINTS))


def _record(record: Mapping[str, Any]) -> dict[str, Any]:
    """training.json of Lorica."""
    result, row_counts = as_mapping(record.get("result")), as_mapping(record.get("rows"))
    manifest = as_mapping(record.get("manifest"))
    held_out_rows = _as_integer(row_counts.get("held_out"))
    return {
        "steps": _as_integer(result.get("steps")),
        "loss_last": as_real(result.get("train_loss")),
        "eval_lowest": as_real(result.get("eval_loss")),
        "eval_lowest_step": _as_integer(result.get("best_step")),
        "base_loss": as_real(result.get("base_loss")),
        "trained_loss": as_real(result.get("trained_loss")),
        "epochs": _setting(manifest, "training.epochs"),
        "rate": _setting(manifest, "training.learning_rate"),
        "seed": _as_integer(_setting(manifest, "training.seed")),
        "dropout": _setting(manifest, "lora.lora_dropout"),
        "fold": _as_integer(_setting(manifest, "fold")) or _as_integer(record.get("fold")),
        "folds": _as_integer(_setting(manifest, "folds")) or _as_integer(record.get("folds")),
        "held_out": None if held_out_rows is None else held_out_rows > 0,
        "held_out_rows": held_out_rows,
        "training_rows": _as_integer(row_counts.get("training")),
        "finished": record.get("status") == "finished" if "status" in record else None,
    }


def _results(results: Mapping[str, Any]) -> dict[str, Any]:
    """all_results.json and its kin, of transformers."""
    numbers = dict(_numbers(results))
    return {
        "loss_last": numbers.get("train_loss"),
        "eval_last": numbers.get("eval_loss"),
        "epochs": numbers.get("epoch"),
        "training_rows": _as_integer(numbers.get("train_samples")),
        "held_out_rows": _as_integer(numbers.get("eval_samples")),
        "metrics": _evaluated(numbers),
        "held_out": True if "eval_loss" in numbers else None,
    }


def _evaluated(numbers: Mapping[str, float]) -> dict[str, float]:
    return {metric[5:85]: value for metric, value in numbers.items() if metric.startswith("eval_")}


def _numbers(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for metric, value in entry.items():
        number = as_real(value)
        if number is not None:
            yield metric, number


def _setting(manifest: Mapping[str, Any], setting: str) -> float | None:
    """A number of a manifest, whose values are JSON texts."""
    setting_value = manifest.get(setting)
    if isinstance(setting_value, str) and len(setting_value) <= 64:
        try:
            return as_real(float(setting_value))
        except ValueError:
            return None
    return as_real(setting_value)


def _as_integer(json_value: object) -> int | None:
    number = as_real(json_value)
    return int(number) if number is not None and number == int(number) and abs(number) < 2**53 else None


def check_evidence(adapter: RawAdapter, evidence: TrainingEvidence) -> list[Finding]:
    """Findings L170-L179 about how the training went."""
    findings = []
    source_file = next(iter(evidence.sources), "")
    if evidence.strange:
        actual = f"{evidence.strange} logged losses or gradient norms are NaN or infinite"
        facts = {"strange": evidence.strange}
        findings.append(finding("L170", actual, expected="finite ones", file=source_file, facts=facts))
    findings += _fall(evidence, source_file) + _validation(evidence, source_file)
    if evidence.steps == 0:
        findings.append(finding("L177", "0 steps", file=source_file))
    elif evidence.finished is False:
        total_text = f" of {evidence.max_steps}" if evidence.max_steps else ""
        findings.append(finding("L175", f"{evidence.steps or 'unknown'}{total_text} steps", file=source_file))
    for step_label, own_step, best_step in _own_and_best_step(adapter.folder.name, evidence):
        actual = f"this is {step_label}{own_step}, the best one by validation is {step_label}{best_step}"
        findings.append(finding("L174", actual, file=source_file, facts={"best": best_step, "here": own_step}))
    return findings


def _own_and_best_step(folder_name: str, evidence: TrainingEvidence) -> Iterator[tuple[str, int, int]]:
    """(what its trainer calls steps, the checkpoint's own, the best one by validation) where these differ."""
    best_match = re.search(r"checkpoint-(\d+)$", evidence.best_checkpoint.replace("\\", "/").rstrip("/"))
    own_match = re.fullmatch(r"checkpoint-(\d+)", folder_name)
    if best_match and own_match and best_match[1] != own_match[1]:
        yield "checkpoint-", int(own_match[1]), int(best_match[1])
    own_step, best_step = _STEP.fullmatch(folder_name), evidence.eval_lowest_step
    if own_step and best_step not in (None, int(own_step[1])):
        yield "step ", int(own_step[1]), best_step


def _fall(evidence: TrainingEvidence, source_file: str) -> list[Finding]:
    """Did the loss rise, or never fall? Its rise is compared in thirds, as single steps are noisy."""
    values = [loss for _, loss in evidence.losses]
    if len(values) < _MIN_POINTS:
        return []
    first_third, middle_third, last_third = _thirds(values)
    facts = {"first": first_third, "middle": middle_third, "last": last_third, "points": len(values)}
    lowest = min(first_third, middle_third)
    actual = f"mean loss {figure(first_third)} in the first third, "
    actual += f"{figure(middle_third)} and {figure(last_third)} in the others"
    if last_third > 1.2 * lowest and last_third - lowest > 0.05:
        return [finding("L172", actual, file=source_file, facts=facts)]
    if evidence.fell is False and first_third > 0.05:
        actual += f"; it began at {figure(values[0])}"
        return [finding("L171", actual, file=source_file, facts=facts)]
    return []


def _validation(evidence: TrainingEvidence, source_file: str) -> list[Finding]:
    findings = []
    last_loss, lowest_loss = evidence.eval_last, evidence.eval_lowest if len(evidence.eval_losses) >= 3 else None
    if last_loss is not None and lowest_loss is not None and last_loss > 1.1 * lowest_loss + 0.02:
        lowest_text = f"{figure(lowest_loss)} at step {evidence.eval_lowest_step}"
        actual = f"validation loss {figure(last_loss)} at the end, {lowest_text}"
        findings.append(finding("L173", actual, file=source_file, facts={"last": last_loss, "lowest": lowest_loss}))
    base_loss, trained_loss = evidence.base_loss, evidence.trained_loss
    if base_loss is not None and trained_loss is not None and trained_loss >= base_loss:
        actual = f"loss {figure(trained_loss)} with the adapter, {figure(base_loss)} without it, on held-out rows"
        findings.append(finding("L179", actual, file=source_file, facts={"base": base_loss, "own": trained_loss}))
    if evidence.held_out is False:
        findings.append(finding("L176", "no row was held out for validation", file=source_file))
    return findings
