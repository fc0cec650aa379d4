"""What an adapter's folder says of its training: loss curve, validation, folds. Read into facts, then judged gently.

Sources, all optional: trainer_state.json (transformers' Trainer), training.json (Lorica), *_results.json, the config.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from lorica.adapters.raw_adapter import RawAdapter
from lorica.vetting.claims.curves import MIN_POINTS, has_fallen, thirds
from lorica.vetting.claims.json_values import as_mapping, as_real
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import figure, shown

STATE = "trainer_state.json"
RECORD = "training.json"
_RESULTS = ("all_results.json", "train_results.json", "eval_results.json")
_MAX_POINTS = 200
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
    fold = _FOLD.search(adapter.name.lower()) or _FOLD.search(str(adapter.given).lower())
    if fold:
        evidence |= {"fold": int(fold[1]), "folds": int(fold[2]) if fold[2] else None}
    for document_name, read in ((STATE, _state), (RECORD, _record), *((file_name, _results) for file_name in _RESULTS)):
        document = adapter.documents.get(document_name)
        if isinstance(document, Mapping):
            facts = {key: value for key, value in read(document).items() if value is not None}
            evidence |= {key: value for key, value in facts.items() if evidence.get(key) in (None, (), {})}
            sources.append(document_name)
    step = _STEP.fullmatch(adapter.folder.name)
    if step:
        evidence = _as_of_step(evidence, int(step[1]))
    return TrainingEvidence(sources=tuple(sources), **evidence)


def _as_of_step(facts: dict[str, Any], step: int) -> dict[str, Any]:
    """What a run's record says of a checkpoint in its midst: of what came later it knows nothing."""
    steps, epochs = facts.get("steps"), facts.get("epochs")
    if not steps or step >= steps:
        return facts
    later = ("loss_last", "trained_loss", "eval_last", "finished")
    earlier = {key: value for key, value in facts.items() if key not in later}
    return {**earlier, "steps": step, **({"epochs": epochs * step / steps} if epochs else {})}


def _state(state: Mapping[str, Any]) -> dict[str, Any]:
    """trainer_state.json of transformers."""
    logs = state.get("log_history")
    entries = [entry for entry in logs[:_MAX_LOGS] if isinstance(entry, Mapping)] if isinstance(logs, list) else []
    train, strange = _curve(entries, "loss")
    eval_points, eval_strange = _curve(entries, "eval_loss")
    norms = [entry["grad_norm"] for entry in entries if isinstance(entry.get("grad_norm"), float)]
    last = next((entry for entry in reversed(entries) if any(key.startswith("eval_") for key in entry)), {})
    metrics = {str(key)[5:85]: value for key, value in _numbers(last) if key.startswith("eval_")}
    steps, max_steps = _as_integer(state.get("global_step")), _as_integer(state.get("max_steps"))
    rates = [value for entry in entries for key, value in _numbers(entry) if key == "learning_rate"]
    return {
        **_losses(train, eval_points),
        "strange": strange + eval_strange + sum(not math.isfinite(norm) for norm in norms),
        "metrics": {key: value for key, value in metrics.items() if not key.endswith(("per_second", "runtime"))},
        "best_metric": as_real(state.get("best_metric")),
        "best_checkpoint": _shown_text(state.get("best_model_checkpoint")),
        "steps": steps,
        "max_steps": max_steps,
        "epochs": as_real(state.get("epoch")),
        "rate": max(rates, default=None),
        "held_out": bool(eval_points) or bool(metrics) if entries else None,
        "finished": None if steps is None or not max_steps or max_steps < 0 else steps >= max_steps,
    }


def _curve(entries: Sequence[Mapping[str, Any]], key: str) -> tuple[list[Point], int]:
    """Finite (step, loss) points, and how many were not finite."""
    points, strange = [], 0
    for number, entry in enumerate(entries):
        value = entry.get(key)
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


def _losses(train: Sequence[Point], eval_points: Sequence[Point]) -> dict[str, Any]:
    values = [loss for _, loss in train]
    lowest = min(eval_points, key=lambda point: point[1], default=None)
    return {
        "losses": _thin(train),
        "loss_first": values[0] if values else None,
        "loss_last": values[-1] if values else None,
        "loss_lowest": min(values, default=None),
        "fell": has_fallen(train),
        "beginning": tuple(train[:_BEGINNING]),
        "eval_losses": _thin(eval_points),
        "eval_last": eval_points[-1][1] if eval_points else None,
        "eval_lowest": lowest[1] if lowest else None,
        "eval_lowest_step": lowest[0] if lowest else None,
    }


def _thin(points: Sequence[Point]) -> tuple[Point, ...]:
    if len(points) <= _MAX_POINTS:
        return tuple(points)
    return tuple(points[round(i * (len(points) - 1) / (_MAX_POINTS - 1))] for i in range(_MAX_POINTS))


