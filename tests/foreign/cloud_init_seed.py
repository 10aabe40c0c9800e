"""cloud-init's own NoCloud data source, with the files of a seed disk in a folder.

    cloud_init_seed.py SEED DIR

Prints what it made of them as JSON.
"""

import json
import sys

from cloudinit import helpers
from cloudinit.net import network_state
from cloudinit.sources import DataSourceNoCloud as nocloud


def main(seed, folder):
    paths = helpers.Paths({"cloud_dir": folder, "run_dir": folder})
    source = nocloud.DataSourceNoCloud({"datasource": {"NoCloud": {"fs_label": None}}}, distro=None, paths=paths)
    source.seed_dirs = [seed]
    assert source.get_data(), "it found nothing"
    state = network_state.parse_net_config_data(source.network_config)
    print(json.dumps({
        "instance_id": source.get_instance_id(),
        "hostname": source.metadata["local-hostname"],
        "keys": source.get_public_ssh_keys(),
        "user_data": source.userdata_raw,
        "vendor_data": source.vendordata_raw,
        "interfaces": list(state.iter_interfaces()),
    }, default=bytes.decode))


main(*sys.argv[1:])
