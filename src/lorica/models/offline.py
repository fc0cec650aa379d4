"""transformers and PEFT at work without the network and without a word on the screen."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from lorica.models.nf4 import require_bitsandbytes

_OFFLINE_VARIABLE = "HF_HUB_OFFLINE"


@contextmanager
def offline() -> Iterator[None]:
    """Within the block nothing asks the Hugging Face hub and no progress bar is drawn; what the host application
    had set is put back."""
    from huggingface_hub import constants
    from transformers.utils import logging

    # The libraries ask the constant; PEFT reads the variable as well.
    constant, variable = constants.HF_HUB_OFFLINE, os.environ.get(_OFFLINE_VARIABLE)
    progress_bar = logging.is_progress_bar_enabled()
    constants.HF_HUB_OFFLINE = True
    os.environ[_OFFLINE_VARIABLE] = "1"
    try:
        with warnings.catch_warnings():
            # HF_HUB_DISABLE_PROGRESS_BARS=0 keeps the hub's own bars, which need the hub, and says so.
            warnings.filterwarnings("ignore", ".*progress bars", UserWarning)
            logging.disable_progress_bar()
        yield
    finally:
        constants.HF_HUB_OFFLINE = constant
        if variable is None:
            del os.environ[_OFFLINE_VARIABLE]
        else:
            os.environ[_OFFLINE_VARIABLE] = variable
        if progress_bar:
            logging.enable_progress_bar()


def import_bitsandbytes_offline() -> None:
    """Import bitsandbytes, where it is installed, before PEFT does: its own import may fetch a kernel from the
    network, or complain that it cannot."""
    if find_spec("bitsandbytes") is not None:
        require_bitsandbytes()