def _record(record: Mapping[str, Any]) -> dict[str, Any]:
    """training.json of Lorica."""
    result, rows = as_mapping(record.get("result")), as_mapping(record.get("rows"))
    manifest = as_mapping(record.get("manifest"))
    held_out_rows = _as_integer(rows.get("held_out"))
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
        "training_rows": _as_integer(rows.get("training")),
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
        "metrics": {key[5:85]: value for key, value in numbers.items() if key.startswith("eval_")},
        "held_out": True if "eval_loss" in numbers else None,
    }


def _numbers(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in entry.items():
        number = as_real(value)
        if number is not None:
            yield key, number


def _setting(manifest: Mapping[str, Any], key: str) -> float | None:
    """A number of a manifest, whose values are JSON texts."""
    value = manifest.get(key)
    if isinstance(value, str) and len(value) <= 64:
        try:
            return as_real(float(value))
        except ValueError:
            return None
    return as_real(value)


def _as_integer(value: object) -> int | None:
    number = as_real(value)
    return int(number) if number is not None and number == int(number) and abs(number) < 2**53 else None


def _shown_text(value: object) -> str:
    return shown(value, 200) if isinstance(value, str) else ""


def check_evidence(adapter: RawAdapter, evidence: TrainingEvidence) -> list[Finding]:
    """Findings L170-L179 about how the training went."""
    findings = []
    file = next(iter(evidence.sources), "")
    if evidence.strange:
        actual = f"{evidence.strange} logged losses or gradient norms are NaN or infinite"
        findings.append(finding("L170", actual, expected="finite ones", file=file, facts={"strange": evidence.strange}))
    findings += _fall(evidence, file) + _validation(evidence, file)
    if evidence.steps == 0:
        findings.append(finding("L177", "0 steps", expected="a training that took steps", file=file))
    elif evidence.finished is False:
        of = f" of {evidence.max_steps}" if evidence.max_steps else ""
        findings.append(finding("L175", f"{evidence.steps or 'unknown'}{of} steps", file=file))
    for label, own, best in _own_and_best_step(adapter.folder.name, evidence):
        actual = f"this is {label}{own}, the best one by validation is {label}{best}"
        findings.append(finding("L174", actual, file=file, facts={"best": best, "here": own}))
    return findings


def _own_and_best_step(folder_name: str, evidence: TrainingEvidence) -> Iterator[tuple[str, int, int]]:
    """(what its trainer calls steps, the checkpoint's own, the best one by validation) where these differ."""
    best = re.search(r"checkpoint-(\d+)$", evidence.best_checkpoint.replace("\\", "/").rstrip("/"))
    checkpoint = re.fullmatch(r"checkpoint-(\d+)", folder_name)
    if best and checkpoint and best[1] != checkpoint[1]:
        yield "checkpoint-", int(checkpoint[1]), int(best[1])
    own_step, best_step = _STEP.fullmatch(folder_name), evidence.eval_lowest_step
    if own_step and best_step not in (None, int(own_step[1])):
        yield "step ", int(own_step[1]), best_step


def _fall(evidence: TrainingEvidence, file: str) -> list[Finding]:
    """Did the loss rise, or never fall? Its rise is compared in thirds, as single steps are noisy."""
    values = [loss for _, loss in evidence.losses]
    if len(values) < MIN_POINTS:
        return []
    first, middle, last = thirds(values)
    facts = {"first": first, "middle": middle, "last": last, "points": len(values)}
    actual = f"mean loss {figure(first)} in the first third, {figure(middle)} and {figure(last)} in the others"
    if last > 1.2 * min(first, middle) and last - min(first, middle) > 0.05:
        return [finding("L172", actual, expected="a loss that falls", file=file, facts=facts)]
    if evidence.fell is False and first > 0.05:
        actual += f"; it began at {figure(values[0])}"
        return [finding("L171", actual, expected="a loss that falls", file=file, facts=facts)]
    return []


def _validation(evidence: TrainingEvidence, file: str) -> list[Finding]:
    findings = []
    last, lowest = evidence.eval_last, evidence.eval_lowest
    if last is not None and lowest is not None and len(evidence.eval_losses) >= 3 and last > 1.1 * lowest + 0.02:
        actual = f"validation loss {figure(last)} at the end, {figure(lowest)} at step {evidence.eval_lowest_step}"
        findings.append(finding("L173", actual, file=file, facts={"last": last, "lowest": lowest}))
    if evidence.base_loss is not None and evidence.trained_loss is not None:
        base, trained = evidence.base_loss, evidence.trained_loss
        if trained >= base:
            actual = f"loss {figure(trained)} with the adapter, {figure(base)} without it, on held-out rows"
            facts = {"base": base, "own": trained}
            findings.append(finding("L179", actual, expected="a lower loss with it", file=file, facts=facts))
    if evidence.held_out is False:
        findings.append(finding("L176", "no row was held out for validation", file=file))
    return findings
