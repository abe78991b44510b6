# shellcheck shell=sh
# SPDX-License-Identifier: MIT
# Runs in the nested host, under busybox: starts a guest under either VMM, vinit or qemu, with the same files and devices, and
# counts. What a bench prints are lines "figure ROW VMM VALUE", which scripts/bench reads; all other lines are for who watches.

# shellcheck source=tests/nested/host/lib.sh
. /t/lib.sh
# shellcheck source=tests/nested/host/trace.sh
. /t/trace.sh
QEMU=/q/qemu
TOOL="/t/vsocktool --timeout 200"
vmms=vinit
[ ! -x $QEMU ] || vmms="vinit qemu"

figure() { echo "figure $1 $vmm $2"; }

# broken WHAT: a figure that cannot be had; the bench fails in the end, and says why.
failed=0
broken() {
	echo "FAIL $vmm: $1"
	for f in "$T/$name.log" "$T/$name.out"; do
		[ ! -s "$f" ] || tail -n 12 "$f" | tr -d '\r' | sed 's/^/  /'
	done
	failed=1
}

# null_disk NANOSECONDS: makes $null, a disk in memory that answers that much later, filled by blkload.
null_disk() {
	for module in configfs null_blk; do
		[ ! -e /t/$module.ko ] || insmod /t/$module.ko nr_devices=0
	done
	mount -t configfs configfs /sys/kernel/config
	mkdir /sys/kernel/config/nullb/slow
	for word in size=64 memory_backed=1 blocksize=4096 irqmode=2 completion_nsec=$1 hw_queue_depth=128 submit_queues=1 power=1; do
		echo ${word#*=} >/sys/kernel/config/nullb/slow/${word%=*}
	done
	null=/dev/slow
	wait_for 5 [ -b $null ] || echo "FAIL: no null_blk"
	/t/blkload fill $null 64
}

# --- one guest under either -----------------------------------------------------------------------------

# machine [OPTION...]: the guest that start starts next, with any number of
#
#   cpus=N  memory=MIB  vsock=CID  rng  kernel=FILE  initrd=FILE  words=WORDS  vinit=WORD  qemu=WORD
#   disk=FILE[,readonly][,direct][,engine=sync|auto|threads|native|io_uring][,iothread]   net=TAP,vhost|user
#
# The lines of $T/args become the VMM's arguments.
machine() {
	cpus=1 memory=256 kernel=/t/6.12/image initrd=/t/6.12/initrd words='' disks=0 nets=0
	: >$T/options
	for option; do
		case $option in
		cpus=*) cpus=${option#*=} ;;
		memory=*) memory=${option#*=} ;;
		kernel=*) kernel=${option#*=} ;;
		initrd=*) initrd=${option#*=} ;;
		words=*) words=${option#*=} ;;
		*) echo "$option" >>$T/options ;;
		esac
	done
	rm -f "$T/$name.out"
	"${vmm}_args" >$T/args
	while read -r option; do
		"${vmm}_option" "$option"
	done <$T/options >>$T/args
}

lines() { for line; do echo "$line"; done; }

vinit_args() {
	lines run --kernel $kernel --initrd $initrd --memory ${memory}M --cpus $cpus --on-reset exit \
		--console "file=$T/$name.out" --cmdline "quiet $words"
}

vinit_option() {
	case $1 in
	disk=*)
		path=${1#disk=} direct=''
		case $1 in *,direct*) direct=,direct ;; esac
		case $1 in *,readonly*) direct=$direct,readonly ;; esac
		lines --disk "path=${path%%,*}$direct$(echo "$path" | grep -o ',engine=[a-z_]*')"
		;;
	net=*)
		tap=${1#net=}
		lines --net "tap=${tap%,*},vhost=$([ "${tap#*,}" = vhost ] && echo yes || echo no)"
		;;
	vsock=*) lines --vsock cid=${1#*=} ;;
	rng) lines --rng ;;
	vinit=*) lines "${1#*=}" ;;
	esac
}

# What peers of the kind are started with: no legacy device that the machine can do without.
qemu_args() {
	lines -M microvm,acpi=on,rtc=off,pit=off,pic=off -enable-kvm -cpu host -smp $cpus -m $memory -nodefaults \
		-no-user-config -display none -no-reboot -L /q/share -kernel $kernel -initrd $initrd \
		-chardev "file,id=console,path=$T/$name.out" -serial chardev:console -append "console=ttyS0 quiet $words"
}

qemu_option() {
	case $1 in
	disk=*)
		# Without its locks: the other VMM's guest may be reading the same.
		path=${1#disk=} cache='' aio='' object=''
		disks=$((disks + 1))
		case $1 in *,direct*) cache=,cache=none ;; esac
		case $1 in *,readonly*) cache=$cache,readonly=on ;; esac
		case $1 in
		*,engine=auto* | *,engine=sync*) ;;
		*,engine=*) aio=,aio=$(echo "$1" | sed 's/.*,engine=\([a-z_]*\).*/\1/') ;;
		esac
		case $1 in
		*,iothread*)
			object=,iothread=io$disks
			lines -object iothread,id=io$disks
			;;
		esac
		lines -drive "if=none,id=d$disks,format=raw,file=${path%%,*},file.locking=off$cache$aio" -device virtio-blk-device,drive=d$disks$object
		;;
	net=*)
		tap=${1#net=}
		nets=$((nets + 1))
		lines -netdev "tap,id=n$nets,ifname=${tap%,*},script=no,downscript=no,vhost=$([ "${tap#*,}" = vhost ] && echo on || echo off)" \
			-device virtio-net-device,netdev=n$nets
		;;
	vsock=*) lines -device vhost-vsock-device,guest-cid=${1#*=} ;;
	rng) lines -device virtio-rng-device ;;
	qemu=*) lines "${1#*=}" ;;
	esac
}

# start: runs it in the background; $pid. finish: waits for it; $status. stop: ends it.
start() {
	set --
	while read -r line; do
		set -- "$@" "$line"
	done <$T/args
	sed "/ /{ s/^/'/; s/$/'/; }" $T/args | tr '\n' ' ' | sed "s/^/$vmm /; s/ $//" >$T/$name.command
	if [ $vmm = vinit ]; then
		$VM "$@" >"$T/$name.log" 2>&1 </dev/null &
	else
		LD_LIBRARY_PATH=/q/lib $QEMU "$@" >"$T/$name.log" 2>&1 </dev/null &
	fi
	pid=$!
}

# command_line: for the report, without what the guest runs.
command_line() {
	sed 's/run64=[^ ]*/run64=.../; s/^/command /' $T/$name.command
	echo
}

finish() {
	wait $pid
	status=$?
}

stop() {
	kill -KILL $pid
	wait $pid 2>/dev/null
}

# A command for the guest's init, as words of the kernel's command line.
run_words() { echo "run64=$(printf %s "$1" | base64 | tr -d '\n') end=${2-poweroff}"; }

# Private dirty KiB of process $1 outside guest RAM, of $2 MiB: on x86_64 what is above 3 GiB is a mapping of its own, in vinit.
overhead() {
	awk -v ram="$(($2 * 1024))" -v low=3145728 '/^[0-9a-f]+-/ { size = 0 } /^Size:/ { size = $2 }
		/^Private_Dirty:/ && size != ram && (ram <= low || (size != low && size != ram - low)) { sum += $2 }
		END { print sum }' "/proc/$1/smaps"
}
