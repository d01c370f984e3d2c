"""What all benchmarks share: ours and the peer in turns on the same work, and rows of a table of goals.

A benchmark is a script with a function ``measure`` that yields a ``Row`` for each of its goals; run by itself it prints
them as a table. The ratio of a row is taken round by round, ours and the peer one right after the other, since a
machine's speed drifts: its median is the figure, its least and greatest the spread.
"""

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

__all__ = ["ROOT", "Others", "Row", "alternate", "main", "on_gpu", "ratio", "table"]

USUAL = 5  # rounds; of fewer a row says how many there were
COLUMNS = ("goal", "against", "wanted", "measured", "spread", "verdict")


@dataclass(frozen=True)
class Row:
    """One goal and what was measured.

    Attributes:
        goal: what was done, and on how much.
        against: the peer, with how it was called; empty for a figure that has none.
        wanted: the bound; None where there is no goal.
        value: the median of the rounds.
        low: the least of them.
        high: the greatest.
        unit: of all four; × for how many times the peer takes as long as ours.
        at_least: whether the figure is to be at or above its bound, or at or below it.
        note: what a reader has to know of it.
    """

    goal: str
    against: str
    wanted: float | None
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = "×"
    at_least: bool = True
    note: str = ""

    @property
    def reached(self) -> bool:
        """Whether the median keeps to the bound."""
        if self.wanted is None:
            return True
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted

    def cells(self) -> tuple[str, ...]:
        """What its line of the table says."""
        spread = "" if self.low is None else f"{figure(self.low)}–{figure(self.high)}"
        sign = "≥" if self.at_least else "≤"
        wanted = "" if self.wanted is None else f"{sign} {figure(self.wanted)} {self.unit}".rstrip()
        verdict = "" if self.wanted is None else "reached" if self.reached else "**not reached**"
        goal = f"{self.goal} ({self.note})" if self.note else self.goal
        return goal, self.against, wanted, f"{figure(self.value)} {self.unit}".rstrip(), spread, verdict


def figure(value: float) -> str:
    """A number with three digits that count; whole ones in full, with their thousands apart."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def alternate(*works: Callable[[], object], rounds: int = 5, warm: int = 1) -> list[list[float]]:
    """Seconds of each work in each round; in a round all come one after the other.

    Args:
        works: functions without arguments that return when their work is done.
        rounds: that count.
        warm: rounds before these that do not; on a GPU one at least, where a first call loads its kernels.
    """
    seconds, warm = [[] for _ in works], max(warm, on_gpu())
    gc.collect()
    gc.freeze()  # what the packages hold is looked through once, not before each work, which may take less than that
    for number in range(-warm, rounds):
        for kept, work in zip(seconds, works, strict=True):
            gc.collect()
            began = time.perf_counter()
            work()
            finish()
            if number >= 0:
                kept.append(time.perf_counter() - began)
    gc.unfreeze()
    return seconds


def finish() -> None:
    """Wait until the GPU, if torch was given one, has done what it was asked to do."""
    if on_gpu():
        sys.modules["torch"].cuda.synchronize()


def on_gpu() -> bool:
    """Whether torch, if it was loaded, computes on a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available()


def full_precision() -> None:
    """Have 32 bit mean that on a GPU, too, for both sides: torch lets convolutions there drop 13 of 23 bits (TF32)."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


class Others:
    """How busy the machine is, from now on, with what neither this process does nor those that it started."""

    def __init__(self):
        self.before = self.seconds()

    def seconds(self) -> tuple[float, float, float]:
        """Of all cores since the machine started, all and those at work, and of this process and its ended ones."""
        times = psutil.cpu_times()._asdict()
        every = sum(value for name, value in times.items() if not name.startswith("guest"))  # user has those, too
        return every, every - times["idle"] - times.get("iowait", 0.0), sum(os.times()[:4])

    def share(self) -> float:
        """Of the machine, 0 to 1."""
        every, busy, own = (after - before for after, before in zip(self.seconds(), self.before, strict=True))
        return max(busy - own, 0.0) / every if every else 0.0


def threads() -> str:
    """How many torch computes with, where it was loaded."""
    torch = sys.modules.get("torch")
    return f"torch with {torch.get_num_threads()} threads" if torch else "without torch"


def ratio(goal: str, against: str, wanted: float | None, peer: list[float], ours: list[float], note: str = "") -> Row:
    """The row of how many times the peer takes as long as ours; seconds of both by round, for equal work."""
    ratios = [theirs / own for theirs, own in zip(peer, ours, strict=True)]
    took = f"{figure(1000 * median(ours))} against {figure(1000 * median(peer))} ms"
    few = f"{len(ours)} round{'s' * (len(ours) > 1)}" if len(ours) < USUAL else ""
    note = "; ".join(filter(None, (took, few, note)))
    return Row(goal, against, wanted, median(ratios), min(ratios), max(ratios), note=note)


def table(rows: list[Row]) -> str:
    """Rows as a table in Markdown."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(measure: Callable[[], Iterator[Row]]) -> None:
    """Measure, print the table and, with ``--rows``, write the rows to a file for ``benchmarks/all.py``."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, help="file that receives the rows and how it went, JSON")
    arguments = parser.parse_args()
    full_precision()
    others, rows = Others(), []
    for row in measure():
        print(f"{row.goal}: {figure(row.value)} {row.unit} {'' if row.reached else '(not reached) '}", flush=True)
        rows.append(row)
    conditions = f"{threads()}, {others.share():.0%} of the machine taken by other processes"
    print(f"\n{table(rows)}\n\n{os.cpu_count()} cores, {conditions}.")
    if arguments.rows:
        told = {"conditions": conditions, "rows": [asdict(row) for row in rows]}
        arguments.rows.write_text(json.dumps(told), encoding="utf-8")
