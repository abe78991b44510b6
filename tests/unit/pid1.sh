#!/bin/bash
# SPDX-License-Identifier: MIT
# usage: pid1.sh BINARY [CASE...]
#
# Runs BINARY as PID 1 of fresh namespaces, with a root of its own and busybox in it, and looks at what it
# does and how it ends. All of it in a user namespace: no root is needed, and whatever PID 1 does stays there
# (reboot(2) ends the namespace: reboot as SIGHUP, power-off and halt as SIGINT). What a namespace does not hold
# back when root runs this, the SysRq trigger, is mounted over.
#
# BINARY is vinit, or test_pid1, whose VMMs are make-believe; the cases marked "fake" need that one.
#
# Some cases run at a time, and the machine may have other things to do: a case waits for a state, for as long
# as a slow machine may take, and for a time only where nothing is to happen in it.
set -u
LC_ALL=C
export LC_ALL

binary=$(realpath -- "${1:?usage: pid1.sh BINARY [CASE...]}") || exit 1
shift
busybox=$(command -v busybox) || { echo "skip pid1: no busybox (busybox-static)"; exit 0; }
fake=
case $binary in */test_pid1) fake=1 ;; esac
namespaces=(-U -r -p -f -m -n -u -i -C --propagation private)
if ! timeout 10 unshare "${namespaces[@]}" mount -t tmpfs tmpfs /tmp 2>/dev/null; then
	echo "skip pid1: no user namespaces here (kernel.unprivileged_userns_clone, user.max_user_namespaces)"
	exit 0
fi

all=$(mktemp -d "${TMPDIR:-/tmp}/pid1.XXXXXX") || exit 1
end_all() {
	local pids

	pids=$(jobs -p)
	# shellcheck disable=SC2086	# words
	[ -z "$pids" ] || { kill $pids; wait; } 2>/dev/null
	rm -rf "$all"
}
trap end_all EXIT
trap 'exit 130' INT TERM

# What a case left running, which is something if it failed.
unshare_pid='' cat_pid='' hang_pid=''
end_case() {
	{
		[ -z "$hang_pid" ] || { kill -KILL "$hang_pid"; wait "$hang_pid"; }
		[ -z "$unshare_pid" ] || { kill -KILL "$unshare_pid"; wait "$unshare_pid"; }
		[ -z "$cat_pid" ] || { kill -KILL "$cat_pid"; wait "$cat_pid"; }
	} 2>/dev/null
	unshare_pid='' cat_pid='' hang_pid=''
}

# new: an empty image; what follows writes into it. conf: vinit.conf. guest NAME: a guest's file.
new() {
	end_case
	# Of a case that starts more than one, the log to show is that of the first that failed.
	[ -z "$failed" ] || [ -e "$work/failed" ] || cp "$log" "$work/failed"
	rm -rf "$image"
	mkdir -p "$image"/{bin,dev,etc/vinit/guests.d,proc,t}
	cp "$binary" "$image/init"
	cp -L "$busybox" "$image/bin/busybox"
	ln -s busybox "$image/bin/sh"
	prepare='' fifo=dev/console wrap=
}
conf() { cat >"$image/etc/vinit/vinit.conf"; }
guest() { cat >"$image/etc/vinit/guests.d/$1.conf"; }
script() {
	{ echo '#!/bin/busybox sh'; cat; } >"$image/t/$1"
	chmod 755 "$image/t/$1"
}

