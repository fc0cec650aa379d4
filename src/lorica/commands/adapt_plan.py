"""What a run of `lorica adapt` is given: rows, labels, and the folder with what identifies the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lorica.adaptation.harvest import TextLabels
from lorica.commands import build
from lorica.commands.adapt_stages import STAGES
from lorica.commands.arguments import check_not_read, required
from lorica.commands.build_retrieval import index_digests
from lorica.commands.rows import open_rows, reading_log, tell
from lorica.commands.run_log import goes_on
from lorica.commands.trainers import check_trainable
from lorica.config.compose import Resolved
from lorica.config.decisive import answering_settings
from lorica.config.schema import Config
from lorica.data.digest import file_digest
from lorica.data.write import check_output
from lorica.errors import ConfigError, DataError
from lorica.names import visible_values
from lorica.records import Row
from lorica.tasks.base import Task
from lorica.version import __version__

# Sections whose values decide what is trained.
_DECISIVE = ("task", "lora", "training", "adapt", "tfidf", "centroids", "retrieval")
_COSMETIC = frozenset(
    {
        "training.resume",
        "training.logging_steps",
        "training.save_steps",
        "training.save_total_limit",
        "adapt.estimate",  # decides whether anything is trained, not what
    }
)


@dataclass(frozen=True)
class AdaptPlan:
    """rows: to answer. train_rows: with gold; none without `train`. canaries: rows of `adapt.canaries`; None without.
    inputs: (role, file, rows). manifest: all that decides the result, as text."""

    resolved: Resolved
    task: Task
    texts: TextLabels
    rows: list[Row]
    train_rows: list[Row]
    canaries: list[Row] | None
    folder: Path
    inputs: list[tuple[str, Path, int]]
    manifest: dict[str, str]


def make_plan(resolved: Resolved) -> AdaptPlan:
    """Read all files and check all settings before anything is computed. Raises ConfigError and DataError."""
    config = resolved.config
    input_path = required(config.input, "input", "test.csv")
    task = build.build_task(config)
    if task.row_examples is None or task.answer_type != "score":
        raise ConfigError(
            f"task={task.name} cannot adapt: its rows bring no labelled examples and are not answered by a score",
            fix="adapt is for task=rules",
        )
    check_trainable(config)
    _check_settings(config)
    files = {"rows": input_path}
    files |= {role: Path(path) for role, path in (("train", config.train), ("canaries", config.adapt.canaries)) if path}
    check_not_read({"output": Path(config.output) if config.output else None}, files.values())
    read_log = reading_log(config, unsaid=(task.row_examples.unused,))
    rows_of: dict[str, list[Row]] = {}
    for role, path in files.items():
        check: Callable[[Row], object] | None = None if role == "rows" else task.target
        rows_of[role] = list(open_rows(config, task, path, read_log=read_log, check_row=check))
        if not rows_of[role]:
            raise DataError("there are no rows", path=path, fix="name a file with rows")
    tell(read_log)
    canary_labels = {row.gold for row in rows_of.get("canaries", [])}
    if len(canary_labels) == 1:
        raise DataError(
            f"all canary rows have the label {canary_labels.pop()}: they could tell no fall of ROC-AUC",
            path=config.adapt.canaries,
            fix="give rows of both labels",
        )
    return AdaptPlan(
        resolved,
        task,
        TextLabels(task, task.row_examples),
        rows_of["rows"],
        rows_of.get("train", []),
        rows_of.get("canaries"),
        Path(config.run_dir) if config.run_dir else Path("runs") / f"adapt-{task.name}",
        [(role, path, len(rows_of[role])) for role, path in files.items()],
        _manifest(config, files),
    )


def _check_settings(config: Config) -> None:
    settings = config.adapt
    if config.data:
        raise ConfigError("data.* names training files of `lorica train`", fix="give the labelled rows as train=FILE")
    if config.adapters.dir or config.adapters.paths:
        raise ConfigError(
            "adapters.* names adapters, and adapt trains from the base on, whatever was trained before",
            fix="leave it out, and give the rows that the adapter was trained on as train=FILE",
        )
    if config.folds.wanted or config.training.per_subject:
        raise ConfigError(
            "one model is adapted, and these settings train one for each "
            + ("fold" if config.folds.wanted else "subject"),
            fix="leave folds and training.per_subject out",
        )
    if not settings.low < settings.high or not settings.low <= 0.5 <= settings.high:
        raise ConfigError(
            f"adapt.low={settings.low:g} and adapt.high={settings.high:g}; a score must not become both labels",
            fix="adapt.low at most 0.5, adapt.high at least 0.5, as in adapt.low=0.2 adapt.high=0.8",
        )
    if not settings.examples and not config.train:
        raise ConfigError("adapt.examples=false without train: there are no labels", fix="add train=FILE")
    if settings.estimate == "require" and not (settings.examples and config.train):
        raise ConfigError(
            "adapt.estimate=require needs rules to leave out, and examples to adapt from",
            fix="add train=FILE, and leave adapt.examples=true",
        )
    if settings.drill != "off" and not settings.rounds:
        raise ConfigError(
            f"adapt.drill={settings.drill} without rounds turns nothing around", fix="set adapt.rounds to 1 or more"
        )
    if config.output:
        check_output(config.output)


def _manifest(config: Config, files: dict[str, Path]) -> dict[str, str]:
    entries = {"lorica": __version__, "engine": config.engine.name, "base": build.base_folder(config).digest}
    entries |= answering_settings(config) | {role: file_digest(path) for role, path in files.items()}
    entries |= {f"index.{subject}": digest for subject, digest in index_digests(config.retrieval).items()}
    for section in _DECISIVE:
        entries |= {f"{section}.{key}": str(value) for key, value in asdict(getattr(config, section)).items()}
    if entries["adapt.estimate"] == "require":
        entries["adapt.estimate"] = "auto"  # the same trainings, unless the run ends there
    manifest: dict[str, str] = visible_values({key: value for key, value in entries.items() if key not in _COSMETIC})
    return manifest


def check_former(plan: AdaptPlan) -> bool:
    """Whether to go on with the run that is in the folder. Raises ResumeError where another one is there, or one that
    is not to be resumed."""
    return (plan.folder / STAGES).exists() and goes_on(
        plan.folder,
        "adapt",
        plan.manifest,
        resume=plan.resolved.config.training.resume,
        otherwise=f"name another run_dir, or delete {plan.folder}",
    )
