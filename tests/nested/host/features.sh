#!/bin/sh
# SPDX-License-Identifier: MIT
# What a guest's options promise, beyond booting: memory, disks, consoles, and the VMM's own footprint.
# shellcheck source=tests/nested/host/lib.sh
. /t/lib.sh

# maps PID RAM: a line a mapping of process PID: its address, KiB private dirty, resident, in huge pages, size, and what it is:
# ram (that of RAM KiB), stack (of a thread: behind a guard), or the file's name, "anon" for none.
maps() {
	awk -v ram="$2" '
		/^[0-9a-f]+-[0-9a-f]+ / {
			split($1, at, "-")
			what = NF > 5 ? $6 : "anon"
			if (guard == at[1] && what == "anon") what = "stack"
			guard = $2 ~ /^---/ ? at[2] : ""
		}
		/^Size:/ { size = $2 }
		/^Rss:/ { rss = $2 }
		/^Private_Dirty:/ { dirty = $2 }
		/^AnonHugePages:/ { huge = $2 }
		/^VmFlags:/ {
			if (size == ram && what == "anon") what = "ram"
			print at[1], dirty, rss, huge, size, what
		}' "/proc/$1/smaps"
}

# sum WHAT FIELD: of the mappings that maps printed into $T/maps; WHAT may be "!ram" for all others.
sum() { awk -v what="$1" -v field="$2" '(what == "!ram" && $6 != "ram") || $6 == what { sum += $field } END { print sum + 0 }' $T/maps; }

if full; then
	begin overhead
	for i in 0 1 2 3; do dd if=/dev/zero of=$T/d$i bs=1M count=4 2>/dev/null; done
	ram=$((512 * 1024))
	guest_start 'for d in vda vdb vdc vdd; do dd if=/dev/$d of=/dev/null bs=64k 2>/dev/null; done; head -c 1000 /dev/hwrng >/dev/null
		for i in 0 1; do ip link set eth$i up; ip addr add 10.9.$i.2/24 dev eth$i; done; echo up >/dev/hvc0; echo up; read line' \
		--cpus 2 --memory 512M --rng --vsock cid=4 --virtio-console "file=$T/hvc" --api-sock $T/sock \
		--disk path=$T/d0,engine=io_uring --disk path=$T/d1,engine=io_uring --disk path=$T/d2,direct --disk path=$T/d3,discard \
		--net tap=vt0,vhost=yes --net tap=vt1,vhost=no,queues=2
	want "not up" wait_for $patience says up
	for i in 0 1; do
		ip addr add 10.9.$i.1/24 dev vt$i && ip link set vt$i up
		want "net $i" wait_for 20 ping -c 1 -s 1400 -W 5 10.9.$i.2 >/dev/null
	done
	want "the API" [ "$($VM ctl --sock $T/sock stats | wc -l)" -gt 3 ]
	vmm=$(vmm)
	maps "$vmm" $ram >$T/maps
	# Not counted, being the kernel's and no mapping of the process: its own structures, KVM's tables for RAM, threads' stacks there.
	kib=$(sum !ram 2)
	stacks=$(grep -c ' stack$' $T/maps)
	# Of those that did not grow together with what is mapped above them.
	alone=$(awk '$6 == "stack" && $5 <= 80' $T/maps | wc -l) deepest=$(awk '$6 == "stack" && $5 <= 80 && $3 > most { most = $3 } END { print most + 0 }' $T/maps)
	echo "  memory overhead of the VMM: $kib KiB private dirty outside guest RAM, 2 vCPUs, 9 virtio devices, $(ls /proc/$vmm/task | wc -l) threads; stacks: $stacks, of $alone the deepest is used to $deepest KiB"
	echo "  in the kernel: $(awk '/^VmPTE/ { print $2 }' /proc/$vmm/status) KiB of page tables, $(awk '/^SecPageTables/ { print $2 }' /proc/meminfo) of KVM's"
	[ -z "$why" ] || cat $T/maps
	want "$kib KiB: over 1 MiB, or nothing" [ "${kib:-0}" -gt 0 -a "${kib:-9999}" -lt 1024 ]
	[ "$(page_size)" != 4096 ] || want "$kib KiB: over 512" [ "$kib" -lt 512 ]
	want "huge pages outside guest RAM" is "$(sum !ram 4)" 0
	want "not the stacks of 2 vCPUs, 4 disks and 2 consoles" is "$stacks" 8
	want "a stack is used to over its half" [ "$alone" -ge 4 -a "$deepest" -gt 0 -a "$deepest" -le 32 ]
	flags=$(awk -v ram=$ram '/^Size:/ { size = $2 } /^VmFlags:/ && size == ram { print }' "/proc/$vmm/smaps")
	for flag in dd nr dc hg; do # out of core dumps, not reserved, not for children, huge pages
		want "guest RAM without the flag $flag: $flags" [ "$flags" != "${flags% $flag *}" ]
	done
	echo "  guest RAM: $(sum ram 3) KiB resident of $ram, $(sum ram 4) of them in huge pages"
	want "guest RAM is resident without being touched" [ "$(sum ram 3)" -lt $((ram / 2)) ]
	grep -qF '[never]' /sys/kernel/mm/transparent_hugepage/enabled ||
		want "guest RAM is not in huge pages" [ "$(sum ram 4)" -gt $(($(sum ram 3) / 2)) ]
	# The last two segments of the file are one of its data: first what is constant after relocation. Larger pages have it all in one.
	data=$(sed -n 's|^[^ ]* \([^ ]*\) .* /init$|\1|p' "/proc/$vmm/maps" | tail -n 2 | tr '\n' ' ')
	pages=$(awk '/^KernelPageSize/ { print $2; exit }' "/proc/$vmm/smaps")
	want "relocated data is writable: $data" [ "$pages" != 4 -o "$data" = 'r--p rw-p ' ]
	want "more of the file is writable than its data" [ "$(grep -c ' rw.p .* /init$' "/proc/$vmm/maps")" = 1 ]
	kill -KILL "$vmm"
	guest_wait
	end

	begin hugepages
	echo 80 >/proc/sys/vm/nr_hugepages
	want "the host gave no huge pages" [ "$(awk '/HugePages_Total/ { print $2 }' /proc/meminfo)" -ge 64 ]
	guest_start 'echo up; read line' --memory 128M,hugepages
	want "not up" wait_for $patience says up
	want "no huge page is in use" [ "$(awk '/HugePages_Free/ { print $2 }' /proc/meminfo)" -lt 80 ]
	kill -KILL "$(vmm)"
	guest_wait
	want "pages not given back" wait_for 5 [ "$(awk '/HugePages_Free/ { print $2 }' /proc/meminfo)" -eq 80 ]
	end

	begin hugepages_too_few
	guest true --memory 512M,hugepages
	want "exit status $status" is $status 1
	want "no words" logged "nr_hugepages"
	echo 0 >/proc/sys/vm/nr_hugepages
	end
