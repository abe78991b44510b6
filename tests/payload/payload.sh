#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: payload.sh [PATTERN...]
#
# Guests of a few instructions through the whole VMM: what they find of their machine, and how vinit takes their end.
# Plain sh, so that it runs in the nested host too; there VINIT and PAYLOADS say where the binary and the payloads are.
# CHECK_LONG=1: more of it.

patterns=$*
# How often, how many KiB, and how many so that a pipe (64 KiB) is full. In an emulated host, where 100,000 exits take 20 s, it
# is less.
times=2000 some=16 many=80
if [ -z "${VINIT-}" ]; then
	some=160 many=160
	cd "$(dirname "$0")/../.." || exit 1
	make -s && make -s payloads || exit 1
	VINIT=build/$(uname -m)/vinit
	PAYLOADS=build/$(uname -m)/payload
fi
arch=$(uname -m)
gic=
if [ "$arch" = aarch64 ]; then
	gic=2
	! grep -q GICv3 /proc/interrupts || gic=3
	times=300
fi
[ -z "${CHECK_LONG-}" ] || times=2000 some=1024 many=1024
tmp=$(mktemp -d) || exit 1
out=$tmp/out err=$tmp/err stdin=/dev/null
pids=
failed=0
limit=120
# shellcheck disable=SC2086 # a list
trap 'kill -9 $pids 2>/dev/null; rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP

# --- the frame --------------------------------------------------------------------------------------

# wanted NAME: is it asked for? Then it is the case that all lines are about.
wanted() {
	for pattern in ${patterns:-$1}; do
		case $1 in
		*"$pattern"*)
			name=$1 stdin=/dev/null
			return 0
			;;
		esac
	done
	return 1
}

good() { echo "ok $name: $1"; }

bad() {
	echo "FAIL $name: $1"
	sed 's/^/    guest: /' "$out" | tail -n 25
	sed 's/^/    vinit: /' "$err" | tail -n 10
	failed=1
}

# is GOT WANTED WHAT
is() {
	if [ "$1" = "$2" ]; then good "$3"; else bad "$3: \"$1\", expected \"$2\""; fi
}

# at_most GOT BOUND WHAT
at_most() {
	if [ "$1" -le "$2" ]; then good "$3 ($1)"; else bad "$3: $1, expected at most $2"; fi
}

# said WORDS: vinit's messages name it
said() {
	if grep -q -- "$1" "$err"; then good "vinit says \"$1\""; else bad "vinit does not say \"$1\""; fi
}

# vinit PAYLOAD [OPTION...]: to its end. $status; $seconds.
vinit() {
	payload=$1
	shift
	seconds=$(date +%s)
	timeout -s KILL $limit "$VINIT" run --kernel "$PAYLOADS/$payload" "$@" <"$stdin" >"$out" 2>"$err"
	status=$?
	seconds=$(($(date +%s) - seconds))
}

# start PAYLOAD [OPTION...]: in the background, $pid.
start() {
	payload=$1
	shift
	rm -f "$tmp/pid"
	# shellcheck disable=SC2016 # the inner shell's
	timeout -s KILL $limit sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec "$@"' "$tmp/pid" \
		"$VINIT" run --kernel "$PAYLOADS/$payload" "$@" <"$stdin" >"$out" 2>"$err" &
	job=$!
	tries=100
	while [ ! -s "$tmp/pid" ] && [ $((tries -= 1)) -gt 0 ]; do sleep 0.1; done
	pid=$(cat "$tmp/pid")
	pids="$pids $pid"
}

# The end of what was started. $status
finish() {
	wait "$job"
	status=$?
	pids=
}

# wait_for FILE WORDS: until they are in there; false after 30 s, or when what was started has ended without them
wait_for() {
	tries=300
	until grep -q -- "$2" "$1" 2>/dev/null; do
		[ $((tries -= 1)) -gt 0 ] && kill -0 "$pid" 2>/dev/null || return 1
		sleep 0.1
	done
}

# findings STATUS: the payload's own lines, that it came to its end, and vinit's exit status
findings() {
	sed -n "s|^ok |ok $name: |p" "$out"
	if grep -q '^FAIL ' "$out"; then
		sed -n "s|^FAIL |FAIL $name: |p" "$out"
		sed 's/^/    vinit: /' "$err" | tail -n 10
		failed=1
	fi
	[ "$1" -ne 0 ] || grep -qx "done" "$out" || bad "the payload did not come to its end"
	is "$status" "$1" "exit status"
}

