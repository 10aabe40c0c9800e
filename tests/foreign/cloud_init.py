"""cloud-init's own SmartOS data source, as it runs in a guest whose second serial port is a socket here.

    cloud_init.py PORT DIR

Prints what it made of the answers as JSON.
"""

import json
import os
import pty
import socket
import sys
import threading
import tty

from cloudinit import helpers
from cloudinit.sources import DataSourceSmartOS as smartos


def carry(read, write):
    while data := read(4096):
        write(data)


def serial_port(path):
    """A terminal that is the guest's end of the line."""
    line = socket.socket(socket.AF_UNIX)
    line.connect(path)
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    threading.Thread(target=carry, args=(line.recv, lambda data: os.write(ours, data)), daemon=True).start()
    threading.Thread(target=carry, args=(lambda n: os.read(ours, n), line.sendall), daemon=True).start()
    return os.ttyname(theirs)


def main(path, folder):
    smartos.LEGACY_USER_D = os.path.join(folder, "db")
    smartos.DataSourceSmartOS.smartos_type = smartos.SMARTOS_ENV_KVM
    paths = helpers.Paths({"cloud_dir": folder, "run_dir": folder})
    config = {"datasource": {"SmartOS": {"serial_device": serial_port(path), "serial_timeout": 10}}}
    source = smartos.DataSourceSmartOS(config, distro=None, paths=paths)
    assert source.get_data(), "it found nothing"
    with source.md_client as client:
        client.put("from-the-guest", "done")
        listed = client.list()
    print(json.dumps({
        "client": type(source.md_client).__name__,
        "instance_id": source.get_instance_id(),
        "hostname": source.metadata["local-hostname"],
        "keys": source.get_public_ssh_keys(),
        "user_data": source.userdata_raw,
        "network": source.network_config,
        "user_script": open(os.path.join(folder, "instances", source.metadata["instance-id"], "data", "user-script")).read(),
        "listed": listed,
    }))


main(*sys.argv[1:])
