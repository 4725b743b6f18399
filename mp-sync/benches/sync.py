"""What Python's own objects cost, for `sync.rs`: prints the nanoseconds of one operation.

sync.py OPERATION CALLS
"""

import multiprocessing
import sys
import time

context = multiprocessing.get_context("fork")
operation, calls = sys.argv[1], int(sys.argv[2])


def per_call(call):
    begun = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - begun) / calls


def taken_and_given_back(lock):
    def call():
        lock.acquire()
        lock.release()

    return per_call(call)


def increments_by_two():
    value, start = context.Value("Q", 0), context.Barrier(2)

    def add():
        start.wait()
        return per_call(increment)

    def increment():
        with value.get_lock():
            value.value += 1

    child = context.Process(target=add)
    child.start()
    nanos = add() / 2
    child.join()
    return nanos


def adding():
    value = context.Value("Q", 0)

    def call():
        with value.get_lock():
            value.value += 1

    return per_call(call)


def wakes(ping, pong):
    child = context.Process(target=lambda: per_call(pong))
    child.start()
    nanos = per_call(ping) / 2
    child.join()
    return nanos


def event():
    there, back = context.Event(), context.Event()

    def ping():
        there.set()
        back.wait()
        back.clear()

    def pong():
        there.wait()
        there.clear()
        back.set()

    return wakes(ping, pong)


def condition():
    turn, changed = context.RawValue("i", 0), context.Condition()

    def take(mine):
        with changed:
            changed.wait_for(lambda: turn.value == mine)
            turn.value = 1 - mine
            changed.notify()

    return wakes(lambda: take(0), lambda: take(1))


def semaphore():
    full, empty = context.Semaphore(0), context.Semaphore(0)

    def ping():
        full.release()
        empty.acquire()

    def pong():
        full.acquire()
        empty.release()

    return wakes(ping, pong)


OPERATIONS = {
    "lock": lambda: taken_and_given_back(context.Lock()),
    "rlock": lambda: taken_and_given_back(context.RLock()),
    "permit": lambda: taken_and_given_back(context.Semaphore(1)),
    "add": adding,
    "two": increments_by_two,
    "event": event,
    "condition": condition,
    "semaphore": semaphore,
}
print(OPERATIONS[operation]())