# image NAME SECTORS: an empty disk
image() {
	head -c $(($2 * 512)) /dev/zero >"$tmp/$1"
}

# on ARCH NAME: a case that only this architecture has
on() { [ "$arch" = "$1" ] && wanted "$2"; }

# The payloads' checksum().
checksum() {
	od -An -v -tu1 | awk '{ for (i = 1; i <= NF; i++) sum = (sum * 31 + $i) % 16777213 } END { print sum + 0 }'
}

# --- ports, memory, interrupts ----------------------------------------------------------------------

if [ ! -c /dev/kvm ]; then
	echo "skip payloads: there is no /dev/kvm here"
	exit 0
fi

if on x86_64 ports; then
	vinit ports
	findings 0
	is "$(grep -c '^string: the quick brown fox jumps over the lazy dog 0123456789$' "$out")" 1 "rep outsb: the string is whole"
	is "$(grep -c '^string: backwards$' "$out")" 1 "rep outsb downwards: the string is whole"
fi

if wanted mmio; then
	image disk 2051
	vinit mmio --disk path="$tmp/disk" --rng --cmdline sectors=2051
	findings 0
fi

# Registers that are memory, and registers that exit: the same words after every write.
if wanted walk; then
	image disk 2051
	vinit walk --disk path="$tmp/disk" --rng
	findings 0
	grep -v '^ok ' "$out" >"$tmp/walked"
	is "$(grep -c '^0x' "$tmp/walked")" 346 "it has walked"
	vinit walk --disk path="$tmp/disk" --rng --trap-registers
	findings 0
	is "$(grep -v '^ok ' "$out" | cmp - "$tmp/walked" 2>&1)" "" "the same where registers exit"
fi

# What has no syndrome for the hypervisor is the guest's fault, and only its.
if on aarch64 nisv; then
	vinit nisv --rng
	findings 0
fi

if on aarch64 platform; then
	now=$(date +%s)
	vinit platform
	findings 0
	clock=$(sed -n 's/^clock: //p' "$out")
	at_most $((${clock:-0} - now)) $limit "the guest's clock is not ahead of the host's, seconds"
	at_most $((now - ${clock:-0})) 0 "nor behind it, seconds"
fi

# One disk a line, up to the last.
if on aarch64 irq; then
	set --
	n=0
	while [ $n -lt 32 ]; do
		image "d$n" 8
		set -- "$@" --disk path="$tmp/d$n"
		n=$((n + 1))
	done
	vinit irq "$@" --cmdline virtio=32
	findings 0
	is "$(sed -n 's/^GICv//p' "$out")" $gic "the host's version of GIC"
fi

if on aarch64 gic; then
	vinit irq --gic $gic --cmdline virtio=0
	findings 0
	# The emulated hosts have one version or the other, as most boards do.
	vinit irq --gic $((5 - gic))
	is $status 1 "the host's other version of GIC is refused"
	said "gic: .*GICv$((5 - gic))"
fi

if wanted serial; then
	vinit serial
	findings 0
fi

if wanted serial-input; then
	printf 'The Quick Brown Fox, 0123456789, ends here.\n' >"$tmp/input"
	for stdin in "$tmp/input" "$tmp/fifo"; do
		if [ "$stdin" = "$tmp/fifo" ]; then
			mkfifo "$stdin"
			(cat "$tmp/input"; sleep 3) >"$stdin" &
		fi
		vinit serial --cmdline test=rx
		findings 0
	done
fi

if wanted rng; then
	vinit rng --rng
	findings 0
fi

# KVM counts the accesses to device memory that it could not serve itself.
if wanted ioeventfd; then
	count=/sys/kernel/debug/kvm/mmio_exits
	[ "$arch" = x86_64 ] || count=/sys/kernel/debug/kvm/mmio_exit_user
	# Being there and readable by its mode is not enough: a locked-down kernel refuses all the same.
	if cat $count >/dev/null 2>&1; then
		mkfifo "$tmp/kicks"
		exec 3<>"$tmp/kicks"
		stdin=$tmp/kicks
		start rng --rng --cmdline kicks=5000
		wait_for "$out" before || bad "the guest does not come up"
		exits=$(cat $count)
		printf g >&3
		wait_for "$out" after || bad "the kicks don't end"
		exits=$(($(cat $count) - exits))
		printf g >&3
		finish
		exec 3>&-
		is $status 0 "exit status"
		# On aarch64 the serial port's registers are device memory too: a line, and a look for input each 20 ms.
		[ "$arch" = x86_64 ] && noise=0 || noise=500
		at_most $exits $noise "exits to the VMM for 5000 kicks"
	else
		echo "skip ioeventfd: $count can't be read here"
	fi
