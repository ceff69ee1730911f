"""The round trip of a call of a warm worker process of trio-parallel, in microseconds."""

import sys
import time

import trio
import trio_parallel


def nothing():
    pass


async def main():
    _mark, _contender, row, millis, _home = sys.argv[1:]
    if row != "pool_call":
        sys.exit("there is no such row here")
    length = int(millis) / 1000
    limiter = trio.CapacityLimiter(1)

    async def event():
        await trio_parallel.run_sync(nothing, limiter=limiter)

    end = time.perf_counter() + length / 10
    while time.perf_counter() < end:
        await event()
    events, began = 0, time.perf_counter()
    while time.perf_counter() < began + length:
        for _ in range(8):
            await event()
        events += 8
    print((time.perf_counter() - began) * 1e6 / events)


if __name__ == "__main__":
    trio.run(main)
