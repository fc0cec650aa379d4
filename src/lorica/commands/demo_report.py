"""What `lorica demo` shows: the same figures as a page, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lorica.commands.demo_tasks import DemoTask
from lorica.commands.eval_report import evaluation_dict, metric_title
from lorica.commands.experiment import ADAPTER, Outcome
from lorica.pipeline.evaluate import Evaluation
from lorica.reports.page import Cell, IntervalPlot, IntervalPoint, Line, LineChart, Report, ReportTable, Section
from lorica.reports.text_table import plain_table

Outcomes = Mapping[DemoTask, Outcome]

# What guessing gives, where a metric has such a value.
_CHANCE = {"roc_auc": 0.5}


def demo_report(outcomes: Outcomes, seconds: float) -> Report:
    """The page: a summary table, then a section per task."""
    return Report(
        title="Lorica demo",
        summary=(
            "LoRA adapters trained on the shipped examples, looked at, routed to, and scored on rows they never saw, "
            f"in {seconds:.0f} seconds. Brackets are 95% bootstrap intervals."
        ),
        sections=(
            Section("All results", tables=(_results(outcomes),)),
            *(_section(demo, outcome) for demo, outcome in outcomes.items()),
        ),
        footer="The base model is tiny on purpose: the demo shows the work, not the state of the art.",
    )


def demo_text(outcomes: Outcomes) -> str:
    """Results and how they came about, for a terminal."""
    return f"{plain_table(_results(outcomes))}\n\n{plain_table(_ways(outcomes))}"


def demo_dict(outcomes: Outcomes, seconds: float) -> dict[str, Any]:
    """The figures for a program."""
    return {
        "seconds": seconds,
        "tasks": {
            demo.name: {
                "train_rows": len(outcome.train),
                "systems": {
                    system_name: evaluation_dict(evaluation) for system_name, evaluation in outcome.systems.items()
                },
                "gain": outcome.gain,
                "rows_per_second": outcome.rows_per_second,
                "routes": outcome.routes,
                "adapters": outcome.trained,
                "checks": outcome.checks,
            }
            for demo, outcome in outcomes.items()
        },
    }


def _results(outcomes: Outcomes) -> ReportTable:
    table_rows: list[tuple[Cell, ...]] = []
    system_names = tuple(next(iter(outcomes.values())).systems)
    for demo, outcome in outcomes.items():
        for metric_name in outcome.systems[ADAPTER].metrics:
            estimates = [outcome.systems[system_name].metrics[metric_name] for system_name in system_names]
            column_title = metric_title(outcome.systems[ADAPTER], metric_name)
            table_rows.append((demo.name, column_title, *map(str, estimates), estimates[0].n))
    return ReportTable(("task", "metric", *system_names, "n"), tuple(table_rows))


def _ways(outcomes: Outcomes) -> ReportTable:
    rows = tuple(
        (
            demo.name,
            f"{outcome.gain.value:+.3f} [{outcome.gain.low:+.3f}, {outcome.gain.high:+.3f}]",
            f"{outcome.rows_per_second:.0f}",
            ", ".join(f"{adapter_name} {row_count}" for adapter_name, row_count in outcome.routes.items()),
            _counts(outcome.systems[ADAPTER]),
        )
        for demo, outcome in outcomes.items()
    )
    return ReportTable(("task", "adapter - base", "rows/s", "rows by adapter", "rows by parse stage and flag"), rows)


def _section(demo: DemoTask, outcome: Outcome) -> Section:
    main_metric = next(iter(outcome.systems[ADAPTER].metrics))
    gain = outcome.gain
    return Section(
        heading=f"{demo.name}: {demo.question}",
        text=(
            f"{len(outcome.train)} rows to train on, {gain.n} to test. The adapter changes {main_metric} by "
            f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over the base model on the same rows. "
            f"{outcome.rows_per_second:.0f} rows per second."
        ),
        tables=(_adapters(outcome), _stages(outcome), _samples(outcome)),
        charts=(
            IntervalPlot(
                title=metric_title(outcome.systems[ADAPTER], main_metric),
                points=tuple(
                    IntervalPoint(
                        system_name,
                        evaluation.metrics[main_metric].value,
                        evaluation.metrics[main_metric].low,
                        evaluation.metrics[main_metric].high,
                    )
                    for system_name, evaluation in outcome.systems.items()
                ),
                reference=_CHANCE.get(main_metric),
                reference_label="chance",
            ),
            _losses(outcome),
        ),
        notes=tuple(
            f"{system_name}: {check.question} {'yes' if check.passed else 'NO'} ({check.figures})"
            for system_name, checks in outcome.checks.items()
            for check in checks
        ),
    )


def _adapters(outcome: Outcome) -> ReportTable:
    table_rows = tuple(
        (
            adapter_name,
            train_result.steps,
            train_result.base_loss,
            train_result.trained_loss,
            train_result.tokens,
            train_result.seconds,
            outcome.routes[adapter_name],
        )
        for adapter_name, train_result in outcome.trained.items()
    )
    columns = ("adapter", "updates", "loss before", "loss after", "tokens", "seconds", "rows routed to it")
    return ReportTable(columns, table_rows, caption="Adapters (loss in nats per answer token on validation rows)")


def _stages(outcome: Outcome) -> ReportTable:
    rows = tuple((system_name, _counts(evaluation)) for system_name, evaluation in outcome.systems.items())
    return ReportTable(("system", "rows by parse stage and flag"), rows)


def _counts(evaluation: Evaluation) -> str:
    return ", ".join(
        f"{stage_or_flag} {count}" for stage_or_flag, count in sorted({**evaluation.stages, **evaluation.flags}.items())
    )


def _samples(outcome: Outcome) -> ReportTable:
    answered_rows = [(row, outcome.answers[ADAPTER][row.id]) for row in outcome.held[:8]]
    rows = tuple(
        (row.id, outcome.texts[row.id], outcome.gold[row.id], answer.answer, answer.score, answer.adapter)
        for row, answer in answered_rows
    )
    return ReportTable(("row", "text", "gold", "answer", "score", "adapter"), rows, caption="The first test rows")


def _losses(outcome: Outcome) -> LineChart:
    chart_lines = []
    for adapter_name, train_result in outcome.trained.items():
        entries = [json.loads(line) for line in (train_result.folder / "log.jsonl").read_text("utf-8").splitlines()]
        loss_points = tuple((float(entry["step"]), float(entry["loss"])) for entry in entries if "loss" in entry)
        chart_lines.append(Line(adapter_name, loss_points))
    return LineChart("Training loss", tuple(chart_lines), x_label="update", y_label="nats per answer token")
