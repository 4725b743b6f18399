"""Prints the public names of the Python modules that `docs/from-python.md` covers, one a line:
`MODULE NAME`, where NAME may be `Class.member` or `callable(parameter=)`.

What Python sets on instances only (a lock's `acquire`, a program's `stdout`) is found on instances.
"""

import concurrent.futures
import inspect
import multiprocessing
import multiprocessing.connection
import multiprocessing.managers
import multiprocessing.pool
import multiprocessing.process
import multiprocessing.queues
import multiprocessing.shared_memory
import multiprocessing.sharedctypes
import multiprocessing.synchronize
import subprocess

MODULES = [
    multiprocessing, multiprocessing.process, multiprocessing.connection, multiprocessing.queues,
    multiprocessing.synchronize, multiprocessing.sharedctypes, multiprocessing.shared_memory,
    multiprocessing.pool, multiprocessing.managers, concurrent.futures, subprocess,
]

# Public by their documentation, though not in `__all__`.
DOCUMENTED = {
    multiprocessing.connection: ["Connection", "answer_challenge", "deliver_challenge"],
    multiprocessing.synchronize: ["Barrier"],
    multiprocessing.pool: ["AsyncResult", "IMapIterator"],
    multiprocessing.managers: ["DictProxy", "ListProxy", "NamespaceProxy", "ValueProxy"],
    concurrent.futures: ["InvalidStateError"],
}
SET_BY_START = (multiprocessing.managers, "BaseManager.shutdown")

PARAMETERS = {
    multiprocessing: ["Process", "Pool"],
    multiprocessing.connection: ["Listener", "Client"],
    concurrent.futures: ["ProcessPoolExecutor", "ThreadPoolExecutor"],
    subprocess: ["Popen", "run"],
}

# Classes whose members are those of another one that is listed.
SAME_MEMBERS = {"BaseProcess": "Process"}


def instances():
    one = multiprocessing.get_context("spawn")
    done = subprocess.run(["true"], capture_output=True)
    started = subprocess.Popen(["true"])
    started.wait()
    return {
        multiprocessing.synchronize: {
            "Lock": one.Lock(), "RLock": one.RLock(), "Semaphore": one.Semaphore(),
            "BoundedSemaphore": one.BoundedSemaphore(), "Condition": one.Condition(),
            "Event": one.Event(), "Barrier": one.Barrier(1),
        },
        multiprocessing.sharedctypes: {
            "Value": one.Value("i"), "Array": one.Array("i", 1), "RawValue": one.RawValue("i"),
        },
        subprocess: {
            "CompletedProcess": done, "Popen": started,
            "CalledProcessError": subprocess.CalledProcessError(1, "false"),
            "TimeoutExpired": subprocess.TimeoutExpired("sleep", 1),
        },
    }


def public(names):
    return {name for name in names if not name.startswith("_")}


def members(what):
    """Its public members, but for those that it has from a manager that is listed itself."""
    kind = what if inspect.isclass(what) else type(what)
    other = [dir(object)]
    if isinstance(what, BaseException):
        other.append(dir(BaseException))
    if kind is not multiprocessing.managers.BaseManager:
        other += [dir(base) for base in kind.__mro__ if base is multiprocessing.managers.BaseManager]
    return public(dir(what)).difference(*other)


def names():
    yield SET_BY_START
    found = instances()
    for module in MODULES:
        listed = public([*module.__all__, *DOCUMENTED.get(module, [])])
        for name in listed:
            yield module, name
            what = found.get(module, {}).get(name, getattr(module, name))
            error = inspect.isclass(what) and issubclass(what, BaseException)
            shown = inspect.isclass(what) or name in found.get(module, {})
            if shown and not error and name not in SAME_MEMBERS:
                for member in members(what):
                    yield module, f"{name}.{member}"
        for name in PARAMETERS.get(module, []):
            for parameter in inspect.signature(getattr(module, name)).parameters.values():
                keyword = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
                if keyword and parameter.name != "self":
                    yield module, f"{name}({parameter.name}=)"


if __name__ == "__main__":
    for module, name in sorted({(module.__name__, name) for module, name in names()}):
        print(module, name)
