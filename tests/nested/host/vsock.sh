#!/bin/sh
# SPDX-License-Identifier: MIT
# vsock through the kernel's vhost, between the nested host and its guests, both directions. The tool at both ends checks
# every byte and prints a line a job.
. /t/lib.sh

TOOL="/t/vsocktool --timeout 350"
# 64 MiB, which a sample need not wait for.
bulk=67108864
every || bulk=8388608
limit=400

# job NAME COMMAND...: one of the tool's jobs on this side is a case.
job() {
	begin "$1"
	shift
	"$@" >"$T/$name.log" 2>&1
	status=$?
	: >"$T/$name.out"
	if [ $status -eq 77 ]; then
		echo "skip $name: $(cat "$T/$name.log")"
		return
	fi
	want "exit status $status" is $status 0
	want "no result" logged "^ok "
	end
}

# The guest serves, until the host says that it is done; then its own jobs run against the host's servers.
guest_side='
t="/bin/vsocktool --timeout 350"
$t listen 1024 echo & $t recv 1025 $bulk & $t listen 1026 echo --seqpacket & $t listen 1027 echo --count 1 & done_=$!
wait $done_
echo "cid $($t cid)"
echo "pingpong: $($t pingpong 2 2024 1000 64)"
echo "many: $($t many 2 2024 100 10 1000)"
echo "halfclose: $($t halfclose 2 2024)"
echo "refused: $($t refused 2 9999)"
echo "send: $($t send 2 2025 $bulk)"
echo "seqpacket: $($t seqpacket 2 2026 200)"
grep -E "virtio(0|1|2)" /proc/interrupts'

$TOOL listen 2024 echo >/dev/null 2>&1 &
servers=$!
$TOOL recv 2025 $bulk >$T/recv.log 2>&1 &
servers="$servers $!"
$TOOL listen 2026 echo --seqpacket >/dev/null 2>&1 &
servers="$servers $!"

name=vsock_guest
guest_start "bulk=$bulk$guest_side" --cpus 2 --vsock cid=5 --rng
job vsock_up $TOOL wait 5 1027
job vsock_to_guest_1000_round_trips $TOOL pingpong 5 1024 1000 64
job vsock_to_guest_100_connections $TOOL many 5 1024 100 10 1000
job vsock_to_guest_half_close $TOOL halfclose 5 1024
job vsock_to_guest_refused $TOOL refused 5 9999
job vsock_to_guest_bulk $TOOL send 5 1025 $bulk
job vsock_to_guest_seqpacket $TOOL seqpacket 5 1026 200

# While it holds its CID.
begin vsock_taken_cid
$VM run --kernel /t/6.12/image --vsock cid=5 --console null >"$T/$name.log" 2>&1 </dev/null
want "exit status" is $? 1
want "no words" logged "CID 5 .*(EADDRINUSE|taken)"
end
begin vsock_reserved_cid
for cid in 0 1 2 4294967295 18446744073709551615 x; do
	$VM run --kernel /t/6.12/image --vsock cid=$cid --console null >"$T/$name.log" 2>&1 </dev/null
	want "exit status for $cid" is $? 2
	want "no words for $cid" logged "CID"
done
end

# The second guest of the host, at the same time, on a CID of its own.
name=vsock_second
guest_start '/bin/vsocktool --timeout 300 listen 1024 echo --count 2' --vsock cid=6
job vsock_second_guest $TOOL wait 6 1024
job vsock_second_guest_pingpong $TOOL pingpong 6 1024 100 64
kill -TERM $pid 2>/dev/null
wait $pid 2>/dev/null

$TOOL pingpong 5 1027 1 8 >/dev/null 2>&1
name=vsock_guest
wait_for 300 said "guest: run ended"
for what in "cid:cid .*5" "pingpong:pingpong: ok" "many:many: ok" "halfclose:halfclose: ok" "refused:refused: ok" \
	"send:send: ok" "seqpacket:seqpacket: (ok|skip)"; do
	begin "vsock_from_guest_${what%%:*}"
	cp $T/vsock_guest.out "$T/$name.out"
	want "not said by the guest" said "^${what#*:}"
	end
done
begin vsock_from_guest_received
cp $T/recv.log $T/$name.log
want "the host's end" logged "^ok "
end
begin vsock_no_complaints
cp $T/vsock_guest.log $T/$name.log
want "vinit said more than that the guest powered off" is "$(grep -vc 'powered off' $T/vsock_guest.log)" 0
end
# shellcheck disable=SC2086
kill $servers 2>/dev/null

begin vsock_missing_device
mv /dev/vhost-vsock /dev/vhost-vsock.away
$VM run --kernel /t/6.12/image --vsock cid=9 --console null >"$T/$name.log" 2>&1 </dev/null
want "exit status" is $? 1
want "no words" logged "/dev/vhost-vsock: ENOENT: load the vhost_vsock module or build the kernel with CONFIG_VHOST_VSOCK"
mv /dev/vhost-vsock.away /dev/vhost-vsock
end
