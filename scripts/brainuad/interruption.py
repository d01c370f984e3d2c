"""Signals that ask a training to save or to stop; it answers between two steps, never within one."""

import os
import signal

__all__ = ["CONTINUE", "SAVE", "STOP", "Interrupted", "Interruption"]

CONTINUE, SAVE, STOP = 0, 1, 2  # the larger one wins where several processes train together


class Interrupted(Exception):
    """A training has stopped at a step boundary on request; its checkpoint is on disk."""


class Interruption:
    """What the outside has asked for since this process began to listen.

    SIGUSR2 comes before the walltime, and before a preemption where the cluster is set up so: stop, to be started
    again. SIGTERM comes when a job is cancelled or preempted: save, and go on, since only the sender knows
    whether the job will be started again. Ending on one's own account would turn a preempted job into a failed one.
    """

    def __init__(self):
        self.stop = self.save = self.saved = False

    def listen(self) -> None:
        """Take over both signals in this process; its forked children ignore them.

        Slurm signals every process of a job, and a data-loading worker has nothing to save.
        """
        signal.signal(signal.SIGUSR2, self.note)
        signal.signal(signal.SIGTERM, self.note)
        os.register_at_fork(after_in_child=ignore_signals)

    def note(self, number: int, frame: object) -> None:
        """Remember a signal: it may come in the middle of a step."""
        if number == signal.SIGUSR2:
            self.stop = True
        else:
            self.save = True

    def wanted(self) -> int:
        """``CONTINUE``, ``SAVE`` (once) or ``STOP``."""
        if self.stop:
            return STOP
        return SAVE if self.save and not self.saved else CONTINUE


def ignore_signals() -> None:
    """Let a forked child sleep through what is meant for its parent."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
