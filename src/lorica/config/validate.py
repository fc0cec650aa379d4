"""Contradictions: values that are each allowed and cannot stand together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorica.config.parse_values import show
from lorica.config.schema import Config
from lorica.engine_table import ENGINES, SEGMENTS
from lorica.errors import ConfigError
from lorica.names import spellings
from lorica.precision import precision_of
from lorica.tasks import TASKS, load_task
from lorica.tasks.base import Task

_ANSWERS = {
    "score": "the probability of one of two labels",
    "option": "one of several options",
    "text": "written text",
}


@dataclass(frozen=True)
class _Facts:
    configuration: Config
    origins: Mapping[str, str]

    def __getitem__(self, config_key: str) -> str:
        """`key=value (origin)`, as messages name a value."""
        config_value: Any = self.configuration
        for segment in config_key.split("."):
            config_value = getattr(config_value, segment)
        value_text = str(config_value).lower() if isinstance(config_value, bool) else config_value
        origin = self.origins.get(config_key, "")
        return f"{config_key}={value_text}" + (f" ({origin})" if origin else "")


def check(config: Config, origins: Mapping[str, str]) -> None:
    """Raises ConfigError for the first contradiction, naming both values and where they came from."""
    facts = _Facts(config, origins)
    _check_task(config, facts)
    _check_model(config, facts)
    _check_training(config, facts)
    _check_folds(config, facts)
    _check_inference(config, facts)
    _check_spellings("data", config.data)
    _check_spellings("adapters.paths", config.adapters.paths)
    _check_spellings("retrieval.enabled", config.retrieval.enabled)


def _check_task(config: Config, facts: _Facts) -> None:
    task = config.task
    loaded_task = load_task(task.name)
    if task.method not in loaded_task.methods:
        raise ConfigError(
            f"{facts['task.method']} is not a method of {facts['task.name']}; it has {', '.join(loaded_task.methods)}",
            fix=f"task={task.name} chooses the method that fits",
        )
    _check_engine(config, loaded_task, facts)
    style_names = ", ".join(filter(None, loaded_task.styles))
    if not task.style and "" not in loaded_task.styles:
        raise ConfigError(
            f"task.style is empty; {task.name} needs one of {style_names}", fix=f"task.style={loaded_task.styles[0]}"
        )
    if task.style not in loaded_task.styles:
        owners = [task_name for task_name in TASKS if task.style in load_task(task_name).styles]
        raise ConfigError(
            f"{facts['task.style']} is a style of {' and '.join(owners)}; {facts['task.name']} has "
            f"{style_names or 'none'}",
            fix=f"leave task.style out, and choose the task with task={task.name}",
        )
    shared_labels = {label.casefold() for label in task.positive_labels} & {
        label.casefold() for label in task.negative_labels
    }
    if shared_labels:
        raise ConfigError(
            f"{min(shared_labels)!r} is in both {facts['task.positive_labels']} and {facts['task.negative_labels']}",
            fix="each label means one thing",
        )
    doubly_set = sorted(set(task.columns) & set(task.constants))
    if doubly_set:
        raise ConfigError(
            f"task.columns.{doubly_set[0]} and task.constants.{doubly_set[0]} are both set",
            fix="keep the one that is meant",
        )


def _check_engine(config: Config, task: Task, facts: _Facts) -> None:
    """Whether the engine gives what the task asks for, in the style that it is asked in."""
    entry = ENGINES[config.engine.name]
    answer_type = "text" if config.task.method == "generate" else task.answer_type
    if answer_type not in entry.answers:
        able = [name for name, other in ENGINES.items() if answer_type in other.answers and other.runs_model]
        raise ConfigError(
            f"{facts['task.name']} with {facts['task.method']} asks for {_ANSWERS[answer_type]}, and "
            f"{facts['engine.name']} gives {' or '.join(_ANSWERS[name] for name in entry.answers)} only",
            fix=f"task=rules, or a base for engine={' or engine='.join(able)}",
        )
    if config.task.style == SEGMENTS != entry.style:
        raise ConfigError(
            f"{facts['task.style']} is the input of an encoder and asks nothing of {facts['engine.name']}",
            fix="task.style=structured, or an encoder such as model=deberta_v3_base",
        )


def _check_model(config: Config, facts: _Facts) -> None:
    model, engine_entry = config.model, ENGINES[config.engine.name]
    if not model.path:
        raise ConfigError("model.path is empty", fix="model.path=FOLDER, or a preset such as model=qwen3_0_6b")
    if model.device_map and model.device != "auto":
        raise ConfigError(
            f"{facts['model.device_map']} and {facts['model.device']} both place the model",
            fix="set one of them",
        )
    if precision_of(model.dtype).quantized:
        if not engine_entry.quantized:
            raise ConfigError(
                f"{facts['model.dtype']} is computed by the native engine alone, not by {facts['engine.name']}",
                fix="model.dtype=bfloat16, or engine=native",
            )
        if model.load_in_4bit:
            raise ConfigError(
                f"{facts['model.dtype']} and {facts['model.load_in_4bit']} both say how the weights are held",
                fix="set one of them",
            )
    if config.engine.merge == "always" and not engine_entry.merges:
        raise ConfigError(
            f"{facts['engine.merge']} is done by the native engine alone, not by {facts['engine.name']}",
            fix="engine.merge=auto, or engine=native",
        )
    if not config.lora.target_modules:
        raise ConfigError(
            "lora.target_modules is empty: there would be nothing to train",
            fix="lora.target_modules=[q_proj,v_proj], or all-linear",
        )


def _check_training(config: Config, facts: _Facts) -> None:
    training = config.training
    if training.fp16 and training.bf16:
        raise ConfigError(f"{facts['training.fp16']} and {facts['training.bf16']} exclude each other", fix="set one")
    if training.early_stopping and not training.val_ratio:
        raise ConfigError(
            f"{facts['training.early_stopping']} needs the rows that {facts['training.val_ratio']} lacks",
            fix="training.val_ratio=0.15, or training.early_stopping=0",
        )
    if training.per_subject and config.data:
        subject = next(iter(config.data))
        raise ConfigError(
            f"{facts['training.per_subject']} divides one file, and data.{subject}={config.data[subject]} is a file of "
            "one subject already",
            fix="give input=FILE with training.per_subject=true, or data.SUBJECT=FILE without it",
        )


def _check_folds(config: Config, facts: _Facts) -> None:
    folds = config.folds
    if folds.count == 1:
        raise ConfigError(f"{facts['folds.count']}; rows are divided into 2 folds or more", fix="folds=5")
    if folds.count and folds.column:
        raise ConfigError(
            f"{facts['folds.count']} and {facts['folds.column']} both say what the folds are", fix="set one of them"
        )
    if folds.wanted and config.training.per_subject:
        raise ConfigError(
            f"{facts['training.per_subject']} and folds both divide the rows",
            fix="train the folds of one subject's rows at a time",
        )
    if folds.calibrate != "off":
        _check_fold_calibration(config, facts)
    if folds.wanted and config.data:
        subject = next(iter(config.data))
        raise ConfigError(
            f"folds are made of one file, and data.{subject}={config.data[subject]} is set", fix="input=FILE folds=5"
        )


def _check_fold_calibration(config: Config, facts: _Facts) -> None:
    calibrate, answer_type = facts["folds.calibrate"], load_task(config.task.name).answer_type
    if not config.folds.wanted:
        raise ConfigError(f"{calibrate}, and there are no folds", fix="add folds=5, or leave folds.calibrate out")
    if answer_type == "text":
        raise ConfigError(
            f"{calibrate}, and {facts['task.name']} writes its answers: it has no scores",
            fix="leave folds.calibrate out",
        )
    if answer_type == "option" and config.folds.calibrate != "temperature":
        raise ConfigError(
            f"{calibrate}, and options ({facts['task.name']}) are calibrated by a temperature",
            fix="folds.calibrate=temperature",
        )
    if not config.training.val_ratio:
        raise ConfigError(
            f"{calibrate} is fitted on the rows that {facts['training.val_ratio']} does not hold out",
            fix="training.val_ratio=0.15, or folds.calibrate=off",
        )


def _check_inference(config: Config, facts: _Facts) -> None:
    inference = config.inference
    if inference.min_new_tokens > inference.max_new_tokens:
        raise ConfigError(
            f"{facts['inference.min_new_tokens']} is more than {facts['inference.max_new_tokens']}",
            fix="raise max_new_tokens, or lower min_new_tokens",
        )
    if inference.do_sample and inference.temperature == 0:
        raise ConfigError(
            f"{facts['inference.do_sample']} cannot go with {facts['inference.temperature']}",
            fix="inference.temperature=0.7",
        )
    if not inference.do_sample and inference.temperature > 0:
        raise ConfigError(
            f"{facts['inference.temperature']} has no effect with {facts['inference.do_sample']}",
            fix="inference.do_sample=true, or inference.temperature=0",
        )


def _check_spellings(table_key: str, entries: Mapping[str, object]) -> None:
    for subject_spellings in spellings(entries).values():
        if len(subject_spellings) > 1:
            raise ConfigError(
                " and ".join(f"{table_key}.{spelling}={show(entries[spelling])}" for spelling in subject_spellings)
                + f" are one subject in {len(subject_spellings)} spellings",
                fix="keep one of them; rows of one subject go into one file"
                if table_key == "data"
                else "keep one of them",
            )
