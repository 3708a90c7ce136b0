"""Cases in processes of their own, with limits on time and memory; shared by the fuzzing scripts."""

from __future__ import annotations

import argparse
import os
import resource
from collections.abc import Callable, Iterable

SECONDS = 30
MEGABYTES = 2000
WRONG = "WRONG"

Case = tuple[str, Callable[[], str]]  # description, function that returns "refused: ...", "same" or "WRONG: ..."


def arguments(description: str, number: int) -> argparse.Namespace:
    """Parse the options of the scripts: number, values, seed, all."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=number, help="cases")
    parser.add_argument("--values", type=int, default=2, help="odd values of each argument (of weights)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="print every case, not only what is wrong")
    return parser.parse_args()


def refusal(error: ValueError) -> str:
    """Return the verdict on an error: it must be one line of printable characters."""
    line = str(error)
    return f"refused: {line}" if line.isprintable() else f"{WRONG}: {line!r}"


def run(verdict: Callable[[], str]) -> tuple[str, float, float]:
    """Return verdict, seconds of processor time and megabytes of a function in a forked process."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS + 5, SECONDS + 5))
        try:
            text = verdict()
        except BaseException as error:
            text = f"{WRONG}: {type(error).__name__}: {error}"
        os.write(sending, text.encode(errors="replace")[:4000])
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    _, status, usage = os.wait4(child, 0)
    return text or f"{WRONG}: ended with status {status}", usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def judge(cases: Iterable[Case], show_all: bool, intact: Callable[[], str] = lambda: "same") -> bool:
    """Run the cases, print those that are wrong and a summary; return whether all are right.

    Args:
        cases: run one after the other, as they are made.
        show_all: print every case.
        intact: a case without damage, whose memory is that of the programs.
    """
    base = run(intact)[2]
    counts: dict[str, int] = {}
    slowest = largest = 0.0
    for name, verdict in cases:
        text, seconds, megabytes = run(verdict)
        if seconds > SECONDS or megabytes > base + MEGABYTES:
            text = f"{WRONG}: {seconds:.0f} s, {megabytes:.0f} MB: {text}"
        slowest, largest = max(slowest, seconds), max(largest, megabytes)
        kind = text.split(":")[0]
        counts[kind] = counts.get(kind, 0) + 1
        if show_all or kind == WRONG:
            print(f"{name!r:.80}: {text:.200} ({seconds:.1f} s, {megabytes:.0f} MB)", flush=True)
    print(f"{sum(counts.values())} cases: {counts}; at most {slowest:.1f} s and {largest:.0f} MB ({base:.0f} at rest)")
    return WRONG not in counts
