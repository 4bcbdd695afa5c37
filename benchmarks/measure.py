"""What a piece of work costs: wall time, CPU of the process that works, peak memory."""

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

SAMPLED_EVERY_S = 0.02


class ContenderFailed(Exception):
    """A contender ended with an error, or left objects behind: there is nothing to compare."""


@dataclass
class Cost:
    """Of one run."""

    wall_s: float = 0.0
    client_cpu_s: float = 0.0
    """Of the deleter: the whole process of a tool, what the deletion added to that of a worker."""
    store_cpu_s: float = 0.0
    other_cpu_s: float = 0.0
    """Of Temporal's server and PostgreSQL, where the contender needs them."""
    peak_mb: float = 0.0
    """Resident memory of the deleter, sampled; 0 in this process, which holds much else."""


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds so far of processes and their children, those too that have ended and were waited for.

    Of this process without children, which are the servers and all others that are measured.
    """
    total = 0.0
    for pid in pids:
        if pid == os.getpid():
            total += time.process_time()
            continue
        process = psutil.Process(pid)
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
        for child in process.children(recursive=True):
            try:
                times = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
    return total


@contextmanager
def measured(cost: Cost, *, clients: Sequence[int], store: int, others: Sequence[int]) -> Iterator[None]:
    """Put down what the work inside costs these processes."""
    ended = threading.Event()
    processes = [psutil.Process(one) for one in clients if one != os.getpid()]

    def sample() -> None:
        while processes:
            cost.peak_mb = max(cost.peak_mb, sum(one.memory_info().rss for one in processes) / 2**20)
            if ended.wait(SAMPLED_EVERY_S):
                return

    sampler = threading.Thread(target=sample, daemon=True)
    before = [cpu_s(clients), cpu_s([store]), cpu_s(others)]
    began = time.perf_counter()
    sampler.start()
    try:
        yield
    finally:
        cost.wall_s = time.perf_counter() - began
        ended.set()
        sampler.join()
        after = [cpu_s(clients), cpu_s([store]), cpu_s(others)]
        cost.client_cpu_s, cost.store_cpu_s, cost.other_cpu_s = (b - a for a, b in zip(before, after, strict=True))


def run_tool(command: Sequence[str], environment: Mapping[str, str], store: int) -> Cost:
    """Run a tool to its end, as a shell would. Raises ContenderFailed."""
    store_before, began = cpu_s([store]), time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    watched, cost = psutil.Process(process.pid), Cost()
    while True:
        # Not RUSAGE's peak: that of a child begins with its parent's.
        try:
            family = [watched, *watched.children(recursive=True)]
            cost.peak_mb = max(cost.peak_mb, sum(one.memory_info().rss for one in family) / 2**20)
        except psutil.NoSuchProcess:
            pass
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(SAMPLED_EVERY_S)
    cost.wall_s = time.perf_counter() - began
    cost.client_cpu_s = usage.ru_utime + usage.ru_stime
    cost.store_cpu_s = cpu_s([store]) - store_before
    process.returncode = os.waitstatus_to_exitcode(status)
    with process:
        said = process.stderr.read().decode(errors="replace") if process.stderr else ""
    if process.returncode:
        raise ContenderFailed(f"{command[0]} ended with {process.returncode}: {said[-500:]}")
    return cost


def median(costs: Sequence[Cost]) -> Cost:
    """The median of each figure by itself."""
    return Cost(*(statistics.median(values) for values in zip(*(vars(cost).values() for cost in costs), strict=True)))


def mean(costs: Sequence[Cost]) -> Cost:
    """The mean of each figure by itself."""
    return Cost(*(statistics.fmean(values) for values in zip(*(vars(cost).values() for cost in costs), strict=True)))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def average(costs: Sequence[Cost]) -> dict[str, float]:
    """The mean of each figure, for runs that are shorter than the clocks are fine; of memory the highest."""
    return vars(mean(costs)) | {"peak_mb": max(cost.peak_mb for cost in costs)}