fi

if every; then
	begin disk_readonly
	dd if=/dev/urandom of=$T/ro bs=1M count=2 2>/dev/null
	sum=$(md5sum <$T/ro)
	guest 'cat /sys/block/vda/ro; dd if=/dev/zero of=/dev/vda bs=4k count=1 2>&1; md5sum </dev/vda' --disk path=$T/ro,readonly
	want "the guest could see it writable" says 1
	want "other content" says "$sum"
	want "written" is "$(md5sum <$T/ro)" "$sum"
	end

	begin disk_lock
	guest_start 'echo up; read line' --disk path=$T/d0 --disk path=$T/ro,readonly
	want "not up" wait_for $patience says up
	for way in d0 d0,readonly ro; do
		$VM run --kernel /t/6.12/image --console null --disk path=$T/$way >$T/lock.log 2>&1 </dev/null
		want "$way: exit status" is $? 1
		want "$way: no words" grep -q "$T/${way%,*}.*in use" $T/lock.log
	done
	first=$pid first_vmm=$(vmm)
	name=disk_lock_second
	guest true --disk path=$T/ro,readonly
	want "a second reader: exit status $status" is $status 0
	name=disk_lock
	kill -KILL "$first_vmm"
	wait $first
	end
fi

if full; then
	begin disk_odd_size
	dd if=/dev/zero of=$T/odd bs=1000 count=3 2>/dev/null
	guest true --disk path=$T/odd
	want "exit status" is $status 1
	want "no words" logged "odd.*3000.*512"
	end

	begin disk_discard
	dd if=/dev/urandom of=$T/thin bs=1M count=16 2>/dev/null
	guest 'blkdiscard -o 0 -l 8388608 /dev/vda && head -c 8388608 /dev/vda | tr -d "\0" | wc -c' --disk path=$T/thin,discard
	want "not zeros" says 0
	want "the image did not shrink: $(du -k $T/thin)" [ "$(du -k $T/thin | cut -f1)" -le 8300 ]
	end
fi

