# shellcheck shell=sh
# SPDX-License-Identifier: MIT
# Disks under load from several sides at once, slow ones, full ones and ones that fail, with either engine; the guest checks what it
# reads and says what failed (tests/guest/disk-load), the host looks at what is there.
. /t/lib.sh
initrd=/t/disk-initrd
TOOL="/t/vsocktool --timeout $patience"

tell() { $TOOL wait 5 "$1" >/dev/null && $TOOL pingpong 5 "$1" 1 1 >/dev/null; }

# working | failing: what the disks behind vdc and vdd are from now on.
working() {
	c=$(/t/dmtool c 8192 linear /dev/nullb0 32768) && d=$(/t/dmtool d 8192 linear /dev/nullb0 65536)
}
failing() {
	/t/dmtool c 8192 error >/dev/null && /t/dmtool d 8192 error >/dev/null
}

begin disk_host
for m in /t/modules/*; do
	parameters=
	case $m in *null_blk*) parameters="gb=1 memory_backed=1 submit_queues=1 irqmode=2 completion_nsec=5000000" ;; esac
	# shellcheck disable=SC2086
	want "$m" insmod "$m" $parameters
done
slow=$(/t/dmtool slow 32768 linear /dev/nullb0 0)
want "no slow disk" /t/blkload fill "$slow" 16
want "no disks" working
sync
mkdir $T/small
end

# The number of requests that the guest says it had at a depth.
reads() { tr -d '\r' <"$T/$name.out" | sed -n "s/^\([1-9][0-9]*\) reads at depth $1, 0 wrong$/\1/p"; }

# load NAME [OPTION]: a guest whose disks have the option, and what becomes of it all. Without, the first is told what the others
# find out: plain calls.
load() {
	begin "$1"
	mount -t tmpfs -o size=4m tmpfs $T/small
	dd if=/dev/zero of=$T/work bs=1M count=32 2>/dev/null
	truncate -s 16M $T/small/image
	limit=$patience
	guest_start disk-load --cpus 2 --vsock cid=5 --disk "path=$T/work${2:-,engine=sync}" --disk "path=$slow,readonly,direct$2" \
		--disk "path=$c,direct$2" --disk "path=$d$2" --disk "path=$T/small/image$2"
	want "the guest does not come to its bad disks" $TOOL wait 5 1030 >/dev/null
	want "no bad disks" failing
	tell 1030
	want "the guest does not come to their end" tell 1031
	want "no good disks" working
	tell 1032
	guest_wait
	want "exit status $status" is $status 0
	want "not two queues" says 2
	for i in 0 1 2; do
		want "writer $i" says "same $i"
		want "what writer $i wrote is not in the image" \
			says "$(dd if=$T/work bs=16k skip=$((i * 512)) count=256 2>/dev/null | md5sum | cut -c1-32)"
	done
	one=$(reads 1) many=$(reads 32)
	echo "  $name: reads in 1 s at depth 1: $one, at depth 32: $many"
	want "reads" [ "${one:-0}" -gt 0 -a "${many:-0}" -gt 0 ]
	full_disk
	bad_disks
	umount $T/small
	end
}

# An error where there is no room; what was written before is there, and can be written anew.
full_disk() {
	want "full disk: no error" says "full: 1 Input/output error"
	want "full disk: other data" says "full: the first is there"
	want "full disk: rewrite" says "full rewrite: 0 "
	want "full disk: not logged" logged 'small/image: write at sector [0-9]+: ENOSPC'
}

# Errors while the disks fail, for as long as they do; the log says so, a few times of some thousand.
bad_disks() {
	for x in c d; do
		want "good $x" says "good $x: 0 "
		want "again $x" says "again write $x: 0 "
		for i in 0 2; do
			want "read $x $i" says "again $x $i"
		done
		dev=$c
		[ $x = c ] || dev=$d
		want "data of $x" says "a $(dd if="$dev" bs=4k skip=2 count=1 iflag=direct 2>/dev/null | md5sum)"
	done
	for what in read write flush; do
		want "bad $what" says "bad $what: 1 Input/output error"
	done
	want "reads under errors" said '^bad: [1-9][0-9]* reads at depth 32, [1-9][0-9]* wrong'
	for what in read write fdatasync; do
		want "bad $what: not logged" logged "dm-[0-9]+: $what at sector [0-9]+: EIO"
	done
	lines=$(grep -c 'check the disk behind' "$T/$name.log")
	want "$lines lines of errors" [ "$lines" -le 20 ]
}

load disk_io_uring ,engine=io_uring
# Twice is what is promised; plain calls come to that too, since the guest has its next request ready.
begin disk_depth
want "depth 32 is not four times as fast" [ "${many:-0}" -ge $((4 * ${one:-1})) ]
end

forbidden=/proc/sys/kernel/io_uring_disabled
name=disk_sync
if [ -e $forbidden ]; then
	echo 2 >$forbidden
	begin disk_uring_forbidden
	$VM run --kernel /t/6.12/image --console null --disk "path=$slow,readonly,engine=io_uring" >$T/$name.log 2>&1 </dev/null
	want "exit status" is $? 1
	want "no reason" logged "$slow: io_uring: EPERM: check .*kernel.io_uring_disabled"
	want "vinit check" [ -n "$($VM check | grep '^absent .*io_uring: EPERM: check .*kernel.io_uring_disabled')" ]
	end
	if every; then
		load disk_auto_sync
		begin disk_auto_sync_log
		cp $T/disk_auto_sync.log $T/$name.log
		for x in "$slow" "$c" "$d"; do
			want "$x: not said once" is "$(grep -c "$x: one request at a time: io_uring: EPERM" $T/$name.log)" 1
		done
		end
	fi
	echo 0 >$forbidden
fi
