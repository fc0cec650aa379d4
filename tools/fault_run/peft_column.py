"""What PEFT says when it loads a folder: error, warning or silent."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def load_with_peft(path: Path, base: Path) -> dict[str, Any]:
    """`PeftModel.from_pretrained` on the base; and `load_adapter` beside an adapter that is loaded already."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from peft import LoraConfig, PeftModel, get_peft_model

    first, said = _outcome(lambda: PeftModel.from_pretrained(_model(base), str(path)))
    loaded = get_peft_model(_model(base), LoraConfig(r=2, target_modules=["o_proj"]), adapter_name="before")
    second, _ = _outcome(lambda: loaded.load_adapter(str(path), "second"))
    return {"from_pretrained": first, "load_adapter": second, "said": said}


def _model(base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as chatter

    chatter.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def _outcome(load: Callable[[], object]) -> tuple[str, str]:
    with _listening() as heard:
        try:
            load()
        except Exception as error:  # whatever a loader raises is what its user sees
            return "error", f"{type(error).__name__}: {error}"[:200]
    return ("warning", heard[0][:200]) if heard else ("silent", "")


@contextmanager
def _listening() -> Iterator[list[str]]:
    """All that is warned of or logged as a warning meanwhile."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    ear = Ear(logging.WARNING)
    logger = logging.getLogger()
    transformers = logging.getLogger("transformers")
    logger.addHandler(ear)
    transformers.addHandler(ear)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield heard
        # What is said of every adapter, about versions of libraries, is not about this one.
        heard += [
            str(one.message)
            for one in caught
            if not issubclass(one.category, FutureWarning | DeprecationWarning | PendingDeprecationWarning)
        ]
    finally:
        logger.removeHandler(ear)
        transformers.removeHandler(ear)
