#!/bin/sh
# SPDX-License-Identifier: MIT
# One boot of a stock kernel, from the start of the VMM to the guest's reset, counted by the host's trace points. The bounds
# are what kvmtool, another small VMM, takes for the same work; of exits to user space it is a fraction of that.
# shellcheck source=tests/nested/host/lib.sh
. /t/lib.sh
# shellcheck source=tests/nested/host/trace.sh
. /t/trace.sh

tables=$(sed -n 's/.*tables=1.*/1/p' /proc/cmdline)
case $arch in
x86_64) exits_bound=300 all_bound=13800 time_bound=663 up_bound=460 ;;
*) exits_bound=150 all_bound=2465 time_bound=341 up_bound=317 ;;
esac
if [ -n "$tables" ]; then
	hist kvm_pio port,rw
	hist kvm_mmio gpa.hex,type
	hist kvm_msr ecx.hex,write
	hist kvm_cpuid function.hex
	hist kvm_page_fault error_code.hex
	hist kvm_guest_fault hsr.hex
fi
dd if=/dev/zero of=$T/disk bs=64k count=16 2>/dev/null

# hello: a guest that says hello and resets. Sets $took, in hundredths of a second.
hello() {
	rm -f "$T/$name.out"
	started=$(hundredths)
	$VM run --kernel /t/6.12/image --initrd /t/6.12/hello --memory 256M --disk path=$T/disk --on-reset exit \
		--console "file=$T/$name.out" --cmdline "quiet rdinit=/hello-init" >"$T/$name.log" 2>&1 </dev/null
	status=$?
	took=$(($(hundredths) - started))
	want "exit status $status" is $status 3
	want "no hello" said '^hello '
}

begin boot_counted
counted hello
# Where the machine below is busy, this one waits for its devices longer than it counts: the first boot reads more from them.
for again in 1 2; do
	[ "$took" -ge $time_bound ] || break
	echo "  $took hundredths of a second: once more"
	counted hello
done
up=$(tr -d '\r.' <"$T/$name.out" | sed -n 's/^hello 0*//p')
[ "$arch" = x86_64 ] || trap_words=" (and $trapped reads of CTR_EL0)"
echo "  exits to user space $user, all exits $all${trap_words-}, hundredths of a second in the host $took, guest's uptime at its init $up"
want "$user exits to user space: none, or more than $exits_bound" [ "$user" -gt 0 -a "$user" -le $exits_bound ]
want "$all exits: none, or not under $all_bound" [ "$all" -gt 0 -a "$all" -lt $all_bound ]
want "$took hundredths of a second, not under $time_bound" [ "$took" -lt $time_bound ]
want "$up hundredths of a second to its init, not under $up_bound" [ "${up:-999999}" -lt $up_bound ]
if [ -n "$tables" ]; then
	for event in kvm_userspace_exit kvm_exit kvm_pio kvm_mmio kvm_msr kvm_cpuid kvm_page_fault kvm_guest_fault; do
		table $event
	done
	echo "  console: $(tr -d '\r' <"$T/$name.out" | tr '\n' '|')"
fi
end