fi

# On x86_64 lines are shared from the 14th on.
if wanted slots; then
	set --
	n=0
	while [ $n -lt 32 ]; do
		image "d$n" 8
		set -- "$@" --disk path="$tmp/d$n"
		n=$((n + 1))
		case $n in
		1 | 13 | 14 | 32)
			name=slots-$n
			vinit slots "$@" --cmdline n=$n
			findings 0
			;;
		esac
	done
	name=slots-33
	vinit slots "$@" --rng --cmdline n=32
	is $status 1 "one more device is refused"
	said "32 virtio devices"
	vinit slots "$@" --disk path="$tmp/disk33" --cmdline n=32
	is $status 2 "one more disk is refused"
	said "32 virtio devices"
fi

# --- disk and reset ---------------------------------------------------------------------------------

if wanted blk; then
	image disk 2051
	vinit blk --disk path="$tmp/disk" --cmdline sectors=2051
	findings 0
	is "$(dd if="$tmp/disk" bs=512 skip=8 count=16 2>/dev/null | checksum)" \
		"$(sed -n 's/^data: //p' "$out")" "the image holds what was written"
	is "$(grep -c 'the guest reset' "$err")" 1 "one reset"
fi

# field FILE NAME: a number of /proc
field() { sed -n "s/^$2: *	*\([0-9]*\).*/\1/p" "$1"; }
# What the VMM has dirtied besides the guest's RAM, which is its only large mapping.
overhead() {
	awk '/^Size:/ { size = $2 } /^Private_Dirty:/ && size < 16384 { sum += $2 } END { print sum + 0 }' "/proc/$pid/smaps"
}
sample() {
	fds=$(find "/proc/$pid/fd" -type l | wc -l)
	rss=$(field "/proc/$pid/status" VmRSS)
	size=$(field "/proc/$pid/status" VmSize)
	threads=$(field "/proc/$pid/status" Threads)
	dirty=$(field "/proc/$pid/smaps_rollup" Private_Dirty)
	own=$(overhead)
}

if wanted resets; then
	image disk 64
	fds=none rss=0 size=0 threads=none dirty=0 own=9999
	mkfifo "$tmp/console"
	exec 3<>"$tmp/console"
	stdin=$tmp/console
	limit=180
	start resets --disk path="$tmp/disk" --rng --cmdline "n=100 pause1=5 pause2=99"
	if wait_for "$out" "at reset 5"; then sample; else bad "reset 5 was not reached"; fi
	fds5=$fds rss5=$rss size5=$size threads5=$threads dirty5=$dirty
	fds=gone threads=gone
	printf g >&3
	until wait_for "$out" "at reset 99" || ! kill -0 "$pid" 2>/dev/null; do :; done
	[ ! -d "/proc/$pid" ] || sample
	printf g >&3
	finish
	exec 3>&-
	limit=120
	findings 0
	# The payload has counted them; the lines are limited.
	at_most "$(grep -c 'the guest reset' "$err")" 99 "lines about 100 resets"
	is "$fds" "$fds5" "open files at reset 5 and 99"
	is "$threads" "$threads5" "threads at reset 5 and 99"
	# Not to the page: the C library's heap has its own mind.
	at_most "$((rss - rss5))" 64 "VmRSS grown since reset 5, KiB"
	at_most "$((size - size5))" 64 "VmSize grown since reset 5, KiB"
	at_most "$((dirty - dirty5))" 64 "Private_Dirty grown since reset 5, KiB"
	at_most "$own" 1024 "Private_Dirty outside the guest's RAM, KiB"
fi

# --- ends -------------------------------------------------------------------------------------------

