#!/bin/bash
# SPDX-License-Identifier: MIT
# vinit as PID 1 with guests of its own: each case is a boot of the appliance to its end, and what its console showed.
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
guest_tools
initrd=build/$ARCH/guest-appliance-6.12.cpio
scripts/mkguest -a "$ARCH" -k "$button_version" -o "$initrd" -f tests/guest/appliance-rc:/etc/rc >/dev/null || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
{ printf 0; head -c $((2 * 1048576 - 1)) /dev/zero; } >"$tmp/disk"

# conf NAME DO: a guest's file; stdin is appended.
conf() {
	{
		cat <<-END
			[guest]
			kernel = /guest/fast
			initrd = /guest/appliance
			cmdline = quiet $quick do=$2
			memory = 128M
			rng = yes
		END
		cat
	} >"$tmp/guests/$1.conf"
}

# begin NAME; the appliance's own settings are on stdin.
begin() {
	name=appliance_$1
	rm -rf "$tmp/guests"
	mkdir "$tmp/guests"
	cat >"$tmp/vinit.conf"
	why=
}

# What a panic is: a crash where the guest's kernel has a driver for pvpanic, as Debian's for aarch64 has not. There it
# restarts, which is a reset in place if nothing else is wanted.
if [ "$ARCH" = aarch64 ]; then
	panicked=('Kernel panic - not syncing: sysrq') starts=3
	panic_end='reset \(status 3\)' panic_do=on-reset
else
	panicked=('vinit: guest guest: crashed \(status 4\).*action: restart' 'vinit: guest guest: started') starts=4
	panic_end='crashed \(status 4\)' panic_do=on-crash
fi

# appliance DO OPTION...: runs it to its end. $tmp/log is its console, $tmp/agent what host/appliance.sh said.
appliance() {
	local what=$1
	shift
	began=$SECONDS
	args=()
	for f in "$tmp"/guests/*.conf; do
		args+=(-f "$f:/etc/vinit/guests.d/${f##*/}")
	done
	: >"$tmp/agent"
	nested -m 1024 -c 2 -t "${limit:-240}" -l "$tmp/console" \
		-f "$tools/kvmhold:/t/kvmhold" -f tests/guest/first-vm:/t/first-vm -f tests/nested/host/appliance.sh:/t/agent -f "$tmp/disk:/t/disk" -f "$initrd:/guest/appliance" \
		-f "$(fast "$button_version"):/guest/fast" -f "$tmp/vinit.conf:/etc/vinit/vinit.conf" "${args[@]}" \
		-q "-device virtio-serial-pci -chardev file,id=agent,path=$tmp/agent -device virtserialport,chardev=agent,name=agent ${qemu-}" \
		"$@" </dev/null >"$tmp/out" 2>&1
	status=$?
	tr -d '\r' <"$tmp/console" >"$tmp/log"
	[ $status -eq 0 ] || why+="; scripts/nested ended with status $status"
	[ "$what" = none ] || grep -q '^agent: done' "$tmp/agent" || why+="; the agent did not come to its end"
	! grep -qE 'Kernel panic|panic - not syncing: Attempted to kill init' "$tmp/log" ||
		[ "${panics-}" ] || why+="; a kernel panicked"
}

# order PATTERN...: lines that match these are on the console, in this order.
order() {
	local at=0 next p
	for p; do
		next=$(tail -n +$((at + 1)) "$tmp/log" | grep -nE -m 1 -- "$p" | cut -d: -f1)
		if [ -z "$next" ]; then
			why+="; the console lacks \"$p\" behind line $at"
			return
		fi
		at=$((at + next))
	done
}
agent() { grep -qxE -- "$1" <(tr -d '\r' <"$tmp/agent") || why+="; the agent did not say \"$1\""; }
absent() { ! grep -qE -- "$1" "$tmp/log" || why+="; the console has \"$1\""; }
times() { [ "$(grep -cE -- "$2" "$tmp/log")" = "$1" ] || why+="; \"$2\" $(grep -cE -- "$2" "$tmp/log") times, not $1"; }

end() {
	if [ -z "$why" ]; then
		echo "ok $name ($((SECONDS - began)) s)"
	else
		# From where a kernel died, or the end.
		from=$(grep -nE -m 1 'BUG:|Oops|Kernel panic' "$tmp/log" | cut -d: -f1)
		sed 's/^/  console: /' <(tail -n "${from:++}${from:-60}" "$tmp/log" | head -n 60 | cut -c1-160)
		sed 's/^/  /' "$tmp/agent" <(tail -n 5 "$tmp/out" | cut -c1-160)
		echo "FAIL $name${why#;}"
	fi
}

disk='[disk]
path = /t/disk
'
down_off=('vinit: writing back and unmounting' 'vinit: powering off' 'reboot: Power down')
down_reboot=('vinit: writing back and unmounting' 'vinit: rebooting' 'reboot: Restarting system')

