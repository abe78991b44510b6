#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
load_initrd
limit=$(scaled 400)
[ -z "${CHECK_LONG-}" ] || limit=1450
suite life -m 2048 -t "$limit" -f tests/nested/host/agent.sh:/t/agent.sh -f "$tools/vsocktool:/t/vsocktool" \
	-f "$load_initrd:/t/6.12/initrd"
