"""What the scripts for maps share: the assignment, and the meter."""

import sys
import time


def length():
    """The length in seconds of the only row that they know, from the arguments."""
    _mark, _contender, row, millis, _home = sys.argv[1:]
    if row != "map_tiny":
        sys.exit("there is no such row here")
    return int(millis) / 1000


def report(results, length):
    """Takes results for a tenth of the length, then for the length, and prints the rate of the latter."""
    rate = 0
    for part in (length / 10, length):
        began = time.monotonic()
        count = 0
        while True:
            for _ in range(64):
                next(results)
            count += 64
            took = time.monotonic() - began
            if took >= part:
                break
        rate = count / took
    print(rate, flush=True)
