/* SPDX-License-Identifier: MIT */
/* A diff and the full snapshot that it follows become one full snapshot. */
#ifndef VM_SNAPSHOT_MERGE_H
#define VM_SNAPSHOT_MERGE_H

/*
 * Puts the diff in the directory @diff into the full snapshot in the directory @base, in place: its
 * pages first, its state, as that of a full snapshot, last and at once. @diff is only read, and is
 * of no more use afterwards. Diffs of one chain go in one by one, in the order they were taken.
 *
 * It can be killed at any moment, and run again with the same two directories ends in the same
 * bytes; so it does, with nothing to do, when it had ended. In between @base cannot be restored:
 * that is refused, with a sentence. While a guest runs on @base, restored from it, nothing is
 * merged: its untouched pages are the file's.
 *
 * Before the first byte is changed everything is checked. 0 or -errno, logged: -EINVAL: @base is no
 * full snapshot or @diff no diff, or they are of guests that differ; -ESTALE: @diff does not follow
 * @base; -EBUSY: @base is in use; what the readers of the files return.
 */
int snapshot_merge(const char *base, const char *diff);

#endif