# end NAME STATUS OPTION...
end() {
	wanted "end-$1" || return 0
	shift
	want=$1
	shift
	vinit end "$@"
	is $status "$want" "exit status"
}
end off 0 --cmdline test=off
end off-2-cpus 0 --cmdline test=off --cpus 2
end reset 3 --cmdline test=reset --on-reset exit
end other-reset 3 --cmdline test=other-reset --on-reset exit
end panic 4 --cmdline test=panic
end exception 4 --cmdline test=exception
end usage 2 --no-such-option
case $arch in
x86_64)
	end triple 4 --cmdline test=triple
	end triple-no-reset 4 --cmdline test=triple --on-reset restart
	sleeps="sleep spin"
	;;
aarch64)
	end off-by-2nd 0 --cmdline test=off-by-2nd --cpus 2
	end reset-by-2nd 3 --cmdline test=reset-by-2nd --cpus 2 --on-reset exit
	sleeps="sleep spin cpu-off"
	;;
esac

# The supervisor says how it ended: here only what the exit status leaves open is said.
if wanted end-supervised; then
	vinit end --cmdline test=off --supervised
	is $status 0 "exit status"
	is "$(cat "$err")" "" "nothing is said of a power-off"
	vinit end --cmdline test=panic --supervised
	is $status 4 "exit status"
	is "$(cat "$err")" "vinit: guest panicked (pvpanic)" "of a panic, that it was one"
	vinit end --cmdline test=off --supervised --log-file "$tmp/own-log"
	is "$(grep -c 'the guest powered off' "$tmp/own-log")" 1 "its own log has its end"
fi

if wanted end-no-kernel; then
	vinit no-such-payload
	is $status 1 "exit status"
	said ENOENT
fi

if wanted term-button; then
	start end --cmdline test=button
	wait_for "$out" ready || bad "the guest does not come up"
	kill -TERM "$pid"
	finish
	findings 0
fi

for test in $sleeps; do
	if wanted "term-ignored-$test"; then
		start end --cmdline test=$test --stop-timeout 1
		wait_for "$out" ready || bad "the guest does not come up"
		seconds=$(date +%s)
		kill -TERM "$pid"
		finish
		seconds=$(($(date +%s) - seconds))
		is $status 5 "exit status"
		at_most $seconds 6 "seconds"
	fi
done

if wanted term-twice; then
	start end --cmdline test=sleep --stop-timeout 50
	wait_for "$out" ready || bad "the guest does not come up"
	seconds=$(date +%s)
	kill -TERM "$pid"
	# Two signals at once would be one.
	wait_for "$err" "power button" || bad "the first SIGTERM presses no button"
	kill -0 "$pid" || bad "the first SIGTERM ended it"
	kill -TERM "$pid"
	finish
	seconds=$(($(date +%s) - seconds))
	is $status 5 "exit status"
	at_most $seconds 10 "seconds"
fi

# Nothing but resets: the end comes at the first SIGTERM or the next reset after it, and the log stays short.
if wanted term-reset-loop; then
	start end --cmdline test=reset --on-reset restart --console null --cpus 4
	wait_for "$err" "the guest reset" || bad "the guest does not reset"
	sleep 3
	at_most "$(wc -l <"$err" | tr -d ' ')" 12 "lines of log"
	seconds=$(date +%s)
	kill -TERM "$pid"
	finish
	seconds=$(($(date +%s) - seconds))
	is $status 3 "exit status"
	at_most $seconds 5 "seconds"
fi

# The same for longer: then it is made to wait, and is ended at once all the same.
# A slow machine needs its time for as many as are free; a while later a pause is 2 s or longer.
looping() {
	tries=4
	until wait_for "$err" "resets itself in a loop" || [ $((tries -= 1)) -eq 0 ]; do :; done
	sleep 4
}
if wanted reset-loop; then
	limit=150
	rm -f "$tmp/lives"
	start end --cmdline test=reset --memory 16M --console file="$tmp/lives"
	looping
	before=$(grep -c ready "$tmp/lives")
	sleep 6
	at_most $(($(grep -c ready "$tmp/lives") - before)) 4 "resets in six seconds, after $before"
	is "$(grep -c 'resets itself in a loop' "$err")" 1 "it is said once"
	seconds=$(date +%s)
	kill -TERM "$pid"
	finish
	seconds=$(($(date +%s) - seconds))
	is $status 3 "exit status"
	at_most $seconds 2 "seconds"
	limit=60
