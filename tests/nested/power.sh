#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
guest_initrds 6.12 6.1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
args=(-f "build/$ARCH/guest-6.1.cpio:/t/6.1/initrd")
for version in 6.12 6.1; do
	# An unpacked kernel is faster, where there is one.
	image=$kernels/$version/vmlinux
	[ -e "$image" ] || image=$kernels/$version/vmlinuz
	args+=(-f "$image:/t/$version/fast")
done
if [ "$ARCH" = x86_64 ]; then
	# One invalid instruction and no table of exceptions: a triple fault.
	echo '.globl _start; _start: ud2' | gcc -x assembler -nostdlib -static -Wl,-Ttext=0x1000000,--build-id=none \
		-o "$tmp/fault" - || exit 1
	args+=(-f "$tmp/fault:/t/fault")
fi
suite power -m 1024 -t 420 "${args[@]}"
