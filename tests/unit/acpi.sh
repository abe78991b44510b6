#!/bin/sh
# SPDX-License-Identifier: MIT
# The ACPI tables through iasl: each must disassemble and compile again without an error, a warning
# or a remark, and to the same bytes.
# usage: acpi.sh TEST_ACPI    the unit test's program, which writes the tables
#        acpi.sh -d DIR       tables that are there already, as *.dat (read back from a guest, say)
set -u

usage()
{
	echo "usage: acpi.sh TEST_ACPI | acpi.sh -d DIR" >&2
	exit 2
}

if ! command -v iasl >/dev/null 2>&1; then
	echo "skip acpi.sh: no iasl: install acpica-tools"
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
	cp "$2"/*.dat "$work"/ || exit 1
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
		echo "FAIL $1 (writing the tables)"
		exit 1
	}
	;;
esac

# Bytes that iasl puts in by itself (checksum, compiler's id and revision) are made zero.
plain()
{
	cp "$1" "$2"
	printf '\0' | dd of="$2" bs=1 seek=9 conv=notrunc 2>/dev/null
	printf '\0\0\0\0\0\0\0\0' | dd of="$2" bs=1 seek=28 conv=notrunc 2>/dev/null
}

# Prints what is wrong with one table, nothing if it is fine.
check()
{
	dat=$1
	base=${dat%.dat}
	if ! iasl -p "$base" -d "$dat" >"$base.log" 2>&1 || [ ! -s "$base.dsl" ]; then
		echo "does not disassemble:"
		cat "$base.log"
		return
	fi
	# A wrong checksum still ends with status 0; only the log and the listing tell of it.
	grep -iE 'error|warning|invalid|incorrect|unknown|exception|exceeds|too (long|short)|AE_' \
		"$base.log"
	grep -iE 'invalid|incorrect|error|warning|unknown field|checksum.*should be|exceeds' "$base.dsl"

	# -w3: all warnings; -oa: no optimization, which would shorten what is compared.
	iasl -w3 -oa -p "$base-new" "$base.dsl" >"$base.log" 2>&1
	status=$?
	# The generation ID's ADDR is there for the guest's driver alone: iasl says of it, and of nothing
	# else, that it is not referenced.
	unread=$(grep -c 'Name (ADDR, Package' "$base.dsl")
	if [ $status -ne 0 ] || [ "$(grep -c 'Warning  4089 -.*not referenced' "$base.log")" != "$unread" ] ||
	   ! grep -qE "^Compilation successful\. 0 Errors, $unread Warnings, 0 Remarks" "$base.log"; then
		echo "does not compile cleanly (status $status):"
		cat "$base.log"
		return
	fi
	plain "$dat" "$base.a"
	plain "$base-new.aml" "$base.b"
	cmp "$base.a" "$base.b"
}

for dat in "$work"/*.dat; do
	name=${dat##*/}
	# iasl can't read an RSDP by itself; the unit test does.
	[ "$(head -c 8 "$dat")" = 'RSD PTR ' ] && continue
	wrong=$(check "$dat" 2>&1)
	if [ -n "$wrong" ]; then
		echo "$wrong" | sed 's/^/  /'
		echo "FAIL iasl ${name%.dat}"
		failed=$((failed + 1))
	else
		echo "ok iasl ${name%.dat}"
		passed=$((passed + 1))
	fi
done
[ $failed -eq 0 ] && [ $passed -gt 0 ]
