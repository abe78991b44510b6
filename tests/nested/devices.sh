#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
guest_tools
initrd=build/$ARCH/guest-busy-6.12.cpio
scripts/mkguest -a "$ARCH" -o "$initrd" -f tests/guest/busy:/bin/busy -f "$tools/vsocktool:/bin/vsocktool" >/dev/null || exit 1
suite devices -m 2048 -c 2 -t "$(scaled 560)" -f "$tools/vsocktool:/t/vsocktool" -f "$initrd:/t/6.12/initrd"
