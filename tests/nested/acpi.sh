#!/bin/bash
# SPDX-License-Identifier: MIT
# The tables are read in the guest, and iasl looks at them here.
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
[ "$ARCH" = x86_64 ] || { echo "skip acpi: $ARCH guests have no ACPI, see dtb.sh"; exit 0; }
guest_initrds 6.12
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
suite acpi -m 1024 -c 2 -t 120 -g "/tables:$tmp" || exit
for dir in "$tmp"/tables/*; do
	timeout 60 tests/unit/acpi.sh -d "$dir" | sed "s/^ok iasl /ok iasl_${dir##*/}_/; s/^FAIL iasl /FAIL iasl_${dir##*/}_/"
done
