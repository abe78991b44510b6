#!/bin/sh
# SPDX-License-Identifier: MIT
# Snapshots of guests under load, and what is restored from them.
# shellcheck source=tests/nested/host/agent.sh
. /t/agent.sh

clones=10
every || clones=4
full || clones=2
reseeded='crng reseeded due to virtual machine fork'
# What a kernel may say of the time that has passed since it was saved: on x86_64 its clock has moved on by it.
expected="$reseeded|sched: DL replenish lagged too much"

# copy_disk FROM TO: guests don't share one.
copy_disk() { cp "$T/$1.disk" "$T/$2.disk"; }

# restore NAME CID DIR DISK OPTION...: a VMM that goes on from DIR, with a copy of DISK.
restore() {
	restore_=$1 cid_=$2 dir_=$3
	copy_disk "$4" "$1"
	shift 4
	vm "$restore_" --restore "$T/$dir_" --disk "path=$T/$restore_.disk" --vsock "cid=$cid_" "$@"
}

# goes_on NAME CID: restored, it does; somebody talks to the listener that it had before.
goes_on() {
	up "$1" || return 1
	talk "$1" "$2" || { echo "  $name: $1's echo: $(cat "$T/$1.talk")"; return 1; }
	look "$1"
	wait_for 60 moved "$1" || { echo "  $name: $1 does not move: $(counts "$1")"; return 1; }
}

# right_clock NAME: its date is the host's.
right_clock() {
	early_=$(($(date +%s) - 2))
	# On x86_64 the kernel's clock is the host's; on aarch64 it stood still, and the RTC has the host's time.
	[ "$arch" = x86_64 ] && ask "$1" 'date +%s' || ask "$1" 'hwclock -s -u; date +%s'
	case $answer in
	*[!0-9]* | "") answer=0 ;;
	esac
	[ "$answer" -ge $early_ ] && [ "$answer" -le $(($(date +%s) + 2)) ] && return
	echo "  $name: $1's date is $answer, here it is $early_ to $(date +%s)"
	return 1
}

# gone NAME: nothing is left of it.
gone() {
	ctl "$1" end >/dev/null 2>&1
	ended "$1" && [ ! -e "$T/$1.sock" ]
}

# snap NAME OPTION... DIR: into $T/DIR; it prints what was said against it.
snap() {
	snap_=$1 option_=
	shift
	[ "$1" != --diff ] || { option_=$1; shift; }
	# shellcheck disable=SC2086	# a word or none
	ctl "$snap_" snapshot $option_ "$T/$1" >"$T/said" 2>&1 || { echo "  $name: snapshot $1: $(cat "$T/said")"; return 1; }
}

# same_memory A B: byte for byte, but for the trailer, which names the snapshot.
same_memory() { /t/same $(($(stat -c %s "$T/$1/memory") - 128)) "$T/$1/memory" "$T/$2/memory"; }

# --- one guest, and its snapshots --------------------------------------------------------------------

boot s 5 --rng --track-dirty-pages
begin snapshot_under_load
want "no guest" ready s 5
want "pause" quietly ctl s pause
want "snapshot" snap s full
copy_disk s full
want "its files: $(ls $T/full)" is "$(ls $T/full | tr '\n' ' ')" "memory state "
want "modes: $(stat -c %a $T/full $T/full/* | tr '\n' ' ')" is "$(stat -c %a $T/full $T/full/* | tr '\n' ' ')" "700 600 600 "
want "resume" quietly ctl s resume
look s
want "it goes on" wait_for 60 moved s
want "the load" clean s
want "dmesg" quiet s
echo "  $(du -k $T/full/memory | cut -f1) KiB of $(stat -c %s $T/full/memory) bytes"
end

