"""The rows over execnet: a local gateway and its channels."""

import os

import execnet

import measure

# What the worker runs; row, core and folder are put before it.
FAR = """
import os
os.sched_setaffinity(0, {core})
import sys
sys.path.insert(0, folder)
import measure
if row == "rtt_64":
    while True:
        channel.send(channel.receive())
elif row == "open_close":
    while True:
        opened = channel.gateway.newchannel()
        channel.send(opened)
        opened.send(measure.TEXT)
        opened.close()
else:
    make = measure.payload(row)
    n = 0
    while True:
        channel.send(make(n))
        n += 1
"""


def main():
    row, length, near, far = measure.assignment()
    os.sched_setaffinity(0, {near})
    gateway = execnet.makegateway()
    folder = os.path.dirname(os.path.abspath(__file__))
    channel = gateway.remote_exec(f"row, core, folder = {row!r}, {far}, {folder!r}\n" + FAR)
    if row == "rtt_64":

        def event():
            channel.send(measure.TEXT)
            channel.receive()

        measure.finish(1e6 / measure.per_second(length, 8, event))
    elif row == "open_close":

        def event():
            opened = channel.receive()
            opened.receive()
            opened.waitclose()

        measure.finish(measure.per_second(length, 8, event))
    else:
        every = 1 if row == "bulk_1m" else 64
        measure.finish(measure.per_second(length, every, channel.receive))


main()
