#!/bin/sh
# SPDX-License-Identifier: MIT
# Stock kernels, in each form that is loaded, with 1, 2 and 4 vCPUs, small and large RAM: what the guest sees of its machine.
# shellcheck source=tests/nested/host/lib.sh
. /t/lib.sh
quick=	# kernels that leave out nothing

if [ "$arch" = x86_64 ]; then
	files="bzImage vmlinux"
	small=128
	# All of RAM is usable but what lies between 639 KiB and 1 MiB.
	ram='sum=$((0x60400)); for d in /sys/firmware/memmap/*; do [ "$(cat $d/type)" = "System RAM" ] || continue
		sum=$((sum + $(cat $d/end) - $(cat $d/start) + 1)); done'
	controller=
	kept=0
else
	files="Image Image.gz"
	small=160
	ram='sum=0; for r in $(sed -n "s/^\([0-9a-f]*\)-\([0-9a-f]*\) : System RAM/0x\1,0x\2/p" /proc/iomem); do
		sum=$((sum + ${r#*,} - ${r%,*} + 1)); done'
	controller=$(gic_name "$(gic)")
	# The generation ID's room, at RAM's end.
	kept=65536
fi
see="$ram"'; echo "ram $sum"; echo "cpus $(nproc) of $(grep -c ^processor /proc/cpuinfo)"; echo "kernel $(uname -r)"
echo "total $(awk "/MemTotal/ { print \$2 }" /proc/meminfo)"; grep -oE "GIC(v3|-0)" /proc/interrupts | sort -u
dmesg | grep -E "ACPI (Error|Warning|BIOS)|nobody cared|Firmware Bug|spurious|soft lockup|rcu:.*stall" | head -5 | sed "s/^/complaint /"
for d in /sys/bus/virtio/devices/*; do echo "virtio $(cat $d/device) $(basename $(readlink $d/driver))"; done'

# boot VERSION FILE CPUS MIB
boot() {
	begin "boot_$1_$2_$3cpu_$4MiB"
	kernel=/t/$1/$2 initrd=/t/$1/initrd
	# More vCPUs than the host has CPUs, and that host is emulated: one may wait for its turn for as long as a stuck one would.
	words=
	[ "$3" -le 4 ] || words="watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=150"
	guest "$see" --cpus "$3" --memory "$4M" --rng
	want "exit status $status" is $status 0
	want "kernel version" said "^kernel ${1%-*}\."
	want "CPUs online" says "cpus $3 of $3"
	want "RAM" says "ram $(($4 * 1024 * 1024 - kept))"
	# What it keeps for itself: some 40 MiB, and 1.6 % of RAM.
	total=$(tr -d '\r' <"$T/$name.out" | sed -n 's/^total //p')
	want "MemTotal $total" [ "${total:-0}" -gt $((($4 - 48) * 1024 * 96 / 100)) ]
	want "no virtio-rng found" said "^virtio 0x0004 virtio_rng"
	want "the kernel complains" [ -z "$(grep ^complaint "$T/$name.out")" ]
	[ -z "$controller" ] || want "not on a $controller" says "$controller"
	end
}

# The nested host's kernel has other pages than the guests'.
if [ "$CHECK_HOST" = 6.12-16k ]; then
	begin host_page_size
	want "not 16 KiB: $(page_size)" is "$(page_size)" 16384
	end
fi

if [ "$arch" = x86_64 ]; then
	boot 6.12 bzImage 1 128
	boot 6.12 vmlinux 2 5120
	boot 6.1 bzImage 4 5120
	boot 6.1 vmlinux 1 128
	boot 6.12 bzImage 4 256
	boot 6.1 bzImage 2 128
elif ! full; then
	boot 6.1 Image.gz 4 5120
elif ! every; then
	boot 6.12 Image 1 $small
	boot 6.1 Image.gz 2 5120
	boot 6.12 Image 4 256
	boot 6.12-16k Image 2 512
	boot 6.12 Image 8 512
else
	boot 6.12 Image 1 $small
	boot 6.12 Image.gz 2 5120
	boot 6.1 Image 4 5120
	boot 6.1 Image.gz 1 $small
	boot 6.12-16k Image 2 512
	boot 6.12 Image 8 512
fi
if [ -n "$CHECK_LONG" ]; then
	for version in 6.12 6.1; do
		for file in $files; do
			for cpus in 1 2 4; do
				for mib in $small 5120; do
					boot $version $file $cpus $mib
				done
			done
		done
	done
fi