# All that a guest's life has: a reset in place, a killed VMM, a power-off, a panic, and at last the machine's end. Beside it,
# a guest that powers off and stays so, and one that can't be run.
begin life <<'EOT'
autostart = yes
exec = /bin/sh /t/agent life
EOT
conf guest life <<EOT
$disk
[supervise]
on-poweroff = restart
on-crash = restart
EOT
conf other poweroff <<<''
conf unable poweroff <<'EOT'
[supervise]
restart-limit = 2
EOT
sed -i 's|/guest/fast|/guest/missing|' "$tmp/guests/unable.conf"
panics=1 limit=480 appliance life
order 'vinit: guest guest: started' \
	'guest: boot 0 random' 'guest: boot 1 random' 'guest: boot 1 data same' \
	'vinit: guest guest: killed by signal 9 .*action: restart in 1 s' \
	'vinit: guest guest: started' 'guest: boot 2 random' 'guest: boot 2 data same' \
	'vinit: guest guest: powered off \(status 0\).*action: restart' 'vinit: guest guest: started' \
	'guest: boot 3 data same' "${panicked[@]}" \
	'guest: boot 4 data same' 'guest: ready' \
	'vinit: SIGUSR2: going down, action: poweroff' 'vinit: asking 1 guest to power off' 'guest: power button' \
	'vinit: guest guest: powered off \(status 0\)' "${down_off[@]}"
times $starts 'vinit: guest guest: started'
times 1 'vinit: guest other: started'
order 'vinit: guest other: powered off \(status 0\).*action: stop'
times 3 'vinit: guest unable: started'
order 'vinit: guest unable: failed .*restart in 1 s' 'vinit: guest unable: failed .*restart in 2 s' \
	'vinit: warning: guest unable: failed .*2 restarts in a row; action: stop'
[ "$(sed -n 's/.*guest: boot . random //p' "$tmp/log" | sort -u | wc -l)" = 5 ] || why+="; the same random bytes twice"
agent 'agent: zombies 0'
agent 'agent: fds ([0-9]+) \1'
agent 'agent: other 1'
read -r _ _ rss rss2 < <(grep '^agent: rss' "$tmp/agent" | tr -d '\r')
[ "${rss2:-999999}" -le $((${rss:-0} + 64)) ] || why+="; PID 1 grew from $rss to $rss2 KiB"
end

# A guest that does not hear its button.
begin sigterm <<'EOT'
exec = /bin/sh /t/agent TERM
EOT
conf guest deaf <<EOT
stop-timeout = 2
$disk
EOT
appliance TERM
order 'guest: ready' 'vinit: SIGTERM: going down, action: reboot' 'vinit: asking 1 guest to power off' \
	'vinit: guest: SIGTERM: pressing the guest.s power button' 'vinit: guest guest: ended from outside \(status 5\)' \
	"${down_reboot[@]}"
absent 'guest: power button'
end

if [ -z "${CHECK_SAMPLE-}" ]; then
	begin ctrl_alt_del <<'EOT'
exec = /bin/sh /t/agent INT
EOT
	conf guest wait <<<"$disk"
	appliance INT
	order 'guest: ready' 'vinit: Ctrl-Alt-Del: going down, action: reboot' 'guest: power button' \
		'vinit: guest guest: powered off \(status 0\)' "${down_reboot[@]}"
	end
fi

# The machine's own button, pressed from outside.
begin power_button <<'EOT'
exec = /bin/sh /t/agent none
EOT
conf guest wait <<<"$disk"
(
	for ((n = 0; n < 600; n++)); do
		sleep 0.2
		grep -q 'guest: ready' "$tmp/console" 2>/dev/null || continue
		echo system_powerdown | timeout 5 socat - "UNIX-CONNECT:$tmp/monitor" >/dev/null
		break
	done
) &
presser=$!
rm -f "$tmp/console"
# A kernel that has a driver for the machine's button.
own_button=()
[ "$button_version" = 6.12 ] || own_button=(-k "$button_version")
qemu="-monitor unix:$tmp/monitor,server=on,wait=off" appliance none "${own_button[@]}"
kill $presser 2>/dev/null
wait $presser
order 'guest: ready' 'vinit: power button: going down, action: poweroff' 'guest: power button' \
	'vinit: guest guest: powered off \(status 0\)' "${down_off[@]}"
end

# What a guest's end asks the machine for.
if [ -z "${CHECK_SAMPLE-}" ]; then
	begin guest_reset_reboot <<<'exec = /bin/sh /t/agent none'
	conf guest reboot <<'EOT'
on-reset = exit
[supervise]
on-reset = reboot
EOT
	appliance none
	order 'guest: here' 'vinit: guest guest: reset \(status 3\).*action: reboot' "vinit: guest's end: going down, action: reboot" \
		"${down_reboot[@]}"
	times 1 'vinit: guest guest: started'
	end
fi

begin guest_panic_poweroff <<<'exec = /bin/sh /t/agent none'
conf guest panic <<EOT
on-reset = exit
[supervise]
$panic_do = poweroff
EOT
panics=1 appliance none
order 'guest: here' "vinit: guest guest: $panic_end.*action: poweroff" "${down_off[@]}"
times 1 'vinit: guest guest: started'
end

if [ -z "${CHECK_SAMPLE-}" ]; then
	begin all_stopped <<'EOT'
exec = /bin/sh /t/agent none
on-all-stopped = poweroff
EOT
	conf guest poweroff <<<''
	appliance none
	order 'guest: here' 'vinit: guest guest: powered off \(status 0\).*action: stop' \
		'vinit: all guests have stopped: going down, action: poweroff' "${down_off[@]}"
	end
fi
