#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
guest_tools
initrd=build/$ARCH/guest-net-6.12.cpio
scripts/mkguest -a "$ARCH" -o "$initrd" -f "$tools/nettool:/bin/nettool" >/dev/null || exit 1
suite net -c 2 -t "$(scaled 400)" -f "$tools/nettool:/t/nettool" -f "$initrd:/t/6.12/initrd" -f "$kernels/passt:/t/passt"
