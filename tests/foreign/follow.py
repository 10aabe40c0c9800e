"""Follows an agent's events with Python's grpcio, by reflection alone, over restarts of the agent.

    follow.py ADDRESS CERTS ALIAS

Begins with a snapshot, and prints a word of each thing it hears: "vm UUID" and "end" of the snapshot,
"event SEQUENCE", "again" when it comes back with its cursor. Ends when a VM with that alias is deleted.
"""

import sys
import time

import grpc

from agent import Agent

ADDRESS, CERTS, ALIAS = sys.argv[1:]
agent = Agent(ADDRESS, CERTS)
watch = agent.rpc("EventService", "WatchEvents")


def say(*words):
    print(*words, flush=True)


start = {"snapshot": True}
while True:
    try:
        for item in watch(agent.message("WatchEventsRequest", start)):
            if item.HasField("snapshot"):
                say("vm", item.snapshot.uuid)
                continue
            # Before the cursor is taken: what was heard is heard.
            if item.HasField("snapshot_end"):
                say("end")
            if item.HasField("event"):
                say("event", item.event.sequence)
                if item.event.deleted.alias == ALIAS:
                    raise SystemExit(0)
            start = {"cursor": item.cursor}
        raise SystemExit("the stream ended, with no error")
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            raise
        if "cursor" not in start:
            raise SystemExit("cut off in the snapshot") from error
        say("again")
        time.sleep(0.2)
