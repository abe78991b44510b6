# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# For the scripts beside it: each boots a nested host and runs a suite of host/ in it.

cd "$(dirname "$0")/../.." || exit 1
ARCH=${ARCH-$(uname -m)}
kernels=build/kernels/$ARCH

# suite NAME OPTION...: runs host/NAME.sh in the nested host; OPTION... are scripts/nested's. What it prints are
# the lines that count.
suite() {
	local name=$1
	shift
	make -s guest-tools ARCH="$ARCH" >&2 || exit 1
	scripts/nested -a "$ARCH" -f tests/nested/host/lib.sh:/t/lib.sh \
		-f "tests/nested/host/$name.sh:/t/suite.sh" -f "build/$ARCH/tests/guest/kvmhold:/t/kvmhold" \
		-f "build/$ARCH/guest-6.12.cpio:/t/6.12/initrd" -f "$kernels/6.12/vmlinuz:/t/6.12/image" \
		"$@" -- "CHECK_LONG='${CHECK_LONG-}' sh /t/suite.sh"
}

# An initrd a guest kernel, and the guests' own tools in both.
guest_initrds() {
	local version
	for version in "$@"; do
		scripts/mkguest -a "$ARCH" -k "$version" >/dev/null || exit 1
	done
}

# The programs of tests/guest, and a 6.12 initrd that has them in /bin.
guest_tools() {
	tools=build/$ARCH/tests/guest
	tools_initrd=build/$ARCH/guest-tools-6.12.cpio
	make -s guest-tools ARCH="$ARCH" >&2 &&
		scripts/mkguest -a "$ARCH" -o "$tools_initrd" -f "$tools/vsocktool:/bin/vsocktool" >/dev/null || exit 1
}
