#!/bin/bash
# SPDX-License-Identifier: MIT
# What the build promises: both compilers, every configuration, the same bytes twice, the size.
# For $ARCH; what is not this machine's own runs under QEMU's user emulation.
cd "$(dirname "$0")/../.." || exit 1
export ARCH=${ARCH-$(uname -m)}
arch=$ARCH
run=$(make -s list-testrun) || exit 1
# clang is a cross compiler by itself, but for what glibc's gcc brings.
clang=clang
[ "$arch" = "$(uname -m)" ] || clang="clang --target=$arch-linux-gnu"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
status=0

case_() { # case_ NAME COMMAND...
	local name=$1
	shift
	if "$@" >"$tmp/log" 2>&1; then
		echo "ok $name"
	else
		tail -20 "$tmp/log"
		echo "FAIL $name"
		status=1
	fi
}

tiny() {
	make -s O="$tmp/tiny" tinyconfig >/dev/null && make -s -j2 O="$tmp/tiny" && $run "$tmp/tiny/vinit" version
}
# What was left out is not offered, and what is there is.
tiny_help() {
	$run "$tmp/tiny/vinit" run --help >"$tmp/help" && grep -q -- --kernel "$tmp/help" &&
		! grep -E -- '^ *--(disk|net|rng|vsock|virtio-console|api-sock)' "$tmp/help"
}
same() {
	make -s -j2 O="$tmp/two" && cmp "build/$arch/vinit" "$tmp/two/vinit"
}
nothing_to_do() {
	[ -z "$(make O="build/$arch")" ] && [ -z "$(make O="$PWD/build/$arch")" ]
}
# vm/libc.c has locks of its own and vm/malloc.c a heap; the C library's other functions for them must not meet those.
one_kind_of_locks() {
	! readelf -sW "build/$arch/vinit.debug" | grep -E ' __?(malloc_alloc|pthread_(mutex|cond|rwlock))'
}
installs() {
	make -s install DESTDIR="$tmp/dest" PREFIX=/usr && [ -x "$tmp/dest/usr/bin/vinit" ]
}
help_says() {
	$run "build/$arch/vinit" help | grep -q 'usage: vinit run' && $run "build/$arch/vinit" run --help | grep -q -- --kernel
}
bad_option() {
	$run "build/$arch/vinit" run --nonsense
	[ $? -eq 2 ]
}

case_ gcc make -s -j2 O="build/$arch"
case_ one_kind_of_locks one_kind_of_locks
case_ size make -s size O="build/$arch"
case_ clang make -s -j2 O="$tmp/clang" CC="$clang"
case_ clang_runs $run "$tmp/clang/vinit" version
case_ debug_flags make -s -j2 O="$tmp/o0" CFLAGS="-O0 -g"
case_ tinyconfig tiny
case_ tinyconfig_help tiny_help
case_ reproducible same
case_ nothing_to_do nothing_to_do
case_ install installs
case_ help help_says
case_ bad_option_is_usage bad_option
exit $status
