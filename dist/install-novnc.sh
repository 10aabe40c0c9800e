#!/bin/sh
# Puts noVNC, which the browser console needs, where the agent looks for it
# (browser.novnc). It is taken from its npm package, whose content is checked.
#
#   dist/install-novnc.sh [DIR]     default: /usr/share/zoneward/novnc
set -eu
out=${1:-/usr/share/zoneward/novnc}
version=1.7.0
digest=32689f18d6abe96bc6530828a6bd0b9ae33bda07c083a6575ed255b5a8f2e903
[ "$(cat "$out/digest" 2>/dev/null)" = $digest ] && exit 0
command -v npm >/dev/null || { echo "install-novnc: npm is needed (apt-get install npm)" >&2; exit 1; }
echo "install-novnc: installing noVNC $version into $out" >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent "@novnc/novnc@$version" >/dev/null)
echo "$digest  $work/novnc-novnc-$version.tgz" | sha256sum --check --quiet
tar -xzf "$work/novnc-novnc-$version.tgz" -C "$work"
mkdir -p "$out"
rm -rf "$out/core" "$out/vendor" "$out/digest"
# With the texts of its licences: it is MPL 2.0.
cp -R "$work/package/core" "$work/package/vendor" "$work/package/LICENSE.txt" "$work/package/docs" "$out/"
chmod -R a+rX "$out"
echo "$digest" >"$out/digest"
