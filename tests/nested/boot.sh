#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
versions=(6.12 6.1)
[ "$ARCH" != aarch64 ] || versions+=(6.12-16k)
guest_initrds "${versions[@]}"
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
args=()
for version in "${versions[@]}"; do
	args+=(-f "build/$ARCH/guest-$version.cpio:/t/$version/initrd")
	if [ "$ARCH" = x86_64 ]; then
		args+=(-f "$kernels/$version/vmlinuz:/t/$version/bzImage" -f "$kernels/$version/vmlinux:/t/$version/vmlinux")
	else
		gzip -c -1 <"$kernels/$version/vmlinuz" >"$tmp/$version" || exit 1
		args+=(-f "$kernels/$version/vmlinuz:/t/$version/Image" -f "$tmp/$version:/t/$version/Image.gz")
	fi
done
suite boot -m 6144 -c 4 -t 900 "${args[@]}"
