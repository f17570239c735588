"""Fixtures that these tests share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from moceir.inference.restorer import Restorer
from tests.small_network import restore, restorer, weights

__all__ = ["Interrupted", "interrupted_at", "restore", "restorer", "weights"]

Interrupted = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def interrupted_at(monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    """``with interrupted_at(3):`` Ctrl-C is pressed when the third batch is to be restored."""

    @contextmanager
    def interrupted(number: int) -> Iterator[None]:
        restore_batch, calls = Restorer.restore_batch, []

        def counted(*args: object, **settings: object) -> object:
            calls.append(1)
            if len(calls) == number:
                signal.raise_signal(signal.SIGINT)
            return restore_batch(*args, **settings)  # type: ignore[arg-type]

        # Background jobs ignore it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with monkeypatch.context() as patched:
                patched.setattr(Restorer, "restore_batch", counted)
                yield
        finally:
            signal.signal(signal.SIGINT, before)

    return interrupted
