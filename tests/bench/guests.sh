#!/bin/sh
# SPDX-License-Identifier: MIT
# Several guests that boot at once, and what each of them takes.
# shellcheck source=tests/bench/lib.sh
. /t/bench.sh

init='echo up; sleep 10000'

# guests N: at once, and what one of them takes.
guests() {
	row=guests$1 pids=
	user=$(user_hits) all=$(all_hits)
	for i in $(seq 1 $1); do
		name=$vmm-guests-$i
		machine kernel=/t/6.12/fast "words=$(run_words "$init")" memory=128
		start
		pids="$pids $pid"
	done
	for i in $(seq 1 $1); do
		name=$vmm-guests-$i
		wait_for $((patience * 2)) said '^up$' || broken "$row: $i is not up"
	done
	figure $row.user $((($(user_hits) - user) / $1))
	figure $row.all $((($(all_hits) - all) / $1))
	kib=0
	for pid in $pids; do
		kib=$((kib + $(overhead $pid 128)))
	done
	figure $row.kib $((kib / $1))
	for pid in $pids; do stop; done
}

for vmm in $vmms; do
	for n in $([ $vmm = vinit ] && echo 1 2 4 8 || echo 1 4); do
		guests $n
	done
	command_line
done
exit $failed
