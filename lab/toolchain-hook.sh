#!/bin/sh
# SPDX-License-Identifier: MIT
# mmdebstrap's customize hook: the headers of the kernels of two suites, and the compilers that
# these kernels were built with. Unpacked by hand, because some depend on the kernel's image.
set -eu
root=$1

inside() { chroot "$root" sh -c "cd /tmp && apt-get -qq -o APT::Sandbox::User=root $*"; }

# headers NAME SUITE: unpack them; add NAME and the kernel's release to /kernels.
headers() {
	inside download "linux-headers-amd64/$2"
	release=$(dpkg-deb -f linux-headers-amd64_*.deb Depends | grep -o 'linux-headers-[^ ]*-amd64' | head -n 1)
	inside download "$release/$2"
	packages=$(dpkg-deb -f "$release"_*.deb Depends | grep -oE 'linux-(headers-[^ ]*-common|kbuild-[^ ,]*)')
	for package in $packages; do inside download "$package/$2"; done
	for package in ./*.deb; do dpkg -x "$package" kernel; done
	cp -a kernel/usr/. "$root/usr/"
	rm -rf kernel ./*.deb
	release=${release#linux-headers-}
	echo "$1 $release" >>"$root/kernels"
	grep -oE 'gcc-[0-9]+' "$root/usr/src/linux-headers-$release/.kernelvariables" >>compilers
}

cd "$root/tmp"
headers stock-6.1 bookworm
headers newest trixie-backports
inside install --no-install-recommends -y "$(sort -u compilers | tr '\n' ' ')" >&2
rm compilers
mkdir "$root/work"
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale
