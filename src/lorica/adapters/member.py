"""A member: what a training leaves and an engine answers with, an adapter or a model of its own, opened and hashed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from lorica.adapters.classifier_config import MODEL_CONFIG
from lorica.adapters.classifier_folder import open_classifier
from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.folder import MORE_THAN_PAIRS, open_adapter
from lorica.adapters.header import TensorInfo
from lorica.adapters.registry import SHALLOW_CONFIG, member_config
from lorica.adapters.shallow_folder import open_shallow_folder


class Member(Protocol):
    """One folder under a name. digest: of config and weights. tensors: by their names in the file of weights."""

    @property
    def path(self) -> Path: ...

    @property
    def config_path(self) -> Path: ...

    @property
    def weights(self) -> Path: ...

    @property
    def tensors(self) -> dict[str, TensorInfo]: ...

    @property
    def digest(self) -> str: ...

    @property
    def changed(self) -> bool:
        """Whether a file was written since it was opened: then what was read may be of two members."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """What its config says that decides its answers, for a passport."""
        ...


MEMBER_READERS: dict[str, Callable[[Path], Member]] = {
    CONFIG_NAME: functools.partial(open_adapter, applied=MORE_THAN_PAIRS),
    MODEL_CONFIG: open_classifier,
    SHALLOW_CONFIG: open_shallow_folder,
}
"""The file that makes a folder a member's -> what opens it."""


def open_member(folder: Path) -> Member:
    """Read, check and hash a member; the file that its folder holds tells which reader it needs.

    Raises AdapterError for a folder that is none, and for what `open_adapter` and `open_classifier` refuse.
    """
    config_path = member_config(folder)
    return MEMBER_READERS[CONFIG_NAME if config_path is None else config_path.name](folder)
