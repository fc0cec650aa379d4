"""An adapter in an engine, beside its base model, and copies of it under another config that are scored and gone; or a
model of its own in its engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lorica.adapters.config import AdapterConfig
from lorica.adapters.rescaled_copies import write_variant
from lorica.adapters.tensor_map import TensorMap
from lorica.engines.base import Engine
from lorica.errors import AdapterError, MissingExtraError, ModelError
from lorica.vetting.measure.model_session import ModelSession
from lorica.vetting.measure.scoring import OnDone, ScoredRows, ScoreRequest, score_rows


class AdapterCopies:
    """The weights of an adapter under other configs, each in a folder of its own below `folder`."""

    def __init__(self, config: AdapterConfig, weights: Path, folder: Path) -> None:
        self.config = config
        self._weights, self._folder, self._written = weights, folder, 0

    def write(self, config: AdapterConfig) -> Path:
        """The folder of a new copy."""
        self._written += 1
        copy_folder = self._folder / f"copy-{self._written}"
        write_variant(copy_folder, config, self._weights)
        return copy_folder


class LoadedAdapter:
    """An adapter in an engine, or a model of its own. `close` takes it out again.

    name: in the engine. copies: None for a model of its own, which has no scale.
    """

    def __init__(
        self,
        session: ModelSession,
        engine: Engine,
        name: str,
        copies: AdapterCopies | None = None,
        on_done: OnDone | None = None,
    ) -> None:
        self.session, self.engine, self.name, self.copies = session, engine, name, copies
        self._on_done = on_done

    @property
    def config(self) -> AdapterConfig:
        """Of an adapter."""
        assert self.copies is not None, "a model of its own has no config to change"
        return self.copies.config

    def score(self, requests: Sequence[ScoreRequest]) -> ScoredRows:
        """Rows scored with the adapter as it is."""
        return score_rows(self.session, self.engine, requests, self.name, self._on_done)

    def score_base(self, requests: Sequence[ScoreRequest]) -> ScoredRows:
        """Rows scored with the base alone."""
        return score_rows(self.session, self.engine, requests)

    def score_copy(self, config: AdapterConfig, requests: Sequence[ScoreRequest]) -> ScoredRows | None:
        """Rows scored with the same weights under another config; None where no config may say so."""
        assert self.copies is not None, "a model of its own has no config to change"
        try:
            copy_name = self.session.add_adapter(self.engine, self.copies.write(config))
        except AdapterError:  # an alpha beyond what a config may say
            return None
        try:
            return score_rows(self.session, self.engine, requests, copy_name, self._on_done)
        finally:
            self.session.remove_adapter(self.engine, copy_name)

    def close(self) -> None:
        """Take the adapter out of the engine."""
        self.session.remove_adapter(self.engine, self.name)
        if not self.engine.info.restores_base:
            self.session.retire(self.engine)


def load_adapter(
    session: ModelSession,
    config: AdapterConfig,
    weights: Path,
    layout: TensorMap,
    folder: Path,
    *,
    other_engine: bool = True,
    on_done: OnDone | None = None,
) -> LoadedAdapter:
    """An adapter in the first engine that applies all of it.

    folder: for its copies. other_engine: whether transformers may be tried where native refuses it, as it does layers
    that its decoder leaves alone, such as the head. Raises AdapterError and MissingExtraError when no engine takes it,
    ModelError and EngineError for a base that cannot be loaded.
    """
    copies = AdapterCopies(config, weights, folder)
    itself = copies.write(config)
    more_than_pairs = needs_transformers(config, layout)
    engine = session.engine(more_than_pairs=more_than_pairs)
    try:
        name = session.add_adapter(engine, itself)
    except AdapterError:
        if more_than_pairs or session.has_fixed_engine or not other_engine:
            raise
        refused_by = engine
        with suppress(MissingExtraError, ModelError):
            engine = session.engine(more_than_pairs=True)
        if engine is refused_by:
            raise
        name = session.add_adapter(engine, itself)
    return LoadedAdapter(session, engine, name, copies, on_done)


def load_own_model(session: ModelSession, folder: Path, *, on_done: OnDone | None = None) -> LoadedAdapter:
    """A classifier, or another model of its own, in the session's engine. Raises AdapterError for one that the engine
    does not answer with, and what loading the engine raises."""
    engine = session.engine(more_than_pairs=False)
    return LoadedAdapter(session, engine, session.add_adapter(engine, folder), on_done=on_done)


def needs_transformers(config: AdapterConfig, layout: TensorMap) -> bool:
    """Whether an adapter is more than plain LoRA pairs, which only engine=transformers applies."""
    modules = layout.modules.values()
    return (
        bool(config.unsupported())
        or bool(layout.saved)
        or any(bool(module.magnitude) or module.embedding or bool(module.more) for module in modules)
    )
