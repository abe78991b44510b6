#!/bin/sh
# SPDX-License-Identifier: MIT
# What a VMM does from its start until a guest is there that it has taken from a snapshot, not yet resumed. The guest is a payload
# that writes to memory when it is told to.
# shellcheck source=tests/bench/lib.sh
. /t/bench.sh
vmm=vinit
trigger=/sys/kernel/tracing/events/raw_syscalls/sys_enter/trigger

ctl() { timeout -s KILL 120 $VM ctl --sock $T/sock "$@" >$T/said 2>&1 || { broken "ctl $*: $(cat $T/said)"; return 1; }; }

# machine_start OPTION...: a VMM with a control socket; $pid.
machine_start() {
	rm -f $T/in $T/sock
	mkfifo $T/in
	$VM run --api-sock $T/sock "$@" 0<>$T/in >$T/$name.out 2>$T/$name.log &
	pid=$!
	wait_for 30 [ -S $T/sock ]
}

# cost MIB
cost() {
	name=saved$1
	machine_start --kernel /t/pages --memory $1M
	wait_for 60 grep -q ready $T/$name.out || { broken "the payload of $1 MiB is not up"; return; }
	ctl pause && ctl snapshot $T/snapshot$1 && ctl end || return
	finish
	name=restored$1
	echo 'hist:keys=common_pid:size=2048' >$trigger
	machine_start
	ctl load $T/snapshot$1 || return
	echo "command vinit run --api-sock SOCKET; vinit ctl --sock SOCKET load SNAPSHOT"
	figure restore$1.bytes "$(sed -n 's/^rchar: //p' /proc/$pid/io)"
	figure restore$1.faults "$(sed 's/.*) //' /proc/$pid/stat | cut -d' ' -f8)"
	calls=0
	for task in /proc/$pid/task/*; do
		n=$(sed -n "s/.*common_pid: *${task##*/} .*hitcount: *\([0-9]*\).*/\1/p" ${trigger%trigger}hist)
		calls=$((calls + ${n:-0}))
	done
	echo '!hist:keys=common_pid:size=2048' >$trigger
	figure restore$1.calls $calls
	figure restore$1.kib "$(overhead $pid $1)"
	ctl resume && printf r 1<>$T/in && wait_for 30 grep -q 'did r' $T/$name.out || broken "it does not go on"
	ctl end && finish
}

for mib in 64 256 1024 4096; do
	cost $mib
done
exit $failed
