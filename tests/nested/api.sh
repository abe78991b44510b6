#!/bin/bash
# SPDX-License-Identifier: MIT
# The API's guest is a payload: where this machine's /dev/kvm takes those, nothing has to be nested.
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
built all payloads
if [ "$ARCH" = "$(uname -m)" ] && [ -c /dev/kvm ]; then
	T=$(mktemp -d) || exit 1
	trap 'rm -rf "$T"' EXIT
	T=$T VINIT=build/$ARCH/vinit PAGES=$PWD/build/$ARCH/payload/pages CURL=curl sh tests/nested/host/api.sh
	exit
fi

# curl with its libraries and loader, in a folder: there are none in the nested host.
curl=build/$ARCH/curl

# foreign_curl DIR: Debian's package for $ARCH and what it needs, unpacked.
foreign_curl() {
	local deb all

	case $ARCH in
	x86_64) deb=amd64 ;;
	aarch64) deb=arm64 ;;
	esac
	mapfile -t all < <(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
		--no-enhances "curl:$deb" | grep "^[a-z].*:$deb\$")
	[ ${#all[@]} -gt 1 ] && (cd "$1" && apt-get -q -o APT::Sandbox::User=root download "${all[@]}" >/dev/null) || return 1
	for deb in "$1"/*.deb; do
		dpkg -x "$deb" "$1" || return 1
	done
}

if [ ! -x "$curl/curl" ]; then
	tmp=$(mktemp -d) || exit 1
	trap 'rm -rf "$tmp"' EXIT
	mkdir "$tmp/curl"
	if [ "$ARCH" = "$(uname -m)" ]; then
		cp "$(command -v curl)" "$tmp/curl/"
		ldd "$tmp/curl/curl" | grep -o '/[^ ]*' | xargs cp -L -t "$tmp/curl"
	else
		mkdir "$tmp/deb"
		foreign_curl "$tmp/deb" || { echo "skip api: there is no curl for $ARCH to be had here"; exit 0; }
		cp "$tmp/deb/usr/bin/curl" "$tmp/curl/"
		find "$tmp/deb" -path '*/gconv/*' -prune -o \( -name 'lib*.so.[0-9]*' -o -name 'ld-linux*' \) -exec cp -L -t "$tmp/curl" {} + 2>/dev/null
	fi
	mv "$tmp/curl/"ld-linux* "$tmp/curl/loader" || exit 1
	cat >"$tmp/curl/run" <<-'END'
		#!/bin/sh
		exec /t/curl/loader --library-path /t/curl /t/curl/curl "$@"
	END
	chmod +x "$tmp/curl/run" "$tmp/curl/loader"
	rm -rf "$curl"
	mv "$tmp/curl" "$curl" || exit 1
fi
nested -I -t "$(scaled 200)" -f "build/$ARCH/vinit:/t/vinit" -f "build/$ARCH/payload/pages:/t/pages" -f "$curl:/t/curl" \
	-f tests/nested/host/api.sh:/t/suite.sh -- "VINIT=/t/vinit CURL=/t/curl/run sh /t/suite.sh"
