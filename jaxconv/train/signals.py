"""Ctrl-C and SIGTERM as a wish to stop after the step that is being taken."""

import itertools
import signal
import sys
import threading
from types import FrameType
from typing import Any

import jax

_MEANT = (signal.SIGINT, signal.SIGTERM)
# JAX stops at the call after the last one of any process, counted from 0: so all runs of a process count on.
_CALLS = itertools.count(1)
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Signals:
    """Within a ``with`` block, the first SIGINT or SIGTERM is noted. A second one does what it does elsewhere.

    Handlers that the program has set itself stay. In a thread other than the main one nothing is changed, for Python
    forbids it there. Of several processes each must stop after the same step: there JAX notes a SIGTERM of any, and
    agrees on the step with all; a SIGINT is not noted.

    Attributes:
      received: the signal that came, or None.

    >>> with Signals() as signals:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     signals.received.name
    'SIGTERM'
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for one in _MEANT:
                if signal.getsignal(one) in _DEFAULTS:
                    self._before[one] = signal.signal(one, self._note)
        return self

    def stop(self) -> bool:
        """Whether to stop now; called after each step."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(next(_CALLS)):
                self.received = signal.SIGTERM
        return self.received is not None

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.__exit__()
        print(f"\n{self.received.name}: fit stops after this step; once more to stop at once", file=sys.stderr)
