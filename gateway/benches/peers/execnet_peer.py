"""A task that does nothing, over two gateways of execnet: each input and each result is a message."""

import itertools
import queue

import execnet

import measure

FAR = """
for item in channel:
    channel.send(None)
"""

# So many items each worker has.
AHEAD = 500


def main():
    length = measure.length()
    done = queue.SimpleQueue()
    group = execnet.Group(["popen", "popen"])
    channels = [gateway.remote_exec(FAR) for gateway in group]
    for channel in channels:
        channel.setcallback(lambda _, channel=channel: done.put(channel))
    inputs = itertools.count()

    def results():
        for _ in range(AHEAD):
            for channel in channels:
                channel.send(next(inputs))
        while True:
            channel = done.get()
            channel.send(next(inputs))
            yield None

    measure.report(results(), length)
    group.terminate(timeout=1)


main()
