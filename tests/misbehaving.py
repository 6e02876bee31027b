"""Functions that misbehave, for the worker processes of tests: these import nothing else of the tests."""

import ctypes
import os
import pathlib
import signal
import socket
import stat
import subprocess
import threading
import time


def spin():
    while True:
        pass


def eat():
    eaten = []
    while True:
        eaten.append(bytearray(1 << 20))


def fail():
    raise ArithmeticError("no such number")


ENDS = {
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "raise": fail,
    "sleep": lambda: time.sleep(600),
    "spin": spin,
    "eat": eat,
    "pid": os.getpid,
}


def double_or_die(item):
    """Returns twice a number; a word says what to do instead."""
    return 2 * item if isinstance(item, int) else ENDS[item]()


def die_once(folder, item):
    """Crashes at the first call with an item, and works at the second."""
    marker = pathlib.Path(folder, str(item))
    if item % 2 and not marker.exists():
        marker.touch()
        os.abort()
    return item, os.getpid()


class SlowToLoad:
    """A function that takes long to arrive in the worker, as one does that imports a lot."""

    def __init__(self, secs):
        self.secs = secs

    def __setstate__(self, state):
        self.__dict__.update(state)
        time.sleep(self.secs)

    def __call__(self, item):
        return item


def attempt(item, file):
    """Tries what a process of a stranger's would like to do; returns what came of it."""
    attempts = {
        "own file": lambda: file.read().decode(),
        "other file": lambda: open(item[1]).read(),
        "through proc": lambda: open(f"/proc/self/root{item[1]}").read(),
        "new file": lambda: open(item[1] + ".new", "w"),
        "unlink": lambda: os.unlink(item[1]),
        "chmod": lambda: os.chmod(item[1], 0o777),
        "list": lambda: os.listdir(os.path.dirname(item[1])),
        "socket": lambda: socket.socket(),
        "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
        "program": lambda: subprocess.run(["/bin/true"]),
        "process": os.fork,
        "signal": lambda: os.kill(os.getppid(), 0),
        "memory": lambda: open(f"/proc/{os.getppid()}/mem", "rb"),
        "thread": lambda: threading.Thread(target=str).start(),
        "library": lambda: __import__("wave").__name__,
    }
    try:
        return str(attempts[item[0]]())
    except OSError as error:
        return type(error).__name__


def read_file(item, file):
    return file.read().decode()


def misbehave(item):
    """Sends what it likes, in place of an answer, as a process that a video has taken over."""
    [connection] = [int(name) for name in os.listdir("/proc/self/fd") if is_socket(int(name))]
    if isinstance(item, bytes):
        os.write(connection, item)
        time.sleep(600)
    return item


def is_socket(number):
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return False


def count_or_die(item):
    """Yields the numbers from 0 on; after as many as the item says first, does what it says then."""
    number, end = item
    yield from range(number)
    if end:
        ENDS[end]()


def grow(num_bytes):
    """Yields again and again without a wait, and takes more memory each time."""
    eaten = []
    while True:
        eaten.append(bytearray(num_bytes))
        yield len(eaten)
