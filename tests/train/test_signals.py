import signal
import threading

import pytest

from jaxconv.train.signals import Signals


def test_the_first_is_noted_and_the_second_does_as_ever(capsys):
    with Signals() as signals:
        assert signals.received is None
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert "SIGINT: fit stops after this step" in capsys.readouterr().err


def test_a_programs_own_handler_stays():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        assert signals.received is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_changes():
    found = []

    def work():
        with Signals() as signals:
            found.append((signals.received, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, signal.default_int_handler)]