# boot: starts it; sets pid1, as seen from here. The console ($fifo) is a FIFO, whose reader writes the log.
# $prepare is run in the root before, $wrap before the words of the command.
boot() {
	local tries=0 fd

	: >"$log"
	pid1=
	# shellcheck disable=SC2016	# the inner shell's variables
	TERM=linux unshare --kill-child "${namespaces[@]}" sh -c '
		mount -t tmpfs tmpfs "$2" && cp -a "$1/." "$2/" && mkfifo "$2/$5.new" || exit 99
		touch "$2/dev/null" && mount --bind /dev/null "$2/dev/null" || exit 99
		mount -t proc proc "$2/proc" && touch "$2/t/sysrq" || exit 99
		[ ! -e "$2/proc/sysrq-trigger" ] || mount --bind "$2/t/sysrq" "$2/proc/sysrq-trigger" || exit 99
		if [ "$3" ]; then
			for dir in /usr /lib /lib64; do
				[ ! -d $dir ] || { mkdir -p "$2$dir" && mount --rbind $dir "$2$dir"; } || exit 99
			done
		fi
		cd "$2"
		eval "$4"
		exec 9<>"$5.new" # so that no reader has to wait for a writer; that PID 1 gets it is a test, too
		mv "$5.new" "$5"
		until [ -e go ]; do sleep 0.02; done
		exec $6 chroot . /init' boot "$image" "$root" "$fake" "$prepare" "$fifo" "$wrap" \
		</dev/null >"$work/stdout" 2>&1 &
	unshare_pid=$!
	while [ -z "$pid1" ] || [ ! -p "/proc/$pid1/root$root/$fifo" ]; do
		read -r pid1 _ 2>/dev/null <"/proc/$unshare_pid/task/$unshare_pid/children"
		tries=$((tries + 1))
		[ $tries -lt 3000 ] || { bad "it does not start: $(cat "$work/stdout")"; return 1; }
		sleep 0.02
	done
	exec {fd}<"/proc/$pid1/root$root/$fifo"
	cat <&"$fd" >"$log" 2>/dev/null &
	cat_pid=$!
	exec {fd}<&-
	: >"/proc/$pid1/root$root/go"
}

# ended SECONDS: waits for the namespace's end; sets status.
ended() {
	wait_end "$1" 2>/dev/null # where bash would tell of the signal
	unshare_pid=
	wait "$cat_pid" 2>/dev/null
	cat_pid=
	[ $status != timeout ] || bad "not ended within $1 s"
}
wait_end() {
	local tries=0

	while kill -0 "$unshare_pid" 2>/dev/null; do
		tries=$((tries + 1))
		if [ $tries -gt $(($1 * 20)) ]; then
			kill -KILL "$unshare_pid"
			wait "$unshare_pid"
			status=timeout
			return
		fi
		sleep 0.05
	done
	wait "$unshare_pid"
	status=$?
}

# within SECONDS COMMAND...: waits until it succeeds.
within() {
	local tries=$(($1 * 20))

	shift
	until "$@"; do
		tries=$((tries - 1))
		[ $tries -ge 0 ] || return 1
		sleep 0.05
	done
}
# seen SECONDS REGEX: waits until the log has it.
seen() {
	within "$1" grep -Eq -- "$2" "$log" || { bad "not in the log within $1 s: $2"; return 1; }
}
gone() { ! kill -0 "$unshare_pid" 2>/dev/null; }

# state PATH LETTERS: is the process, whose folder in a /proc it is, in one of these states?
state() { grep -q "^State:[[:space:]]*[$2]" "$1/status" 2>/dev/null; }

# The console is no longer read. A signal is sent long before it is heard: until then the reader goes on.
stop_reader() {
	kill -STOP "$cat_pid"
	within 60 state "/proc/$cat_pid" T || bad "the console's reader does not stop"
}

bad() {
	echo "  ${BASH_LINENO[1]:-?}: $*"
	failed=1
}
has() { grep -Eq -- "$1" "$log" || bad "not in the log: $1"; }
hasnt() { ! grep -Eq -- "$1" "$log" || bad "in the log: $1"; }
is() { [ "$1" = "$2" ] || bad "${3:-value}: \"$1\", not \"$2\""; }

rebooted=129 # SIGHUP
off=130      # SIGINT

# --- cases -----------------------------------------------------------------------------------------

