"""Signals that a process was started to ignore stay ignored, whatever waits with the others."""

from __future__ import annotations

import signal

import pytest

from lorica.signals import Deferred


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_ignored_signal_stays_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Deferred() as signals:
            signal.raise_signal(number)
        assert signals.received == 0
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_the_first_signal_waits_and_the_next_does_not() -> None:
    with Deferred() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
