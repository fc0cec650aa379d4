"""What trainings or answers that follow one another share: a base loaded once, and dropped before another is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lorica.commands import build
from lorica.commands.arguments import telling_once
from lorica.config.schema import Config
from lorica.engines.base import BatchSizedEngine, Engine
from lorica.pipeline.answer import Pipeline

_Loaded = TypeVar("_Loaded")


class LoadOnce:
    """Holds what was loaded last, by all that decides how it is loaded."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._loaded: Any = None

    def get(self, key: tuple[object, ...], load: Callable[[], _Loaded]) -> _Loaded:
        """What is held under this key; else that goes, and what `load` gives takes its place."""
        if self._loaded is None or self._key != key:
            self.drop()
            self._loaded, self._key = load(), key
        loaded: _Loaded = self._loaded
        return loaded

    @property
    def is_empty(self) -> bool:
        return self._loaded is None

    def drop(self) -> None:
        """Free its memory, as far as nobody else uses it."""
        self._loaded, self._key = None, ()


@dataclass
class PipelineOpener:
    """Opens pipelines one after the other, on one loaded base as long as they share it. messages: what was said, and is
    not said again."""

    messages: set[str] = field(default_factory=set)
    _pipeline: Pipeline | None = None
    _made_of: tuple[object, ...] = ()
    _loading: tuple[object, ...] = ()  # all that decides how its engine was loaded, but the size of batches

    def open(self, config: Config, folders: Mapping[str, Path], engine: Engine | None = None) -> Pipeline:
        """The pipeline of a configuration with these adapters: the one that is open, if it is that one; else with its
        engine, if that is the same in the same precision. engine: another one that is to be taken. Raises what loading
        raises."""
        made_of = (config, dict(folders))
        if engine is not None or self._pipeline is None or self._made_of != made_of:
            with telling_once(self.messages):
                base, adapters = build.base_folder(config), build.open_adapters(folders)
                settings = replace(build.engine_settings(config, base), batch_tokens=0)
                loading = (config.engine.name, base.digest, settings)
                engine = engine or self._take_engine(loading, config.inference.batch_tokens)
                self._pipeline = build.build_pipeline(config, base, adapters, engine=engine)
                self._made_of, self._loading = made_of, loading
        return self._pipeline

    def drop(self) -> None:
        """Free the memory of the base."""
        self._pipeline = None

    def _take_engine(self, loading: tuple[object, ...], batch_tokens: int) -> Engine | None:
        """The engine that is loaded, as it was without adapters, where it is loaded as `loading` says; None where
        another must be, for which its memory is free."""
        former, self._pipeline = self._pipeline, None
        if former is None or self._loading != loading:
            return None
        engine = former.engine
        if not engine.info.restores_base or not isinstance(engine, BatchSizedEngine):
            return None
        for adapter_name in former.adapters:
            engine.remove_adapter(adapter_name)
        engine.set_batch_tokens(batch_tokens)
        return engine