# A guest can go on after a snapshot that could not be written.
begin snapshot_no_room
mkdir -p $T/small
mount -t tmpfs -o size=1m tmpfs $T/small
want "pause" quietly ctl s pause
want "no words" refuses s 1 'ENOSPC' snapshot $T/small/d
want "something is left: $(ls $T/small/d 2>/dev/null)" [ -z "$(ls $T/small/d 2>/dev/null)" ]
umount $T/small
want "no directory" refuses s 1 'ENOENT' snapshot $T/no/such/dir
want "resume" quietly ctl s resume
look s
want "it goes on" wait_for 60 moved s
want "the load" clean s
# The failed ones must not have eaten the log: the next diff follows $T/full.
end

begin diffs
for i in 1 2 3; do
	ask s "head -c 2000000 /dev/urandom >/tmp/junk$i; md5sum </tmp/junk$i"
	eval "sum$i=\$answer"
	if [ $i = 2 ]; then
		# Nobody reads this in the guest: only vhost has written these pages.
		timeout 3 $TOOL send 5 $((port + 1)) 200000 >$T/unread 2>&1
		ask s 'rm /tmp/junk1; echo 3 >/proc/sys/vm/drop_caches'
	fi
	# From this one come many at once.
	[ $i != 3 ] || ask s 'kill -USR1 $(pidof load)'
	look s
	want "it moves" wait_for 60 moved s
	want "pause $i" quietly ctl s pause
	want "diff $i" snap s --diff d$i
	[ $i = 3 ] || want "resume $i" quietly ctl s resume
done
want "the full one" snap s full3
copy_disk s full3
snapped=$(now)
want "files of a diff: $(ls $T/d1)" is "$(ls $T/d1 | tr '\n' ' ')" "memory.diff state "
for i in 1 2 3; do
	size=$(stat -c %s $T/d$i/memory.diff)
	echo "  diff $i: $((size / 1024)) KiB"
	want "a diff of $size bytes: all of RAM, or nothing" [ "$size" -gt 2000000 -a "$size" -lt 67108864 ]
done
want "the load" clean s
want "vinit" silent s 'snapshot'
want "it ends" gone s
end

# --- what is restored --------------------------------------------------------------------------------

begin restored_goes_on
restore r 7 full full
want "it goes on" goes_on r 7
want "date" right_clock r
want "the load" clean r
want "dmesg" quiet r "$expected"
ask r "dmesg | grep -c '$reseeded'"
want "its random numbers were not renewed: $answer" is "$answer" 1
# Two listeners and one client: connections of the time before have been reset.
ask r 'ls -l /proc/$(pidof load)/fd | grep -c socket:'
want "sockets of the load: $answer" is "$answer" 3
want "vinit" silent r
# A merge would change the pages that it has not touched.
$VM snapshot merge $T/full $T/d1 >$T/said 2>&1
want "a merge beneath it: $(cat $T/said)" is $? 1
want "its words: $(cat $T/said)" grep -q EBUSY $T/said
hush r
want "the talker's checks: $(cat $T/r.talk)" grep -q '^ok' $T/r.talk
end

begin restored_resets_itself
printf 'reboot -f\n' 1<>$T/r.in
want "it does not reset" wait_for 60 grep -q 'guest reset' $T/r.log
# What the old life's load said of its disk's going is not the new one's.
: >$T/r.out
want "it is up again" ready r 7
want "the load" clean r
want "date" right_clock r
want "pause" quietly ctl r pause
want "a diff after a reset" refuses r 1 . snapshot --diff $T/after-reset
want "resume" quietly ctl r resume
want "it ends" gone r
want "exit status $status" is "$status" 5
end

begin restore_${clones}_at_once
i=0
while [ $i -lt $clones ]; do
	restore c$i $((20 + i)) full3 full3
	i=$((i + 1))
done
i=0 numbers=
while [ $i -lt $clones ]; do
	want "clone $i" up c$i
	ask c$i 'head -c 16 /dev/urandom | md5sum'
	numbers="$numbers$answer
"
	look c$i
	i=$((i + 1))
