#!/bin/bash
# SPDX-License-Identifier: MIT
# The device tree is read in the guest, and dtc looks at it here: what acpi.sh is on x86_64.
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
[ "$ARCH" = aarch64 ] || { echo "skip dtb: $ARCH guests have no device tree, see acpi.sh"; exit 0; }
guest_initrds 6.12 6.12-generic
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
suite dtb -m 1536 -c 2 -t 400 -f "$kernels/6.12-generic/vmlinuz:/t/6.12-generic/image" \
	-f "build/$ARCH/guest-6.12-generic.cpio:/t/6.12-generic/initrd" -g "/trees:$tmp" || exit
timeout 60 tests/unit/dtb.sh -d "$tmp/trees"
