#!/bin/sh
# Builds a Debian guest that nobody has told anything: a root disk and an ISO that boots its kernel. For long tests; see
# tests/guest/debian.rs and tests/guest/systemd.rs. Needs root.
#
#   tests/guest/debian.sh DIR PACKAGES
#
# Writes DIR/debian.img, which has these packages of Debian's (with commas between them) too, and DIR/debian.iso,
# unless they are there.
set -eu
out=${1:?usage: tests/guest/debian.sh DIR PACKAGES}
packages=${2:?usage: tests/guest/debian.sh DIR PACKAGES}
mkdir -p "$out"
out=$(cd "$out" && pwd)
[ -e "$out/debian.iso" ] && exit 0
command -v debootstrap >/dev/null || apt-get -o DPkg::Lock::Timeout=600 -q -y install --no-install-recommends debootstrap >/dev/null
work=$(mktemp -d "${TMPDIR:-/tmp}/debian.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
echo "debian: debootstrap (minutes)" >&2
debootstrap --variant=minbase \
    --include="systemd-sysv,udev,dbus,iproute2,linux-image-cloud-amd64,$packages" \
    bookworm "$root" >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
echo 'LABEL=root / ext4 defaults 0 1' >"$root/etc/fstab"
echo unnamed >"$root/etc/hostname"
rm -f "$root/etc/machine-id" && : >"$root/etc/machine-id"
chroot "$root" systemctl -q enable systemd-networkd
# A shell for whoever is at the console.
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear ttyS0 linux\n' \
    >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

echo "debian: boot code" >&2
iso=$work/iso
mkdir -p "$iso/boot/grub"
cp "$root"/boot/vmlinuz-* "$iso/boot/vmlinuz"
cp "$root"/boot/initrd.img-* "$iso/boot/initrd"
cat >"$iso/boot/grub/grub.cfg" <<'CFG'
serial --unit=0 --speed=115200
terminal_output console serial
linux /boot/vmlinuz root=LABEL=root ro console=tty0 console=ttyS0,115200
initrd /boot/initrd
boot
CFG
printf 'search --file --set=root /boot/vmlinuz\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n' >"$work/embed.cfg"
grub-mkimage -O i386-pc-eltorito -c "$work/embed.cfg" -p /boot/grub -o "$iso/boot/eltorito.img" \
    biosdisk iso9660 linux normal configfile search search_fs_file serial terminal
xorriso -as mkisofs -quiet -R -V DEBIAN -o "$work/debian.iso" -b boot/eltorito.img -no-emul-boot -boot-load-size 4 \
    -boot-info-table --grub2-boot-info "$iso" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
echo "debian: root disk" >&2
truncate -s 2000M "$work/debian.img"
mke2fs -q -t ext4 -L root -d "$root" "$work/debian.img"
mv "$work/debian.img" "$out/" && mv "$work/debian.iso" "$out/"
