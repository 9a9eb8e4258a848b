"""Ctrl-C and SIGTERM as a wish to stop after the step that is being taken."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

_MEANT = (signal.SIGINT, signal.SIGTERM)
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Signals:
    """Within a ``with`` block, the first SIGINT or SIGTERM is noted. A second one does what it does elsewhere.

    Handlers that the program has set itself stay. In a thread other than the main one nothing is changed, for Python
    forbids it there.

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
        if threading.current_thread() is threading.main_thread():
            for one in _MEANT:
                if signal.getsignal(one) in _DEFAULTS:
                    self._before[one] = signal.signal(one, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.__exit__()
        print(f"\n{self.received.name}: fit stops after this step; once more to stop at once", file=sys.stderr)
