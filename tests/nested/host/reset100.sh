#!/bin/sh
# SPDX-License-Identifier: MIT
# One guest, reset 100 times in place. A Linux is slow to boot here, and a reset reads the kernel's file anew: so the
# guest is a Linux for its first boots and its last ones, and in between a payload that uses disk and entropy device and
# resets. With CHECK_LONG it is a Linux each time.
# shellcheck source=tests/nested/host/lib.sh
. /t/lib.sh

linux="0 1 2 99 100"
[ -z "$CHECK_LONG" ] && [ -e /t/resets ] || linux=$(seq -s ' ' 0 100)
kernel=$T/kernel
ln -s /t/6.12/image $kernel
dd if=/dev/zero of=$T/disk bs=1M count=2 2>/dev/null
mkfifo $T/in
exec 3<>$T/in
/t/vsocktool --timeout 1600 listen 2000 echo >/dev/null 2>&1 3<&- &
server=$!

# field FILE NAME: a number of /proc.
field() { sed -n "s/^$2:[[:space:]]*\([0-9]*\).*/\1/p" "/proc/$pid/$1"; }

# look: what the VMM holds, in numbers. The guest's RAM is its only large mapping.
look() {
	fds=$(ls /proc/$pid/fd | wc -l)
	threads=$(field status Threads)
	maps=$(wc -l </proc/$pid/maps)
	size=$(field status VmSize)
	rss=$(field status VmRSS)
	all=$(field smaps_rollup Private_Dirty)
	own=$(awk '/^Size:/ { size = $2 } /^Private_Dirty:/ && size < 16384 { sum += $2 } END { print sum + 0 }' /proc/$pid/smaps)
	echo "  at reset $1: $fds fds, $threads threads, $maps mappings, VmSize $size KiB, VmRSS $rss KiB," \
		"Private_Dirty $all KiB, $own KiB of it outside the guest's RAM"
}

# grown WHAT FROM TO BOUND
grown() { want "$1 grew from $2 to $3" [ $(($3 - $2)) -le "$4" ]; }

begin reset100
timeout -s KILL 1600 $VM run --name guest --kernel $kernel --initrd /t/6.12/reset --memory 128M --disk path=$T/disk --rng \
	--vsock cid=9 --cmdline "quiet $quick rdinit=/reset-init resets=100 look=\" 2 100 \" n=1000 pause1=98" \
	<&3 >"$T/$name.out" 2>"$T/$name.log" 3<&- &
pid=$!

# at NUMBER SECONDS: waits for the guest to say so.
at() {
	until_=$(($(now) + $2))
	until said "^at reset $1\$"; do
		[ "$(now)" -lt $until_ ] && kill -0 $pid 2>/dev/null || { want "reset $1 was not reached" false; return 1; }
		sleep 0.2
	done
}

last=1500
# The emulation of an aarch64 machine is slower.
slow=1
[ "$arch" != aarch64 ] || slow=4
if at 2 $((180 * slow)); then
	look 2
	fds2=$fds threads2=$threads maps2=$maps size2=$size rss2=$rss own2=$own
	if [ ${#linux} -lt 100 ]; then
		last=$((180 * slow))
		ln -sfn /t/resets $kernel
		echo g >&3
		at 98 $((120 * slow))
		ln -sfn /t/6.12/image $kernel
		printf g >&3
	else
		echo g >&3
	fi
	if at 100 $last; then
		look 100
		want "fds: $fds2, then $fds" [ "$fds" = "$fds2" ]
		want "threads: $threads2, then $threads" [ "$threads" = "$threads2" ]
		grown mappings $maps2 $maps 2
		grown "VmSize (KiB)" $size2 $size 256
		grown "memory outside the guest's RAM (KiB)" $own2 $own 64
		# Of the guest's RAM no two boots touch the same.
		grown "VmRSS (KiB)" $rss2 $rss 8192
		want "memory outside the guest's RAM: $own KiB" [ "$own" -lt 1024 ]
		echo g >&3
	else
		kill -KILL $pid
	fi
else
	kill -KILL $pid
fi
guest_wait
want "exit status $status" is $status 0
# The boots are counted on the disk; the log's lines are held back when they come too fast.
resets=$(grep -c 'the guest reset' "$T/$name.log")
want "resets in the log: $resets" [ "$resets" -ge 10 -a "$resets" -le 100 ]
boots=$(tr -d '\r' <"$T/$name.out" | sed -n 's/^boot \([0-9]*\) .*/\1/p' | tr '\n' ' ')
want "Linux boots: $boots" [ "$boots" = "$linux " ]
same=$(tr -d '\r' <"$T/$name.out" | sed -n 's/^boot [0-9]* \(.*\) rng .*/\1/p' | sort -u)
want "boots differ: $same" [ "$same" = "disk ok vsock ok irq 3 devices 3" ]
want "the same random bytes twice" [ -z "$(sed -n 's/^boot .* rng //p' "$T/$name.out" | sort | uniq -d)" ]
want "the guest complains" [ -z "$(grep -E '^(complaint|FAIL)' "$T/$name.out")" ]
want "vinit complains" [ -z "$(grep -E ' (error|warning): ' "$T/$name.log")" ]
end
kill $server
