#!/bin/sh
# SPDX-License-Identifier: MIT
# What a VMM takes beside the guest's RAM: with one disk, and with every kind of device, when the guest has used each.
# shellcheck source=tests/bench/lib.sh
. /t/bench.sh

for i in 0 1 2 3; do dd if=/dev/zero of=$T/d$i bs=1M count=4 2>/dev/null; done
touch_all='for d in /dev/vd?; do dd if=$d of=/dev/null bs=64k 2>/dev/null; done
[ ! -e /dev/hwrng ] || head -c 1000 /dev/hwrng >/dev/null
for e in /sys/class/net/eth?; do ip link set ${e##*/} up; done
echo up; sleep 10000'

# footprint ROW OPTION...: of a guest that has been up for two seconds.
footprint() {
	row=$1
	name=$vmm-$1
	shift
	machine "words=$(run_words "$touch_all")" "$@"
	start
	if wait_for $patience said '^up$'; then
		sleep 2
		figure $row.kib "$(overhead $pid $memory)"
		figure $row.threads "$(ls /proc/$pid/task | wc -l)"
	else
		broken "$row: not up"
	fi
	stop
	command_line
}

for vmm in $vmms; do
	footprint plain disk=$T/d0
	footprint full cpus=2 disk=$T/d0 disk=$T/d1 disk=$T/d2,direct disk=$T/d3 vsock=4 rng net=vt0,vhost net=vt1,user
done
exit $failed
