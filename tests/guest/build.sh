#!/bin/sh
# Builds the test guest from Debian packages: a kernel, busybox, one script and two small programs.
#
#   tests/guest/build.sh DIR
#
# Writes into DIR, and only when its inputs changed since the last time:
#
#   tiny.iso          boots to a shell (BIOS and UEFI)
#   tiny-install.iso  installs itself to the first disk, then reboots
#   vmlinuz, initrd.gz
#   hostile/          a platform with a hostile program in QEMU's place
#
# Needs no root, loop device or mount. The same inputs give the same bytes.
set -eu

out=${1:?usage: tests/guest/build.sh DIR}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
out=$(cd "$out" && pwd)
export SOURCE_DATE_EPOCH=1700000000 LC_ALL=C TZ=UTC
step() { echo "guest: $*" >&2; }

# Packages are only downloaded and unpacked, never installed.
kernel_package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)/\1/p' | head -1)
if [ -z "$kernel_package" ] && [ "$(id -u)" = 0 ]; then
    apt-get -o DPkg::Lock::Timeout=600 -q update >/dev/null 2>&1 || true
    kernel_package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)/\1/p' | head -1)
fi
[ -n "$kernel_package" ] || { echo "guest: apt knows no linux-image-cloud-amd64; run 'apt-get update' as root" >&2; exit 1; }
version_of() { apt-cache policy "$1" | sed -n 's/^ *Candidate: //p'; }
inputs=$(
    sha256sum "$here/init" "$here/flood.c" "$here/wire.c" "$here/hostile.c" "$here/build.sh" | cut -d' ' -f1
    echo "$kernel_package $(version_of "$kernel_package") busybox-static $(version_of busybox-static)"
    sha256sum /usr/lib/grub/i386-pc/boot.img /usr/lib/grub/i386-pc/normal.mod /usr/lib/grub/x86_64-efi/normal.mod | cut -d' ' -f1
)
key=$(echo "$inputs" | sha256sum | cut -c1-16)
if [ "$(cat "$out/key" 2>/dev/null)" = "$key" ]; then
    exit 0
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/guest.XXXXXX")
trap 'rm -rf "$work"' EXIT
step "downloading $kernel_package, busybox-static"
(cd "$work" && apt-get -o DPkg::Lock::Timeout=600 -q download "$kernel_package" busybox-static >download.log 2>&1) || { cat "$work/download.log" >&2; exit 1; }
for deb in "$work"/*.deb; do dpkg-deb -x "$deb" "$work/pkg"; done
release=$(basename "$work"/pkg/lib/modules/*)
cp "$work"/pkg/boot/vmlinuz-* "$work/vmlinuz"

# --- initramfs -------------------------------------------------------------
step "initramfs ($release)"
root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys" "$root/etc" "$root/lib/modules/$release"
install -m 755 "$(find "$work/pkg" -type f -path "*bin/busybox")" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
install -m 755 "$here/init" "$root/init"
for program in flood wire; do cc -O2 -static -s -o "$root/bin/$program" "$here/$program.c"; done
wanted='virtio_pci virtio_blk virtio_net virtio_scsi virtio_console virtio-rng virtio_balloon evdev button
    ata_piix ahci sr_mod sd_mod cdrom isofs fat vfat nls_cp437 nls_ascii nls_utf8 e1000 8139cp qemu_fw_cfg pvpanic-mmio'
from=$work/pkg/lib/modules/$release
/sbin/depmod -b "$work/pkg" "$release"
for module in $wanted; do # each with what it depends on
    /sbin/modprobe -d "$work/pkg" -S "$release" --show-depends "$module" 2>/dev/null || true
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | while read -r file; do
    to=$root/lib/modules/$release/${file#"$from"/}
    mkdir -p "$(dirname "$to")"
    cp "$file" "$to"
done
cp "$from/modules.builtin" "$from/modules.builtin.modinfo" "$from/modules.order" "$root/lib/modules/$release/"
/sbin/depmod -b "$root" "$release"

# --- boot code: one menu for CD and disk, told apart by where it was loaded from
step "boot code"
grub_cfg() { # grub_cfg SRC EXTRA-KERNEL-ARGUMENTS
    cat <<CFG
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=0
linux /boot/vmlinuz console=tty0 console=ttyS0,115200 loglevel=4 guest.src=$1 $2
initrd /boot/initrd.gz
boot
CFG
}
printf 'search --file --set=root /boot/vmlinuz\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n' >"$work/embed.cfg"
bios_modules='biosdisk part_msdos fat iso9660 linux normal configfile search search_fs_file serial terminal echo test minicmd'
efi_modules='part_msdos fat iso9660 linux normal configfile search search_fs_file serial terminal echo test minicmd'
grub-mkimage -O i386-pc-eltorito -c "$work/embed.cfg" -p /boot/grub -o "$work/eltorito.img" $bios_modules
grub-mkimage -O i386-pc -c "$work/embed.cfg" -p /boot/grub -o "$work/core.img" $bios_modules
grub-mkimage -O x86_64-efi -c "$work/embed.cfg" -p /boot/grub -o "$work/bootx64.efi" $efi_modules

fat() { # fat FILE MIB LABEL: an empty FAT file system of fixed bytes
    truncate -s "$2M" "$1"
    mformat -i "$1" -T $(($2 * 2048)) -h 16 -s 63 -N 5A4F4E45 -v "$3" ::
}
# The disk that the installer lays down: MBR, core.img in the gap, one FAT partition from sector 2048.
fat "$work/part.img" 96 ZONEWARD
mmd -i "$work/part.img" ::/boot ::/boot/grub ::/EFI ::/EFI/BOOT
grub_cfg disk "" >"$work/grub.cfg"
touch -d "@$SOURCE_DATE_EPOCH" "$work/grub.cfg" "$work/bootx64.efi"
mcopy -m -i "$work/part.img" "$work/grub.cfg" ::/boot/grub/grub.cfg
mcopy -m -i "$work/part.img" "$work/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
truncate -s 97M "$work/disk.img"
dd if=/usr/lib/grub/i386-pc/boot.img of="$work/disk.img" bs=440 count=1 conv=notrunc status=none
# one bootable partition of type EF, 2048+196608 sectors; then the 55 AA signature
printf '\200\000\001\000\357\376\377\377\000\010\000\000\000\000\003\000' | dd of="$work/disk.img" bs=1 seek=446 conv=notrunc status=none
printf '\125\252' | dd of="$work/disk.img" bs=1 seek=510 conv=notrunc status=none
dd if="$work/core.img" of="$work/disk.img" bs=512 seek=1 conv=notrunc status=none
dd if="$work/part.img" of="$work/disk.img" bs=1M seek=1 conv=notrunc,sparse status=none
gzip -n -9 <"$work/disk.img" >"$root/disk.img.gz"

find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
(cd "$root" && find . | sort | cpio --quiet -o -H newc --reproducible -R 0:0 | gzip -n -6) >"$work/initrd.gz"

# --- ISOs -------------------------------------------------------------------
fat "$work/efi.img" 8 EFI
mmd -i "$work/efi.img" ::/EFI ::/EFI/BOOT
mcopy -m -i "$work/efi.img" "$work/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
iso() { # iso FILE EXTRA-KERNEL-ARGUMENTS
    step "$1"
    tree=$work/iso
    rm -rf "$tree" && mkdir -p "$tree/boot/grub"
    cp "$work/vmlinuz" "$work/initrd.gz" "$work/efi.img" "$work/eltorito.img" "$tree/boot/"
    grub_cfg iso "$2" >"$tree/boot/grub/grub.cfg"
    find "$tree" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
    xorriso -as mkisofs -quiet -R -V ZONEWARD -o "$work/$1" \
        --modification-date=2023111422132000 \
        -b boot/eltorito.img -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-boot-info \
        -eltorito-alt-boot -e boot/efi.img -no-emul-boot "$tree"
}
iso tiny.iso ""
iso tiny-install.iso "guest.install=auto guest.after=reboot"

# A platform for zones whose only program is a hostile one, by the hypervisor's name.
mkdir -p "$out/hostile/bin"
cc -O2 -static -s -o "$out/hostile/bin/qemu-system-x86_64" "$here/hostile.c"
cp "$out/hostile/bin/qemu-system-x86_64" "$out/hostile/bin/sleep"

for file in vmlinuz initrd.gz tiny.iso tiny-install.iso; do
    mv "$work/$file" "$out/$file"
done
echo "$key" >"$out/key"
