"""Which adapter answers a row: task, then subject, then `general`, then the base model. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache

from lorica.errors import AdapterError, ConfigError
from lorica.names import did_you_mean, spellings, subject_key
from lorica.records import Route

GENERAL = "general"
FALLBACKS = ("general", "base", "error")


def route(*, subject: str, task: str, adapters: Collection[str], fixed: str = "", fallback: str = GENERAL) -> Route:
    """Choose the adapter of one row.

    `fixed` (one adapter for all rows) wins; then the adapter named like the task, then the one named like the
    row's subject: exactly, or else by `subject_key`, so that `world_history` answers "World History". A row with
    neither goes to `general`, then to the base model. `fallback` says what happens to a row whose subject has no
    adapter: "general" (then base), "base", or "error"; such a row is marked `fallback=True`, and so is a row
    without a subject that the base model answers although there are adapters. Without any adapter every row goes
    to the base model, and that is no fall-back: nobody asked for an adapter.

    Raises AdapterError for a fixed name that does not exist, for a subject that two adapters answer to, and with
    fallback="error" for a row without an adapter; ConfigError for an unknown `fallback`.
    """
    if fallback not in FALLBACKS:
        raise ConfigError(f"adapters.fallback is {fallback!r}; allowed: {', '.join(FALLBACKS)}")
    if fixed:
        if fixed not in adapters:
            raise _missing(f"the adapter {fixed!r} does not exist", fixed, adapters, "name one of them, or train it")
        return Route(fixed, "fixed")
    if task and task in adapters:
        return Route(task, "task")
    adapter_name = _answering(subject, adapters) if subject and adapters else None
    if adapter_name is not None:
        return Route(adapter_name, "subject")
    if fallback == "error":
        subject_text = f"subject {subject!r}" if subject else "a row without a subject"
        otherwise = "train it, or set adapters.fallback=general or base"
        raise _missing(f"there is no adapter for {subject_text} (task {task!r})", subject or task, adapters, otherwise)
    missed = bool(subject) and bool(adapters)
    if GENERAL in adapters and not (missed and fallback == "base"):
        return Route(GENERAL, "general", fallback=missed)
    return Route(None, "base", fallback=bool(adapters))


def _answering(subject: str, adapters: Collection[str]) -> str | None:
    if subject in adapters:
        return subject
    adapter_names = _names_by_key(tuple(adapters)).get(subject_key(subject), ())
    if len(adapter_names) > 1:
        raise AdapterError(
            f"the subject {subject!r} could mean the adapters {' and '.join(map(repr, adapter_names))}",
            fix="rename one of them, or spell the subject like the adapter that is meant",
        )
    return adapter_names[0] if adapter_names else None


@lru_cache(maxsize=64)
def _names_by_key(adapters: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    return spellings(sorted(adapters))


def _missing(message: str, wanted: str, adapters: Collection[str], otherwise: str) -> AdapterError:
    adapter_names = sorted(adapters)
    allowed = f"there are: {', '.join(adapter_names)}" if adapter_names else "there are no adapters at all"
    return AdapterError(
        message, fix=did_you_mean(wanted, adapter_names, key=subject_key, then=f"{allowed}; {otherwise}")
    )
