"""What the Python peers share: the assignment's arguments, the payloads and the meter, as the benchmark has them."""

import os
import sys
import time

SMALL = 64
BULK = 1 << 20
TEXT = "farcall " * (SMALL // 8)


def assignment():
    """The row, its length in seconds and the cores of the near and the far side, from the arguments."""
    _mark, side, _contender, row, millis, near, far = sys.argv[1:]
    if side != "near":
        sys.exit("the far side is started by the near side")
    return row, int(millis) / 1000, int(near), int(far)


def record(n):
    return {
        "id": n,
        "at": 1_764_000_000.125,
        "level": 4,
        "host": "web-17",
        "line": "disk sda is 91% full",
    }


def payload(row):
    """What a row's far side sends."""
    return {
        "stream_64": lambda n: TEXT,
        "stream_record": record,
        "stream_64_bytes": lambda n, small=b"\x5a" * SMALL: small,
        "bulk_1m": lambda n, bulk=b"\x5a" * BULK: bulk,
    }[row]


def per_second(length, every, event):
    """Calls `event` for a tenth of the length, then for the length; the rate of the latter."""
    _repeat(length / 10, every, event)
    count, took = _repeat(length, every, event)
    return count / took


def _repeat(length, every, event):
    began = time.monotonic()
    count = 0
    while True:
        for _ in range(every):
            event()
        count += every
        took = time.monotonic() - began
        if took >= length:
            return count, took


def finish(number):
    """Prints the number and leaves at once: what is still in flight does not matter."""
    print(number, flush=True)
    os._exit(0)
