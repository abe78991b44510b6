#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
guest_tools
initrd=build/$ARCH/guest-exits-6.12.cpio
scripts/mkguest -a "$ARCH" -o "$initrd" -f "$tools/vsocktool:/bin/vsocktool" -f "$tools/nettool:/bin/nettool" \
	-f "$tools/blkload:/bin/blkload" >/dev/null || exit 1
suite exits -c 2 -m 1024 -t "$(scaled 400)" -f "$tools/vsocktool:/t/vsocktool" -f "$tools/nettool:/t/nettool" \
	-f "$tools/blkload:/t/blkload" -f "$initrd:/t/6.12/initrd"
