#!/bin/bash
# SPDX-License-Identifier: MIT
. "$(dirname "$0")/lib.sh"
guest_tools
suite features -m 3072 -t 400
