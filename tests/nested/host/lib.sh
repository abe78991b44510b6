# shellcheck shell=sh
# SPDX-License-Identifier: MIT
# Runs in the nested host, under busybox. A case prints "ok NAME (SECONDS s)" or, behind what it saw, "FAIL NAME".

T=/tmp/t
VM=/init
mkdir -p $T
arch=$(uname -m)

# The host's page size in bytes, and its interrupt controller: v2, v3. What a guest calls its own: Linux names a GICv2
# otherwise where it was not started at EL2.
page_size() { echo $(($(awk '/^KernelPageSize/ { print $2; exit }' /proc/self/smaps) * 1024)); }
gic() { grep -q GICv3 /proc/interrupts && echo v3 || echo v2; }
gic_name() { case $1 in v2) echo GIC-0 ;; *) echo GICv3 ;; esac; }

# full: every case is to be run, not the sample that is enough for another interrupt controller or host kernel.
full() { [ -z "$CHECK_GIC$CHECK_HOST" ] || [ -n "$CHECK_LONG" ]; }

# every: not even what is the same code on every architecture is left to the other one's run.
every() { full && [ -z "$CHECK_SAMPLE" ]; }

# For how many seconds a guest may boot, on a machine with other things to do, too.
patience=120
[ "$arch" != aarch64 ] || patience=300

# An x86_64 kernel says late in its boot, with all its CPUs running, that its clock is stable, by patching code that each tick
# runs. The emulator is not up to that (see kvmhold.c): one boot in ten died of it on a busy machine. So guests leave it out.
steady=
[ "$arch" != x86_64 ] || steady=initcall_blacklist=sched_clock_init_late

now() { cut -d. -f1 /proc/uptime; }

# begin NAME: the case that result speaks of.
begin() {
	name=$1
	began=$(now)
	why=
}

# want WHAT COMMAND...: notes that the case fails when COMMAND does.
want() {
	what=$1
	shift
	"$@" || why="$why; $what"
}

# end: the case's line. What the guest and vinit said comes first where it failed.
end() {
	if [ -z "$why" ]; then
		echo "ok $name ($(($(now) - began)) s)"
	else
		for f in "$T/$name.log" "$T/$name.out"; do
			[ ! -s "$f" ] || { echo "  --- $f:"; tail -n 25 "$f" | tr -d '\r' | sed 's/^/  /'; }
		done
		echo "FAIL $name${why#;}"
	fi
}

# guest COMMAND OPTION...: a guest named $name whose init runs COMMAND and powers off; its console goes to $T/$name.out,
# vinit's words to $T/$name.log, its exit status to $status. $kernel, $initrd, $words, $limit and $after may be set, and $quick to nothing,
# for a kernel that leaves out nothing.
guest() {
	command=$1
	shift
	guest_start "$command" "$@"
	guest_wait
}

guest_start() {
	run64=$(printf %s "$1" | base64 | tr -d '\n')
	shift
	rm -f "$T/$name.out"
	timeout -s KILL "${limit:-$((2 * patience))}" $VM run --name "$name" --kernel "${kernel:-/t/6.12/image}" \
		--initrd "${initrd:-/t/6.12/initrd}" --console "file=$T/$name.out" \
		--cmdline "quiet $steady $quick ${words-} run64=$run64 end=${after:-poweroff}" "$@" >"$T/$name.log" 2>&1 </dev/null &
	pid=$!
}

guest_wait() {
	wait $pid
	status=$?
}

# vmm: the pid of the VMM that the last guest_start started. busybox's timeout becomes the command, others have it as a child.
vmm() {
	[ "$(readlink /proc/$pid/exe)" != "$(readlink -f $VM)" ] || { echo $pid; return; }
	for p in /proc/[0-9]*; do
		[ "$(sed -n 's/^PPid:[[:space:]]*//p' "$p/status" 2>/dev/null)" = "$pid" ] && echo "${p#/proc/}" && return
	done
	echo "no VMM"
	return 1
}

# says TEXT: the guest's console has a line that is TEXT. said PATTERN: that matches it.
says() { tr -d '\r' <"$T/$name.out" | grep -qxF "$1"; }
said() { tr -d '\r' <"$T/$name.out" | grep -qE "$1"; }
logged() { grep -qE -- "$1" "$T/$name.log"; }

# wait_for SECONDS COMMAND...: until it is so.
wait_for() {
	until_=$(($(now) + $1))
	shift
	until "$@" 2>/dev/null; do
		[ "$(now)" -lt $until_ ] || return 1
		sleep 0.2
	done
}

is() { [ "$1" = "$2" ] || { echo "  $name: $1 is not $2"; return 1; }; }
