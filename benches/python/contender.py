#!/usr/bin/env python3
"""Python's multiprocessing at the same workloads: `--list`, or `--workload NAME --secs S`.

One JSON line per figure, as the Rust programs beside it print them.
"""

import argparse
import hashlib
import json
import multiprocessing as mp
import os
import signal
import statistics
import threading
import time

FORK = mp.get_context("fork")
STREAMS = [("64B", 64, 100_000), ("4KiB", 4096, 50_000), ("1MiB", 1 << 20, 300), ("64MiB", 64 << 20, 4)]
ITEMS = [("16B", 16, 50_000), ("1KiB", 1024, 50_000), ("1MiB", 1 << 20, 200)]
RECORD = {"id": 1, "name": "worker-node-000123", "tags": ["alpha", "beta", "gamma"], "values": [i * 0.5 for i in range(112)]}
WORKERS = 2
HANG = 10.0


def report(workload, param, unit, value, n, contender="python", note=None):
    figure = dict(workload=workload, contender=contender, param=param, unit=unit, value=value, n=n)
    if note:
        figure["note"] = note
    print(json.dumps(figure), flush=True)


def per_iteration(secs, f):
    n = 4
    f(n)
    while True:
        start = time.perf_counter()
        f(n)
        took = time.perf_counter() - start
        if took >= secs * 0.7:
            return took / n, n
        n = int(n * min(64.0, max(1.5, secs / max(took, 1e-9)))) + 1


def increment(x):
    return x + 1


def peek(b):
    return len(b) + b[0] + b[-1]


def hash_block(seed):
    block = hash_block.__dict__.setdefault("block", bytes((i * 7 + 3) & 255 for i in range(256)) * (4 << 12))
    h = hashlib.sha256(seed.to_bytes(8, "little"))
    h.update(block)
    return h.digest()[0]


def process(secs):
    for method in ("spawn", "forkserver", "fork"):
        context = mp.get_context(method)

        def once(n):
            for _ in range(n):
                child = context.Process(target=increment, args=(1,))
                child.start()
                child.join()

        took, n = per_iteration(secs, once)
        report("process", "small", "us", took * 1e6, n, f"python:{method}")


def echo(connection):
    try:
        while True:
            connection.send(connection.recv())
    except EOFError:
        pass


def pingpong(secs):
    for param, value in (("16B", b"\1" * 16), ("1KiB-struct", RECORD)):
        here, there = FORK.Pipe()
        child = FORK.Process(target=echo, args=(there,), daemon=True)
        child.start()

        def once(n):
            for _ in range(n):
                here.send(value)
                here.recv()

        took, n = per_iteration(secs, once)
        child.kill()
        report("pingpong", param, "us", took * 1e6, n)


def drain(reader, ack, n):
    ack.send(sum(peek(reader.recv_bytes()) for _ in range(n)))


def oneway(_secs):
    for param, size, n in STREAMS:
        reader, writer = FORK.Pipe(False)
        acknowledged, ack = FORK.Pipe(False)
        child = FORK.Process(target=drain, args=(reader, ack, n + 1))
        child.start()
        message = b"\1" * size
        writer.send_bytes(message)
        start = time.perf_counter()
        for _ in range(n):
            writer.send_bytes(message)
        acknowledged.recv()
        took = time.perf_counter() - start
        child.join()
        report("oneway", param, "MB/s", size * n / 1e6 / took, n)
        report("oneway", f"{param}/rate", "msg/s", n / took, n)


def produce(q, start, size, n):
    item = b"\1" * size
    start.wait()
    for _ in range(n):
        q.put(item)


def consume(q, start, n):
    start.wait()
    for _ in range(n):
        peek(q.get())


