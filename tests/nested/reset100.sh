#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
guest_tools
built payloads
initrd=build/$ARCH/guest-reset-6.12.cpio
scripts/mkguest -a "$ARCH" -o "$initrd" -f tests/guest/reset-init:/reset-init -f "$tools/vsocktool:/bin/vsocktool" \
	>/dev/null || exit 1
args=()
limit=$(scaled 600)
[ -z "${CHECK_LONG-}" ] || limit=1700
[ ! -e "build/$ARCH/payload/resets" ] || args+=(-f "build/$ARCH/payload/resets:/t/resets")
suite reset100 -m 1024 -t $limit -f "$tools/vsocktool:/t/vsocktool" -f "$initrd:/t/6.12/reset" "${args[@]}"
