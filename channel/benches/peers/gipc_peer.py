"""The rows over gipc: a child process and a pipe of messages."""

import os

import gipc

import measure


def far(row, core, pipe):
    os.sched_setaffinity(0, {core})
    try:
        if row == "rtt_64":
            while True:
                pipe.put(pipe.get())
        make = measure.payload(row)
        n = 0
        while True:
            pipe.put(make(n))
            n += 1
    except (EOFError, OSError):
        os._exit(0)


def main():
    row, length, near, core = measure.assignment()
    os.sched_setaffinity(0, {near})
    # Bytes go as they are; everything else through gipc's own encoder.
    encoder = None if row in ("stream_64_bytes", "bulk_1m") else "default"
    with gipc.pipe(duplex=True, encoder=encoder, decoder=encoder) as (ours, theirs):
        child = gipc.start_process(far, (row, core, theirs), daemon=True)
        if row == "rtt_64":

            def event():
                ours.put(measure.TEXT)
                ours.get()

            number = 1e6 / measure.per_second(length, 8, event)
        else:
            number = measure.per_second(length, 1 if row == "bulk_1m" else 64, ours.get)
        child.terminate()
        child.join()
        measure.finish(number)


if __name__ == "__main__":
    main()
