"""From the configuration to the things that work: the one place where its keys become plain arguments."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import msgspec

from lorica.adapters.classifier_folder import open_classifier
from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import AdapterFolder
from lorica.adapters.member import Member, open_member
from lorica.adapters.passport import read_passport
from lorica.adapters.registry import BASE, find_adapters, refuse_spellings
from lorica.adapters.shallow_folder import ShallowFolder
from lorica.admission.gate import Admission, admit_all
from lorica.admission.label_names import check_label_names
from lorica.admission.provenance import RETRIEVAL, WITH_PASSAGES, package_versions, trained_as
from lorica.commands.arguments import inform, warn
from lorica.commands.build_retrieval import build_retriever
from lorica.commands.calibrations import open_calibrations
from lorica.commands.dtypes import answer_dtype
from lorica.config.presets import preset_of_model
from lorica.config.schema import Config
from lorica.engine_table import ENGINES, SEGMENTS
from lorica.engines import load_engine
from lorica.engines.base import Engine, EngineSettings, resolve_device
from lorica.errors import AdapterError, EngineError
from lorica.models.base_folder import BaseFolder
from lorica.models.locate import locate_model
from lorica.names import count_of, listed, shell_word, visible, visible_values
from lorica.pipeline.answer import AnswerSettings, Pipeline
from lorica.prompts.encoder import Encoder
from lorica.records import Generate, Row, Sampling
from lorica.routing import GENERAL, route
from lorica.tasks import load_task
from lorica.tasks.base import Task, TaskSettings

# What may change on the way where all outputs are batch-invariant: such a run may be resumed on another machine.
_SPEED_ALONE = ("threads", "batch_tokens")

# Positions that are kept free behind a prompt where an adapter is tried, for a choice or a short text.
SHORT_ANSWER = 64  # tokens

# What is kept with answers: a run that began without it cannot be resumed.
_ANSWERS = "choice_mass, timings"


def base_folder(config: Config) -> BaseFolder:
    """The base model, to be handed to whatever reads it. Raises ModelError naming where it looked."""
    model = config.model
    return BaseFolder(locate_model(model.path, cache_dir=model.cache_dir, revision=model.revision, environ=os.environ))


def build_task(config: Config) -> Task:
    """The configured task."""
    task_section = config.task
    return load_task(
        task_section.name,
        TaskSettings(
            method=task_section.method,
            style=task_section.style,
            positive_labels=tuple(task_section.positive_labels),
            negative_labels=tuple(task_section.negative_labels),
            fallback_score=task_section.fallback_score,
            answer_numbers=task_section.answer_numbers,
        ),
    )


def tokenizer_folder(config: Config, base_model: BaseFolder) -> BaseFolder:
    """The folder that spells prompts: the base's own, or that of an engine which reads texts."""
    engine_tokenizer = ENGINES[config.engine.name].tokenizer
    return BaseFolder(locate_model(engine_tokenizer, environ=os.environ)) if engine_tokenizer else base_model


def build_encoder(config: Config, base_model: BaseFolder) -> Encoder:
    """The base model's tokenizer and chat template, held against the model; what a person should know of them is said.

    Raises PromptError for a template that asks for answers where the model has none, and a tokenizer of another model.
    """
    tokenizer = tokenizer_folder(config, base_model)
    encoder = Encoder.load(
        tokenizer.path,
        chat_template=SEGMENTS if ENGINES[config.engine.name].tokenizer else config.model.chat_template,
        thinking=config.task.thinking,
        model_config=tokenizer.config,
    )
    vocabulary_size = tokenizer.vocabulary_size
    for note in (*encoder.notes, *(() if vocabulary_size is None else encoder.check_vocabulary(vocabulary_size))):
        inform(note)
    return encoder


def engine_settings(config: Config, base_model: BaseFolder, *, proof: bool = False) -> EngineSettings:
    """What the keys say of how an engine loads the base model and computes. proof: see `answer_dtype`."""
    runs_model = ENGINES[config.engine.name].runs_model
    compute_settings = {key: value for key, value in asdict(config.engine).items() if key != "name"}
    return EngineSettings(
        dtype=answer_dtype(config, base_model, proof=proof) if runs_model else "float32",
        device=resolve_device(config.model.device) if runs_model else "cpu",
        device_map=config.model.device_map,
        load_in_4bit=config.model.load_in_4bit,
        batch_tokens=config.inference.batch_tokens,
        **compute_settings,
    )


