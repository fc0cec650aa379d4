"""The base that an adapter's folder says it is of: what to name where it was asked of another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lorica.adapters.folder import AdapterFolder
from lorica.adapters.member import Member
from lorica.adapters.passport import read_passport
from lorica.adapters.shallow_folder import ShallowFolder
from lorica.config.presets import preset_of_model
from lorica.config.schema import Config
from lorica.errors import AdapterError, EngineError
from lorica.models.base_folder import BaseFolder
from lorica.names import listed, shell_word


@contextmanager
def naming_stated_base(config: Config, base_model: BaseFolder, adapters: Mapping[str, Member]) -> Iterator[None]:
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
