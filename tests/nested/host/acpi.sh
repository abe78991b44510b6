#!/bin/sh
# SPDX-License-Identifier: MIT
# Reads every ACPI table of running guests into /tables/CASE.
# shellcheck source=tests/nested/host/lib.sh
. /t/lib.sh

kernel=/t/6.12/image
read='for t in /sys/firmware/acpi/tables/*; do [ ! -f $t ] || { echo "table ${t##*/}"; base64 <$t; echo "sum $(md5sum <$t)"; }; done
echo "devices $(ls /sys/bus/virtio/devices | wc -l) cpus $(nproc)"
dmesg | grep -E "ACPI (Error|Warning|BIOS)|ACPI:.*(failed|[Ii]nvalid|rror)|Firmware" | sed "s/^/complaint /"'

# tables CASE DEVICES CPUS OPTION...
tables() {
	begin "acpi_$1"
	dir=/tables/$1 devices=$2 cpus=$3
	shift 3
	mkdir -p "$dir"
	guest "$read" --cpus "$cpus" "$@"
	want "exit status $status" is $status 0
	want "devices and CPUs" says "devices $devices cpus $cpus"
	want "the kernel complains" [ -z "$(grep ^complaint "$T/$name.out")" ]
	tr -d '\r' <"$T/$name.out" >$T/text
	for table in $(sed -n 's/^table //p' $T/text); do
		sed -n "/^table $table\$/,/^sum /{ /^table /d; /^sum /d; p; }" $T/text | base64 -d >"$dir/$table.dat"
		want "$table came broken" grep -qxF "sum $(md5sum <"$dir/$table.dat")" $T/text
	done
	for table in APIC DSDT FACP; do
		want "no $table" [ -s "$dir/$table.dat" ]
	done
	end
}

tables small 1 1 --rng
disks=
for i in $(seq 29); do
	dd if=/dev/zero of=$T/disk$i bs=4k count=1 2>/dev/null
	disks="$disks --disk path=$T/disk$i"
done
# shellcheck disable=SC2086	# words
tables full 32 4 $disks --rng --vsock cid=50 --virtio-console file=$T/hvc
