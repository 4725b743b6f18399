#!/usr/bin/env python3
"""Python's `multiprocessing` at the work of start.rs: `start.py METHOD PARENT_MIB`.

Prints the median of starting and joining a process that does nothing, in microseconds.
"""

import multiprocessing
import statistics
import sys
import time


def nothing():
    pass


def start(context):
    begin = time.perf_counter()
    process = context.Process(target=nothing)
    process.start()
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - begin


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    start(context)  # the fork server is there now, and small
    parent = bytearray(b"x") * (int(sys.argv[2]) << 20)
    print(statistics.median(start(context) for _ in range(20)) * 1e6)