done
want "random numbers: $numbers" is "$(printf %s "$numbers" | grep -c '[0-9a-f]\{32\}') $(printf %s "$numbers" | sort | uniq -d | wc -l)" "$clones 0"
i=0 echoed=0
while [ $i -lt $clones ]; do
	$TOOL pingpong $((20 + i)) $port 20 2000 >$T/talk 2>&1
	want "clone $i's echo: $(cat $T/talk)" grep -q '^ok' $T/talk
	want "clone $i moves: $(counts c$i)" wait_for 60 moved c$i
	want "clone $i's load" clean c$i
	want "clone $i's date" right_clock c$i
	want "clone $i's dmesg" quiet c$i "$expected|drop_caches"
	want "clone $i's vinit" silent c$i
	# The others are the faster for it; the first is needed below.
	[ $i = 0 ] || want "clone $i ends" gone c$i
	i=$((i + 1))
done
echoed=1
echo "  the snapshot was $(($(now) - snapped)) s old"
end
full || { finish; exit 0; }

begin restore_refused
# refused WORDS OPTION...: no machine, exit status 1, and a sentence.
refused() {
	words_=$1
	shift
	timeout -s KILL 60 $VM run --console null --api-sock $T/refused.sock "$@" >$T/refused.out 2>&1 </dev/null
	code_=$?
	want "$*: status $code_" is $code_ "${refused_status:-1}"
	want "$*: words: $(cat $T/refused.out)" grep -qE -- "$words_" $T/refused.out
	want "$*: its socket is left" [ ! -e $T/refused.sock ]
}
refused 'is a diff' --restore $T/d1
refused 'ENOENT' --restore $T/no-such
mkdir $T/part
cp $T/full/state $T/part/
refused 'memory: .*ENOENT' --restore $T/part
ln -s $T/full/memory $T/part/memory
refused 'memory: ELOOP|link' --restore $T/part
rm $T/part/memory
ln $T/full3/memory $T/part/memory
refused 'another snapshot|belongs' --restore $T/part
rm $T/part/memory
ln $T/full/memory $T/part/memory
printf 'armv7l\0' | dd of=$T/part/state bs=1 seek=16 conv=notrunc 2>/dev/null
refused "$T/part/state" --restore $T/part
cp $T/full/state $T/part/
head -c 2000 $T/full/state >$T/part/state
refused "$T/part/state" --restore $T/part
refused 'has 1, 2 are given' --restore $T/full --vsock cid=90 --disk path=$T/s.disk --disk path=$T/r.disk
dd if=/dev/zero of=$T/other.disk bs=1M count=3 2>/dev/null
refused "$T/other.disk.*(sectors|size|bytes)" --restore $T/full --vsock cid=90 --disk path=$T/other.disk
refused "$T/c0.disk.*in use" --restore $T/full --vsock cid=90 --disk path=$T/c0.disk
refused 'CID 20 .*(EADDRINUSE|taken)' --restore $T/full --vsock cid=20 --disk path=$T/s.disk
refused_status=2
refused 'memory: ' --restore $T/full --memory 256M
refused 'kernel: ' --restore $T/full --kernel /t/6.12/image
refused_status=
want "the clone ends" gone c0
$VM snapshot merge $T/full3 $T/d1 >$T/said 2>&1
want "a diff of another time" is $? 1
want "its words: $(cat $T/said)" grep -q follow $T/said
$VM snapshot merge $T/d1 $T/d2 >$T/said 2>&1
want "a diff as base" is $? 1
restore again 90 full full
want "and a right one after all that" goes_on again 90
want "ends" gone again
end

# --- the diffs ---------------------------------------------------------------------------------------

