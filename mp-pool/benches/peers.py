"""The pools of Python on the work of `benches/pool.rs`: multiprocessing, concurrent.futures, and loky if it is
installed.

    python3 mp-pool/benches/peers.py

Run it beside `cargo bench -p mp-pool --bench pool`, on the same machine and under the same load; medians of
rounds, all rows interleaved.
"""

import concurrent.futures
import multiprocessing
import os
import signal
import statistics
import sys
import time
from concurrent.futures.process import BrokenProcessPool

try:
    import loky
except ImportError:
    loky = None

ROUNDS, WORKERS, HANG = 3, 2, 2.0


def increment(x):
    return x + 1


def peek(block):
    return len(block)


def spin(seed):
    for n in range(100_000):
        seed = (seed ^ n) * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF
    return seed


def nap(seconds):
    time.sleep(seconds)


class Multiprocessing:
    """Pool: chunks of its own choice when asked for `None`."""

    name = "multiprocessing"

    def __init__(self, workers):
        self.pool = multiprocessing.get_context("fork").Pool(workers)

    def map(self, function, items, chunk):
        return self.pool.map(function, items, chunk)

    def submit(self, function, argument):
        return self.pool.apply_async(function, (argument,))

    def pids(self):
        return [worker.pid for worker in self.pool._pool]

    def close(self):
        self.pool.terminate()


class Executor:
    """ProcessPoolExecutor and loky: `map` without a chunk size sends one by one."""

    def __init__(self, name, make, workers):
        self.name, self.pool, self.workers = name, make(workers), workers

    def map(self, function, items, chunk):
        chunk = chunk or max(1, len(items) // (4 * self.workers))
        return list(self.pool.map(function, items, chunksize=chunk))

    def submit(self, function, argument):
        future = self.pool.submit(function, argument)
        future.get = future.result
        return future

    def pids(self):
        return list(self.pool._processes)

    def close(self):
        self.pool.shutdown(wait=False)


def contenders():
    yield lambda workers: Multiprocessing(workers)
    futures = concurrent.futures.ProcessPoolExecutor
    yield lambda workers: Executor("concurrent.futures", futures, workers)
    if loky:
        # Not `get_reusable_executor`: its processes would outlive the row.
        yield lambda workers: Executor("loky", loky.ProcessPoolExecutor, workers)


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def told(pool):
    """From SIGKILL of all workers at work until the caller knows; nothing if it never does."""
    result = pool.submit(nap, 60)
    time.sleep(0.3)
    start = time.perf_counter()
    for pid in pool.pids():
        os.kill(pid, signal.SIGKILL)
    try:
        result.get(timeout=HANG)
    except (TimeoutError, concurrent.futures.TimeoutError, multiprocessing.TimeoutError):
        return None
    except BrokenProcessPool:
        pass
    except Exception as error:
        print(f"{pool.name}: {type(error).__name__}", file=sys.stderr)
    return (time.perf_counter() - start) * 1e3


def rows(make):
    pool = make(WORKERS)
    pool.map(increment, range(1000), None)
    name = pool.name
    yield f"{name}/apply", "us", seconds(lambda: [pool.submit(increment, n).get() for n in range(500)]) * 2e3
    yield f"{name}/chunksize 1", "k tasks/s", 5 / seconds(lambda: pool.map(increment, range(5000), 1))
    yield f"{name}/automatic", "k tasks/s", 500 / seconds(lambda: pool.map(increment, range(500_000), None))
    blocks = [bytes([n]) * (1 << 20) for n in range(100)]
    yield f"{name}/1 MiB to a worker", "GB/s", 0.1048576 / seconds(lambda: pool.map(peek, blocks, 1))
    two = seconds(lambda: pool.map(spin, range(32), 1))
    single = make(1)
    single.map(increment, range(10), None)
    one = seconds(lambda: single.map(spin, range(32), 1))
    yield f"{name}/1 to 2 workers", "times", one / two
    single.close()
    yield f"{name}/caller is told", "ms", told(pool)  # such a pool may hang when it is closed


def main():
    table = {}
    for _ in range(ROUNDS):
        for make in contenders():
            for name, unit, figure in rows(make):
                table.setdefault((name, unit), []).append(figure)
    for (name, unit), figures in sorted(table.items()):
        if None in figures:
            print(f"{name:40} {'never':>12}")
        else:
            low, high = min(figures), max(figures)
            print(f"{name:40} {statistics.median(figures):12.3f} {unit:10} ({low:.3f} – {high:.3f})")
    sys.stdout.flush()
    os._exit(0)  # a pool that has lost its workers cannot be joined


def guarded():
    """Runs it in a process group of its own, of which nothing stays."""
    child = os.fork()
    if child == 0:
        os.setsid()
        main()
    os.waitpid(child, 0)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    guarded()
