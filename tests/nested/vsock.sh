#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
guest_tools
suite vsock -c 2 -t 700 -f "$tools/vsocktool:/t/vsocktool" -f "$tools_initrd:/t/6.12/initrd"