def queue(_secs):
    for param, size, n in ITEMS:
        for pairs in (1, 2):
            # Of the large ones few at a time, as mp's contender has it.
            q, start = FORK.Queue(8 if size >= 1 << 20 else 0), FORK.Barrier(2 * pairs + 1)
            children = []
            for _ in range(pairs):
                children.append(FORK.Process(target=produce, args=(q, start, size, n // pairs)))
                children.append(FORK.Process(target=consume, args=(q, start, n // pairs)))
            for child in children:
                child.start()
            start.wait()
            begin = time.perf_counter()
            for child in children:
                child.join()
            report("queue", f"{pairs}p{pairs}c/{param}", "items/s", n / (time.perf_counter() - begin), n)


def stamp(requests, delays, n):
    for _ in range(n):
        sent = requests.get()
        delays.put(time.monotonic_ns() - sent)


def queue_wake(_secs):
    requests, delays, n = FORK.Queue(), FORK.Queue(), 200
    child = FORK.Process(target=stamp, args=(requests, delays, n))
    child.start()
    times = []
    for _ in range(n):
        time.sleep(0.0005)
        requests.put(time.monotonic_ns())
        times.append(delays.get() / 1e3)
    child.join()
    report("queue_wake", "wake", "us", statistics.median(times), n)


def pool_map(_secs):
    with FORK.Pool(WORKERS) as pool:
        pool.map(increment, range(1000))
        for param, chunk, n in (("trivial/chunk1", 1, 30_000), ("trivial/auto", None, 200_000)):
            start = time.perf_counter()
            pool.map(increment, range(n), chunk)
            report("pool_map", param, "tasks/s", n / (time.perf_counter() - start), n)
        data = [bytes([i & 255]) * (1 << 20) for i in range(200)]
        start = time.perf_counter()
        pool.map(peek, data, 1)
        report("pool_map", "payload1MiB", "MB/s", len(data) * 1.048576 / (time.perf_counter() - start), len(data))


def pool_apply(secs):
    with FORK.Pool(WORKERS) as pool:

        def once(n):
            for i in range(n):
                pool.apply(increment, (i,))

        took, n = per_iteration(secs, once)
        report("pool_apply", "apply", "us", took * 1e6, n)


def pool_cpu(_secs):
    took = {}
    for workers in (1, 2):
        with FORK.Pool(workers) as pool:
            pool.map(hash_block, range(4 * workers), 1)
            start = time.perf_counter()
            pool.map(hash_block, range(64), 1)
            took[workers] = time.perf_counter() - start
            report("pool_cpu", f"sha256/{workers}w", "ms", took[workers] * 1e3, 64)
    report("pool_cpu", "sha256/speedup", "x", took[1] / took[2], 64)


def lock(secs):
    for param, made in (("uncontended", FORK.Lock()), ("sem-uncontended", FORK.Semaphore(1))):

        def once(n):
            for _ in range(n):
                made.acquire()
                made.release()

        took, n = per_iteration(secs, once)
        report("lock", param, "ns", took * 1e9, n)
    value = FORK.Value("q", 0)

    def add(n):
        for _ in range(n):
            with value.get_lock():
                value.value += 1

    took, n = per_iteration(secs, add)
    report("lock", "value-inc", "ns", took * 1e9, n)

    total, start = 100_000, FORK.Barrier(3)

    def half():
        start.wait()
        add(total // 2)

    children = [FORK.Process(target=half) for _ in range(2)]
    for child in children:
        child.start()
    start.wait()
    begin = time.perf_counter()
    for child in children:
        child.join()
    report("lock", "contended2", "ns", (time.perf_counter() - begin) * 1e9 / total, total)

    event, sent, delays, n = FORK.Event(), FORK.Value("q", 0, lock=False), FORK.Queue(), 200

    def wait():
        for _ in range(n):
            event.wait()
            delay = time.monotonic_ns() - sent.value
            event.clear()
            delays.put(delay)

    child = FORK.Process(target=wait)
    child.start()
    times = []
    for _ in range(n):
        time.sleep(0.0005)
        sent.value = time.monotonic_ns()
        event.set()
        times.append(delays.get() / 1e3)
    child.join()
    report("lock", "event-wake", "us", statistics.median(times), n)


def manager(secs):
    with mp.Manager() as server:
        values = server.dict({i: i for i in range(100)})

        def get(n):
            for i in range(n):
                values[i % 100]

        def put(n):
            for i in range(n):
                values[i % 100] = i

        for param, f in (("get", get), ("set", put)):
            took, n = per_iteration(secs, f)
            report("manager", param, "us", took * 1e6, n)

        total, start = 20_000, FORK.Barrier(3)

        def client():
            values[0]
            start.wait()
            get(total // 2)

        children = [FORK.Process(target=client) for _ in range(2)]
        for child in children:
            child.start()
        start.wait()
        begin = time.perf_counter()
        for child in children:
            child.join()
        report("manager", "2clients-get", "ops/s", total / (time.perf_counter() - begin), total)


def spin():
    while True:
        pass


def crash(_secs):
    times = []
    for _ in range(5):
        child = FORK.Process(target=spin)
        child.start()
        time.sleep(0.02)
        start = time.perf_counter()
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        times.append((time.perf_counter() - start) * 1e3)
    report("crash", "worker", "ms", statistics.median(times), len(times))

    os.setpgid(0, 0)
    pool = FORK.Pool(WORKERS)
    result = pool.map_async(spin_or, [True, False], 1)
    time.sleep(0.05)
    for worker in pool._pool:
        os.kill(worker.pid, signal.SIGKILL)
    told = threading.Thread(target=result.wait, daemon=True)
    told.start()
    told.join(HANG)
    if told.is_alive():
        report("crash", "pool-worker", "ms", HANG * 1e3, 1, note="hangs")
    os.killpg(0, signal.SIGKILL)  # the pool cannot be ended any more, and its workers would stay


def spin_or(forever):
    while forever:
        pass


def main():
    workloads = [process, pingpong, oneway, queue, queue_wake, pool_map, pool_apply, pool_cpu, lock, manager, crash]
    table = {f.__name__: f for f in workloads}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--workload", choices=table)
    parser.add_argument("--secs", type=float, default=0.25)
    args = parser.parse_args()
    if args.list:
        print("\n".join(table))
    elif args.workload:
        table[args.workload](args.secs)
    else:
        parser.error("--list or --workload NAME")


if __name__ == "__main__":
    main()
