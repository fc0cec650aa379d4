"""What an adapter is asked, of which base model and in which engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lorica.engines import load_engine
from lorica.engines.base import Engine, EngineSettings
from lorica.errors import ModelError
from lorica.models.base_folder import BaseFolder
from lorica.prompts.encoder import Encoder
from lorica.records import Encoded, Message, Output, Request, Sampling
from lorica.tasks import DEFAULT_TASK, load_task
from lorica.tasks.base import Task, TaskSettings

# Well-known chat templates that are shipped, and the tokens each needs.
TEMPLATES = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Setting:
    """How behaviour is looked at.

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


class Workplace:
    """A base model, loaded once for any number of adapters, with what it answers by itself.

    engine: one that is loaded already, of `setting.base`; it is used for every adapter.
    """

    def __init__(self, setting: Setting, engine: Engine | None = None) -> None:
        self.setting = setting
        self._given = engine
        self._engines: dict[str, Engine] = {}
        self._encoders: dict[str, Encoder] = {}
        self._known: dict[tuple[int, Request], Output] = {}
        self._count = 0

    def asking(self, setting: Setting) -> Workplace:
        """A workplace that asks otherwise, with the engines of this one: base and engine settings must be equal."""
        if setting == self.setting:
            return self
        other = Workplace(setting, self._given)
        other._engines, other._known = self._engines, self._known
        return other

    @property
    def settled(self) -> bool:
        """Whether the engine was chosen from outside, so that no other may be tried."""
        return self._given is not None or bool(self.setting.engine)

    def engine(self, *, all_kinds: bool) -> Engine:
        """The engine for an adapter. all_kinds: it is more than plain LoRA pairs, which only transformers applies.

        Raises ModelError, MissingExtraError or EngineError when there is none.
        """
        if self._given is not None:
            return self._given
        setting = self.setting
        name = setting.engine or ("transformers" if all_kinds else "native")
        if name not in self._engines:
            try:
                self._engines[name] = load_engine(name, BaseFolder(setting.base), setting.engine_settings)
            except ModelError:
                if setting.engine or name != "native":
                    raise
                # A family that the native decoder does not know.
                self._engines[name] = self.engine(all_kinds=True)
        return self._engines[name]

    def retire(self, engine: Engine) -> None:
        """Forget an engine in which an adapter replaced whole modules: PEFT leaves its wrappers in the base model, and
        the next adapter must find a base as it was."""
        self._engines = {name: each for name, each in self._engines.items() if each is not engine}

    def encoder(self, chat_template: str = "") -> Encoder:
        """The base model's encoder with this template, the setting's when none is named; `TEMPLATES` go by name."""
        wanted = chat_template or self.setting.chat_template
        if wanted in TEMPLATES:
            wanted = str(_FOLDER / f"{wanted}.jinja")
        if wanted not in self._encoders:
            self._encoders[wanted] = Encoder.load(
                self.setting.base, chat_template=wanted, thinking=self.setting.thinking
            )
        return self._encoders[wanted]

    def encode(self, messages: tuple[Message, ...], chat_template: str = "") -> Encoded:
        """One prompt. Raises PromptError."""
        return self.encoder(chat_template).encode(
            messages, max_tokens=self.setting.max_input_tokens, truncate=self.setting.truncate
        )

    def base_answers(self, engine: Engine, requests: list[Request]) -> list[Output]:
        """What the base model says alone; asked once, whatever the number of adapters."""
        keys = [(id(engine), request) for request in requests]
        if any(key not in self._known for key in keys):
            # All of them, in one plan: then equal weights give equal numbers, to the last bit.
            self._known.update(zip(keys, engine.run(requests), strict=True))
        return [self._known[key] for key in keys]

    def new_name(self) -> str:
        """A name that no adapter of this workplace has."""
        self._count += 1
        return f"lorica-check-{self._count}"