begin disk_direct_and_block_device
own_gic=
[ "$arch" != aarch64 ] || own_gic="--gic $(gic | tr -d v)"
dd if=/dev/urandom of=$T/back bs=1M count=8 2>/dev/null
loop=$(losetup -f)
losetup "$loop" $T/back
# shellcheck disable=SC2086	# words
guest 'md5sum </dev/vda; dd if=/dev/vda of=/dev/vda bs=64k count=16 seek=64 conv=fsync,notrunc 2>/dev/null; cat /sys/block/vda/serial; echo
grep -oE "GIC(v3|-0)" /proc/interrupts | sort -u' \
	--disk "path=$loop,direct,id=a-serial-number" $own_gic
want "other content" said "^[0-9a-f]{32} "
want "no serial number" says a-serial-number
[ -z "$own_gic" ] || want "not the GIC that $own_gic asks for" says "$(gic_name "$(gic)")"
sync
want "the copy is not on the device" is "$(dd if=$loop bs=64k count=16 2>/dev/null | md5sum)" "$(dd if=$loop bs=64k skip=64 count=16 2>/dev/null | md5sum)"
losetup -d "$loop"
end

begin disk_persists_over_reset
dd if=/dev/zero of=$T/keep bs=1M count=8 2>/dev/null
words=persist guest '
if [ "$(dd if=/dev/vda bs=1 count=5 2>/dev/null)" = again ]; then
	echo "second $(dd if=/dev/vda bs=1M skip=1 count=4 2>/dev/null | md5sum)"; poweroff -f
fi
head -c 4194304 /dev/urandom >/tmp/r; echo "first $(md5sum </tmp/r)"
dd if=/tmp/r of=/dev/vda bs=1M seek=1 conv=fsync,notrunc 2>/dev/null; printf again | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null
reboot -f' --disk path=$T/keep --rng
want "exit status $status" is $status 0
first=$(tr -d '\r' <$T/$name.out | sed -n 's/^first //p')
want "nothing was written" [ -n "$first" ]
want "something else was read back" says "second $first"
end

if every; then
	begin console_file_keeps_what_is_there
	echo "an earlier line" >$T/$name.out.keep
	$VM run --kernel /t/6.12/image --initrd /t/6.12/initrd --console "file=$T/$name.out.keep" \
		--cmdline "quiet run64=$(printf 'echo a later line' | base64) end=poweroff" >$T/$name.log 2>&1 </dev/null
	want "exit status" is $? 0
	want "the earlier line" grep -q "an earlier line" $T/$name.out.keep
	want "the later line" grep -q "a later line" $T/$name.out.keep
	end

	begin cmdline_only
	guest 'cat /proc/cmdline' --cmdline-only
	if [ "$arch" = x86_64 ]; then
		want "without a console word the guest is silent" [ ! -s "$T/$name.out" ]
	else # its console is in the device tree
		want "other words" said '^quiet +run64=[^ ]* end=poweroff$'
	fi
	want "exit status $status" is $status 0
	end
fi

# KVM is a module on x86_64; on aarch64 it is there or is not.
if [ "$arch" = x86_64 ]; then
	nokvm="load the kvm module"

	begin no_gic
	$VM run --kernel /t/6.12/image --console null --gic 3 >$T/$name.log 2>&1 </dev/null
	want "exit status" is $? 2
	want "no words" logged "--gic 3: this machine has no GIC"
	end
else
	nokvm="the kernel has KVM, but there is no node for it: /dev must be a devtmpfs"
	has=$(gic)
	has=${has#v}
	hasnot=$((5 - has))

	# The emulation gives a GICv3 host no GICv2 for its guests, and the other way round.
	begin gic_of_another_version
	$VM run --kernel /t/6.12/image --console null --gic "$hasnot" >$T/$name.log 2>&1 </dev/null
	want "exit status" is $? 1
	want "no words" logged "gic: KVM here can't make a GICv$hasnot.*use --gic $has"
	end

	begin gic_too_many_cpus
	[ "$has" = 2 ] && cpus=9 || cpus=124
	$VM run --kernel /t/6.12/image --console null --cpus $cpus >$T/$name.log 2>&1 </dev/null
	want "exit status" is $? 1
	want "no words" logged "cpus: $cpus; .* 1 to $((cpus - 1))"
	end
fi

if full; then
	begin check_verb
	$VM check >$T/$name.log 2>&1
	want "exit status" is $? 0
	want "the verdict" logged "guests can run here"
	want "io_uring" logged "^ok +io_uring$"
	mv /dev/kvm /dev/kvm.away
	$VM check >$T/$name.out 2>&1
	want "exit status without /dev/kvm" is $? 1
	want "what to do" said "/dev/kvm: ENOENT: $nokvm"
	guest true
	want "run: exit status $status" is $status 1
	want "run: what to do" logged "/dev/kvm: ENOENT: $nokvm"
	mv /dev/kvm.away /dev/kvm
	end
fi
