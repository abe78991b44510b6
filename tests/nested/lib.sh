# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# For the scripts beside it: each boots a nested host and runs a suite of host/ in it. Set from outside:
#
#	ARCH		this machine's by default
#	CHECK_LONG	the whole matrix
#	CHECK_SAMPLE	another architecture runs the cases of common code
#	CHECK_GIC	the nested host's interrupt controller, 2 or 3 (aarch64); not the default is a variant of the suite,
#	CHECK_HOST	and so is a version of the nested host's kernel: of the boots it runs a sample then

cd "$(dirname "$0")/../.." || exit 1
ARCH=${ARCH-$(uname -m)}
kernels=build/kernels/$ARCH

# The guest's kernel with a driver for the power button: the cloud kernel of aarch64 has none.
button_version=6.12
[ "$ARCH" != aarch64 ] || button_version=6.12-generic

# What a kernel does at its start for things that nobody uses here: about a quarter of an emulated boot.
quick=initcall_blacklist=bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init,load_system_certificate_list,jent_mod_init,init_kprobe_trace

# scaled SECONDS: a time limit, which for the emulation of an aarch64 machine is a longer one.
scaled() { echo $(($1 * $([ "$ARCH" = aarch64 ] && echo 2 || echo 1))); }

# nested ARGUMENT...: scripts/nested of this run's kind.
nested() {
	scripts/nested -a "$ARCH" ${CHECK_GIC:+-G "$CHECK_GIC"} ${CHECK_HOST:+-k "$CHECK_HOST"} -x "$quick" "$@"
}

# suite NAME OPTION...: runs host/NAME.sh in the nested host; OPTION... are scripts/nested's. What it prints are
# the lines that count.
suite() {
	local name=$1
	shift
	nested -f tests/nested/host/lib.sh:/t/lib.sh -f tests/nested/host/trace.sh:/t/trace.sh \
		-f "tests/nested/host/$name.sh:/t/suite.sh" \
		-f "build/$ARCH/guest-6.12.cpio:/t/6.12/initrd" -f "$(fast 6.12):/t/6.12/image" \
		"$@" -- "CHECK_LONG='${CHECK_LONG-}' CHECK_GIC='${CHECK_GIC-}' CHECK_HOST='${CHECK_HOST-}' CHECK_SAMPLE='${CHECK_SAMPLE-}' quick='$quick' sh /t/suite.sh"
}

# fast VERSION: the kernel's file that is booted fastest: unpacked, where there is one.
fast() {
	if [ -e "$kernels/$1/vmlinux" ]; then
		echo "$kernels/$1/vmlinux"
	else
		echo "$kernels/$1/vmlinuz"
	fi
}

# An initrd a guest kernel, and the guests' own tools in both.
guest_initrds() {
	local version
	for version in "$@"; do
		scripts/mkguest -a "$ARCH" -k "$version" >/dev/null || exit 1
	done
}

# built TARGET...: makes them. Another suite may be at the same things, and make knows nothing of the other one.
built() { mkdir -p "build/$ARCH" && flock "build/$ARCH/.make.lock" make -s -j2 ARCH="$ARCH" "$@" >&2 || exit 1; }

# The programs of tests/guest, and a 6.12 initrd that has them in /bin.
guest_tools() {
	tools=build/$ARCH/tests/guest
	tools_initrd=build/$ARCH/guest-tools-6.12.cpio
	built guest-tools
	scripts/mkguest -a "$ARCH" -o "$tools_initrd" -f "$tools/vsocktool:/bin/vsocktool" >/dev/null || exit 1
}

# The same with the load that guests bear while they are paused and saved.
load_initrd() {
	guest_tools
	load_initrd=build/$ARCH/guest-load-6.12.cpio
	scripts/mkguest -a "$ARCH" -o "$load_initrd" -f "$tools/vsocktool:/bin/vsocktool" -f "$tools/load:/bin/load" >/dev/null || exit 1
}