fi
if wanted reset-loop-key; then
	if command -v script >/dev/null; then
		rm -f "$tmp/keys" "$tmp/pid"
		mkfifo "$tmp/keys"
		timeout -s KILL 150 script -q -c "echo \$\$ >'$tmp/pid'; '$VINIT' run --kernel '$PAYLOADS/end' \
			--cmdline test=reset --memory 16M 2>'$err'; echo \$? >'$tmp/status'" /dev/null <"$tmp/keys" >"$out" 2>&1 &
		job=$!
		exec 3>"$tmp/keys"
		tries=100
		while [ ! -s "$tmp/pid" ] && [ $((tries -= 1)) -gt 0 ]; do sleep 0.1; done
		pid=$(cat "$tmp/pid")
		pids="$pids $pid"
		looping
		seconds=$(date +%s)
		printf '\001x' >&3
		finish
		exec 3>&-
		seconds=$(($(date +%s) - seconds))
		is "$(cat "$tmp/status")" 5 "exit status after Ctrl-A x"
		at_most $seconds 2 "seconds"
	else
		echo "skip reset-loop-key: there is no script(1) here, to make a terminal"
	fi
fi

if wanted term-no-time; then
	start end --cmdline test=sleep --stop-timeout 0 --cpus 4
	wait_for "$out" ready || bad "the guest does not come up"
	kill -TERM "$pid"
	finish
	is $status 5 "exit status"
fi

if wanted kill; then
	image disk 64
	start end --cmdline test=sleep --disk path="$tmp/disk" --cpus 2
	wait_for "$out" ready || bad "the guest does not come up"
	timeout 20 "$VINIT" run --kernel "$PAYLOADS/end" --disk path="$tmp/disk" >"$tmp/out2" 2>"$tmp/err2" </dev/null
	is $? 1 "a second machine on the same disk is refused"
	is "$(grep -c 'disk' "$tmp/err2")" 1 "and told which it is"
	kill -KILL "$pid"
	finish
	is $status 137 "killed"
	kill -0 "$pid" 2>/dev/null && bad "the process is still there"
	vinit end --cmdline test=off --disk path="$tmp/disk"
	is $status 0 "the disk is free at once"
fi

# --- CPUs and RAM -----------------------------------------------------------------------------------

# How many there can be, and one more than that.
case $arch$gic in
x86_64) cpus="1 2 4 64 ${CHECK_LONG:+254}" too_many=255 ;;
aarch643) cpus="1 2 4 17 ${CHECK_LONG:+123}" too_many=124 ;;
aarch642) cpus="1 2 4 8" too_many=9 ;;
esac
for n in $cpus; do
	if wanted "cpus-$n"; then
		vinit smp --cpus "$n" --cmdline "cpus=$n"
		findings 0
	fi
done
if wanted cpus-$too_many; then
	vinit smp --cpus $too_many
	is $status 1 "refused"
	said "cpus: $too_many"
fi
for n in 1 4; do
	if on x86_64 "cpuid-$n"; then
		vinit cpuid --cpus "$n" --cmdline "cpus=$n"
		findings 0
	fi
done
if on aarch64 psci; then
	vinit psci --cpus 2
	findings 0
fi
if on aarch64 melee; then
	image disk 8
	vinit melee --cpus 4 --disk path="$tmp/disk" --rng --cmdline n=12
	findings 0
fi
# has WORD: 1 if the host's CPU has it
has() { grep -m 1 '^Features' /proc/cpuinfo | grep -cw "$1"; }
if on aarch64 idregs; then
	vinit idregs
	findings 0
	for word in sve paca pacg; do
		is "$(sed -n "s/^$word: //p" "$out")" "$(has $word)" "$word, as the host has it"
	done
fi

# On x86_64 there is a hole at 3 GiB.
for n in 16 128 3072 3074 4096 5120; do
	if wanted "ram-$n"; then
		vinit ram --memory "${n}M" --cmdline "mem=$n"
		findings 0
	fi
done
if wanted ram-14; then
	vinit ram --memory 14M
	is $status 1 "refused"
	said "14 MiB"
fi

# --- what the loader hands over ---------------------------------------------------------------------

