#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck source=tests/nested/lib.sh
. "$(dirname "$0")/lib.sh"
guest_tools
version=${CHECK_HOST:-6.12}
initrd=build/$ARCH/guest-disk-6.12.cpio
scripts/mkguest -a "$ARCH" -o "$initrd" -f "$tools/blkload:/bin/blkload" -f "$tools/vsocktool:/bin/vsocktool" \
	-f tests/guest/disk-load:/bin/disk-load >/dev/null || exit 1

# What the host's disks are made of, in the order in which it is loaded; the kernel may have the first one built in.
modules=build/$ARCH/disk-modules-$version
mkdir -p "$modules"
for m in 1:dax 2:configfs 3:null_blk 4:dm-mod; do
	from=$(find "$kernels/$version/modules/" -name "${m#*:}.ko*")
	case $from in
	*.xz) xz -dc "$from" >"$modules/${m/:/-}.ko" ;;
	?*) cp "$from" "$modules/${m/:/-}.ko" ;;
	esac
done

suite disk -f "$initrd:/t/disk-initrd" -f "$modules:/t/modules" -f "$tools/blkload:/t/blkload" -f "$tools/vsocktool:/t/vsocktool" \
	-f "$tools/dmtool:/t/dmtool" -m 2560 -t "$(scaled 300)"
