#!/bin/sh
# SPDX-License-Identifier: MIT
# Stock kernels, by both protocols, with 1, 2 and 4 vCPUs, small and large RAM: what the guest sees of its machine.
. /t/lib.sh

# All of RAM is usable but what lies between 639 KiB and 1 MiB.
see='sum=0; for d in /sys/firmware/memmap/*; do [ "$(cat $d/type)" = "System RAM" ] || continue
sum=$((sum + $(cat $d/end) - $(cat $d/start) + 1)); done; echo "ram $((sum + 0x60400))"
echo "cpus $(nproc) of $(grep -c ^processor /proc/cpuinfo)"; echo "kernel $(uname -r)"
echo "total $(awk "/MemTotal/ { print \$2 }" /proc/meminfo)"
dmesg | grep -E "ACPI (Error|Warning|BIOS)|nobody cared|Firmware Bug|spurious|soft lockup|rcu:.*stall" | head -5 | sed "s/^/complaint /"
for d in /sys/bus/virtio/devices/*; do echo "virtio $(cat $d/device) $(basename $(readlink $d/driver))"; done'

# boot VERSION FILE CPUS MIB
boot() {
	begin "boot_$1_$2_$3cpu_$4MiB"
	kernel=/t/$1/$2 initrd=/t/$1/initrd
	guest "$see" --cpus "$3" --memory "$4M" --rng
	want "exit status $status" is $status 0
	want "kernel version" said "^kernel $1\."
	want "CPUs online" says "cpus $3 of $3"
	want "RAM" says "ram $(($4 * 1024 * 1024))"
	# What it keeps for itself: some 40 MiB, and 1.6 % of RAM.
	total=$(tr -d '\r' <"$T/$name.out" | sed -n 's/^total //p')
	want "MemTotal $total" [ "${total:-0}" -gt $((($4 - 48) * 1024 * 96 / 100)) ]
	want "no virtio-rng found" said "^virtio 0x0004 virtio_rng"
	want "the kernel complains" [ -z "$(grep ^complaint "$T/$name.out")" ]
	end
}

boot 6.12 bzImage 1 128
boot 6.12 vmlinux 2 5120
boot 6.1 bzImage 4 5120
boot 6.1 vmlinux 1 128
boot 6.12 bzImage 4 256
boot 6.1 bzImage 2 128
if [ -n "$CHECK_LONG" ]; then
	for version in 6.12 6.1; do
		for file in bzImage vmlinux; do
			for cpus in 1 2 4; do
				for mib in 128 5120; do
					boot $version $file $cpus $mib
				done
			done
		done
	done
fi