def build_engine(config: Config, base_model: BaseFolder, *, proof: bool = False) -> Engine:
    """The configured engine with the base model loaded. proof: see `answer_dtype`."""
    engine = load_engine(config.engine.name, base_model, engine_settings(config, base_model, proof=proof))
    if ENGINES[config.engine.name].runs_model:
        tell_base(base_model)
    return engine


def tell_base(base_model: BaseFolder) -> None:
    """Warn on standard error of what a base's config.json says in vain."""
    for note in base_model.notes:
        warn(note)


def adapter_folders(config: Config) -> dict[str, Path]:
    """Name -> folder of every adapter that may answer: all that the configuration names, or `adapters.use` alone.

    Raises AdapterError for a folder that is none, for `adapters.use` without such an adapter, and where two adapters
    are one subject in two spellings.
    """
    adapters_folder = Path(config.adapters.dir) if config.adapters.dir else None
    folders, chosen_adapter = find_adapters(adapters_folder, config.adapters.paths), visible(config.adapters.use)
    if chosen_adapter:
        route(subject="", task=config.task.name, adapters=folders, fixed=chosen_adapter)
        return {chosen_adapter: folders[chosen_adapter]}
    refuse_spellings(folders)
    return folders


def open_adapters(folders: Mapping[str, Path]) -> dict[str, Member]:
    """Read, check and hash adapters and other members, each once, for the gate, the engine and the manifest. Raises
    AdapterError."""
    return {name: open_member(folder) for name, folder in folders.items()}


def answer_settings(config: Config, base_model: BaseFolder) -> AnswerSettings:
    """The `inference` and `adapters` keys as the pipeline takes them."""
    inference = config.inference
    return AnswerSettings(
        max_input_tokens=inference.max_input_tokens,
        max_positions=tokenizer_folder(config, base_model).max_positions,
        truncate=config.task.truncate,
        sampling=Sampling(
            max_new_tokens=inference.max_new_tokens,
            min_new_tokens=inference.min_new_tokens,
            do_sample=inference.do_sample,
            temperature=inference.temperature,
            top_p=inference.top_p,
            top_k=inference.top_k,
            repetition_penalty=inference.repetition_penalty,
            seed=inference.seed,
        ),
        use_stop_tokens=inference.use_stop_tokens,
        stop_texts=tuple(text.replace("\\n", "\n") for text in inference.stop),  # no shell writes a line break easily
        validate=inference.validation.enabled,
        max_retries=inference.validation.max_retries,
        fallback=config.adapters.fallback,
        fixed_adapter=visible(config.adapters.use),
    )


def check_labels_of_base(task: Task, base_model: BaseFolder) -> None:
    """Raises AdapterError for a base that classifies by itself, and not into the labels of the task."""
    if base_model.has_head:
        check_label_names(task, {BASE: open_classifier(base_model.path)})


def build_pipeline(
    config: Config, base_model: BaseFolder, adapters: Mapping[str, Member], *, engine: Engine | None = None
) -> Pipeline:
    """Task, encoder and engine, loaded and ready, with the adapters that came through the gate. engine: one with the
    base model loaded and without adapters; None to load it."""
    task = build_task(config)
    check_label_names(task, adapters)
    check_labels_of_base(task, base_model)
    retriever = build_retriever(config.retrieval)
    encoder = build_encoder(config, base_model)
    engine = engine or build_engine(config, base_model)
    provenance = trained_as(task, encoder, base_model) if adapters else {}
    provenance[RETRIEVAL] = "none" if retriever is None else WITH_PASSAGES
    with _naming_stated_base(config, base_model, adapters):
        admitted = admit_all(engine, adapters, base_model, used=provenance, policy=config.adapters.gate)
    tell_admissions(admitted)
    calibrations = open_calibrations(config, task, adapters, provenance)
    settings = answer_settings(config, base_model)
    return Pipeline(task, encoder, engine, adapters, settings, retriever=retriever, calibrations=calibrations)


