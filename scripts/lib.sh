# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# What the scripts share. Sourced, never run: . "$(dirname "$0")/lib.sh"
#
# Everything made goes under $O (default: build/ in the tree), nothing needs root but apt.

set -u
LC_ALL=C
export LC_ALL
PATH=$PATH:/usr/sbin:/sbin	# depmod and friends, which a plain user's PATH lacks

prog=${0##*/}
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
O=${O:-$top/build}
case $O in
/*) ;;
*) O=$PWD/$O ;;
esac
export O

die() {
	echo "$prog: $*" >&2
	exit 1
}

usage_error() {
	echo "$prog: $* (try $prog --help)" >&2
	exit 2
}

# help: prints the running script's comment block that starts with "usage:".
help() {
	# getopts hands "--help" over as the option "-" with the argument "help".
	[ "${opt:-}" != - ] || [ "$OPTARG" = help ] || usage_error "bad option --$OPTARG"
	sed -n '/^# usage:/,/^$/{ s/^# \{0,1\}//p; }' "$0"
	exit 0
}

# need COMMAND PART: fails with the way out when a tool is not installed.
need() {
	command -v "$1" >/dev/null || die "$1: not found: run scripts/setup $2"
}

# setup_part ARCH PART: the part of scripts/setup that has ARCH's packages of PART.
setup_part() {
	if [ "$1" = "$(host_arch)" ]; then
		echo "$2"
	else
		echo "$1"
	fi
}

host_arch() {
	case $(uname -m) in
	x86_64 | amd64) echo x86_64 ;;
	aarch64 | arm64) echo aarch64 ;;
	*) die "$(uname -m): not a machine this project knows (x86_64, aarch64)" ;;
	esac
}

# deb_arch ARCH: Debian's name of an architecture, or an error for one that the project has not.
deb_arch() {
	case $1 in
	x86_64) echo amd64 ;;
	aarch64) echo arm64 ;;
	*) die "$1: unknown architecture (x86_64, aarch64)" ;;
	esac
}

# build ARCH TARGET...: makes them, one make at a time: several scripts may be running, and make knows nothing of the others.
build() {
	local arch=$1

	shift
	mkdir -p "$O/$arch"
	MAKEFLAGS='' flock "$O/$arch/.make.lock" make -s -j2 -C "$top" ARCH="$arch" O="$O/$arch" "$@" >&2 || die "make failed"
}

# kernel_dir ARCH KERNEL: the folder of a kernel, by version or by path; brought when it is not there yet.
kernel_dir() {
	local dir=$2

	case $dir in
	*/*) ;;
	*)
		dir=$O/kernels/$1/$2
		"$top/scripts/kernels" "$1" "$2" || exit 1
		;;
	esac
	[ -r "$dir/vmlinuz" ] || die "$dir: no vmlinuz there: not made by scripts/kernels"
	(cd "$dir" && pwd)
}

# tmpdir: a private folder in $tmp, gone at exit. A script with its own EXIT trap calls cleanup_tmp in it.
tmpdir() {
	tmp=$(mktemp -d "${TMPDIR:-/tmp}/$prog.XXXXXX") || die "cannot make a temporary folder in ${TMPDIR:-/tmp}"
	trap cleanup_tmp EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
}

cleanup_tmp() {
	[ -z "${tmp:-}" ] || rm -rf "$tmp"
}

# manifest_line SRC:DST: the line of a manifest (see mkinitramfs) that puts a file or a folder in an image.
manifest_line() {
	local src=${1%%:*} dst=${1#*:}

	[[ $1 == *:/* ]] || die "$1: SRC:DST expected, DST from the image's root"
	[[ $1 != *[[:space:]]* ]] || die "$1: white space in a path"
	[ -r "$src" ] || die "$src: no such file, or not readable"
	[[ $src == /* ]] || src=$PWD/$src
	if [ -d "$src" ]; then
		echo "tree $dst $src"
	else
		echo "file $dst $src"
	fi
}