# loaded NAME HOW: the payload boot, or one like it; how it says that it was entered
loaded() {
	wanted "$1" || return 0
	how=$2
	head -c 20001 /dev/urandom >"$tmp/initrd"
	vinit "$name" --initrd "$tmp/initrd" --cmdline "one two=2  three=\"3 4\" -- last"
	findings 0
	is "$(sed -n 's/^entered: //p' "$out")" "$how" "entry"
	is "$(sed -n 's/^initrd: //p' "$out")" "20001 $(checksum <"$tmp/initrd")" "initrd: size and sum"
	is "$(sed -n 's/^cmdline: .*\(one two.*\)/\1/p' "$out")" "one two=2  three=\"3 4\" -- last" "command line, behind vinit's words"
	is "$(grep -c '^cmdline: .*console=.* one' "$out")" 1 "vinit's words come first"
	vinit "$name" --cmdline "just this" --cmdline-only
	is "$(sed -n 's/^cmdline: //p' "$out")" "just this" "--cmdline-only"
	is "$(sed -n 's/^initrd: //p' "$out" | cut -d ' ' -f 1)" 0 "no initrd"
	vinit "$name" --cmdline-only
	is "$(sed -n 's/^cmdline: //p' "$out")" "" "empty command line"
}
case $arch in
x86_64)
	loaded boot "zero page"
	loaded boot-pvh PVH
	;;
aarch64)
	loaded boot Image
	if wanted boot-gzip; then
		payloads=$PAYLOADS
		gzip -c "$payloads/boot" >"$tmp/boot-gzip"
		PAYLOADS=$tmp
		loaded boot-gzip Image
		PAYLOADS=$payloads
	fi
	;;
esac
# The description of a machine with more in it; and of one whose RAM is nearly full.
if on aarch64 boot-devices; then
	for n in 0 1 2; do image "d$n" 8; done
	vinit boot --cpus 4 --disk path="$tmp/d0" --disk path="$tmp/d1" --disk path="$tmp/d2" --rng \
		--cmdline "cpus=4 virtio=4"
	findings 0
fi
if on aarch64 boot-small; then
	image initrd 22000
	vinit boot --memory 16M --initrd "$tmp/initrd"
	findings 0
fi

# --- the console's other end ------------------------------------------------------------------------

line=$(printf '%s' '0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmn')

# whole FILE: all lines came, and nothing else
whole() {
	is "$(grep -cxF -- "$line" "$1") $(wc -l <"$1" | tr -d ' ')" "$((some * 16)) $((some * 16))" "nothing is lost"
}

if wanted stdin-closed; then
	timeout $limit "$VINIT" run --kernel "$PAYLOADS/end" --cmdline test=off <&- >"$out" 2>"$err"
	status=$?
	findings 0
fi
if wanted stdout-closed; then
	: >"$out"
	timeout $limit "$VINIT" run --kernel "$PAYLOADS/end" --cmdline test=off </dev/null >&- 2>"$err"
	is $? 0 "exit status"
fi
if wanted all-closed; then
	timeout $limit "$VINIT" run --kernel "$PAYLOADS/end" --cmdline test=off <&- >&- 2>&-
	is $? 0 "exit status"
fi
if wanted stdout-full; then
	timeout $limit "$VINIT" run --kernel "$PAYLOADS/end" --cmdline test=off </dev/null >/dev/full 2>"$err"
	is $? 0 "exit status"
fi
if wanted stdout-file; then
	vinit flood --cmdline kib=$some
	is $status 0 "exit status"
	whole "$out"
	baseline=$(((seconds + 1) * many / some))
	rm -f "$tmp/file"
	vinit flood --cmdline kib=$some --console file="$tmp/file"
	name=console-file
	is $status 0 "exit status"
	whole "$tmp/file"
	is "$(wc -c <"$out" | tr -d ' ')" 0 "nothing on stdout"

	name=console-null
	vinit flood --cmdline kib=$some --console null
	is $status 0 "exit status"
	is "$(wc -c <"$out" | tr -d ' ')" 0 "nothing on stdout"

	# A pipe holds 64 KiB; more is the guest's loss, not its time.
	name=stdout-unread
	mkfifo "$tmp/unread"
	# shellcheck disable=SC2217 # that it does not read is the point
	sleep 90 <"$tmp/unread" &
	sleeper=$!
	seconds=$(date +%s)
	timeout -s KILL $limit "$VINIT" run --kernel "$PAYLOADS/flood" --cmdline kib=$many </dev/null >"$tmp/unread" 2>"$err"
	status=$?
	seconds=$(($(date +%s) - seconds))
	kill $sleeper
	is $status 0 "exit status"
	at_most $seconds $((2 * baseline + 5)) "seconds"

	name=stdout-reader-gone
	vinit_gone() {
		timeout -s KILL $limit "$VINIT" run --kernel "$PAYLOADS/flood" --cmdline kib=$some </dev/null 2>"$err"
		echo $? >"$tmp/status"
	}
	vinit_gone | head -c 100 >"$out"
	tries=50
	while [ ! -s "$tmp/status" ] && [ $((tries -= 1)) -gt 0 ]; do sleep 0.1; done
	is "$(cat "$tmp/status")" 0 "exit status"
