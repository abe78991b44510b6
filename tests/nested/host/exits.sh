#!/bin/sh
# SPDX-License-Identifier: MIT
# How often a running device takes its guest out to the VMM: never. Counted by the nested host's trace points, while the guest
# says nothing on its serial port.
# shellcheck source=tests/nested/host/lib.sh
. /t/lib.sh
# shellcheck source=tests/nested/host/trace.sh
. /t/trace.sh

TOOL="/t/vsocktool --timeout 200"
bulk=33554432
[ "$arch" = aarch64 ] && timer=0x9050000 || timer=0xd0100000

# The guest works when it is told to, by a connection, and shows by listening that it is done.
guest_side='
t="/bin/vsocktool --timeout 200"
$t listen 1024 echo >/dev/null & $t recv 1025 '$bulk' >/dev/null &
for i in 1 2 3 4; do
	$t listen 1030 echo --count 1 >/dev/null
	case $i in
	1) dd if=/dev/vda of=/dev/null bs=4k count=2000 iflag=direct 2>/tmp/dd;;
	2) dd if=/dev/urandom of=/tmp/random bs=4k count=500 2>/dev/null
	   dd if=/tmp/random of=/dev/vda bs=4k count=500 oflag=direct 2>>/tmp/dd
	   sync; echo 3 >/proc/sys/vm/drop_caches;;
	3) head -c 65536 /dev/hwrng >/tmp/hwrng;;
	4) blkload read /dev/vdb 32 1 >/tmp/depth;;
	esac
	$t listen 1031 echo --count 1 >/dev/null
done
$t listen 1030 echo --count 1 >/dev/null
grep records /tmp/dd; cat /tmp/depth
echo "random $(md5sum </tmp/random) $(wc -c </tmp/hwrng)"'

tell() { $TOOL wait 5 "$1" && $TOOL pingpong 5 "$1" 1 1; }
job() { tell 1030 && tell 1031; }

# none NAME COMMAND...: a case that has no exit to user space.
none() {
	begin "$1"
	shift
	counted "$@" >"$T/$name.job" 2>&1
	want "exit status $?" is $? 0
	echo "  $name: exits to user space: $user, all: $((all + trapped))"
	[ "$user" = 0 ] || sed 's/^/  /' $tracing/kvm_userspace_exit/hist
	want "$user exits to user space" is "$user" 0
	[ -z "$why" ] || cat "$T/$name.job"
	end
}

head -c 8192000 /dev/urandom >$T/disk
/t/blkload fill $T/depth 8
name=exits_guest
guest_start "$guest_side" --vsock cid=5 --disk "path=$T/disk" --rng \
	--disk "path=$T/depth,readonly,engine=io_uring"
begin exits_up
want "the guest serves" $TOOL wait 5 1024 >/dev/null
end
sleep 1
none exits_vsock_1000_round_trips $TOOL pingpong 5 1024 1000 64
# Of all exits some are the timer's, more of them on a busy machine: it may be asked some times more.
begin exits_vsock_all
for i in 1 2 3 4 5 6 7 8; do
	[ $((all + trapped)) -ge 10500 ] || break
	counted $TOOL pingpong 5 1024 1000 64 >/dev/null
	want "exit status $?" is $? 0
done
want "$((all + trapped)) exits in 1000 round trips" [ "$all" -gt 0 -a $((all + trapped)) -lt 10500 ]
end
none exits_vsock_bulk $TOOL send 5 1025 $bulk
none exits_block_2000_reads job
none exits_block_500_writes job
none exits_rng job
none exits_block_depth_32 job
tell 1030 >$T/told
guest_wait
begin exits_work
name=exits_guest
want "exit status" is $status 0
want "no 2000 blocks were read" says "2000+0 records in"
want "no 500 blocks were written" says "500+0 records in"
want "no blocks were read at depth 32" said "^[1-9][0-9]{2,} reads at depth 32, 0 wrong"
tr -d '\r' <"$T/$name.out" | sed -n 's/^\([0-9]* reads at depth.*\)/  \1/p'
want "another disk than was written" says "random $(head -c 2048000 $T/disk | md5sum) 65536"
name=exits_work
end

# A thousand round trips over TCP, by the kernel's vhost and by the VMM's own path.
for path in vhost user; do
	name=exits_net_$path
	vhost=yes
	[ $path = vhost ] || vhost=no
	guest_start 'ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0; /bin/nettool echo 7 >/dev/null' --net "tap=vt0,vhost=$vhost"
	begin exits_net_${path}_up
	want "no tap" wait_for $patience ip link show vt0 >/dev/null
	ip addr add 10.9.0.1/24 dev vt0
	ip link set vt0 up
	want "the guest does not serve" timeout $patience /t/nettool wait 10.9.0.2 7 >/dev/null
	end
	sleep 1
	none exits_net_${path}_1000_round_trips timeout $patience /t/nettool pingpong 10.9.0.2 7 1000
	kill -TERM $pid 2>/dev/null
	wait $pid 2>/dev/null
done

# The same counter without the page: the figures above are its zeros, not another's.
name=exits_trapping
guest_start '/bin/vsocktool --timeout 300 listen 1024 echo' --vsock cid=6 --trap-registers
begin exits_trapping
want "the guest serves" $TOOL wait 6 1024 >/dev/null
sleep 1
counted $TOOL pingpong 6 1024 100 64 >/dev/null
echo "  $name: exits to user space in 100 round trips: $user"
want "$user exits" [ "$user" -ge 100 ]
end
kill -TERM $pid 2>/dev/null
guest_wait 2>/dev/null

# The boot timer's own figures: those of the trace point, but for what the guest does after it wrote, which is little.
name=boot_timer
begin boot_timer
started=$(hundredths)
counted guest "devmem $timer 8 123; reboot -f" --boot-timer --on-reset exit
took=$(($(hundredths) - started))
told=$(sed -n "s/.*boot timer: \([0-9]*\)\.[0-9]* ms and \([0-9]*\) exits to the guest's init\$/\1 \2/p" "$T/$name.log")
first=$(sed -n "s/.*boot timer: \([0-9]*\)\.[0-9]* ms and 0 exits to the guest's first instruction\$/\1/p" "$T/$name.log")
echo "  first instruction after $first ms, init: $told (ms, exits), exits in all $user, hundredths of a second in all $took"
want "exit status" is $status 3
want "the first instruction was not told of" [ -n "$first" ]
want "nor its init, once" is "$(echo "$told" | wc -w)" 2
ms=${told% *} count=${told#* }
want "$count exits of $user" [ "${count:-0}" -le $user -a "${count:-0}" -ge $((user - 120)) ]
want "$ms ms of $took hundredths of a second" [ "${ms:-0}" -le $((took * 10)) -a "${ms:-0}" -ge "${first:-999999}" ]
end

# Nobody listens where it was not asked for.
name=boot_timer_off
begin boot_timer_off
guest "devmem $timer 8 123; echo told"
want "exit status" is $status 0
want "the guest was not there" says told
want "vinit told of it" [ -z "$(grep 'boot timer' "$T/$name.log")" ]
end