case_exec() {
	new
	conf <<-END
		exec = /t/job one two
		exec-end = poweroff
	END
	script job <<-'END'
		echo "job: args $*"
		echo "job: pid1 is $(busybox cat /proc/1/cmdline | busybox tr '\0' ' ')"
		for f in run tmp sys/fs/cgroup dev/pts; do
			busybox grep -q " /$f " /proc/mounts && echo "job: mounted $f"
		done
		echo "job: score $(busybox cat /proc/self/oom_score_adj)"
		busybox grep -E '^Sig(Blk|Ign)' /proc/self/status | busybox tr '\t\n' '  '
		echo
		echo "job: cwd $(pwd) umask $(umask)"
		echo "job: fds" $(busybox ls /proc/self/fd)
		echo "job: env" $(busybox env | busybox sort | busybox grep -v '^\(_\|PWD\|SHLVL\|OLDPWD\)=')
		echo "job: stat $(busybox cut -d' ' -f6 /proc/$$/stat) $$"
		busybox kill -9 1
		busybox kill -STOP 1
		busybox kill -SEGV 1
		busybox sleep 0.2
		echo "job: pid1 state $(busybox sed -n 's/^State:.\(.\).*/\1/p' /proc/1/status)"
		exit 7
	END
	boot && ended 60
	has 'job: args one two'
	has 'job: pid1 is /init'
	for f in run tmp sys/fs/cgroup dev/pts; do has "job: mounted $f"; done
	has 'job: score 0$'
	has 'SigBlk: 0{16} SigIgn: 0{16}'
	has 'job: cwd / umask 0022'
	has 'job: fds 0 1 2 3$' # ls has its folder open
	has 'job: env HOME=/root PATH=/bin:/sbin:/usr/bin:/usr/sbin TERM=linux$'
	has 'job: pid1 state [SR]'
	has 'exec: ended with status 7; action: poweroff'
	has 'powering off'
	is "$status" $off "how it ended"
}

case_exec_shell() {
	new
	conf <<-END
		exec = echo "from a \$(echo shell)"; exit 3
		exec-end = reboot
	END
	boot && ended 60
	has '^from a shell'
	has 'exec: ended with status 3; action: reboot'
	is "$status" $rebooted "how it ended"
}

case_exec_missing() {
	new
	conf <<-END
		no-such-key = 1
		exec = /no/such/file
		exec-end = halt
		stop-timeout = soon
	END
	boot && ended 60
	has 'vinit.conf:1: "no-such-key": no such key'
	has 'vinit.conf:4: stop-timeout = "soon": a number of seconds, 0 to 86400, is expected; the line is ignored'
	has '/no/such/file: cannot run it: ENOENT'
	has 'exec: ended with status 127; action: halt'
	has 'halting'
	is "$status" $off "how it ended"
}