fi
if wanted console-unix; then
	if command -v socat >/dev/null; then
		printf 'The Quick Brown Fox, 0123456789, ends here.\n' >"$tmp/input"
		start serial --cmdline test=rx --console unix="$tmp/socket"
		tries=50
		while [ ! -S "$tmp/socket" ] && [ $((tries -= 1)) -gt 0 ]; do sleep 0.1; done
		(cat "$tmp/input"; sleep 2) | timeout $limit socat -t 5 - UNIX-CONNECT:"$tmp/socket" >"$tmp/peer"
		finish
		mv "$tmp/peer" "$out"
		findings 0
	else
		echo "skip console-unix: there is no socat here"
	fi
fi

# --- driven from outside ----------------------------------------------------------------------------

# ctl VERB...: to what was started with --api-sock "$tmp/sock"; what it says is in $tmp/reply. $status
ctl() {
	timeout -s KILL 30 "$VINIT" ctl --sock "$tmp/sock" "$@" >"$tmp/reply" 2>&1
	status=$?
}

# refused PATTERN VERB...: a sentence, and exit status 1
refused() {
	pattern=$1
	shift
	ctl "$@"
	if [ $status = 1 ] && grep -q -- "$pattern" "$tmp/reply"; then
		good "refused: $*"
	else
		bad "ctl $*: status $status, not 1, or it does not say \"$pattern\": $(cat "$tmp/reply")"
	fi
}

# driven PAYLOAD OPTION...: starts it, with descriptor 3 as its console's input
driven() {
	rm -f "$tmp/in" "$tmp/sock"
	mkfifo "$tmp/in"
	exec 3<>"$tmp/in"
	stdin=$tmp/in
	start "$@" --api-sock "$tmp/sock"
	wait_for "$out" ready || bad "the guest does not come up"
}

# tell LETTER: the payload does it; what it says of it is in $tmp/news
tell() {
	lines=$(wc -l <"$out") told=$(grep -c '^did ' "$out") tries=300
	printf %s "$1" >&3
	until [ "$(grep -c '^did ' "$out")" -gt "$told" ]; do
		[ $((tries -= 1)) -gt 0 ] && kill -0 "$pid" 2>/dev/null || { bad "the payload does not do \"$1\""; break; }
		sleep 0.1
	done
	tail -n +$((lines + 1)) "$out" >"$tmp/news"
}

# numbers LOW HIGH
numbers() { awk -v i="$1" -v end="$2" 'BEGIN { for (; i <= end; i++) print i }'; }

# pages: of lines "ADDRESS BYTES", one a line, without the payload's own
pages() {
	awk -v size="$page" -v low="$own" -v high=$((own + own_size)) \
		'{ for (i = int($1 / size); i * size < $1 + $2; i++) if (i * size < low || i * size >= high) print i }' | sort -n | uniq
}

# logged WHAT: the dirty log has the pages in $tmp/expected, and no other
logged() {
	ctl --json dirty read
	tr '[]' '\n\n' <"$tmp/reply" | grep '^[0-9]' | tr ',' ' ' | pages >"$tmp/logged"
	if [ $status = 0 ] && grep -q '"exact":true' "$tmp/reply" && cmp -s "$tmp/logged" "$tmp/expected"; then
		good "dirty log: $1 ($(wc -l <"$tmp/expected" | tr -d ' ') pages)"
	else
		bad "dirty log: $1: status $status, $(wc -l <"$tmp/logged") pages of $(wc -l <"$tmp/expected"), missing or too many: \
$(sort "$tmp/logged" "$tmp/expected" | uniq -u | head -n 5 | tr '\n' ' ') $(head -c 100 "$tmp/reply")"
	fi
}

wrote() { sed -n 's/^wrote //p' "$tmp/news" | pages >"$tmp/expected"; }

