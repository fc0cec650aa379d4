"""An adapter in an engine, beside its base model, and copies of it under another config that are scored and gone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorica.adapters.config import AdapterConfig
from lorica.adapters.rescaled_copies import write_variant
from lorica.adapters.tensor_map import TensorMap
from lorica.engines.base import Engine
from lorica.errors import AdapterError, MissingExtraError, ModelError
from lorica.vetting.measure.model_session import ModelSession
from lorica.vetting.measure.scoring import OnDone, ScoredRows, ScoreRequest, score_rows


class LoadedAdapter:
    """One adapter in the first engine that applies all of it. `close` takes it out again.

    folder: for its copies. other_engine: whether transformers may be tried where native refuses it, as it does layers
    that its decoder leaves alone, such as the head. Raises AdapterError and MissingExtraError when no engine takes it,
    ModelError and EngineError for a base that cannot be loaded.
    """

    def __init__(
        self,
        session: ModelSession,
        config: AdapterConfig,
        weights: Path,
        layout: TensorMap,
        folder: Path,
        *,
        other_engine: bool = True,
        on_done: OnDone | None = None,
    ) -> None:
        self.session, self.config, self.weights = session, config, weights
        self._folder, self._on_done, self._copies = folder, on_done, 0
        itself = self._write(config)
        more_than_pairs = needs_transformers(config, layout)
        self.engine: Engine = session.engine(more_than_pairs=more_than_pairs)
        try:
            self.name = session.add_adapter(self.engine, itself)
        except AdapterError:
            if more_than_pairs or session.has_fixed_engine or not other_engine:
                raise
            refused_by = self.engine
            try:
                self.engine = session.engine(more_than_pairs=True)
            except (MissingExtraError, ModelError):
                self.engine = refused_by
            if self.engine is refused_by:
                raise
            self.name = session.add_adapter(self.engine, itself)

    def score(self, requests: Sequence[ScoreRequest]) -> ScoredRows:
        """Rows scored with the adapter as it is."""
        return score_rows(self.session, self.engine, requests, self.name, self._on_done)

    def score_base(self, requests: Sequence[ScoreRequest]) -> ScoredRows:
        """Rows scored with the base alone."""
        return score_rows(self.session, self.engine, requests)

    def score_copy(self, config: AdapterConfig, requests: Sequence[ScoreRequest]) -> ScoredRows | None:
        """Rows scored with the same weights under another config; None where no config may say so."""
        try:
            copy_name = self.session.add_adapter(self.engine, self._write(config))
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

    def _write(self, config: AdapterConfig) -> Path:
        self._copies += 1
        copy_folder = self._folder / f"copy-{self._copies}"
        write_variant(copy_folder, config, self.weights)
        return copy_folder


def needs_transformers(config: AdapterConfig, layout: TensorMap) -> bool:
    """Whether an adapter is more than plain LoRA pairs, which only engine=transformers applies."""
    modules = layout.modules.values()
    return (
        bool(config.unsupported())
        or bool(layout.saved)
        or any(bool(module.magnitude) or module.embedding or bool(module.more) for module in modules)
    )
