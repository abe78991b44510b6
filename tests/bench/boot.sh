#!/bin/sh
# SPDX-License-Identifier: MIT
# One boot, from the start of the VMM to the guest's reset: the virtio drivers, a line, a reset.
# shellcheck source=tests/bench/lib.sh
. /t/bench.sh

dd if=/dev/zero of=$T/disk bs=64k count=16 2>/dev/null

# boot ROW [OPTION...]
boot() {
	row=$1
	name=$vmm-$1
	shift
	machine initrd=/t/6.12/hello disk=$T/disk "$@"
	started=$(hundredths)
	start
	finish
	took=$(($(hundredths) - started))
	command_line
	grep -q '^hello ' "$T/$name.out" || { broken "$row: no hello"; return 1; }
	up=$(tr -d '\r.' <"$T/$name.out" | sed -n 's/^hello 0*//p')
}

for vmm in $vmms; do
	for row in boot words; do
		case $row$vmm in
		bootvinit) set -- ;;
		bootqemu) set -- words=rdinit=/hello-init ;;
		wordsvinit) continue ;;
		wordsqemu) set -- "words=8250.nr_uarts=1 8250.skip_txen_test=1 panic=1 pci=conf1,noearly rdinit=/hello-init" ;;
		esac
		[ $vmm != vinit ] || set -- words=rdinit=/hello-init
		counted boot $row "$@" || continue
		figure $row.user $user
		figure $row.all $all
		figure $row.time $took
		figure $row.up $up
	done
done
exit $failed
