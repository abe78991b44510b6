#!/bin/bash
# SPDX-License-Identifier: MIT
# The house rules that a script can see.
cd "$(dirname "$0")/../.." || exit 1
status=0

# check NAME OUTPUT: nothing found is good.
check() {
	if [ -n "$2" ]; then
		printf '%s\nFAIL %s\n' "$2" "$1"
		status=1
	else
		echo "ok $1"
	fi
}

sources=$(git ls-files '*.c' '*.h' | grep -v '^tests/')

# Who may include whom: cmd -> api, initramfs -> vsock -> virtio -> vm -> arch/arch.h; arch/* -> vm.
includes() {
	local f dir inc to allowed
	for f in $sources; do
		dir=${f%%/*}
		while read -r inc; do
			to=${inc%%/*}
			allowed=
			case $dir in
			cmd) allowed="cmd api initramfs vsock virtio vm arch" ;;
			api) allowed="api vsock virtio vm arch" ;;
			initramfs) allowed="initramfs vsock virtio vm arch" ;;
			vsock) allowed="vsock virtio vm arch" ;;
			virtio) allowed="virtio vm arch" ;;
			vm) allowed="vm arch" ;;
			arch) allowed="arch vm" ;;
			esac
			case " $allowed " in
			*" $to "*) ;;
			*) echo "$f includes $inc" ;;
			esac
			if [ "$to" = arch ] && [ "$inc" != arch/arch.h ]; then
				[ "$dir" = arch ] && [ "${inc%/*}" = "${f%/*}" ] || echo "$f includes $inc"
			fi
		done < <(sed -n 's/^#include "\(.*\)"/\1/p' "$f")
	done
}
check include_rule "$(includes)"

check no_arch_ifdef "$(grep -nE '__(x86_64|aarch64|i386|arm)__|CONFIG_(X86|ARM)' $sources)"
check no_aborts "$(grep -nE '\b(assert|abort)\(' $sources)"
check threads_have_one_maker "$(grep -nE '\bpthread_create\(' $sources | grep -v '^vm/thread\.c:')"
check licence_lines "$(for f in $sources; do head -1 "$f" | grep -q 'SPDX-License-Identifier: MIT' || echo "$f"; done)"
check no_machine_paths "$(git grep -nE '(^|[^A-Za-z0-9_.])/(work|farm)/' -- . ':!tests/unit/style.sh')"

# Every key of cmd/config.c is in the help and in the manual pages; PID 1 alone says --supervised.
undocumented() {
	local section='' line key

	while read -r line; do
		[[ $line =~ ^static\ const\ struct\ key\ ([a-z]*)_keys ]] && section=${BASH_REMATCH[1]}
		while [[ $line =~ \{\ \"([a-z-]+)\",\ (true|false)(.*) ]]; do
			key=${BASH_REMATCH[1]} line=${BASH_REMATCH[3]}
			if [ "$section" = guest ]; then
				grep -qE -- "\"  --$key " cmd/run.c || echo "--$key: cmd/run.c"
				grep -q -- "^\.It Fl -$key\b" docs/vinit.1 || echo "--$key: docs/vinit.1"
			else
				grep -qE -- "[ |,[]$key\b" <(grep -- "--${section/nic/net} " cmd/run.c) || echo "$section $key: cmd/run.c"
				grep -qE "\b(Cm|Ns|,) ?,?$key\b" docs/vinit.1 || echo "$section $key: docs/vinit.1"
			fi
			grep -qE "^\.Cm ([a-z-]+ , )*$key\b" docs/vinit.conf.5 || [ "$key" = supervised ] || echo "$section $key: docs/vinit.conf.5"
		done
	done < <(sed -n '/^static const struct key guest_keys/,/^static const struct section/p' cmd/config.c)
	[ -n "$section" ] || echo "no keys were found"
}
check keys_are_documented "$(undocumented)"

# Headers compile alone: those of arch/ARCH with ARCH's compiler, the others with this machine's. headers ARCH.
headers() {
	local h arch

	for h in $(git ls-files '*.h' | grep -v '^tests/'); do
		arch=$(uname -m)
		case $h in
		arch/*/*) arch=${h#arch/} arch=${arch%%/*} ;;
		esac
		[ "$arch" = "$1" ] || continue
		make -s --no-print-directory ARCH="$arch" header-alone H="$h" O="build/$arch" 2>&1 || echo "$h"
	done
}
for arch in x86_64 aarch64; do
	if [ "$arch" = "$(uname -m)" ] || command -v "$arch-linux-gnu-gcc" >/dev/null; then
		check "headers_alone_$arch" "$(headers $arch)"
	else
		echo "skip headers_alone_$arch: no $arch-linux-gnu-gcc"
	fi
done

check architectures_table "$(scripts/archtable -c 2>&1)"

# Variables that cross a "." of a path which only exists in the nested host (/t/lib.sh) are beyond shellcheck.
if command -v shellcheck >/dev/null; then
	check shellcheck "$(git ls-files scripts tests .ci | while read -r f; do
		head -1 "$f" | grep -qE '^#!.*/(ba)?sh' || continue
		case $f in
		# What they source sets, and is handed, variables: SC2034, SC2154.
		tests/nested/*) shellcheck -x -S warning -e SC1091,SC2034,SC2154 "$f" ;;
		*) shellcheck -x -S warning -e SC2034,SC2154 "$f" ;;
		esac
	done 2>&1)"
else
	echo "skip shellcheck: not installed"
fi
exit $status