begin diffs_merged_equal_full
same_memory full full3 >/dev/null 2>&1
want "it is all the same before the merge: nothing is shown" [ $? = 1 ]
$VM snapshot merge $T/full $T/d2 >$T/said 2>&1
want "the second before the first" is $? 1
$VM snapshot merge $T/full $T/d1 >$T/said 2>&1
want "merge 1: $(cat $T/said)" is $? 0
# Killed somewhere, and again.
$VM snapshot merge $T/full $T/d2 >$T/said 2>&1 &
merger=$!
usleep 30000
kill -KILL $merger 2>/dev/null
wait $merger
echo "  the merge that was to be killed: $?"
$VM snapshot merge $T/full $T/d2 >$T/said 2>&1
want "merge 2: $(cat $T/said)" is $? 0
$VM snapshot merge $T/full $T/d3 >$T/said 2>&1
want "merge 3: $(cat $T/said)" is $? 0
want "its memory is not that of the full one" same_memory full full3
end

begin merged_goes_on
restore m 7 full full3
want "it goes on" goes_on m 7
ask m 'md5sum </tmp/junk2; md5sum </tmp/junk3; ls /tmp'
want "what it remembers: $answer" is "$(echo "$answer" | head -n 2)" "$sum2
$sum3"
want "the load" clean m
want "dmesg" quiet m "$expected|drop_caches"
want "it ends" gone m
end

# --- what a restore costs ----------------------------------------------------------------------------

# What a VMM has done from its exec to the first instruction of a guest that it has restored: it is loaded, not resumed.
tracing=/sys/kernel/tracing
[ -d $tracing/events ] || mount -t tracefs tracefs $tracing
trigger=$tracing/events/raw_syscalls/sys_enter/trigger
# cost MIB: $calls, $bytes, $pages, for a guest of so much RAM.
cost() {
	calls=
	vm p$1 --kernel /t/pages --memory $1M
	wait_for 60 grep -q ready $T/p$1.out || { echo "  $name: the payload of $1 MiB is not up: $(cat $T/p$1.log)"; return 1; }
	quietly ctl p$1 pause && snap p$1 p$1.snapshot && gone p$1 || return 1
	echo 'hist:keys=common_pid:size=2048' >$trigger
	vm q$1
	wait_for 30 [ -S $T/q$1.sock ]
	ctl q$1 load $T/p$1.snapshot >$T/said 2>&1 || { echo "  $name: load: $(cat $T/said)"; return 1; }
	cost_=
	for p in /proc/[0-9]*; do
		! grep -qa "^$VM.run.--name.q$1" $p/cmdline 2>/dev/null || cost_=${p#/proc/}
	done
	bytes=$(sed -n 's/^rchar: //p' /proc/$cost_/io)
	pages=$(sed 's/.*) //' /proc/$cost_/stat | cut -d' ' -f8)
	calls=0
	for p in /proc/$cost_/task/*; do
		n=$(sed -n "s/.*common_pid: *${p##*/} .*hitcount: *\([0-9]*\).*/\1/p" ${trigger%trigger}hist)
		calls=$((calls + ${n:-0}))
	done
	echo '!hist:keys=common_pid:size=2048' >$trigger
	# It is a guest indeed.
	quietly ctl q$1 resume && printf r 1<>$T/q$1.in && wait_for 30 grep -q 'did r' $T/q$1.out && gone q$1
}
begin restore_cost
want "64 MiB" cost 64
small="$calls $bytes $pages"
want "4 GiB" cost 4096
echo "  system calls, bytes read, page faults: $small for 64 MiB, $calls $bytes $pages for 4 GiB"
# shellcheck disable=SC2086	# numbers
set -- $small
want "nothing was counted" [ "${1:-0}" -gt 50 -a "${2:-0}" -gt 1000 -a "${3:-0}" -gt 20 ]
# On x86_64 4 GiB lie on both sides of the hole: that is one range more to map, advise and give to KVM, whatever its size.
ranges=0
[ "$arch" != x86_64 ] || ranges=1
# How often its event loop and its locks wait is chance, a few times more or less.
want "system calls: $1, then $calls" [ $((calls - $1)) -le $((8 + 12 * ranges)) ]
want "bytes read: $2, then $bytes" [ $((bytes - $2)) -le 200 ]
want "page faults: $3, then $pages" [ $((pages - $3)) -le 4 ]
end
finish
