#!/bin/bash
# SPDX-License-Identifier: MIT
# The payload cases (tests/payload/payload.sh) in the nested host, where KVM runs guests on (emulated) hardware.
cd "$(dirname "$0")/../.." || exit 1
arch=$(uname -m)
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
make -s && make -s payloads guest-tools || exit 1
mkdir "$tmp/payloads"
find "build/$arch/payload" -maxdepth 1 -type f -exec cp {} "$tmp/payloads/" \;

scripts/nested -I -t 560 -f "build/$arch/vinit:/t/vinit" -f "$tmp/payloads:/t/payloads" \
	-f tests/payload/payload.sh:/t/payload.sh -f "build/$arch/tests/guest/kvmhold:/t/kvmhold" -- \
	"/t/kvmhold >/dev/null 2>&1 </dev/null & mount -t debugfs debugfs /sys/kernel/debug; VINIT=/t/vinit PAYLOADS=/t/payloads CHECK_LONG=${CHECK_LONG-} sh /t/payload.sh" "${1-}" | sed -E 's/^(ok|FAIL|skip) /\1 nested-/'
exit "${PIPESTATUS[0]}"
