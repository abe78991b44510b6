#!/bin/sh
# SPDX-License-Identifier: MIT
# As many virtio devices as a machine can have, all busy at once.
# shellcheck source=tests/nested/host/lib.sh
. /t/lib.sh

kernel=/t/6.12/image
# x86_64 has 13 lines, which devices share; aarch64 one a device.
lines_wanted=13
[ "$arch" != aarch64 ] || lines_wanted=32
windows=3
disks=
for i in $(seq 30); do
	dd if=/dev/zero of=$T/disk$i bs=1M count=1 2>/dev/null
	[ "$i" = 30 ] || disks="$disks --disk path=$T/disk$i"
done
/t/vsocktool --timeout 480 listen 2000 echo >/dev/null 2>&1 &
server=$!

begin devices_33_refused
# shellcheck disable=SC2086	# words
timeout -s KILL 20 $VM run --kernel $kernel --console null $disks --disk path=$T/disk30 --rng --vsock cid=60 \
	--virtio-console null >"$T/$name.log" 2>&1
status=$?
want "exit status $status" is $status 1
want "words" logged "at most 32 virtio devices"
end

begin devices_32_busy
limit=460
# shellcheck disable=SC2086	# words
guest "busy $windows" --cpus 2 --memory 512M $disks --rng --vsock cid=60 --virtio-console file=$T/hvc
want "exit status $status" is $status 0
want "not finished" says finished
want "stalls" [ -z "$(grep '^stalled' "$T/$name.out")" ]
want "wrong data, or an error" [ -z "$(grep '^FAIL' "$T/$name.out")" ]
want "workers: $(grep -c '^rounds' "$T/$name.out")" [ "$(grep -c '^rounds' "$T/$name.out")" = 32 ]
want "devices with a line: $(grep -c '^line of' "$T/$name.out")" [ "$(grep -c '^line of' "$T/$name.out")" = 32 ]
lines=$(tr -d '\r' <"$T/$name.out" | sed -n 's/^interrupts //p')
want "lines that interrupt: $lines" [ "$(echo "$lines" | wc -l)" = $lines_wanted ]
want "the kernel complains" [ -z "$(grep ^complaint "$T/$name.out")" ]
tr -d '\r' <$T/hvc | grep -v '^line [0-9]*, and some more so that it is a line of a usual length$' >$T/odd
want "the console's lines: $(head -3 $T/odd)" [ "$(wc -l <$T/odd)" = 0 ]
want "console lines in order" [ "$(sed -n 's/^line \([0-9]*\),.*/\1/p' $T/hvc | awk '$1 != NR - 1 { n++ } END { print n + 0 }')" = 0 ]
grep -E '^(stalled|FAIL|complaint)' "$T/$name.out" | head -20
echo "  windows, in 10 s: $(tr -d '\r' <"$T/$name.out" | sed -n 's/^window .*: //p' | tr '\n' ' ')"
tr -d '\r' <"$T/$name.out" | sed -n 's/^rounds //p' | sort -k2 -n | sed -n '1,3p; $p' | sed 's/^/  rounds: /'
echo "  interrupts: $(echo $lines)"
end
kill $server
