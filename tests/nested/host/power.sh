#!/bin/sh
# SPDX-License-Identifier: MIT
# How a guest ends, as the one who started `vinit run` sees it.
# shellcheck source=tests/nested/host/lib.sh
. /t/lib.sh

kernel=/t/6.12/image
# With a driver for the button.
button=6.12
[ "$arch" != aarch64 ] || button=6.12-generic
# Ready when the guest's acpid listens.
ready='until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/input/event; do sleep 0.1; done; echo ready; sleep 1000'

# ended STATUS WORDS: how it ended and what vinit said of it.
ended() {
	want "exit status $status, not $1" is "$status" "$1"
	want "vinit did not say: $2" logged "$2"
	# A triple fault is an error of the guest's.
	want "vinit: an error" [ -z "$(grep -E 'assert|leak|ERROR|error:' "$T/$name.log" | grep -vE 'vCPU [0-9]+: (triple fault|rip )')" ]
}

if every; then
	begin poweroff
	guest 'echo here'
	ended 0 'the guest powered off'
	want "guest's init did not run" says here
	end
fi

if every; then
	for version in 6.12 6.1; do
		begin reset_exit_$version
		kernel=/t/$version/image initrd=/t/$version/initrd after=reboot guest true --on-reset exit
		ended 3 'the guest reset'
		end
	done
fi

# What the guest writes to its disk says how often it booted.
twice='n=$(dd if=/dev/vda bs=512 count=1 2>/dev/null | head -c 1); echo "boot $n of $(nproc)"; [ "$n" = 2 ] && poweroff -f
echo $((n + 1)) | dd of=/dev/vda bs=512 count=1 conv=sync,fsync 2>/dev/null; reboot -f'

# restart CASE WAY OPTION...: a guest that resets once, by WAY as vinit calls it, and powers off at its second boot.
restart() {
	begin "$1"
	way=$2
	shift 2
	dd if=/dev/zero of=$T/disk bs=64k count=16 2>/dev/null
	echo 1 | dd of=$T/disk conv=notrunc 2>/dev/null
	guest "$twice" --disk path=$T/disk "$@"
	ended 0 "guest reset .*$way"
	want "boots: $(grep -c '^boot ' "$T/$name.out")" [ "$(grep -c '^boot ' "$T/$name.out")" = 2 ]
	want "no second boot" said '^boot 2 '
	want "disk: $(head -c 1 $T/disk)" is "$(head -c 1 $T/disk)" 2
	end
}
restart reset_restart '' --cpus 2
if [ "$arch" = x86_64 ]; then
	# The keyboard controller's reset line in place of ACPI's register.
	words=reboot=k restart reset_i8042 i8042
	words=reboot=a restart reset_acpi ACPI --cpus 2

	begin triple_fault_linux
	words=reboot=t after=reboot guest true --cpus 2
	ended 4 'triple fault'
	end

	begin triple_fault
	timeout -s KILL 20 $VM run --kernel /t/fault --console null >"$T/$name.log" 2>&1
	status=$?
	ended 4 'triple fault'
	end
fi

begin power_button
kernel=/t/$button/image initrd=/t/$button/initrd guest_start "$ready" --stop-timeout 60
want "the guest is not up" wait_for $patience said '^ready'
kill -TERM $pid
guest_wait
ended 0 'the guest powered off'
want "the guest did not hear its button" said '^guest: power button'
end

# A guest with no driver for the button.
begin button_ignored
if [ "$arch" = aarch64 ]; then
	guest_start 'echo ready; sleep 1000' --stop-timeout 2 # the cloud kernel with all that it has
else
	words=nomodules=1 guest_start 'echo ready; sleep 1000' --stop-timeout 2
fi
want "the guest is not up" wait_for $patience said '^ready'
asked=$(now)
kill -TERM $pid
guest_wait
took=$(($(now) - asked))
ended 5 'did not power off in time'
want "took $took s" [ $took -ge 2 -a $took -le 5 ]
end

if every; then
	begin button_twice
	words=nomodules=1 guest_start 'echo ready; sleep 1000' --stop-timeout 100
	want "the guest is not up" wait_for $patience said '^ready'
	kill -TERM $pid
	want "not asked" wait_for 5 logged 'pressing'
	kill -INT $pid
	asked=$(now)
	guest_wait
	took=$(($(now) - asked))
	ended 5 'was stopped'
	want "took $took s" [ $took -le 3 ]
	end
fi

if full; then
	# Debian's kernels for aarch64 have no driver for pvpanic; a payload writes its register.
	if [ "$arch" = x86_64 ]; then
		begin panic_pvpanic
		guest 'ls /sys/bus/platform/drivers/pvpanic-mmio /sys/bus/acpi/drivers 2>&1; lsmod | grep pvpanic; echo c >/proc/sysrq-trigger'
		ended 4 'panicked'
		end
	fi

	# Nothing says that it was a panic: the kernel restarts after a second (panic=1).
	begin panic_plain
	words=nomodules=1 guest 'echo c >/proc/sysrq-trigger' --on-reset exit
	ended 3 'the guest reset'
	end

fi

if every; then
	# Everything that a VMM holds goes with it, however it ends.
	begin killed
	dd if=/dev/zero of=$T/disk bs=64k count=16 2>/dev/null
	guest_start 'echo ready; sleep 1000' --disk path=$T/disk --vsock cid=77
	want "the guest is not up" wait_for $patience said '^ready'
	timeout -s KILL 20 $VM run --kernel /t/6.12/image --console null --disk path=$T/disk >$T/locked 2>&1
	status=$?
	want "a second guest got the disk: $status $(cat $T/locked)" [ $status = 1 ]
	want "words for a locked disk" grep -q "$T/disk" $T/locked
	timeout -s KILL 20 $VM run --kernel /t/6.12/image --console null --vsock cid=77 >$T/taken 2>&1
	status=$?
	want "a second guest got the CID: $status $(cat $T/taken)" [ $status = 1 ]
	want "words for a taken CID" grep -q EADDRINUSE $T/taken
	sed 's/^/  /' $T/locked $T/taken
	kill -KILL "$pid"
	guest_wait
	want "status $status" is $status 137
	guest 'echo again' --disk path=$T/disk --vsock cid=77
	want "the second one: status $status" is $status 0
	want "the second one's guest" says again
	end
fi
