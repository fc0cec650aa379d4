"""Which adapter answers a row: task, then subject, then `general`, then the base model. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from lorica.errors import AdapterError, ConfigError
from lorica.records import Route

GENERAL = "general"
FALLBACKS = ("general", "base", "error")


def route(*, subject: str, task: str, adapters: Collection[str], fixed: str = "", fallback: str = GENERAL) -> Route:
    """Choose the adapter of one row.

    `fixed` (one adapter for all rows) wins; then the adapter named like the task, then the one named like the
    row's subject. A row with neither goes to `general`, then to the base model. `fallback` says what happens
    to a row whose subject has no adapter: "general" (then base), "base", or "error"; such a row is marked
    `fallback=True`. Without any adapter every row goes to the base model, and that is no fall-back: nobody
    asked for an adapter.

    Raises AdapterError for a fixed name that does not exist, and with fallback="error" for a row without an
    adapter; ConfigError for an unknown `fallback`.
    """
    if fallback not in FALLBACKS:
        raise ConfigError(f"adapters.fallback is {fallback!r}; allowed: {', '.join(FALLBACKS)}")
    if fixed:
        if fixed not in adapters:
            raise _missing(f"the adapter {fixed!r} does not exist", fixed, adapters)
        return Route(fixed, "fixed")
    if task and task in adapters:
        return Route(task, "task")
    if subject and subject in adapters:
        return Route(subject, "subject")
    if fallback == "error":
        what = f"subject {subject!r}" if subject else "a row without a subject"
        raise _missing(f"there is no adapter for {what} (task {task!r})", subject or task, adapters)
    missed = bool(subject) and bool(adapters)
    if GENERAL in adapters and not (missed and fallback == "base"):
        return Route(GENERAL, "general", fallback=missed)
    return Route(None, "base", fallback=missed)


def _missing(message: str, wanted: str, adapters: Collection[str]) -> AdapterError:
    known = sorted(adapters)
    close = difflib.get_close_matches(wanted, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    there = f"there are: {', '.join(known)}" if known else "there are no adapters at all"
    return AdapterError(message, fix=f"{hint}{there}; train it, or set adapters.fallback=general or base")
