#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
versions=(6.12 6.1)
[ "$button_version" = 6.12 ] || versions+=("$button_version")
guest_initrds "${versions[@]}"
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
args=()
for version in "${versions[@]}"; do
	args+=(-f "$(fast "$version"):/t/$version/image")
	[ "$version" = 6.12 ] || args+=(-f "build/$ARCH/guest-$version.cpio:/t/$version/initrd")
done
if [ "$ARCH" = x86_64 ]; then
	# One invalid instruction and no table of exceptions: a triple fault.
	echo '.globl _start; _start: ud2' | gcc -x assembler -nostdlib -static -Wl,-Ttext=0x1000000,--build-id=none \
		-o "$tmp/fault" - || exit 1
	args+=(-f "$tmp/fault:/t/fault")
fi
suite power -m 1024 -t "$(scaled 700)" "${args[@]}"
