#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The network tests' own tool, tested over the loopback: what it says is right when all is right,
# and that it sees damage, loss and silence. Usage: nettool.sh [PROGRAM]; builds it by default.
cd "$(dirname "$0")/../.." || exit 1

arch=${ARCH-$(uname -m)}
tool=${1:-build/$arch/tests/guest/nettool}
[ -n "${1-}" ] || make -s ARCH="$arch" "build/$arch/tests/guest/nettool" || exit 1
# QEMU's user emulation, for what is not this machine's own.
run=$(make -s ARCH="$arch" list-testrun)
[ -x "$tool" ] || { echo "FAIL $tool: no such program"; exit 1; }
case $tool in */*) ;; *) tool=./$tool ;; esac

dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
failed=0
here=127.0.0.1
# One that no other run has; the next for each server.
port=$((20000 + $$ % 10000))

n() { $run "$tool" --timeout 20 "$@"; }

# check NAME STATUS PATTERN COMMAND...
check() {
	name=$1 want=$2 pattern=$3
	shift 3
	out=$("$@" 2>&1)
	status=$?
	if [ "$status" = "$want" ] && echo "$out" | grep -q "$pattern"; then
		echo "ok $name"
	else
		echo "FAIL $name: status $status, not $want, or not \"$pattern\": $out"
		failed=1
	fi
}

# serve NAME VERB ARGUMENT...: in the background, at the next port.
serve() {
	server=$1 verb=$2
	shift 2
	port=$((port + 1))
	# shellcheck disable=SC2086	# words, or none
	$run "$tool" --timeout 20 "$@" "$verb" $port >"$dir/out" 2>&1 &
	pid=$!
	# On a busy machine it takes its time till it listens.
	listening=":$(printf %04X $port) 00000000:0000 0A"
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		! grep -q "$listening" /proc/net/tcp || break
		sleep 0.2
	done
}

# served STATUS PATTERN: what the last server answered.
served() {
	wait $pid
	check "$server (server)" "$1" "$2" sh -c "cat '$dir/out'; exit $?"
}

serve echo echo --count 3
check wait 0 '^ok wait' n wait $here $port
check pingpong 0 '^ok pingpong tcp rounds=1000 size=1 lost=0 ' n pingpong $here $port 1000
check 'pingpong, datagrams' 0 '^ok pingpong udp rounds=1000 size=1 lost=0 ' n --udp pingpong $here $port 1000
check 'pingpong, large datagrams' 0 '^ok pingpong udp rounds=20 size=65507 lost=0 ' n --udp pingpong $here $port 20 65507
check 'pingpong, large' 0 '^ok pingpong tcp rounds=20 size=65536 ' n pingpong $here $port 20 65536
served 0 '^ok echo connections=3 datagrams=1020$'

serve 'echo, ended' echo
kill -TERM $pid
served 0 '^ok echo connections=0 datagrams=0$'

serve sink sink --count 3
check send 0 '^ok send bytes=10000001 crc=[0-9a-f]* back=' n send $here $port 10000001
check 'send, a byte' 0 '^ok send bytes=1 ' n send $here $port 1
check 'send, nothing' 0 '^ok send bytes=0 crc=00000000 back=00000000 ' n send $here $port 0
served 0 '^ok sink bytes=10000001 crc='
[ "$(grep -c '^ok sink' "$dir/out")" = 3 ] || { echo "FAIL sink: not three streams"; failed=1; }

# The checksum is gzip's: that of as many bytes as the sender made, from another program.
if command -v python3 >/dev/null; then
	serve 'sink for a checksum' sink
	crc=$(n send $here $port 20 | sed -n 's/.*crc=\([0-9a-f]*\).*/\1/p')
	check 'checksum' 0 "^$crc\$" python3 -c '
import struct, zlib
def word(at):
	m = (1 << 64) - 1
	z = (1 << 56) + at
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9 & m
	z = (z ^ z >> 27) * 0x94d049bb133111eb & m
	return struct.pack("<Q", z ^ z >> 31)
print("%08x" % zlib.crc32(b"".join(word(at) for at in range(0, 24, 8))[:20]))'
	wait $pid
fi

# What must fail.
serve corrupt echo --count 2 --corrupt 500
check 'pingpong sees damage' 1 '^FAIL pingpong: an answer that is not' n pingpong $here $port 3 600
check 'pingpong sees a damaged datagram' 1 '^FAIL pingpong: an answer that is not' n --udp pingpong $here $port 3 600
check 'what comes in time is right' 0 '^ok pingpong' n pingpong $here $port 3 500
wait $pid

serve 'sink sees damage' sink
check 'send is told of damage' 1 '^FAIL send: the other end did not get it right' n --corrupt 999999 send $here $port 1000000
served 1 '^FAIL sink: checksum of 1000000 bytes is '

serve 'sink that sends damage' sink --corrupt 70000
check 'send sees damage' 1 '^FAIL send: checksum of 100000 bytes is ' n send $here $port 100000
wait $pid

serve 'sink that is silent' sink --timeout 3
check 'silence is bounded' 1 '^FAIL pingpong: out of time: a round trip' n --timeout 1 pingpong $here $port 2
wait $pid

port=$((port + 1))
check 'nobody there' 1 '^FAIL pingpong: connect: Connection refused' n pingpong $here $port 1
check 'nobody there, datagrams' 1 '^FAIL pingpong: no answer, after ' n --timeout 1 --udp pingpong $here $port 1
check 'wait in vain' 1 '^FAIL wait: connect: ' n --timeout 1 wait $here $port
check 'usage: no verb' 2 '^usage' n
check 'usage: verb' 2 '^usage' n shout 1
check 'usage: host' 2 '^usage' n wait localhost 1
check 'usage: port' 2 '^usage' n wait $here 65536
check 'usage: number' 2 '^usage' n send $here 1 12x
check 'offload: no such interface' 1 '^FAIL offload: SIOCETHTOOL' n offload nosuch0 on
check 'largest: no such interface' 1 '^FAIL largest' n largest nosuch0
check 'usage: offload' 2 '^usage' n offload lo maybe
check 'usage: missing' 2 '^usage' n pingpong $here 1

exit $failed
