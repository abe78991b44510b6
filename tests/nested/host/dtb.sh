#!/bin/sh
# SPDX-License-Identifier: MIT
# Reads the device tree of running guests into /trees/CASE.dtb, and what their kernels say about the machine that it
# describes: interrupt controller, timer, PSCI, UART, clock, button.
# shellcheck source=tests/nested/host/lib.sh
. /t/lib.sh

# A warning or worse, but for a timer that was late, which is the emulation's fault; and what a kernel says at a lower level
# when something is amiss; of the modules it may miss the signatures that they have lost.
read='dmesg -r | grep -E "^<[0-4]>" | grep -v "hrtimer: interrupt took" | sed "s/^/loud /"
dmesg | grep -iE "gic|timer|psci|uart|ttyS|rtc|gpio|pl061|pl031|virtio|fdt|device tree" |
	grep -v "module verification failed" | grep -iE "fail|error|invalid|unable|bad|bug|unexpected|mismatch|not found|deferred|broken|timed? ?out|warn" | sed "s/^/complaint /"
disk=$(grep -lx tree /sys/block/vd*/serial | cut -d/ -f4)
cat /sys/firmware/fdt >/dev/$disk; sync
echo "tree $(wc -c </sys/firmware/fdt) $(md5sum </sys/firmware/fdt)"
echo "devices $(ls /sys/bus/virtio/devices | wc -l) cpus $(nproc)"
echo "clock $(cat /sys/class/rtc/rtc0/name) $(($(date +%s) - $(cat /sys/class/rtc/rtc0/since_epoch)))"
echo "console $(sed -n "s/^\([^ ]*\) .*/\1/p" /proc/consoles)"
echo "psci $(dmesg | grep -o "PSCIv[0-9.]* detected")"
echo "button $(cat /sys/class/input/event*/device/name 2>/dev/null)"
echo "timer $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
grep -E "GIC" /proc/interrupts | grep -vE "virtio|arch_timer" | sed "s/^/line /"'

# tree CASE DEVICES CPUS OPTION...: the tree comes by a disk of the guest's, which is $tree.
tree="--disk path=$T/tree,id=tree"
tree() {
	begin "dtb_$1"
	file=/trees/$1.dtb devices=$2 cpus=$3
	shift 3
	mkdir -p /trees
	dd if=/dev/zero of=$T/tree bs=64k count=1 2>/dev/null
	guest "$read" --cpus "$cpus" "$@"
	size=$(tr -d '\r' <"$T/$name.out" | sed -n 's/^tree \([0-9]*\) .*/\1/p')
	head -c "${size:-0}" $T/tree >"$file"
	want "exit status $status" is $status 0
	want "devices and CPUs" says "devices $devices cpus $cpus"
	want "the kernel complains" [ -z "$(grep ^complaint "$T/$name.out")" ]
	want "the kernel warns" [ -z "$(grep ^loud "$T/$name.out")" ]
	want "the clock" said '^clock rtc-pl031.* (-1|0|1|2)$'
	want "the console" says "console ttyS0"
	want "the timer" says "timer arch_sys_counter"
	want "PSCI" said '^psci PSCIv1\.[0-9]* detected'
	want "the tree came broken" says "tree $size $(md5sum <"$file")"
}

kernel=/t/6.12/image
# shellcheck disable=SC2086	# words
tree small 2 1 $tree --rng
end
disks=$tree
for i in $(seq 28); do
	dd if=/dev/zero of=$T/disk$i bs=4k count=1 2>/dev/null
	disks="$disks --disk path=$T/disk$i"
done
# shellcheck disable=SC2086	# words
tree full 32 4 $disks --rng --vsock cid=50 --virtio-console file=$T/hvc
end
if full; then
	# With gpio-keys, that the cloud kernel lacks.
	kernel=/t/6.12-generic/image initrd=/t/6.12-generic/initrd
	# shellcheck disable=SC2086	# words
	tree generic 2 2 $tree --rng
	want "no button" said '^button .*gpio'
	end
fi
