#!/bin/sh
# Installs the foreign clients that tests drive the agent with: Python's grpcio and
# vncdotool, buf (whose `buf curl` is grpcurl's twin), what drives Chromium, and
# Debian's cloud-init, which is unpacked and not installed. And what drives SmartOS's vmadm: Salt, Ansible with its
# community.general, and node-vmadm, whose two paths of SmartOS are replaced.
#
#   tests/foreign/setup.sh DIR
set -eu
out=${1:?usage: tests/foreign/setup.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
key=$(cat "$here/requirements.txt" "$here/package.json" "$here/setup.sh" "$here/browser.mjs" "$here/smartos-requirements.txt" | sha256sum | cut -c1-16)
[ "$(cat "$out/key" 2>/dev/null)" = "$key" ] && exit 0
rm -rf "$out" && mkdir -p "$out"
echo "foreign: installing Python and npm clients into $out" >&2
python3 -m venv "$out/venv"
"$out/venv/bin/pip" -q install --disable-pip-version-check -r "$here/requirements.txt"
python3 -m venv "$out/smartos"
"$out/smartos/bin/pip" -q install --disable-pip-version-check -r "$here/smartos-requirements.txt"
"$out/smartos/bin/pip" -q download --disable-pip-version-check --no-deps -d "$out" ansible==10.7.0
python3 - "$out" <<'END'
import pathlib, sys, zipfile
out = pathlib.Path(sys.argv[1])
wheel = next(out.glob("ansible-*.whl"))
with zipfile.ZipFile(wheel) as archive:
    wanted = [name for name in archive.namelist() if name.startswith("ansible_collections/community/general/")]
    archive.extractall(out, wanted)
wheel.unlink()
END
cp "$here/package.json" "$here/browser.mjs" "$out/"
(cd "$out" && npm install --silent --no-audit --no-fund >&2)
node="$out/node_modules/vmadm/lib"
sed -e "s|'/usr/sbin/vmadm'|process.env.VMADM|" \
    -e "s|path.join('/etc/zones', opts.uuid + '.xml')|path.join(process.env.ZONES, opts.uuid, 'vm.json')|" \
    "$node/index.sunos.js" >"$node/index.linux.js"
mkdir "$out/cloud-init"
(cd "$out/cloud-init" && { apt-get -o DPkg::Lock::Timeout=600 -q download cloud-init || { apt-get -o DPkg::Lock::Timeout=600 -q update && apt-get -o DPkg::Lock::Timeout=600 -q download cloud-init; }; } >&2)
dpkg-deb -x "$out"/cloud-init/cloud-init_*.deb "$out/cloud-init"
echo "$key" >"$out/key"
