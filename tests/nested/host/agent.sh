# shellcheck shell=sh
# SPDX-License-Identifier: MIT
# For the suites beside it that pause, save and restore guests: guests under load (tests/guest/load.c) that do what their
# console says. Each has a NAME, which all its files are called by: $T/NAME.out is its console, .in the other direction, .log
# vinit's words, .sock the control socket, .disk its disk.
# shellcheck source=tests/nested/host/lib.sh
. /t/lib.sh

TOOL="/t/vsocktool --timeout 1400"
port=1100
asked=0
echoed=1 # with 0, nobody talks to the guest's echo

# vm NAME OPTION...: starts a VMM, in the background. $vms has their pids.
vm() {
	vm_=$1
	shift
	rm -f "$T/$vm_.in" "$T/$vm_.out" "$T/$vm_.end"
	mkfifo "$T/$vm_.in"
	# Reading and writing, so that neither side waits for the other to open it.
	{
		timeout -s KILL 1400 $VM run --name "$vm_" --api-sock "$T/$vm_.sock" "$@" 0<>"$T/$vm_.in" >>"$T/$vm_.out" 2>"$T/$vm_.log"
		echo $? >"$T/$vm_.end"
	} &
	vms="$vms $!"
}

# The load, and a reader of commands.
agent='stty -echo; load /dev/vda 1100 8 & while read -r line; do eval "$line"; done'

# boot NAME CID OPTION...: a Linux with the load, on 2 vCPUs.
boot() {
	boot_=$1 cid_=$2
	shift 2
	dd if=/dev/zero of="$T/$boot_.disk" bs=1M count=2 2>/dev/null
	vm "$boot_" --kernel "${kernel:-/t/6.12/image}" --initrd /t/6.12/initrd --cpus 2 --memory 128M --vsock "cid=$cid_" \
		--disk "path=$T/$boot_.disk" --cmdline "quiet $steady $quick run64=$(printf %s "$agent" | base64 | tr -d '\n')" "$@"
}

ctl() {
	ctl_=$1
	shift
	timeout -s KILL 120 $VM ctl --sock "$T/$ctl_.sock" "$@"
}

# quietly COMMAND...: what it says is for who sees it fail.
quietly() { "$@" >"$T/said" 2>&1 || { echo "  $name: $*: $(cat "$T/said")"; return 1; }; }

# refuses NAME STATUS PATTERN VERB...: says so, and ends with that status.
refuses() {
	refused_=$1 status_=$2 pattern_=$3
	shift 3
	ctl "$refused_" "$@" >"$T/refused" 2>&1
	code_=$?
	[ $code_ = "$status_" ] && grep -qE -- "$pattern_" "$T/refused" && return
	echo "  $name: ctl $*: status $code_, not $status_, or it does not say \"$pattern_\": $(cat "$T/refused")"
	return 1
}

# ended NAME: its VMM has gone; $status.
ended() {
	wait_for 60 [ -s "$T/$1.end" ] || { status=running; return 1; }
	status=$(cat "$T/$1.end")
}

# counts NAME: the load's last line, in numbers: STATUS DISK MEM TICKS ECHO GAP BACK FAIL. Empty: there is none.
counts() {
	tail -c 1500 "$T/$1.out" 2>/dev/null | awk '{ sub(/\r$/, "") } /^status [0-9].* \.$/ { l = $0 }
		END { n = split(l, w, " "); for (i = 2; i < n; i += 2) printf "%s ", w[i] }'
}

# look NAME: what moved() compares with.
look() { eval "seen_$1=\$(counts $1)"; }