@contextmanager
def _naming_stated_base(config: Config, base_model: BaseFolder, adapters: Mapping[str, Member]) -> Iterator[None]:
    """A block that loads adapters on a base: where that fails, the error asks whether the base was meant that the
    adapters say they are of."""
    try:
        yield
    except (AdapterError, EngineError) as error:
        stated_models = {name: _other_model(config, base_model, adapter) for name, adapter in adapters.items()}
        stated_models = {name: stated_model for name, stated_model in stated_models.items() if stated_model}
        if stated_models:
            setting = next(iter(stated_models.values()))
            named = listed([name for name, stated_model in stated_models.items() if stated_model == setting], 3)
            error.fix = f"did you mean {setting}? That is the base that {named} was trained on"
        raise


def _other_model(config: Config, base_model: BaseFolder, adapter: Member) -> str:
    """`model=minilm` or `model.path=FOLDER`, where the folder says so and another base is configured; else ""."""
    if isinstance(adapter, ShallowFolder):
        return f"model={adapter.config.kind}" if config.engine.name != adapter.config.kind else ""
    try:
        passport = read_passport(adapter.path)
    except AdapterError:
        passport = None
    if passport is not None and passport.base.digest == base_model.digest:
        return ""
    model_path = adapter.config.base_model_name_or_path if isinstance(adapter, AdapterFolder) else ""
    if passport is not None:
        model_path = model_path or passport.base.name
    if not model_path or model_path == config.model.path:
        return ""
    preset = preset_of_model(model_path)
    return f"model={preset}" if preset else f"model.path={shell_word(model_path)}"


def tell_admissions(admitted: Mapping[str, Admission]) -> None:
    """Warn on standard error of what a person should know about the adapters that came through the gate."""
    for name, admission in admitted.items():
        for admission_note in (*admission.differences, *admission.notes):
            warn(f"adapter {name}: {admission_note}")
    without_passport = [
        name for name, admission in admitted.items() if admission.canaries is None and admission.proof == "differs"
    ]
    if without_passport:
        warn(
            f"no passport: {listed(without_passport, 5)}; applied, and not proved to be on the right base. "
            "Make one with `lorica passport DIR --base BASE`"
        )


def routed_adapter(config: Config, task: Task, row: Row, adapters: Collection[str]) -> str | None:
    """The adapter that answers a row, None for the base model. Raises AdapterError where none may."""
    return route(
        subject=row.subject,
        task=task.name,
        adapters=adapters,
        fixed=visible(config.adapters.use),
        fallback=config.adapters.fallback,
    ).adapter


def answered_rows(
    config: Config, task: Task, base_model: BaseFolder, rows: Iterable[Row], adapters: Collection[str]
) -> Counter[str | None]:
    """How many rows each adapter answers; None: the base model alone. Raises what `count_routes` does."""
    adapter_of_subject: dict[str, str | None] = {}
    row_counts: Counter[str | None] = Counter()
    for row in rows:
        if row.subject not in adapter_of_subject:
            adapter_of_subject[row.subject] = routed_adapter(config, task, row, adapters)
        row_counts[adapter_of_subject[row.subject]] += 1
    refuse_base_rows(config, base_model, adapters, row_counts[None])
    return row_counts


def count_routes(
    config: Config, task: Task, base_model: BaseFolder, rows: Iterable[Row], adapters: Collection[str]
) -> Counter[str | None]:
    """Read all rows, count them by the adapter that answers, and warn of adapters that answer none. Raises what reading
    raises, and AdapterError for a row that no adapter may answer, for one that no calibrated one answers where that is
    required, and for one that would go to an encoder without a head.
    """
    row_counts = answered_rows(config, task, base_model, rows, adapters)
    # `general` answers what others do not, and may have nothing to do.
    idle = sorted(name for name in adapters if name not in row_counts and name != GENERAL)
    if idle:
        warn(
            f"no row is answered by the adapter{'s' if len(idle) > 1 else ''} {listed(idle, 5)}: one answers the task "
            "or the subject that it is called like; adapters.use=NAME has it answer all rows"
        )
    return row_counts


