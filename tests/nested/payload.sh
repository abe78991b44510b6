#!/bin/bash
# SPDX-License-Identifier: MIT
# usage: payload.sh [PATTERN...]
#
# The payload cases (tests/payload/payload.sh) in the nested host, where KVM runs guests on (emulated) hardware.
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
built all payloads
mkdir "$tmp/payloads"
find "build/$ARCH/payload" -maxdepth 1 -type f -exec cp {} "$tmp/payloads/" \;

# Variants: what depends on the interrupt controller, and on the size of the host's pages.
patterns=$*
if [ -z "$patterns" ]; then
	[ "${CHECK_GIC-}" != 2 ] || patterns="mmio serial rng irq interrupt-numbers gic slots end- cpus psci boot"
	[ -z "${CHECK_HOST-}" ] || patterns="mmio nisv irq rng blk cpus ram boot dirty-log"
fi

nested -I -t 1300 -f "build/$ARCH/vinit:/t/vinit" -f "$tmp/payloads:/t/payloads" \
	-f tests/payload/payload.sh:/t/payload.sh -- \
	"mount -t debugfs debugfs /sys/kernel/debug; VINIT=/t/vinit PAYLOADS=/t/payloads CHECK_LONG=${CHECK_LONG-} sh /t/payload.sh $patterns" |
	sed -E 's/^(ok|FAIL|skip) /\1 nested-/'
exit "${PIPESTATUS[0]}"
