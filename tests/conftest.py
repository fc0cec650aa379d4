"""What every test relies on, whatever started the tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from lorica.models.compiled import library
from tests import emulated_processor


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes do not become ids: gzip writes the second into them, and pytest-xdist refuses workers whose ids differ."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heeded() -> Iterator[None]:
    """`nohup` and a shell's `&` start their commands with signals ignored, which Lorica and its processes respect."""
    before: list[tuple[int, Any]] = [(signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))]
    before += [(number, signal.signal(number, signal.SIG_DFL)) for number in (signal.SIGHUP, signal.SIGTERM)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture(params=[*(library.available_targets() or (library.NO_TARGET,)), emulated_processor.EMULATED])
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every target of the compiled kernels that this processor runs, or that is emulated, one after the other."""
    monkeypatch.setenv(library.TARGET_VARIABLE, request.param)
    if request.param == emulated_processor.TARGET:
        emulated_processor.emulate(monkeypatch)
    library.clear_caches()
    yield request.param
    monkeypatch.undo()
    library.clear_caches()
