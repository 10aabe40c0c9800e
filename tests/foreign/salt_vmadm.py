"""Drives vmadm with Salt's own modules: execution, state, beacon, nictagadm and grains. vmadm, nictagadm and sysinfo are
found by PATH.

    python salt_vmadm.py
"""
import logging

import salt.beacons.smartos_vmadm as beacon
import salt.grains.smartos as grains
import salt.modules.cmdmod as cmdmod
import salt.modules.smartos_nictagadm as nictagadm
import salt.modules.smartos_vmadm as vmadm
import salt.modules.temp as temp
import salt.states.smartos as smartos
from salt.utils.odict import OrderedDict

logging.disable(logging.CRITICAL)
OPTS = {"test": False, "cachedir": "/tmp", "extension_modules": "", "pillar": {}, "saltenv": "base"}
functions = {
    "cmd.run": cmdmod.run,
    "cmd.run_all": cmdmod.run_all,
    "cmd.retcode": cmdmod.retcode,
    "temp.file": temp.file,
    "imgadm.list": dict,
    "imgadm.docker_to_uuid": lambda image: None,
    **{f"vmadm.{name}": getattr(vmadm, name) for name in ("get", "create", "update", "start", "stop", "delete", "lookup")},
    "vmadm.list": vmadm.list_vms,
}
for module in (cmdmod, temp, vmadm, nictagadm, beacon, smartos, grains):
    module.__salt__ = functions
    module.__opts__ = OPTS
    module.__grains__ = {"os": "SmartOS", "shell": "/bin/sh"}
cmdmod.__pillar__ = {}


def expect(what, found, wanted):
    assert found == wanted, f"{what}: {found!r}, and not {wanted!r}"


# A property without an effect here is a note, and notes are not for programs.
uuid = vmadm.create(brand="kvm", autoboot=False, alias="one", quota=10, ram=64)
assert isinstance(uuid, str) and len(uuid) == 36, f"create gives a UUID: {uuid!r}"
expect("get", vmadm.get(uuid)["alias"], "one")
expect("get by alias", vmadm.get("one", key="alias")["uuid"], uuid)
expect("first beat", [event["tag"] for event in beacon.beacon([{"startup_create_event": True}])], [f"created/{uuid}", f"stopped/{uuid}"])
expect("start", vmadm.start(uuid), True)
expect("second beat", [event["tag"] for event in beacon.beacon([])], [f"running/{uuid}"])
expect("update", vmadm.update(uuid, alias="two", quota=11), True)
expect("lookup", [vm["uuid"] for vm in vmadm.lookup(search="alias=two")], [uuid])
expect("info", "vnc" in vmadm.info(uuid, "vnc"), True)
expect("stop", vmadm.stop(uuid, force=True), True)

def ordered(value):
    """As Salt reads a state file."""
    return OrderedDict((key, ordered(item)) for key, item in value.items()) if isinstance(value, dict) else value


config = {"auto_import": False, "enforce_tags": True}
machine = lambda: ordered({
    "brand": "kvm",
    "alias": "web",
    "ram": 64,
    "autoboot": False,
    "resolvers": ["8.8.8.8"],
    "tags": {"role": "web"},
    "disks": {"disk0": {"size": 16, "model": "virtio", "boot": True}},
    "nics": {"02:00:00:00:00:21": {"nic_tag": "admin", "model": "virtio", "ips": ["10.7.0.2/24"], "primary": True}},
})
first = smartos.vm_present("web.example", machine(), config)
expect("the first run", (first["result"], list(first["changes"])), (True, ["web.example"]))
second = smartos.vm_present("web.example", machine(), config)
expect("the second run changes nothing", (second["result"], second["changes"]), (True, {}))


def larger():
    more = machine()
    more.update({"ram": 128, "tags": ordered({"role": "db"})})
    return more


third = smartos.vm_present("web.example", larger(), config)
expect("a change", third["result"], True)
got = vmadm.get("web.example", key="hostname")
expect("is made", (got["ram"], got["tags"], len(got["disks"])), (128, {"role": "db"}, 1))
expect("and only once", smartos.vm_present("web.example", larger(), config)["changes"], {})
gone = smartos.vm_absent("web.example")
expect("absent", (gone["result"], vmadm.lookup(search="hostname=web.example")), (True, []))

expect("tags", nictagadm.list_nictags()["admin"]["type"], "etherstub")
expect("a tag", (nictagadm.exists("admin"), nictagadm.exists("nowhere")), (True, False))
facts = grains._smartos_computenode_data()
expect("grains", (len(facts["uuid"]), facts["computenode_vm_capable"]), (36, True))
expect("its VMs", facts["computenode_vms_total"], 1)
expect("delete", vmadm.delete(uuid), True)
expect("nothing is left", len(vmadm.list_vms()), 0)
print("salt: all of it")
