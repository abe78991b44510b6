#!/bin/bash
# SPDX-License-Identifier: MIT
# A short run of each fuzz harness over its corpus; `make fuzz` is the long one.
cd "$(dirname "$0")/../.." || exit 1
seconds=10
[ -z "${CHECK_LONG-}" ] || seconds=300
make -s fuzzers || exit 1
dir=build/$(uname -m)/test
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
status=0
for name in $(make -s list-fuzz); do
	mkdir -p "$tmp/$name" "tests/fuzz/corpus/$name"
	if timeout $((seconds + 60)) "$dir/fuzz/fuzz_$name" -max_total_time=$seconds -timeout=10 -rss_limit_mb=2048 \
		-artifact_prefix="$tmp/$name-" "$tmp/$name" "tests/fuzz/corpus/$name" >"$tmp/log" 2>&1; then
		echo "ok fuzz_$name ($(grep -o 'Done [0-9]* runs' "$tmp/log"))"
	else
		tail -40 "$tmp/log"
		for f in "$tmp/$name"-*; do [ -f "$f" ] && base64 "$f"; done
		echo "FAIL fuzz_$name"
		status=1
	fi
done
exit $status
