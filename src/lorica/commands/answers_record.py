"""How a run answered, as its record says it."""

from __future__ import annotations

from collections.abc import Mapping

from lorica.admission.provenance import RETRIEVAL, WITH_PASSAGES
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings


def answered_with(manifest: Mapping[str, str]) -> dict[str, str]:
    """Method, style, retrieval, template, tokenizer and base of a run, under the names that the gate has for them."""
    settings = TaskSettings(method=manifest["task.method"], style=manifest["task.style"])
    settings = load_task(manifest["task.name"], settings).settings
    digests = {name: manifest[name] for name in ("template", "tokenizer", "base")}
    passages = WITH_PASSAGES if any(key.startswith("retrieval.") for key in manifest) else "none"
    return {"method": settings.method, "style": settings.style, RETRIEVAL: passages, **digests}
