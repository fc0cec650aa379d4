"""A base model, loaded once, on which adapters are measured; what it and they answered is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Literal

import msgspec

from lorica.adapters.member import open_member
from lorica.engine_table import ENGINES, LONGEST_TEXT, EngineEntry
from lorica.engines import load_engine
from lorica.engines.base import Engine, EngineSettings
from lorica.errors import ModelError
from lorica.models.base_folder import BaseFolder
from lorica.models.locate import locate_model
from lorica.prompts.encoder import Encoder
from lorica.records import Encoded, Message, Output, Sampling, ScoreChoices
from lorica.tasks import DEFAULT_TASK, load_task
from lorica.tasks.base import Task, TaskSettings

# Well-known chat templates that are shipped, and the tokens each needs.
TEMPLATES = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class SessionSettings:
    """How adapters are asked.

    base: the base model's folder. task: its name, "" when nobody knows what the adapter is for (then it is asked to
    judge posts by rules, and what it says of them counts as foreign to it). task_settings, chat_template, thinking:
    how it will be asked in use. engine: "" chooses: native where it applies all of the adapter, else transformers.
    probes, rows: at most so many shipped prompts of the task, and of the user's rows. sampling: how text is generated.
    """

    base: Path
    task: str = ""
    task_settings: TaskSettings = field(default_factory=TaskSettings)
    chat_template: str = "auto"
    thinking: bool = False
    engine: str = ""
    engine_settings: EngineSettings = field(default_factory=EngineSettings)
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=32))
    use_stop_tokens: bool = True
    max_input_tokens: int = 1024
    truncate: Literal["middle", "left", "right", "error"] = "middle"
    probes: int = 32
    rows: int = 160
    seed: int = 0

    def load_task(self) -> Task:
        """The task that is asked. Raises ConfigError for an unknown one."""
        return load_task(self.task or DEFAULT_TASK, self.task_settings)

    @property
    def engine_entry(self) -> EngineEntry | None:
        """What the table says of the engine; None where it is chosen for each adapter."""
        return ENGINES.get(self.engine)

    @property
    def writes(self) -> bool:
        """Whether the engine is of language models: others answer the task's choices, and nothing else."""
        return self.engine_entry is None or self.engine_entry.writes

    def for_engine(self, engine_name: str) -> SessionSettings:
        """The same on another engine, in the style that it is asked in where the task has it."""
        if engine_name == self.engine:
            return self
        entry, styles = ENGINES[engine_name], load_task(self.task or DEFAULT_TASK).styles
        style = entry.style if entry.style in styles else self.task_settings.style
        return replace(
            self,
            engine=engine_name,
            task_settings=msgspec.structs.replace(self.task_settings, style=style),
            max_input_tokens=LONGEST_TEXT if entry.tokenizer else self.max_input_tokens,
        )


class ModelSession:
    """A base model's engines and encoders, and every answer so far, for any number of adapters.

    engine: one that is loaded already, of `settings.base`; it is used for every adapter.
    """

    def __init__(self, settings: SessionSettings, engine: Engine | None = None) -> None:
        self.settings = settings
        self._fixed_engine = engine
        self._engines: dict[str, Engine] = {}
        self._encoders: dict[str, Encoder] = {}
        # (engine, adapter's name, "" for the base alone) -> request -> its output.
        self._outputs: dict[tuple[int, str], dict[ScoreChoices, Output]] = {}
        self._numbers = count(1)

    def with_settings(self, settings: SessionSettings) -> ModelSession:
        """A session that asks otherwise, with the engines and answers of this one: base and engine settings must be
        equal."""
        if settings == self.settings:
            return self
        session = ModelSession(settings, self._fixed_engine)
        session._engines, session._outputs, session._numbers = self._engines, self._outputs, self._numbers
        return session

    @property
    def has_fixed_engine(self) -> bool:
        """Whether the engine was chosen from outside, so that no other may be tried."""
        return self._fixed_engine is not None or bool(self.settings.engine)

    def engine(self, *, more_than_pairs: bool) -> Engine:
        """The engine for an adapter. more_than_pairs: it is more than plain LoRA pairs, which only transformers
        applies. Raises ModelError, MissingExtraError or EngineError when there is none."""
        if self._fixed_engine is not None:
            return self._fixed_engine
        settings = self.settings
        engine_name = settings.engine or ("transformers" if more_than_pairs else "native")
        if engine_name not in self._engines:
            try:
                engine = load_engine(engine_name, BaseFolder(settings.base), settings.engine_settings)
            except ModelError:
                if settings.engine or engine_name != "native":
                    raise
                engine = self.engine(more_than_pairs=True)  # a family that the native decoder does not know
            self._engines[engine_name] = engine
        return self._engines[engine_name]

    def encoder(self, chat_template: str = "") -> Encoder:
        """The base model's encoder with this template, the settings' when none is named; `TEMPLATES` go by name. Of an
        engine that has a tokenizer of its own that one's."""
        template = chat_template or self.settings.chat_template
        entry, folder = self.settings.engine_entry, self.settings.base
        if entry is not None and entry.tokenizer:
            template, folder = entry.style, locate_model(entry.tokenizer, environ={})
        if template in TEMPLATES:
            template = str(_FOLDER / f"{template}.jinja")
        if template not in self._encoders:
            self._encoders[template] = Encoder.load(folder, chat_template=template, thinking=self.settings.thinking)
        return self._encoders[template]

    def encode(self, messages: tuple[Message, ...], chat_template: str = "") -> Encoded:
        """One prompt. Raises PromptError."""
        return self.encoder(chat_template).encode(
            messages, max_tokens=self.settings.max_input_tokens, truncate=self.settings.truncate
        )

    def run(self, engine: Engine, requests: Sequence[ScoreChoices], adapter: str = "") -> list[Output]:
        """The outputs of an adapter, or of the base alone (""); what was answered before is not computed again."""
        outputs = self._outputs.setdefault((id(engine), adapter), {})
        if any(request not in outputs for request in requests):
            # All of them, in one plan: then equal weights give equal numbers, to the last bit.
            adapter_requests = [msgspec.structs.replace(request, adapter=adapter or None) for request in requests]
            outputs.update(zip(requests, engine.run(adapter_requests), strict=True))
        return [outputs[request] for request in requests]

    def add_adapter(self, engine: Engine, folder: Path) -> str:
        """Load an adapter, or another member, under a name that no other has. Raises AdapterError and
        MissingExtraError."""
        adapter_name = f"lorica-check-{next(self._numbers)}"
        engine.add_adapter(adapter_name, open_member(folder))
        return adapter_name

    def remove_adapter(self, engine: Engine, name: str) -> None:
        """Take an adapter and its answers out again."""
        engine.remove_adapter(name)
        self._outputs.pop((id(engine), name), None)

    def retire(self, engine: Engine) -> None:
        """Forget an engine in which an adapter replaced whole modules: PEFT leaves its wrappers in the base model, and
        the next adapter must find a base as it was."""
        for engine_name in [name for name, loaded_engine in self._engines.items() if loaded_engine is engine]:
            del self._engines[engine_name]
        for output_key in [output_key for output_key in self._outputs if output_key[0] == id(engine)]:
            del self._outputs[output_key]
