#!/bin/sh
# Installs the foreign clients that tests drive the agent with: Python's grpcio and
# vncdotool, buf (whose `buf curl` is grpcurl's twin), what drives Chromium, and
# Debian's cloud-init, which is unpacked and not installed.
#
#   tests/foreign/setup.sh DIR
set -eu
out=${1:?usage: tests/foreign/setup.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
key=$(cat "$here/requirements.txt" "$here/package.json" "$here/setup.sh" "$here/browser.mjs" | sha256sum | cut -c1-16)
[ "$(cat "$out/key" 2>/dev/null)" = "$key" ] && exit 0
rm -rf "$out" && mkdir -p "$out"
echo "foreign: installing Python and npm clients into $out" >&2
python3 -m venv "$out/venv"
"$out/venv/bin/pip" -q install --disable-pip-version-check -r "$here/requirements.txt"
cp "$here/package.json" "$here/browser.mjs" "$out/"
(cd "$out" && npm install --silent --no-audit --no-fund >&2)
mkdir "$out/cloud-init"
(cd "$out/cloud-init" && { apt-get -o DPkg::Lock::Timeout=600 -q download cloud-init || { apt-get -o DPkg::Lock::Timeout=600 -q update && apt-get -o DPkg::Lock::Timeout=600 -q download cloud-init; }; } >&2)
dpkg-deb -x "$out"/cloud-init/cloud-init_*.deb "$out/cloud-init"
echo "$key" >"$out/key"
