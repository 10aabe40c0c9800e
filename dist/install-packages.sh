#!/bin/sh
# Installs, from Debian's own packages, what is missing on this machine.
#
#   dist/install-packages.sh agent    what the agent runs VMs with: QEMU, firmware, nftables
#   dist/install-packages.sh demo     also what builds the demonstration guest
#   dist/install-packages.sh test     also what the tests drive the agent with
#
# What is already there is left alone. Without root (or sudo) it says what to
# ask the administrator for, and exits with 1.
set -eu

# A package is listed with a file that proves it is installed.
agent='
qemu-system-x86   /usr/bin/qemu-system-x86_64
seabios           /usr/share/seabios/bios-256k.bin
ovmf              /usr/share/OVMF/OVMF_CODE_4M.fd
nftables          /usr/sbin/nft
'
build='
gcc               /usr/bin/cc
libc6-dev         /usr/include/stdio.h
make              /usr/bin/make
'
demo='
xorriso           /usr/bin/xorriso
grub-common       /usr/bin/grub-mkimage
grub-pc-bin       /usr/lib/grub/i386-pc/boot.img
grub-efi-amd64-bin /usr/lib/grub/x86_64-efi/normal.mod
cpio              /usr/bin/cpio
mtools            /usr/bin/mcopy
kmod              /sbin/depmod
'
test='
iproute2          /sbin/ip
tshark            /usr/bin/tshark
e2fsprogs         /sbin/mkfs.ext4
xfsprogs          /sbin/mkfs.xfs
qemu-utils        /usr/bin/qemu-img
docker-registry   /usr/bin/docker-registry
skopeo            /usr/bin/skopeo
nginx-light       /usr/sbin/nginx
nodejs            /usr/bin/node
npm               /usr/bin/npm
chromium          /usr/bin/chromium
python3           /usr/bin/python3
python3-venv      -
'

case "${1:-}" in
agent) want=$agent ;;
build) want=$build ;;
demo) want=$agent$build$demo ;;
test) want=$agent$build$demo$test ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

has() { # has PACKAGE FILE
    [ -e "$2" ] && return 0
    case "$1" in
    # These may come from elsewhere than Debian's packages.
    python3 | nodejs | npm | gcc | make) command -v "$(basename "$2")" >/dev/null 2>&1 ;;
    python3-venv) python3 -c 'import ensurepip, venv' >/dev/null 2>&1 ;;
    *) return 1 ;;
    esac
}

missing=$(echo "$want" | while read -r package file; do
    [ -z "$package" ] || has "$package" "$file" || printf '%s ' "$package"
done)
[ -n "$missing" ] || exit 0

if [ ! -x /usr/bin/apt-get ]; then
    echo "missing: $missing" >&2
    echo "This is not a Debian system; install the equivalents of these packages by hand." >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root='sudo -n'
else
    echo "missing: $missing" >&2
    echo "Ask an administrator for: apt-get install $missing" >&2
    exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { # apt ARG...: apt-get, quiet unless it fails
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -q -y "$@" >"$log" 2>&1
}
echo "Installing from Debian's packages: $missing" >&2
apt update || { cat "$log" >&2; exit 1; }
# shellcheck disable=SC2086  # a list of words
if ! apt install --no-install-recommends --no-remove $missing; then
    # A newer qemu-utils (from backports) refuses to stand beside an older
    # qemu-system: bring it to the version that goes with the others.
    version=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: //p')
    apt install --no-install-recommends --no-remove --allow-downgrades $missing "qemu-utils=$version" ||
        { cat "$log" >&2; exit 1; }
fi
