#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs beside PID 1 while it has guests: started by vinit.exec, which must end before the guests start, so it leaves the rest
# in the background. What it finds goes to a virtio-serial port. The argument says what to do when the guest is ready.
if [ "${2-}" != background ]; then
	trap '' HUP # the end of this shell, which has the terminal, is a hang-up for what it leaves behind
	/t/first-vm /t/kvmhold
	setsid /bin/sh "$0" "$1" background </dev/null >/t/agent.log 2>&1 &
	exit 0
fi
# The host may still be finding it.
tries=0 port=
while [ -z "$port" ] && [ $((tries += 1)) -le 100 ]; do
	for dir in /sys/class/virtio-ports/*; do
		[ "$(cat "$dir/name" 2>/dev/null)" != agent ] || [ ! -c "/dev/${dir##*/}" ] || port=/dev/${dir##*/}
	done
	[ -n "$port" ] || sleep 0.1
done
exec >"$port" 2>&1

disk=/t/disk
byte() { head -c 1 $disk; }

# until_byte SECONDS BYTE...: waits for the guest to write one of them.
until_byte() {
	tries=$(($1 * 5))
	shift
	while [ $((tries -= 1)) -gt 0 ]; do
		for b; do
			[ "$(byte)" = "$b" ] && return
		done
		sleep 0.2
	done
	echo "agent: the guest's disk says $(byte), not $*"
	return 1
}
vmm() {
	for p in /proc/[0-9]*; do
		case $(tr '\0' ' ' <"$p/cmdline" 2>/dev/null) in
		*"run --config /etc/vinit/guests.d/guest.conf"*) echo "${p#/proc/}"; return ;;
		esac
	done
}
fds() { ls /proc/1/fd | wc -l; }
zombies() { grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l; }

case $1 in
life)
	until_byte 120 2 || exit
	before=$(fds)
	pid=$(vmm)
	rss=$(sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\).*/\1/p' /proc/1/status)
	echo "agent: killing $pid"
	kill -KILL "$pid"
	until_byte 240 r || exit
	# Children of nobody are PID 1's.
	for _ in $(seq 100); do (true &); done
	sleep 2
	echo "agent: zombies $(zombies)"
	echo "agent: fds $before $(fds)"
	echo "agent: rss $rss $(sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\).*/\1/p' /proc/1/status)"
	echo "agent: pid1 $(tr '\0' ' ' </proc/1/cmdline)"
	echo "agent: other $(grep -c 'guest: here, do=poweroff' /run/vinit/other.console)"
	echo "agent: done"
	kill -USR2 1
	;;
TERM | INT | USR2)
	until_byte 120 r || exit
	echo "agent: done"
	kill -"$1" 1
	;;
none) ;;
esac
