#!/bin/sh
# SPDX-License-Identifier: MIT
# Requests of disks, one at a time and 32 at a time: each VMM has one guest with a disk for every way that it can carry requests
# out. The guests are up together and take turns, a second for each disk and depth, so that whatever else goes on meets both.
# shellcheck source=tests/bench/lib.sh
. /t/bench.sh

# A disk that takes 2 ms to answer, which is far more than the guest's CPU needs for a request, one of the machine, and a file in
# memory.
rounds=4 # the first is not counted: the emulator meets code that it has not translated
null_disk 2000000
backings="$null /dev/vda $T/memory"
/t/blkload fill /dev/vda 64
/t/blkload fill $T/memory 64
sync

# disks_of VMM: a line for each.
disks_of() {
	case $1 in
	vinit) engines="io_uring sync" ;;
	*) engines="threads native io_uring io_uring,iothread" ;;
	esac
	for d in $backings; do
		for e in $engines; do
			case $d$e in
			$T/*native*) ;; # wants a file opened past the page cache
			$T/*) echo $d,readonly,engine=$e ;;
			*) echo $d,direct,readonly,engine=$e ;;
			esac
		done
	done
}

guest_side='t="/bin/vsocktool --timeout 2000"
for round in $(seq '$rounds'); do for d in /dev/vd?; do for n in 1 32; do
	$t listen 1030 echo --count 1 >/dev/null
	echo "$round ${d#/dev/vd} $(/bin/blkload read $d $n 1)" >>/tmp/reads
	$t listen 1031 echo --count 1 >/dev/null
done; done; done
$t listen 1030 echo --count 1 >/dev/null
cat /tmp/reads'

# tell CID PORT
tell() { $TOOL wait $1 $2 && $TOOL pingpong $1 $2 1 1; }

pids=
for vmm in $vmms; do
	name=$vmm-disk
	# shellcheck disable=SC2046	# words
	machine "words=$(run_words "$guest_side")" vsock=$([ $vmm = vinit ] && echo 5 || echo 6) $(disks_of $vmm | sed 's/^/disk=/')
	start
	eval "pid_$vmm=$pid"
	command_line
done

turns=$(($(disks_of qemu | wc -l) * 2 * rounds))
ours=$(($(disks_of vinit | wc -l) * 2 * rounds))
turn=0
while [ $turn -lt $turns ]; do
	[ $turn -ge $ours ] || { tell 5 1030 && tell 5 1031; } >>$T/turns || break
	case $vmms in *qemu*) { tell 6 1030 && tell 6 1031; } >>$T/turns || break ;; esac
	turn=$((turn + 1))
done
tell 5 1030 >>$T/turns
case $vmms in *qemu*) tell 6 1030 >>$T/turns ;; esac

for vmm in $vmms; do
	eval "pid=\$pid_$vmm"
	name=$vmm-disk
	[ $turn = $turns ] || { broken "turn $turn of $turns failed"; stop; continue; }
	finish
	letters=abcdefghijklmnopqrstuvwxyz
	for d in $(disks_of $vmm); do
		letter=${letters%"${letters#?}"}
		letters=${letters#?}
		case $d in
		/dev/vda*) row=device ;;
		/dev/*) row=latency ;;
		*) row=memory ;;
		esac
		row=$row.$(echo "$d" | sed 's/.*,engine=//; s/,/+/')
		for depth in 1 32; do
			reads=$(tr -d '\r' <"$T/$name.out" | awk -v d=$letter -v depth=$depth '
				$0 ~ "^[0-9]+ " d " [0-9]+ reads at depth " depth ", 0 wrong$" { n++; sum += $1 > 1 ? $3 : 0 }
				END { print n ":" sum }')
			[ "${reads%:*}" = $rounds ] || { broken "$row, depth $depth: $reads"; continue; }
			figure $row.$depth ${reads#*:}
		done
	done
done
exit $failed
