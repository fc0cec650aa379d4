"""What the verbs make of a configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorica.config.schema import Config
from lorica.errors import ConfigError
from lorica.verbs.build import training_dtype


@pytest.mark.parametrize("dtype", ["int8", "int8-weights", "int4-weights"])
def test_nothing_is_trained_in_whole_numbers(dtype: str) -> None:
    config = Config()
    config = replace(config, model=replace(config.model, dtype=dtype))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"model.dtype={dtype} is for answering") as caught:
        training_dtype(config, Path("base"))
    assert "load_in_4bit" in caught.value.fix
