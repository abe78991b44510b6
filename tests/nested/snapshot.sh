#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
load_initrd
built payloads
suite snapshot -m 3072 -t "$(scaled 1100)" -f tests/nested/host/agent.sh:/t/agent.sh -f "$tools/vsocktool:/t/vsocktool" -f "$tools/same:/t/same" \
	-f "$load_initrd:/t/6.12/initrd" -f "build/$ARCH/payload/pages:/t/pages"
