#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
guest_initrds 6.12 6.1
args=()
for version in 6.12 6.1; do
	args+=(-f "$kernels/$version/vmlinuz:/t/$version/bzImage" -f "$kernels/$version/vmlinux:/t/$version/vmlinux"
		-f "build/$ARCH/guest-$version.cpio:/t/$version/initrd")
done
suite boot -m 6144 -c 4 -t 900 "${args[@]}"
