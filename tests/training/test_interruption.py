import os
import signal
import subprocess
import sys
import time

import pytest

from ols.training.interruption import Interruption

LISTENING = """
import time
from ols.training import interruption
interruption.ECHO_SECONDS = 0.3
stop = interruption.Interruption()
with stop.listening():
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(20)
"""


TAKEN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize("number", TAKEN)
def test_a_signal_asks_and_the_handlers_from_before_come_back(number, capfd):
    before = [signal.getsignal(n) for n in TAKEN]
    stop = Interruption()
    with stop.listening():
        with stop.listening():
            pass
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        os.kill(os.getpid(), number)  # a launcher's echo
    assert [signal.getsignal(n) for n in TAKEN] == before
    assert capfd.readouterr().err.startswith(f"{signal.Signals(number).name}: stopping after this step")


def test_a_hang_up_that_is_ignored_asks_for_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = Interruption()
        with stop.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_exits_at_once():
    with subprocess.Popen([sys.executable, "-c", LISTENING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGTERM)  # the echo
        time.sleep(0.5)
        assert process.poll() is None
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) == 128 + signal.SIGINT
        assert time.monotonic() - started < 10