# A burst that ends at once, and ten thousand one after another.
case_orphans() {
	new
	conf <<-END
		exec = /t/job
		exec-end = poweroff
	END
	script job <<-'END'
		rss() { busybox sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' /proc/1/status; }
		alone() { # until there is nothing but PID 1 and this shell
			for i in $(busybox seq 300); do
				set -- /proc/[0-9]*
				[ $# -gt 2 ] || break
				busybox sleep 0.1
			done
		}
		for i in $(busybox seq 300); do (busybox sleep 1 &); done
		alone
		before=$(rss)
		for i in $(busybox seq 10000); do (: &); done
		alone
		echo "job: zombies $(busybox grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | busybox wc -l)"
		echo "job: grown $(($(rss) - before))"
		echo "job: pid1 fds" $(busybox ls /proc/1/fd | busybox wc -l)
	END
	boot && ended 200
	has 'job: zombies 0$'
	grown=$(sed -n 's/^job: grown //p' "$log")
	[ "${grown:-999999}" -le 200 ] || bad "PID 1 grew by ${grown:-?} kB over 10,000 orphans"
	is "$status" $off "how it ended"
}

one_signal() {
	new
	boot && seen 60 'nothing left to do' && kill -"$1" "$pid1" && ended 60
	has "$2"
	has "$3"
	is "$status" "$4" "end after SIG$1"
}
case_signals() {
	one_signal TERM 'SIGTERM: going down, action: reboot' '^vinit: rebooting' $rebooted
	one_signal INT 'Ctrl-Alt-Del: going down, action: reboot' '^vinit: rebooting' $rebooted
	one_signal USR1 'SIGUSR1: going down, action: halt' '^vinit: halting' $off
	one_signal USR2 'SIGUSR2: going down, action: poweroff' '^vinit: powering off' $off
	one_signal PWR 'SIGPWR: going down, action: poweroff' '^vinit: powering off' $off
	new
	boot && seen 60 'nothing left to do'
	for sig in HUP QUIT ALRM WINCH PIPE TSTP TTIN TTOU CONT URG IO VTALRM USR2; do
		kill -$sig "$pid1" || bad "PID 1 is gone before SIG$sig"
		sleep 0.05
	done
	ended 60
	is "$status" $off "end after signals that do nothing and SIGUSR2"
}

# Nothing to open, nothing can be made in a user namespace, and the standard files are closed: where a socket
# would become PID 1's stdout.
case_no_console() {
	new
	fifo=t/out
	prepare='umount dev/null; rm dev/null; exec <&- >&- 2>&-'
	conf <<-END
		exec = /t/job
		exec-end = reboot
	END
	script job <<-'END'
		exec >/t/out
		for fd in 0 1 2; do echo "job: $fd is $(busybox readlink /proc/1/fd/$fd)"; done
	END
	boot && ended 60
	for fd in 0 1 2; do has "job: $fd is /\$"; done
	is "$status" $rebooted "how it ended"
}

# What VMMs that fail at once give: 1, 2, 4, ... and the limit's action.
case_backoff() {
	new
	conf <<-END
		on-all-stopped = poweroff
	END
	guest web <<-END
		[guest]
		kernel = /no/such/kernel
		cmdline = sleep=0 exit=1
		[supervise]
		restart-limit = 3
		bad-key = 1
		on-crash = explode
	END
	boot && ended 60
	has 'web.conf:6: "bad-key": no such key'
	has 'web.conf:7: on-crash = "explode": stop, restart, poweroff, reboot, halt or rescue is expected'
	has 'guest web: .*\(status [12]\) after [0-9]+ s; action: restart in 1 s'
	has 'guest web: .*action: restart in 2 s'
	has 'guest web: .*action: restart in 4 s'
	has 'guest web: .*3 restarts in a row; action: stop'
	has 'all guests have stopped: going down, action: poweroff'
	is "$(grep -c 'guest web: started' "$log")" 4 "starts"
	is "$status" $off "how it ended"
}

case_limit_action() {
	new
	guest web <<-END
		[guest]
		kernel = /no/such/kernel
		cmdline = sleep=0 exit=1
		[supervise]
		restart-limit = 1
		on-limit = reboot
	END
	boot && ended 60
	has '1 restarts in a row; action: reboot'
	is "$status" $rebooted "how it ended"
}

case_rescue_refused() {
	new
	guest web <<-END
		[guest]
		kernel = /no/such/kernel
		cmdline = sleep=0 exit=1
		[supervise]
		on-failure = rescue
	END
	boot && seen 60 'rescue: no shell, since "rescue = yes" is not in' && kill -USR2 "$pid1" && ended 60
	hasnt 'a shell on the console'
	is "$status" $off "how it ended"
}

case_rescue() {
	new
	conf <<-END
		rescue = yes
	END
	boot && seen 60 'rescue: a shell on the console'
	# The FIFO has one reader too many. Written again, should the shell have lost it to another word.
	stop_reader
	for ((i = 0; i < 60; i++)); do
		{ echo 'kill -USR1 1' >"/proc/$pid1/root/dev/console"; } 2>/dev/null
		! within 1 gone || break
	done
	kill -CONT "$cat_pid"
	ended 60
	# The shell reads some of the log: not all of it is here.
	has 'halting'
	is "$status" $off "how it ended"
}

# Writes into the console until it takes no more, not a byte: a pipe's last page may have room without a free one.
fill_console() {
	local size

	for size in 4096 1; do
		dd if="$work/lines" of="/proc/$pid1/root/dev/console" bs=$size oflag=nonblock conv=notrunc 2>"$work/dd"
		grep -q 'Resource temporarily unavailable' "$work/dd" || bad "not full: $(tail -n 1 "$work/dd")"
	done
}

# The console takes nothing: what is logged is lost, and nothing waits for it.
case_full_console() {
	new
	conf <<-END
		log-level = debug
	END
	head -c 4194304 /dev/zero | tr '\0' '\n' >"$work/lines" # more than any FIFO holds
	boot && seen 60 'nothing left to do' || return
	kill -WINCH "$pid1"
	seen 60 'signal [0-9]+: nothing to do'
	stop_reader
	fill_console
	# Room for PID 1 to fill: four pages, by signals that are logged, some 40 bytes each.
	dd if="/proc/$pid1/root/dev/console" of="$work/dd" bs=4096 count=4 iflag=nonblock 2>/dev/null
	for ((i = 0; i < 1000; i++)); do
		kill -WINCH "$pid1"
		((i % 10)) || sleep 0.001
	done
	# It may have been too slow to see all of them.
	fill_console
	kill -HUP "$pid1"
	kill -USR2 "$pid1"
	within 60 gone || bad "PID 1 did not end with its console full"
	kill -CONT "$cat_pid"
	ended 60
	is "$status" $off "how it ended"
	[ "$(grep -c 'nothing to do' "$log")" -gt 1 ] || bad "PID 1 wrote nothing of what there was room for"
	hasnt 'going down'
	hasnt 'powering off'
}

# File systems that could hold data are unmounted, the last first; a name with a blank too.
case_unmount() {
	new
	conf <<-END
		exec = /t/job
		exec-end = poweroff
	END
	script job <<-'END'
		overlay() { busybox mount -t overlay -o "lowerdir=/t,upperdir=/run/$1/up,workdir=/run/$1/work" overlay "$2"; }
		busybox mkdir -p /mnt /run/1/up /run/1/work /run/2/up /run/2/work
		overlay 1 /mnt && busybox mkdir "/mnt/a b" && overlay 2 "/mnt/a b" || echo "job: no overlay"
	END
	boot && ended 60
	if grep -q 'job: no overlay' "$log"; then
		echo "  skip: no overlay file system in user namespaces here"
		return
	fi
	is "$(sed -n 's|^vinit: \(/mnt.*\): unmounted|\1|p' "$log" | tr '\n' ,)" "/mnt/a b,/mnt," "unmounted"
	is "$status" $off "how it ended"
}

# Of a kernel without the trigger: a /proc of links, with one more in it.
# shellcheck disable=SC2016	# the inner shell's variables
sysrq='[ -e proc/sysrq-trigger ] || {
	mkdir p && mount -t proc proc p && umount proc && mount -t tmpfs tmpfs proc || exit 99
	for f in p/*; do ln -s "/$f" "proc/${f#p/}"; done
	ln -s /t/sysrq proc/sysrq-trigger
}'
sysrq_got() { [ "$(cat "/proc/$pid1/root/t/sysrq" 2>/dev/null)" = "$1" ]; }

# reboot(2) is refused: said so, the other way tried, and PID 1 stays.
one_reboot_fails() {
	new
	prepare=$sysrq wrap='setpriv --bounding-set -sys_boot'
	boot && seen 60 'nothing left to do' || return
	kill -"$1" "$pid1"
	seen 60 'the machine stays as it is'
	has 'reboot\(2\): EPERM: PID 1 lacks CAP_SYS_BOOT'
	is "$(cat "/proc/$pid1/root/t/sysrq")" "$2" "what the SysRq trigger got after SIG$1"
	hasnt 'sysrq-trigger: E'
	sleep 1.5
	kill -0 "$pid1" || bad "PID 1 is gone"
	{ kill -KILL "$pid1"; ended 60; } 2>/dev/null
}
case_reboot_fails() {
	one_reboot_fails TERM b
	one_reboot_fails USR2 o
	one_reboot_fails USR1 ''
}

# guest_ended NAME HOW: it did, and after no longer than the case has taken.
guest_ended() {
	local took

	has "guest $1: $2 after [0-9]+ s; action: stop"
	took=$(sed -n "s/.*guest $1: .* after \([0-9]*\) s; action.*/\1/p" "$log")
	[ "${took:-999999}" -le $((SECONDS - started + 1)) ] || bad "guest $1: \"after ${took:-?} s\""
}
case_fake_ends() {
	new
	conf <<-END
		on-all-stopped = poweroff
	END
	for how in exit=0 exit=1 exit=2 exit=3 exit=4 exit=5 segv; do
		guest ${how/=/} <<-END
			[guest]
			cmdline = sleep=300 $how
			[supervise]
			on-reset = stop
			on-crash = stop
			on-failure = stop
		END
	done
	started=$SECONDS
	boot && ended 60
	guest_ended exit0 'powered off \(status 0\)'
	guest_ended exit1 'failed \(status 1\)'
	guest_ended exit2 'bad usage or configuration \(status 2\)'
	guest_ended exit3 'reset \(status 3\)'
	guest_ended exit4 'crashed \(status 4\)'
	guest_ended exit5 'ended from outside \(status 5\)'
	guest_ended segv 'killed by signal 11 \(SIGSEGV\)'
	is "$status" $off "how it ended"
}

case_fake_consoles() {
	new
	guest a <<-END
		[guest]
		console = null
	END
	guest b <<-END
		[guest]
		name = other
	END
	guest c <<-END
		[guest]
		console = stdio
		stop-timeout = 40
	END
	guest d <<-END
		[supervise]
		autostart = no
	END
	for name in -e 'a b' web+1; do guest "$name" </dev/null; done
	boot && seen 60 'guest c: started'
	seen 60 '^--config /etc/vinit/guests.d/a.conf --name a --supervised --stop-timeout 30 --api-sock /run/vinit/a.sock \(fake run\)'
	seen 60 '^--config /etc/vinit/guests.d/b.conf --name b --supervised --stop-timeout 30 --api-sock /run/vinit/b.sock --console stdio \(fake run\)'
	seen 60 '^--config /etc/vinit/guests.d/c.conf --name c --supervised --api-sock /run/vinit/c.sock --console file=/run/vinit/c.console \(fake run\)'
	for name in -e 'a b' 'web\+1'; do has "guests.d/$name.conf: left out: a guest's name has 1 to 63 letters"; done
	is "$(grep -c 'guest [^ ]*: started' "$log")" 3 "guests started"
	hasnt 'guest d'
	[ -d "/proc/$pid1/root/run/vinit" ] || bad "no /run/vinit"
	kill -USR2 "$pid1"
	ended 60
	has 'asking 3 guests to power off, for up to 45 s'
	has 'guest c: powered off \(status 0\) after'
	is "$status" $off "how it ended"
}

# A bug in PID 1: said, and the machine is started again. Not even a log that hangs holds that up.
one_fault() {
	local how=$1

	new
	echo -n "$how" >"$image/t/fault"
	boot && seen 60 'nothing left to do' || return
	started=$SECONDS
	kill -INT "$pid1"
	sleep 2
	# Once more, by kill(1) and from the same cause: neither makes it worse.
	{ kill -SEGV "$pid1" && kill -INT "$pid1"; } || bad "PID 1 is gone at once"
	ended 60
	[ $((SECONDS - started)) -ge 4 ] || bad "it took $((SECONDS - started)) s, not 5"
	[ "$how" = log ] || is "$(grep -cE 'PID 1: signal 11 at 0x[0-9a-f]+, a bug: reboot in 5 s' "$log")" 1 "lines about it"
	hasnt 'going down'
	is "$status" $rebooted "how it ended after \"$how\""
}
case_fake_fault() {
	one_fault segv
	one_fault stack
	one_fault log
}
case_fake_fault_no_reboot() {
	new
	echo -n segv >"$image/t/fault"
	prepare=$sysrq wrap='setpriv --bounding-set -sys_boot'
	boot && seen 60 'nothing left to do' || return
	kill -INT "$pid1"
	within 60 sysrq_got b || bad "the SysRq trigger got nothing"
	sleep 1
	kill -0 "$pid1" || bad "PID 1 is gone"
	{ kill -KILL "$pid1"; ended 60; } 2>/dev/null
}
# In a child of PID 1 it is the child's end.
case_fake_fault_child() {
	new
	echo -n child >"$image/t/fault"
	boot && seen 60 'nothing left to do' && kill -USR2 "$pid1" && ended 60
	has 'powering off'
	hasnt 'a bug'
	is "$status" $off "how it ended"
}

# A file system that answers no more, not even to a kill. What serves it is out of PID 1's reach: a disk's driver is, too.
case_fake_hung_disk() {
	if [ ! -r /dev/fuse ]; then
		echo "  skip: no /dev/fuse here, or not for this user"
		return
	fi
	new
	prepare='touch t/fast dev/fuse && mount --bind /dev/fuse dev/fuse'
	boot && seen 60 'nothing left to do' || return
	nsenter --preserve-credentials -U -m -r -t "$pid1" /init hang /mnt >"$work/hang" 2>&1 &
	hang_pid=$!
	within 60 grep -Eq '^(hung|no FUSE|/mnt)' "$work/hang"
	if grep -q '^no FUSE' "$work/hang"; then
		echo "  skip: $(grep '^no FUSE' "$work/hang")"
		return
	fi
	grep -qx hung "$work/hang" || bad "no file system that hangs: $(cat "$work/hang")"
	started=$SECONDS
	kill -TERM "$pid1"
	seen 60 'unmounting: still at it'
	seen 60 'unmounting: not done in 90 s: going on without'
	seen 60 '^vinit: rebooting'
	sleep 0.5
	hasnt 'unmounted'
	# The namespace's end waits for the process that hangs; a machine's does not.
	{ kill -KILL "$hang_pid"; wait "$hang_pid"; } 2>/dev/null
	hang_pid=
	ended 60
	[ $((SECONDS - started)) -le 40 ] || bad "it took $((SECONDS - started)) s"
	is "$status" $rebooted "how it ended"
}

vmm_pid() { # NAME: of the last VMM started, in the namespace
	sed -n "s/.*guest $1: started, pid \([0-9]*\).*/\1/p" "$log" | tail -n 1
}

twice_started() { [ "$(grep -c 'guest a: started' "$log")" -ge 2 ]; }
case_fake_kill() {
	new
	guest a </dev/null
	boot && seen 60 'guest a: started'
	nsenter --preserve-credentials -U -p -m -r -t "$pid1" /bin/busybox kill -KILL "$(vmm_pid a)"
	seen 60 'guest a: killed by signal 9 \(SIGKILL\) after [0-9]+ s; action: restart in 1 s'
	within 60 twice_started
	is "$(grep -c 'guest a: started' "$log")" 2 starts
	kill -TERM "$pid1"
	ended 60
	is "$status" $rebooted "how it ended"
}

# One that ignores the request, one that is stopped: both end, and in the bound.
case_fake_hung() {
	new
	conf <<-END
		stop-timeout = 1
	END
	guest a <<-END
		[guest]
		cmdline = stubborn
	END
	guest b <<-END
		[guest]
		cmdline = stubborn hung
	END
	boot && seen 60 'guest b: started' && seen 60 '--name a .*fake run' && seen 60 '--name b .*fake run'
	vmm=/proc/$pid1/root/proc/$(vmm_pid b)
	within 60 state "$vmm" T || bad "guest b does not stop"
	started=$SECONDS
	kill -TERM "$pid1"
	seen 60 'asking 2 guests'
	kill -USR2 "$pid1"
	within 60 state "$vmm" RS || bad "guest b was not continued"
	nsenter --preserve-credentials -U -p -m -r -t "$pid1" /bin/busybox kill -STOP "$(vmm_pid b)"
	within 60 state "$vmm" T || bad "guest b does not stop again"
	ended 60
	# The guests' own time would be 35 s.
	[ $((SECONDS - started)) -le 20 ] || bad "it took $((SECONDS - started)) s, 6 are the bound"
	has 'SIGUSR2: already going down, action: reboot'
	has '2 guests have not ended in 6 s: killed'
	has 'guest a: killed by signal 9'
	has 'guest b: killed by signal 9'
	hasnt 'action: restart'
	is "$status" $rebooted "how it ended"
}

cad_forced() { gone || grep -q 'reboot at once' "$log"; }
cad_heard() { [ "$(grep -Ec 'Ctrl-Alt-Del: (already )?going down' "$log")" -ge "$1" ] || cad_forced; }
case_fake_cad() {
	local sent heard

	new
	guest a <<-END
		[guest]
		cmdline = stubborn
	END
	conf <<-END
		log-level = debug
	END
	boot && seen 60 '--name a .*fake run' || return
	started=$SECONDS
	# One after another is heard, because two at a time are one. PID 1 hears each between sent and heard.
	for ((n = 1; n <= 100; n++)); do
		sent[n]=${EPOCHREALTIME/[.,]/}
		kill -INT "$pid1"
		within 60 cad_heard $n || bad "Ctrl-Alt-Del $n times, and not heard"
		! cad_forced || break
		heard[n]=${EPOCHREALTIME/[.,]/}
		[ $n -lt 8 ] || [ $((heard[n] - sent[n - 7])) -ge 2000000 ] || bad "eight times were not enough"
	done
	[ $n -ge 8 ] || bad "$n times were enough"
	ended 60
	# The guest's own time is 35 s.
	[ $((SECONDS - started)) -le 20 ] || bad "it took $((SECONDS - started)) s"
	has 'Ctrl-Alt-Del 8 times in 2 s: reboot at once'
	hasnt unmounting
	is "$status" $rebooted "how it ended"
}

# Restarts leave nothing behind in PID 1.
case_fake_restarts() {
	new
	conf <<-END
		exec = /t/job
	END
	script job <<-'END'
		(while busybox sleep 0.5; do echo "fds $(busybox ls /proc/1/fd | busybox wc -l)"; done) &
	END
	for g in 1 2 3 4 5 6 7 8; do
		guest $g <<-END
			[guest]
			cmdline = sleep=1 exit=3
			[supervise]
			restart-limit = 0
		END
	done
	boot
	seen 60 'action: restart in 8 s'
	kill -USR2 "$pid1"
	ended 60
	is "$(grep -c '^fds' "$log" | sed 's/^[1-9].*/some/')" some "looks at the fds"
	is "$(sed -n 's/^fds //p' "$log" | sort -u | wc -l)" 1 "different numbers of open files"
	is "$status" $off "how it ended"
}

# --- all of them -----------------------------------------------------------------------------------

# run_case NAME: what it prints comes in one piece.
run_case() {
	work=$all/$1 image=$all/$1/image root=$all/$1/root log=$all/$1/log
	failed='' status=''
	trap end_case EXIT
	trap 'exit 130' INT TERM
	mkdir -p "$root"
	: >"$log"
	{
		"case_$1"
		end_case
		if [ -n "$failed" ]; then
			[ -e "$work/failed" ] || cp "$log" "$work/failed"
			echo "FAIL pid1_$1"
			grep . "$work/failed" | tail -n 40 | sed 's/^/    /'
		else
			echo "ok pid1_$1"
		fi
	} >"$all/$1.out" 2>&1
	cat "$all/$1.out"
	[ -z "$failed" ]
}

# The longest first: they mostly wait.
cases="orphans fake_restarts backoff fake_hung"
cases+=" $(declare -F | sed -n 's/^declare -f case_//p' | grep -Evx "${cases// /|}")"
bads=0 oks=0 running=0
one_done() {
	if wait -n; then oks=$((oks + 1)); else bads=$((bads + 1)); fi
	running=$((running - 1))
}
for name in $cases; do
	[ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
	case $name in fake_*) [ -n "$fake" ] || continue ;; esac
	[ $running -lt 4 ] || one_done
	run_case "$name" &
	running=$((running + 1))
done
while [ $running -gt 0 ]; do one_done; done
[ $bads -eq 0 ] && [ $oks -gt 0 ]
