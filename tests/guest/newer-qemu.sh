#!/bin/sh
# Unpacks the QEMU of Debian 12's backports beside the installed one, for tests with both.
#
#   tests/guest/newer-qemu.sh DIR
#
# Writes DIR/usr with bin/qemu-system-x86_64 and its firmware, unless this script did so before. Nothing is installed; the machine's
# own lists of packages stay as they are. Needs the installed QEMU's libraries.
set -eu
out=${1:?usage: tests/guest/newer-qemu.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
key=$(sha256sum "$0" | cut -c1-16)
[ "$(cat "$out/key" 2>/dev/null)" = "$key" ] && exit 0
sources=/etc/apt/sources.list.d/debian.sources
[ -e $sources ] || { echo "newer-qemu: there is no $sources to take Debian's address from" >&2; exit 3; }
work=$(mktemp -d "${TMPDIR:-/tmp}/qemu.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/tree"
# apt's own user must read them.
chmod 755 "$work" "$work"/*
awk 'BEGIN { RS = ""; ORS = "\n\n" } NR == 1' $sources |
    sed -E 's/^Suites: .*/Suites: bookworm-backports/; s/^Components: .*/Components: main/' >"$work/sources/backports.sources"
apt() {
    apt-get -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources" -o Dir::State::Lists="$work/lists" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -q "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
}
echo "newer-qemu: downloading" >&2
apt update
(cd "$work/debs" && for package in qemu-system-x86 qemu-system-common qemu-system-data seabios; do apt download -t bookworm-backports "$package"; done)
for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$work/tree"; done
rm -rf "$out/usr"
mv "$work/tree/usr" "$out/new"
rm -rf "$out/new/share/doc" "$out/new/share/man" "$out/new/share/locale"
"$out/new/bin/qemu-system-x86_64" --version >&2
mv "$out/new" "$out/usr"
echo "$key" >"$out/key"
