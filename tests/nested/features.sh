#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
guest_tools
suite features -m 3072 -t "$(scaled 600)"
