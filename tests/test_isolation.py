"""A call in a process of its own: what it returns, what it raises, and what is left when it crashes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from brainuad.faults import BadScan, NotInstalled
from brainuad.isolation import Crash, isolated


def raising(error):
    raise error


def ending(how):
    os.kill(os.getpid(), how)
    time.sleep(60)


def test_results_come_back():
    assert isolated(os.getpid) != os.getpid()
    large = np.arange(10**6)
    assert np.array_equal(isolated(np.negative, large), -large)


@pytest.mark.parametrize("error", [BadScan("affine", "It has none."), NotInstalled("no hd-bet"), OSError(28, "full")])
def test_errors_come_back_as_they_are(error):
    with pytest.raises(type(error)) as raised:
        isolated(raising, error)
    assert str(raised.value) == str(error)
    assert getattr(raised.value, "code", "") == getattr(error, "code", "")
    assert getattr(raised.value, "errno", 0) == getattr(error, "errno", 0)


def test_what_can_not_be_sent_is_said():
    with pytest.raises(RuntimeError, match="lambda"):
        isolated(eval, "lambda: 0")


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGBUS, signal.SIGILL])
def test_a_crash_is_the_fault_of_the_call(how):
    with pytest.raises(Crash, match=how.name):
        isolated(ending, how)
    with pytest.raises(Crash, match="code 3"):
        isolated(os._exit, 3)


def test_what_comes_from_outside_is_not():
    with pytest.raises(MemoryError, match="SIGKILL"):
        isolated(ending, signal.SIGKILL)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        isolated(ending, signal.SIGTERM)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_process_that_called(how):
    caller = start(
        "import sys; from brainuad.extraction import run; from brainuad.isolation import isolated; "
        "isolated(run, [sys.executable, '-c', 'import time; time.sleep(60)'], {})"
    )
    below = wait(lambda: len(found := caller.children(recursive=True)) == 2 and found)
    caller.send_signal(how)
    assert wait(lambda: not any(map(alive, [caller, *below])))


def test_compiled_code_does_not_outlive_it_either():
    """A call that holds the interpreter's lock, as ANTs does, lets no thread of its process look around."""
    caller = start("import ctypes; from brainuad.isolation import isolated; isolated(ctypes.PyDLL(None).sleep, 60)")
    below = wait(lambda: len(found := caller.children(recursive=True)) == 1 and found)
    caller.kill()
    assert wait(lambda: not any(map(alive, below)))


def start(code):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "scripts")}
    return psutil.Process(subprocess.Popen([sys.executable, "-c", code], env=environment).pid)


def wait(condition, seconds=20):
    """What the condition gives as soon as it gives something, or at last."""
    end = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return result


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
