#!/bin/bash
# SPDX-License-Identifier: MIT
# What vinit says on aarch64 hosts without KVM: /dev/kvm is missing on all of them, why is in the kernel's log.
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
[ "$ARCH" = aarch64 ] || { echo "skip nokvm: KVM is a module on $ARCH, and has no such reasons"; exit 0; }
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT

# case_ NAME WORDS OPTION...: a host that scripts/nested makes with OPTION...
case_() {
	local name=nokvm_$1 words=$2 why='' began=$SECONDS
	shift 2
	nested -t 240 "$@" -- '/init check; echo "check: $?"; /init run --kernel /guest/vmlinuz --console null; echo "run: $?"' >"$out" 2>&1 ||
		why+="; scripts/nested ended with status $?"
	grep -qx 'check: 1' "$out" && grep -qx 'run: 1' "$out" || why+="; an exit status"
	[ "$(grep -c "/dev/kvm: ENOENT: .*$words" "$out")" = 2 ] || why+="; not twice said: $words"
	if [ -z "$why" ]; then
		echo "ok $name ($((SECONDS - began)) s)"
	else
		sed 's/^/  /' "$out"
		echo "FAIL $name${why#;}"
	fi
}
case_ no_el2 'the kernel was not started at EL2' -q "-M virtualization=off"
case_ turned_off "the kernel's command line turns KVM off" -x kvm-arm.mode=none
