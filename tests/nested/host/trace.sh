# shellcheck shell=sh
# SPDX-License-Identifier: MIT
# Runs in the nested host, beside lib.sh: counts what guests cost, by the trace points of the host's KVM.

tracing=/sys/kernel/tracing/events/kvm
[ -d $tracing ] || mount -t tracefs tracefs /sys/kernel/tracing
# Without the names of processes: to keep them, the kernel patches its scheduler's trace points too while all CPUs run, which
# the emulator is not up to (see kvmhold.c). Those of KVM are patched while no guest runs.
echo 0 >/sys/kernel/tracing/options/record-cmd

# hist EVENT KEYS [FILTER]: begins to count. Of no event that this kernel lacks.
hist() { [ ! -e "$tracing/$1/trigger" ] || echo "hist:keys=$2:size=4096 ${3-}" >"$tracing/$1/trigger"; }

hist kvm_userspace_exit reason
[ "$arch" = aarch64 ] && hist kvm_exit esr_ec || hist kvm_exit exit_reason
# A guest reads CTR_EL0 at each cache maintenance, 90,000 times in a boot; where the CPU lacks FEAT_EVT, as QEMU's does before
# 8.0, KVM traps that, whoever the VMM is. What vinit is compared with was measured where it had it.
[ "$arch" != aarch64 ] || hist kvm_sys_access Op1 'if CRn == 0 && CRm == 0 && Op1 == 3 && Op2 == 1'

# hits EVENT: how often so far. user_hits, all_hits, trapped_hits: exits to user space, all exits but reads of CTR_EL0, and those.
hits() { echo $(($(sed -n 's/^ *Hits: //p' "$tracing/$1/hist"))); }
user_hits() { hits kvm_userspace_exit; }
trapped_hits() { [ "$arch" != aarch64 ] && echo 0 || hits kvm_sys_access; }
all_hits() { echo $(($(hits kvm_exit) - $(trapped_hits))); }

# counted COMMAND...: runs it, with its exit status; meanwhile $user exits to user space, $all exits but $trapped reads of CTR_EL0.
counted() {
	user=$(user_hits) all=$(all_hits) trapped=$(trapped_hits)
	"$@"
	set -- $?
	user=$(($(user_hits) - user)) all=$(($(all_hits) - all)) trapped=$(($(trapped_hits) - trapped))
	return "$1"
}

# table EVENT: which there were, most frequent first.
table() {
	[ -e "$tracing/$1/hist" ] || return
	echo "  $1: $(hits "$1")"
	grep '^{.*hitcount:' "$tracing/$1/hist" | sed 's/\(.*\)hitcount: *\([0-9]*\).*/\2 \1/' | sort -rn | head -n 60 | sed 's/^/    /'
}

# hundredths: of seconds, since the host booted.
hundredths() { sed 's/ .*//; s/\.//' /proc/uptime; }