def untrained_problem(config: Config, base_model: BaseFolder) -> str:
    """Why the base model answers nothing alone; "" if it does."""
    if ENGINES[config.engine.name].tokenizer:
        return f"model={config.model.name} answers nothing untrained"
    if base_model.encoder_family is None or base_model.has_head:
        return ""
    return f"{base_model.path} is an encoder without a head to classify with"


def refuse_base_rows(config: Config, base_model: BaseFolder, adapters: Collection[str], row_count: int) -> None:
    """Raise AdapterError where the base model alone answers `row_count` rows that it cannot answer, or not as is
    required."""
    if row_count and config.adapters.calibration == "require":
        raise AdapterError(
            f"adapters.calibration=require, and the base model alone answers {count_of(row_count, 'row')}",
            fix="give their subjects an adapter (adapters.fallback), or set adapters.calibration=auto",
        )
    problem = untrained_problem(config, base_model) if row_count else ""
    if not problem:
        return
    choose_one = f"choose one with adapters.use=NAME ({listed(sorted(adapters), 5)}), or " if adapters else ""
    raise AdapterError(
        f"{problem}, and {count_of(row_count, 'row has', 'rows have')} no adapter",
        fix=f"{choose_one}train one with `lorica train`, and name it: adapters.dir=RUN_DIR, or "
        "adapters.paths.NAME=FOLDER",
    )


def manifest(
    config: Config,
    base_model: BaseFolder,
    adapters: Mapping[str, Member],
    pipeline: Pipeline,
    extra_entries: Mapping[str, str],
) -> dict[str, str]:
    """Everything that decides the answers, as text: what a resumed run must share with the first one."""
    engine, settings = pipeline.engine, dict(vars(pipeline.settings))
    sampling = msgspec.structs.asdict(settings.pop("sampling"))
    excluded_keys = _SPEED_ALONE if Generate in engine.info.batch_invariant else ()
    entries = {f"engine.{key}": value for key, value in engine.info.manifest().items() if key not in excluded_keys}
    entries |= {f"task.{key}": str(value) for key, value in asdict(config.task).items()}
    entries |= {f"data.{key}": str(value) for key, value in asdict(config.reading).items()}
    entries |= {f"inference.{key}": str(value) for key, value in {**settings, **sampling}.items() if key != "truncate"}
    entries |= {f"adapter.{adapter_name}": adapter.digest for adapter_name, adapter in adapters.items()}
    entries |= {
        f"calibration.{adapter_name}": calibration.digest for adapter_name, calibration in pipeline.calibrations.items()
    }
    entries |= {"model": config.model.name, "base": base_model.digest}
    entries |= {"template": pipeline.encoder.template_digest, "tokenizer": pipeline.encoder.tokenizer_digest}
    entries |= package_versions() | ({} if pipeline.retriever is None else pipeline.retriever.manifest())
    visible_entries: dict[str, str] = visible_values({**entries, "answers": _ANSWERS, **extra_entries})
    return visible_entries


def prompt_settings(config: Config) -> dict[str, object]:
    """What else changes prompts, for a passport."""
    settings = {"thinking": config.task.thinking, "truncate": config.task.truncate}
    return settings | ({RETRIEVAL: WITH_PASSAGES} if config.retrieval.train else {})


def adapter_config(config: Config, base_model: BaseFolder) -> AdapterConfig:
    """The `lora` keys as the `adapter_config.json` of a new adapter; `all-linear` becomes the family's list (of an
    encoder when its modules are there)."""
    lora = config.lora
    target_modules = lora.target_modules
    if target_modules == "all-linear" and base_model.encoder_family is None:
        linear_shapes = base_model.decoder_config.linear_shapes()
        target_modules = sorted({linear_path.rsplit(".", 1)[1] for linear_path in linear_shapes})
    return AdapterConfig(
        base_model_name_or_path=visible(config.model.path),
        revision=config.model.revision or None,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        target_modules=target_modules if isinstance(target_modules, str) else sorted(target_modules),
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
    )
