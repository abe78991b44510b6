#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The vsock tests' own tool, tested over Unix sockets: what it says is right when all is right,
# and that it sees damage, loss and silence. Usage: vsocktool.sh [PROGRAM]; builds it by default.
cd "$(dirname "$0")/../.." || exit 1

arch=${ARCH-$(uname -m)}
tool=${1:-build/$arch/tests/guest/vsocktool}
[ -n "${1-}" ] || make -s ARCH="$arch" "build/$arch/tests/guest/vsocktool" || exit 1
# QEMU's user emulation, for what is not this machine's own.
run=$(make -s ARCH="$arch" list-testrun)
[ -x "$tool" ] || { echo "FAIL $tool: no such program"; exit 1; }
case $tool in */*) ;; *) tool=./$tool ;; esac

dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
failed=0

v() { $run "$tool" --unix "$dir" --timeout 20 "$@"; }

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

# serve NAME ARGUMENT...: in the background; ends by itself.
serve() {
	server=$1
	shift
	v "$@" >"$dir/$server.out" 2>&1 &
	pid=$!
	n=0
	while [ ! -S "$dir/$2" ] && [ $n -lt 100 ]; do
		sleep 0.05
		n=$((n + 1))
	done
	sleep 0.05 # from bind to listen
}

# served STATUS PATTERN: what the last server answered.
served() {
	wait $pid
	check "$server (server)" "$1" "$2" sh -c "cat '$dir/$server.out'; exit $?"
	rm -f "$dir/$3"
}

serve pingpong listen 1 echo --count 2
check pingpong 0 '^ok pingpong connections=1 rounds=1000 size=64 ' v pingpong 3 1 1000 64
check 'pingpong, large' 0 '^ok pingpong .*size=65536 ' v pingpong 3 1 20 65536
served 0 '^ok listen connections=2 at_once=1 bytes=1374720$' 1

serve many listen 2 echo --count 100
check many 0 '^ok many connections=100 rounds=10 size=1000 ' v many 3 2 100 10 1000
served 0 '^ok listen connections=100 at_once=100 bytes=1000000$' 2

serve halfclose listen 3 echo --count 1
check wait 0 '^ok wait' v wait 3 3
check halfclose 0 '^ok halfclose bytes=32768$' v halfclose 3 3
served 0 '^ok listen connections=1 ' 3

serve stream recv 4 10000001
check 'wait before send' 0 '^ok wait' v wait 3 4
check send 0 '^ok send bytes=10000001 sum=' v send 3 4 10000001
served 0 '^ok recv bytes=10000001 sum=' 4

serve seqpacket listen 5 echo --seqpacket --count 1
check seqpacket 0 '^ok seqpacket messages=102$' v seqpacket 3 5 102
served 0 '^ok listen connections=1 ' 5

# A socket file that nobody listens on any more, and one that never was.
serve refused listen 6 echo --timeout 1
wait $pid
check refused 0 '^ok refused: Connection refused' v refused 3 6
check 'wait in vain' 1 '^FAIL wait: out of time' v --timeout 1 wait 3 6
rm -f "$dir/6"

# What must fail.
serve corrupt listen 7 echo --count 4 --corrupt 5000
check 'pingpong sees damage' 1 'FAIL pingpong: connection 0, round 78: byte 8 ' \
	v pingpong 3 7 100 64
check 'many sees damage' 1 '^FAIL many: .*round 0: byte 5000 ' v many 3 7 2 10 6000
check 'halfclose sees damage' 1 '^FAIL halfclose' v halfclose 3 7
wait $pid
rm -f "$dir/7"

serve recv-corrupt recv 8 1000000
check 'send sees damage' 1 '^FAIL send: checksum' v --corrupt 999999 send 3 8 1000000
served 1 '^FAIL recv: byte 999999 of 1000000' 8

serve recv-short recv 9 1001
check 'a short stream, sent whole' 0 '^ok send' v send 3 9 1000
served 1 '^FAIL recv: 1000 bytes came, not 1001$' 9

serve seqpacket-corrupt listen 10 echo --seqpacket --count 1 --corrupt 7000
check 'seqpacket sees damage' 1 '^FAIL seqpacket: message ' v seqpacket 3 10 8
wait $pid
rm -f "$dir/10"

serve gone listen 11 echo --timeout 1
check 'pingpong sees the peer go' 1 '^FAIL pingpong: ' v pingpong 3 11 100000000 1
wait $pid
rm -f "$dir/11"

# A recv answers nothing before the end of the stream: a round trip waits for ever.
serve silent recv 12 100 --timeout 3
check 'silence is bounded' 1 '^FAIL pingpong: out of time' v --timeout 1 pingpong 3 12 2 64
wait $pid
rm -f "$dir/12"

check 'refused sees a listener' 1 '^FAIL refused: somebody' sh -c "
	$run '$tool' --unix '$dir' --timeout 1 listen 13 echo >/dev/null & sleep 0.3
	$run '$tool' --unix '$dir' refused 3 13; s=\$?; wait; exit \$s"
check 'listen, too few' 1 '^FAIL listen: out of time: 0 of 1' v --timeout 1 listen 14 echo --count 1
check 'usage: no verb' 2 '^usage' v
check 'usage: verb' 2 '^usage' v shout 3 1
check 'usage: port' 2 '^usage' v wait 3 4294967296
check 'usage: number' 2 '^usage' v send 3 1 12x
check 'usage: missing' 2 '^usage' v pingpong 3 1 10

exit $failed
