"""The whole journey with Python's grpcio: reflection only, no generated code.

    journey.py ADDRESS CERTS ISO PICTURE VNCDO

Creates a VM from a machine JSON, uploads an ISO in two tries, boots it, follows events
and the console to the shell's prompt, types a command, takes a picture of the screen with
vncdotool, stops and deletes. Exits with 0 when everything was as it should be.
"""

import hashlib
import subprocess
import sys
import threading
import uuid as uuids

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent import Agent, dict_of

ADDRESS, CERTS, ISO, PICTURE, VNCDO = sys.argv[1:]
MACHINE = {
    "brand": "kvm",
    "alias": "foreign",
    "autoboot": False,
    "ram": 256,
    "disks": [{"boot": True, "model": "virtio", "size": 1024}],
    "nics": [{"nic_tag": "admin", "model": "virtio", "mac": "02:08:20:aa:bb:cc", "ip": "10.88.88.51",
              "netmask": "255.255.255.0", "gateway": "10.88.88.1", "primary": True}],
    "customer_metadata": {"text": "x", "flag": True, "number": 42},
}

agent = Agent(ADDRESS, CERTS)
message, rpc = agent.message, agent.rpc

health = health_pb2_grpc.HealthStub(agent.channel).Check(health_pb2.HealthCheckRequest(service="zoneward.v1.VmService"))
assert health.status == health_pb2.HealthCheckResponse.SERVING

# --- a refusal is understood -------------------------------------------------------------
try:
    rpc("VmService", "CreateVm")(message("CreateVmRequest", {"vm": {"brand": "kvm", "ram": -1}}))
    raise SystemExit("a negative size was taken")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    assert "ram" in error.details(), error

# --- create, twice the same ----------------------------------------------------------------
request = message("CreateVmRequest", {"vm": MACHINE, "request_id": str(uuids.uuid4())})
created = rpc("VmService", "CreateVm")(request)
assert created == rpc("VmService", "CreateVm")(request), "a repeat gets the first answer"
uuid = created.vm.uuid
print("created", uuid)

# --- events, in the background ---------------------------------------------------------------
phases = []
running = threading.Event()


def watch():
    for item in rpc("EventService", "WatchEvents")(message("WatchEventsRequest", {"beginning": True, "uuids": [uuid]})):
        event = dict_of(item).get("event", {})
        if "boot" in event:
            phases.append(event["boot"]["phase"])
        if phases and phases[-1] == "PHASE_FIRST_CONSOLE_BYTE":
            running.set()
            return


threading.Thread(target=watch, daemon=True).start()

# --- upload: cut after a third, then resumed ----------------------------------------------------
with open(ISO, "rb") as file:
    content = file.read()
header = {"uuid": uuid, "path": "/tiny.iso", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def pieces(offset, end):
    yield message("PutFileRequest", {"header": {**header, "offset": offset}})
    for at in range(offset, end, 1 << 20):
        chunk = message("PutFileRequest")
        chunk.chunk = content[at:min(at + (1 << 20), end)]
        yield chunk


try:
    rpc("VmService", "PutFile")(pieces(0, len(content) // 3))
    raise SystemExit("a third of a file was taken for the whole")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DATA_LOSS, error
listed = dict_of(rpc("VmService", "ListFiles")(message("ListFilesRequest", {"uuid": uuid})))
assert "files" not in listed, listed
committed = int(listed["uploads"][0]["committed"])
assert committed == len(content) // 3, listed
entry = rpc("VmService", "PutFile")(pieces(committed, len(content))).file
assert entry.size == len(content)
print("uploaded", entry.path, "resumed at", committed)

# --- boot -------------------------------------------------------------------------------------
options = {"order": "cd", "once": "d", "devices": [{"path": "/tiny.iso", "model": "ide", "media": "MEDIA_CDROM"}]}
items = [dict_of(item) for item in rpc("VmService", "StartVm")(message("StartVmRequest", {"uuid": uuid, "options": options}))]
assert items[-1]["vm"]["status"]["state"] == "VM_STATE_RUNNING", items
assert [item["phase"]["phase"] for item in items[:-1]][-1] == "PHASE_RUNNING", items
assert running.wait(60), phases
print("running", phases)


# --- console: follow to the prompt, type, read the answer -------------------------------------
def follow(offset, wanted):
    text, at = b"", offset
    for item in rpc("ConsoleService", "ReadLog")(message("ReadLogRequest", {"uuid": uuid, "offset": offset, "follow": True}), timeout=180):
        if item.HasField("data"):
            assert item.data.offset == at, "no byte is missing"
            at += len(item.data.data)
            text += item.data.data
            if wanted in text:
                return text, at


text, offset = follow(0, b"/ # ")
assert b"mac=02:08:20:aa:bb:cc" in text and b"src=iso" in text, text
typing = iter([message("AttachRequest", {"attach": {"uuid": uuid}})])


def type_in(command):
    yield message("AttachRequest", {"attach": {"uuid": uuid}})
    piece = message("AttachRequest")
    piece.input = command
    yield piece
    done.wait(60)


done = threading.Event()
attached = rpc("ConsoleService", "Attach")(type_in(b"echo $((6 * 7))-answer\n"))
follow(offset, b"42-answer")
done.set()
attached.cancel()
print("console answered")

# --- screen -----------------------------------------------------------------------------------
vnc = dict_of(rpc("VmService", "GetVmInfo")(message("GetVmInfoRequest", {"uuid": uuid, "types": ["vnc"]})))["info"]["vnc"]
server = f"{vnc['host']}::{int(vnc['port'])}"
subprocess.run([VNCDO, "-s", server, "-p", vnc["password"], "type", "echo hello", "key", "enter", "pause", "2", "capture", PICTURE],
               check=True, timeout=60)
print("picture", PICTURE)

# --- stop by the power button, delete ------------------------------------------------------------
stopped = dict_of(rpc("VmService", "StopVm")(message("StopVmRequest", {"uuid": uuid, "timeout_seconds": 90})))
assert stopped["vm"]["status"]["state"] == "VM_STATE_STOPPED", stopped
follow(offset, b"GUEST: power button")
rpc("VmService", "DeleteVm")(message("DeleteVmRequest", {"uuid": uuid}))
try:
    rpc("VmService", "GetVm")(message("GetVmRequest", {"uuid": uuid}))
    raise SystemExit("the VM is still there")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
print("stopped and deleted")