# moved NAME: each of the load's counters has, since look NAME.
moved() {
	now_=$(counts "$1")
	eval "set -- \"$1\" \$seen_$1 / \$now_"
	# Name, eight numbers, slash, eight numbers.
	[ $# = 18 ] && [ "${11}" -gt "$2" ] && [ "${12}" -gt "$3" ] && [ "${13}" -gt "$4" ] && [ "${14}" -gt "$5" ] || return 1
	[ "$echoed" = 0 ] || [ "${15}" -gt "$6" ]
}

# clean NAME: the load has found nothing wrong, by now.
clean() {
	now_=$(counts "$1")
	# shellcheck disable=SC2086	# numbers
	set -- "$1" $now_
	[ $# = 9 ] && [ "$8" = 0 ] && [ "$9" = 0 ] && ! grep -q '^FAIL' "$T/$1.out" && return
	echo "  $name: $1's load: $now_ $(grep '^FAIL' "$T/$1.out" | head -n 5)"
	return 1
}

# gap NAME: the longest time between two ticks of the timer, in ms.
gap() { counts "$1" | cut -d' ' -f6; }

# ask NAME COMMAND: the guest's shell does it; $answer.
ask() {
	asked=$((asked + 1))
	answer=
	# No "=" at the start of what the guest's terminal might echo.
	printf '%s\n' "{ $2; } 2>&1 | sed 's/^/$asked: /'; echo $asked." 1<>"$T/$1.in"
	[ ! -s "$T/$1.end" ] && wait_for 60 grep -q "^$asked\\.[[:space:]]*\$" "$T/$1.out" || { answer="no answer from $1"; return 1; }
	answer=$(tr -d '\r' <"$T/$1.out" | sed -n "s/^$asked: //p")
}

# ready NAME CID: the load runs, and somebody talks to its echo.
ready() {
	up "$1" || return 1
	[ "$echoed" = 0 ] || talk "$1" "$2"
	look "$1"
	wait_for 60 moved "$1" || { echo "  $1's load does not move: $(counts "$1")"; return 1; }
	ask "$1" 'dmesg >/tmp/dmesg'
}

# up NAME: its load says something.
up() {
	wait_for $patience counted_or_gone "$1"
	[ -z "$(counts "$1")" ] || return 0
	echo "  $name: $1 says nothing; vinit: $(tail -n 5 "$T/$1.log")"
	return 1
}
counted_or_gone() { [ -s "$T/$1.end" ] || [ -n "$(counts "$1")" ]; }

# talk NAME CID: round trips with the guest's echo, until hush NAME.
talk() {
	$TOOL wait "$2" $port >"$T/$1.talk" 2>&1 || return 1
	$TOOL pingpong "$2" $port 1000000000 2000 >"$T/$1.talk" 2>&1 &
	eval "talker_$1=$!"
	talkers="$talkers $!"
}
hush() {
	eval "talker_=\${talker_$1-}"
	[ -n "$talker_" ] || return 0
	kill -TERM "$talker_"
	wait "$talker_"
}

# quiet NAME [PATTERN]: what the guest's kernel has said since it was ready, but for what is no complaint and PATTERN, is nothing.
quiet() {
	ask "$1" 'dmesg | tail -n +$(($(wc -l </tmp/dmesg) + 1))' || { echo "  $name: $answer"; return 1; }
	# "Long readout interval": its check of the clock came late, which it says once and leaves it at that. "hrtimer: interrupt
	# took": so it is on a busy emulation.
	complaints=$(echo "$answer" | grep -vE "^\$|crng init done|Switched to clocksource|Refined TSC|Long readout interval|hrtimer: interrupt took|${2:-^\$}")
	[ -z "$complaints" ] && return
	echo "  $name: the kernel of $1: $complaints"
	return 1
}

# silent NAME [PATTERN]: so is vinit.
silent() {
	complaints=$(grep -E ' (error|warning): |Sanitizer|leak' "$T/$1.log" | grep -vE "${2:-^\$}")
	[ -z "$complaints" ] && return
	echo "  $name: vinit of $1: $complaints"
	return 1
}

# finish NAME...: what is left of the suite's processes.
# shellcheck disable=SC2086,SC2154	# lists
finish() {
	for vm_ in "$T"/*.sock; do
		vm_=${vm_##*/}
		[ ! -S "$T/$vm_" ] || ctl "${vm_%.sock}" end >/dev/null 2>&1
	done
	kill $talkers 2>/dev/null
	wait
}
