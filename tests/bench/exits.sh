#!/bin/sh
# SPDX-License-Identifier: MIT
# What a running device costs in exits: one guest a VMM, with a socket device, two disks and two networks, that works when the
# host tells it to and is silent on its serial port.
# shellcheck source=tests/bench/lib.sh
. /t/bench.sh

bulk=33554432
null_disk 200000
dd if=/dev/zero of=$T/memory bs=1M count=0 seek=64 2>/dev/null
/t/blkload fill $T/memory 64

# The guest does the next thing between a connection to port 1030 and one to 1031, and tells it all in the end.
guest_side='
t="/bin/vsocktool --timeout 300"
ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0
ip link set eth1 up; ip addr add 10.9.1.2/24 dev eth1
for p in 7 8; do /bin/nettool --timeout 3000 echo $p >/dev/null & done
for p in 9 10; do /bin/nettool --timeout 3000 sink $p >/dev/null & done
/bin/vsocktool --timeout 3000 listen 1024 echo >/dev/null & /bin/vsocktool --timeout 3000 recv 1025 '$bulk' >/dev/null &
for job in "vda 1" "vda 32" "vdb 1" "vdb 32"; do
	$t listen 1030 echo --count 1 >/dev/null
	echo "$job $(/bin/blkload read /dev/${job% *} ${job#* } 2)" >>/tmp/reads
	$t listen 1031 echo --count 1 >/dev/null
done
$t listen 1030 echo --count 1 >/dev/null
cat /tmp/reads'

tell() { $TOOL wait 5 "$1" && $TOOL pingpong 5 "$1" 1 1; }
job() { tell 1030 && tell 1031; }

# cost ROW N COMMAND...: exits of a command that does something N times.
cost() {
	row=$1
	shift
	counted "$@" >"$T/$name.job" 2>&1 || { broken "$row: $(cat "$T/$name.job")"; return; }
	figure $row.user $user
	figure $row.all $all
}

bench_vmm() {
	name=$vmm-exits
	# shellcheck disable=SC2046	# words
	machine "words=$(run_words "$guest_side")" vsock=5 disk=$null,direct,engine=io_uring disk=$T/memory net=vt0,vhost net=vt1,user
	start
	wait_for $patience ip link show vt1 >/dev/null || { broken "no tap"; return; }
	for i in 0 1; do
		ip addr add 10.9.$i.1/24 dev vt$i
		ip link set vt$i up
	done
	$TOOL wait 5 1024 >/dev/null && /t/nettool wait 10.9.1.2 8 >/dev/null || { broken "the guest does not serve"; return; }
	sleep 1
	cost vsock.trips $TOOL pingpong 5 1024 1000 64
	cost vsock.bulk $TOOL send 5 1025 $bulk
	for i in 0 1; do
		cost net$i.trips /t/nettool pingpong 10.9.$i.2 $((7 + i)) 1000
		cost net$i.bulk /t/nettool send 10.9.$i.2 $((9 + i)) 8388608
	done
	for row in latency.1 latency.32 memory.1 memory.32; do
		cost $row job
	done
	tell 1030 >$T/told
	finish
	tr -d '\r' <"$T/$name.out" | sed -n 's/^\(vd. [0-9]*\) \([0-9]*\) reads at depth [0-9]*, 0 wrong$/\1 \2/p' >$T/reads
	[ "$(wc -l <$T/reads)" = 4 ] || { broken "what the disks gave: $(tr '\n' ';' <$T/reads)"; return; }
	while read -r disk depth reads; do
		case $disk in
		vda) figure latency.$depth.reads $reads ;;
		vdb) figure memory.$depth.reads $reads ;;
		esac
	done <$T/reads
	command_line
}

for vmm in $vmms; do
	bench_vmm
done
exit $failed
