"""A function in a process of its own, so that a crash of compiled code ends that process and no other.

What C++ code (ITK) does wrong can not be caught: a segmentation fault would take the whole job with it. The process is
forked, which costs a tenth of a second where importing everything anew would cost seconds for every scan.
"""

import ctypes
import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import psutil

__all__ = ["Crash", "follow", "isolated"]

PR_SET_PDEATHSIG = 1  # of Linux's prctl

# What the operating system sends to code that went wrong, which the same call would do again. Others come from outside:
# a person, a limit, or the system itself, which kills (SIGKILL) what takes more memory than there is.
FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS)


class Crash(RuntimeError):
    """The process of a call ended amid it; the message says how."""


def isolated(function: Callable, *arguments):
    """What the function returns, or raises, when it is called in a process of its own.

    Raises:
        Crash: the process crashed, or ended itself.
        MemoryError: it was killed, as the system does where memory runs out.
        KeyboardInterrupt: it was told to end.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    sys.stdout.flush()
    sys.stderr.flush()
    process = context.Process(target=call, args=(sender, os.getpid(), function, arguments), daemon=True)
    process.start()
    sender.close()  # so that the end of the process is the end of what can be received
    try:
        result, error = pickle.loads(receiver.recv_bytes())
    except (EOFError, OSError):  # it ended before, or amid, its answer
        process.join()
        raise why(process.exitcode) from None
    except BaseException:
        end_below(process.pid)  # interrupted while it waits: what it waits for is to end, too
        process.kill()
        raise
    finally:
        receiver.close()
    process.join()
    if error is not None:
        raise error
    return result


def call(sender: Connection, parent: int, function: Callable, arguments: tuple) -> None:
    """Call the function and send what came of it; in the new process."""
    follow(parent)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()  # where there is no such call
    faulthandler.enable(2)  # after a crash the log says where
    result, error = None, None
    try:
        result = function(*arguments)
    except BaseException as raised:
        error = raised
        error.add_note("".join(traceback.format_exception(error)))  # tracebacks do not cross to another process
    sys.stdout.flush()
    sys.stderr.flush()
    sender.send_bytes(packed(result, error))


def packed(result, error: BaseException | None) -> bytes:
    """What came of a call as bytes; an error that can not be sent becomes one that can."""
    try:
        pickle.loads(content := pickle.dumps((result, error)))
    except Exception as reason:
        content = pickle.dumps((None, RuntimeError(f"{type(error or reason).__name__}: {error or reason}")))
    return content


def follow(parent: int) -> None:
    """Have this process, just begun, killed as soon as the one that began it is gone.

    Two of them would otherwise write one file. Linux does it; a thread that looks would have to wait for compiled code
    that holds the interpreter's lock, as ANTs does for minutes. Processes that this one begins have to ask for it, too.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(143)


def end_with(parent: int, seconds: float = 0.5) -> None:
    """End this process, and those below it, when the one that began it is gone."""
    while os.getppid() == parent:
        time.sleep(seconds)
    end_below(os.getpid())
    os._exit(143)


def end_below(pid: int) -> None:
    """Kill the processes that a process began, and those that they began, such as a program that the call runs."""
    with suppress(psutil.NoSuchProcess):
        for below in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                below.kill()


def why(code: int) -> BaseException:
    """What is to be raised for a process that ended with this code before it sent a result."""
    if code >= 0:
        return Crash(f"it ended its process with code {code}")
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if -code in FAULTS:
        return Crash(f"it crashed its process, {name}")
    if -code == signal.SIGKILL:
        return MemoryError(f"the process of this call was killed ({name}), as it is where memory runs out")
    return KeyboardInterrupt(f"the process of this call was told to end ({name})")
