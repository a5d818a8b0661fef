#!/bin/sh
# SPDX-License-Identifier: MIT
# mmdebstrap's customize hook: the stock kernel without its packages' scripts, which would spend
# a minute on an initramfs that no guest needs.
set -eu
root=$1

# The names behind the metapackages, for the kernel that this suite has today.
depends() { chroot "$root" apt-cache depends "$1" | sed -n 's/^ *Depends: //p' | head -n 1; }

cd "$root/tmp"
image=$(depends linux-image-amd64)
headers=$(depends linux-headers-amd64)
common=$(chroot "$root" apt-cache depends "$headers" | sed -n 's/^ *Depends: \(linux-headers-.*-common\)$/\1/p')
kbuild=$(chroot "$root" apt-cache depends "$headers" | sed -n 's/^ *Depends: \(linux-kbuild-.*\)$/\1/p')
chroot "$root" sh -c "cd /tmp && apt-get -qq -o APT::Sandbox::User=root download $image $headers $common $kbuild"
mkdir kernel
for package in ./*.deb; do dpkg -x "$package" kernel; done
# Through cp: / has links where the packages have folders.
cp -a kernel/. "$root/"
rm -rf kernel ./*.deb
release=${image#linux-image-}
chroot "$root" depmod "$release"
ln -sf "vmlinuz-$release" "$root/boot/vmlinuz"
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale
