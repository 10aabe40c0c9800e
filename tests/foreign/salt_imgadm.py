"""Drives imgadm with Salt's own module. imgadm is found by PATH; the image server has one image.

    python salt_imgadm.py UUID
"""
import logging
import sys

import salt.config  # First: cmdmod and it import each other.
import salt.modules.cmdmod as cmdmod
import salt.modules.smartos_imgadm as imgadm

logging.disable(logging.CRITICAL)
functions = {"cmd.run": cmdmod.run, "cmd.run_all": cmdmod.run_all, "cmd.retcode": cmdmod.retcode}
for module in (cmdmod, imgadm):
    module.__salt__ = functions
    module.__opts__ = {"test": False}
    module.__grains__ = {"os": "SmartOS", "shell": "/bin/sh"}
cmdmod.__pillar__ = {}
image = sys.argv[1]


def expect(what, found, wanted):
    assert found == wanted, f"{what}: {found!r}, and not {wanted!r}"


expect("avail", list(imgadm.avail()), [image])
expect("show", imgadm.show(image)["uuid"], image)
expect("nothing is here", imgadm.list_installed(), {})
expect("import", list(imgadm.import_image(image)), [image])
expect("list", list(imgadm.list_installed()), [image])
expect("list in detail", imgadm.list_installed(verbose=True)[image]["os"], "linux")
expect("get", imgadm.get(image)["manifest"]["uuid"], image)
expect("sources", len(imgadm.sources()), 1)
expect("vacuum", list(imgadm.vacuum()), [image])
expect("vacuum again", imgadm.vacuum(), [])
expect("import again", list(imgadm.import_image(image)), [image])
expect("delete", imgadm.delete(image), [image])
expect("it is gone", imgadm.get(image), {"Error": "Image not installed."})
print("salt: all of it")
