#!/bin/sh
# SPDX-License-Identifier: MIT
# The aarch64 machine's device tree through dtc, with all its checks: each tree must be read without a
# warning, and be the same after it was written as source and compiled again.
# usage: dtb.sh TEST_FDT    the unit test's program, which writes the trees
#        dtb.sh -d DIR      trees that are there already, as *.dtb (read back from a guest, say)
set -u

usage()
{
	echo "usage: dtb.sh TEST_FDT | dtb.sh -d DIR" >&2
	exit 2
}

if ! command -v dtc >/dev/null 2>&1; then
	echo "skip dtb.sh: no dtc: install device-tree-compiler"
	exit 0
fi

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
failed=0
passed=0

case "${1-}" in
-d)
	[ $# -eq 2 ] || usage
	cp "$2"/*.dtb "$work"/ || exit 1
	;;
'' | -*)
	usage
	;;
*)
	[ $# -eq 1 ] || usage
	case $1 in
	*/*) program=$1 ;;
	*) program=./$1 ;;
	esac
	"$program" "$work" >"$work/log" 2>&1 || {
		cat "$work/log"
		echo "FAIL $1 (writing the trees)"
		exit 1
	}
	;;
esac

# dtc $checks: what dtc doesn't look for unless it is told to.
checks="-W node_name_chars_strict -W property_name_chars_strict"

# Prints what is wrong with one tree, nothing if it is fine.
check()
{
	dtb=$1
	base=${dtb%.dtb}
	# shellcheck disable=SC2086
	dtc $checks -I dtb -O dts -s -o "$base.dts" "$dtb" || echo "dtc does not read it"
	# Quiet: a source that was a tree has numbers where dtc wants references.
	dtc -qq -I dts -O dtb -o "$base.new" "$base.dts" || echo "dtc does not compile it"
	dtc -qq -I dtb -O dts -s -o "$base.new.dts" "$base.new"
	cmp "$base.dts" "$base.new.dts"
}

# The checks must be able to fail: a unit address without a reg, and characters that only the strict ones refuse.
for node in 'a@1 { }' 'a_b { }' 'a { c_d = <1>; }'; do
	printf '/dts-v1/;\n/ { #address-cells = <1>; #size-cells = <1>; %s; };\n' "$node" |
		dtc -q -I dts -O dtb -o "$work/bad.tree"
	if [ -z "$(mv "$work/bad.tree" "$work/bad" && check "$work/bad" 2>&1)" ]; then
		echo "FAIL nothing said of the bad tree with $node: what follows means nothing"
		exit 1
	fi
done
echo "ok bad trees are told of"

for dtb in "$work"/*.dtb; do
	name=${dtb##*/}
	wrong=$(check "$dtb" 2>&1)
	if [ -n "$wrong" ]; then
		echo "$wrong" | sed 's/^/  /'
		echo "FAIL dtc ${name%.dtb}"
		failed=$((failed + 1))
	else
		echo "ok dtc ${name%.dtb}"
		passed=$((passed + 1))
	fi
done
[ $failed -eq 0 ] && [ $passed -gt 0 ]
