#!/bin/sh
# SPDX-License-Identifier: MIT
# Boots of more and more: virtio devices, CPUs, RAM. From the start of the VMM to its guest's line, when every
# driver is loaded.
# shellcheck source=tests/bench/lib.sh
. /t/bench.sh

echo 1 >/proc/sys/vm/overcommit_memory
dd if=/dev/zero of=$T/disk bs=64k count=16 2>/dev/null
init='for d in /dev/vd?; do head -c 4096 $d >/dev/null; done; echo up; sleep 10000'

# point "ROW..." OPTION...: the exits and the work of one machine, and what the VMM takes then.
point() {
	rows=$1
	name=$vmm-${1%% *}
	shift
	machine kernel=/t/6.12/fast "words=$(run_words "$init")" "$@"
	user=$(user_hits) all=$(all_hits)
	start
	wait_for $patience said '^up$' || { broken "$rows: not up"; stop; return; }
	user=$(($(user_hits) - user)) all=$(($(all_hits) - all))
	kib=$(overhead $pid $memory)
	for row in $rows; do
		figure $row.user $user
		figure $row.all $all
		figure $row.kib "$kib"
	done
	stop
	command_line
}

# disks N: N options.
disks() { for i in $(seq 1 $1); do echo disk=$T/disk,readonly; done; }

for vmm in $vmms; do
	point "devices1 cpus1 memory256" disk=$T/disk,readonly
	point cpus4 cpus=4 disk=$T/disk
	point memory4096 memory=4096 disk=$T/disk
	# shellcheck disable=SC2046	# words
	point devices16 $(disks 16)
done
vmm=vinit
point cpus2 cpus=2 disk=$T/disk
point memory128 memory=128 disk=$T/disk
# shellcheck disable=SC2046	# words
point devices32 $(disks 32)
exit $failed
