"""A small controller in Python: the same as controller.rs, by reflection and grpcio alone.

    python3 -m pip install grpcio grpcio-reflection protobuf
    python3 controller.py CERTS host1.example:9443 host2.example:9443

CERTS is a directory with ca.pem, admin.pem and admin.key, as `zoneward pki` makes it.
"""

import sys
import threading
import time
import uuid

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Agent:
    """One agent, and the messages that it says it has."""

    def __init__(self, address, certs):
        def read(name):
            with open(f"{certs}/{name}", "rb") as file:
                return file.read()

        credentials = grpc.ssl_channel_credentials(read("ca.pem"), read("admin.key"), read("admin.pem"))
        self.channel = grpc.secure_channel(address, credentials)
        self.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))

    def call(self, service, method, value, **options):
        """Calls an rpc with a message given as a dict."""
        found = self.pool.FindServiceByName(f"zoneward.v1.{service}").FindMethodByName(method)
        request = json_format.ParseDict(value, message_factory.GetMessageClass(found.input_type)())
        reply = message_factory.GetMessageClass(found.output_type)
        kind = self.channel.unary_stream if found.server_streaming else self.channel.unary_unary
        rpc = kind(
            f"/zoneward.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return rpc(request, **options)


def free_memory(agent):
    capacity = agent.call("HostService", "GetHost", {}).capacity
    ram = next(found for found in capacity if found.resource == "ram")
    return (ram.limit if ram.HasField("limit") else ram.total) - ram.promised


def follow(agent, vm, ready):
    """Prints what happens to the VM until it is deleted. A watch that breaks continues from its cursor."""
    start = {"now": True}
    while True:
        try:
            for item in agent.call("EventService", "WatchEvents", {"uuids": [vm], **start}):
                if item.cursor:
                    start = {"cursor": item.cursor}
                ready.set()
                kind = item.WhichOneof("item")
                if kind != "event":
                    continue
                print(f"event {item.event.sequence}: {item.event.WhichOneof('kind')}", flush=True)
                if item.event.WhichOneof("kind") == "deleted":
                    return
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(1)


def main(certs, addresses):
    agent = max((Agent(address, certs) for address in addresses), key=free_memory)
    spec = {
        "brand": "kvm",
        "alias": "from-the-controller",
        "ram": 128,
        "autoboot": False,
        "disks": [{"size": 16, "model": "virtio"}],
    }
    # With the same id a repeat is answered, and nothing is done twice.
    request_id = str(uuid.uuid4())
    created = agent.call("VmService", "CreateVm", {"vm": spec, "request_id": request_id})
    again = agent.call("VmService", "CreateVm", {"vm": spec, "request_id": request_id})
    vm = created.vm.uuid
    assert again.vm.uuid == vm
    print(f"created {vm}", flush=True)
    ready = threading.Event()
    follower = threading.Thread(target=follow, args=(agent, vm, ready))
    follower.start()
    ready.wait()
    for item in agent.call("VmService", "StartVm", {"uuid": vm, "request_id": str(uuid.uuid4())}):
        if item.WhichOneof("item") == "phase":
            print(f"phase {item.phase.phase} after {item.phase.elapsed_us} us", flush=True)
    try:
        for item in agent.call("ConsoleService", "ReadLog", {"uuid": vm, "follow": True}, timeout=2):
            print("console:", item.data.data if item.WhichOneof("item") == "data" else "a gap", flush=True)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
    agent.call("VmService", "DeleteVm", {"uuid": vm, "request_id": str(uuid.uuid4())})
    follower.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