if wanted dirty-log; then
	page=$(awk '/^KernelPageSize/ { print $2 * 1024; exit }' /proc/self/smaps)
	case $arch in
	x86_64) at=4294967296 ;;
	aarch64) at=2147483648 ;;
	esac
	size=1048576
	driven pages --memory 64M --cmdline "at=$at size=$size"
	own=$(sed -n 's/^own \([0-9]*\) .*/\1/p' "$out") own_size=$(sed -n 's/^own [0-9]* //p' "$out")
	refused 'log' dirty read
	ctl dirty on
	is $status 0 "the log goes on"
	ctl dirty on
	is $status 0 "once more is no change"
	ctl dirty status
	good "status: $(tr '\n' ' ' <"$tmp/reply")"
	: >"$tmp/expected"
	ctl dirty read
	logged "what has not been written is not in it"
	tell w
	wrote
	logged "exactly what was written"
	: >"$tmp/expected"
	logged "it was cleared by being read"
	tell r
	logged "reading writes nothing"
	ctl --json memory add $at $size
	is $status 0 "a region is added"
	slot=$(sed -n 's/.*"slot":\([0-9]*\).*/\1/p' "$tmp/reply")
	refused 'overlap\|EEXIST' memory add $((at + size - 65536)) 131072
	refused . memory add $((at + 1)) $size
	echo "$at $size" | pages >"$tmp/expected"
	logged "a new region counts as written"
	tell x
	wrote
	logged "exactly what was written in both regions"
	ctl pause
	tell_paused=$(wc -l <"$out")
	printf x >&3
	: >"$tmp/expected"
	logged "nothing while it is paused"
	is "$(wc -l <"$out")" "$tell_paused" "a paused guest does nothing"
	tries=100 told=$(grep -c '^did ' "$out")
	ctl resume
	until [ "$(grep -c '^did ' "$out")" -gt "$told" ] || [ $((tries -= 1)) -eq 0 ]; do sleep 0.1; done
	tail -n +$((tell_paused + 1)) "$out" >"$tmp/news"
	wrote
	logged "and what it wrote after that"
	tell r
	ctl memory remove "$slot"
	is $status 0 "the region is removed"
	refused . memory remove "$slot"
	refused . memory remove 0
	ctl dirty off
	is $status 0 "the log goes off"
	refused 'log' dirty read
	ctl dirty on
	: >"$tmp/expected"
	logged "what was written while it was off is not in it"
	printf q >&3
	finish
	exec 3>&-
	findings 0
fi

if wanted interrupt-numbers; then
	case $arch in
	x86_64) last=23 level=10 ;;
	aarch64) last=63 level=40 ;;
	esac
	driven lines --cmdline gsi=$level
	taken=
	for n in $(numbers 0 64); do
		ctl irq "$n" pulse
		if [ $status = 0 ]; then
			taken="$taken$n "
		elif ! { [ $status = 1 ] && grep -q 'GSI\|interrupt' "$tmp/reply"; }; then
			bad "irq $n: status $status: $(cat "$tmp/reply")"
		fi
	done
	tell c
	is "$taken" "$(numbers 0 $last | tr '\n' ' ')" "numbers that are taken"
	is "$(grep -v '^did' "$tmp/news")" "$(numbers 0 $last | sed 's/.*/count & 1/')" "each of them arrives, once, as what it is"
	tell c
	is "$(grep -v '^did' "$tmp/news")" "" "and no other later"

	# stays WHAT: the level is there, again and again; or not
	stays() {
		tell c
		is "$(grep -v '^did' "$tmp/news")" "$2" "a level: $1"
	}
	tell l
	stays "a line that is down" ""
	ctl irq $level up
	is $status 0 "it is raised"
	stays "the guest's end of the interrupt does not take it down" "count $level 20"
	tell o
	stays "nor does time" "count $level 20"
	ctl irq $level down
	is $status 0 "it is lowered"
	tell o
	stays "then it is down" ""
	refused . irq 4294967295 up
	ctl irq $level sideways
	is $status 2 "no such level"
	printf q >&3
	finish
	exec 3>&-
	findings 0
fi

# --- a driver that means harm -----------------------------------------------------------------------

if wanted hostile; then
	image disk 64
	vinit hostile --disk path="$tmp/disk" --rng --cmdline "n=2 times=$times"
	findings 0
fi
if wanted hostile-console; then
	vinit hostile --virtio-console file="$tmp/hvc" --cmdline "n=1 times=$times"
	findings 0
	is "$(tail -n 1 "$tmp/hvc")" "to the virtio console" "its output arrives"
fi

exit $failed
