#!/usr/bin/env bash
# nbdfuse mounts our export as a file: read, written in the middle, made into a file system, and
# mounted read-only over a chain. Where FUSE is not to be had this test is skipped, and says so.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/nbd.sh"

[ -c /dev/fuse ] && [ -r /dev/fuse ] && [ -w /dev/fuse ] || skip "no /dev/fuse here: nbdfuse NOT tested"
command -v fusermount3 >/dev/null || skip "no fusermount3 here: nbdfuse NOT tested"

SIZE=$((32 << 20))
FILE=$T/mnt/disk
mkdir "$T/mnt"

mount_it() { # nbdfuse options...
	spawn fuse nbdfuse "$@" "$FILE" "$URI"
	FUSE_PID=$SPAWNED
	wait_until 60 "nbdfuse mounted it, or gave up" mounted_or_ended
	[ -f "$FILE" ] || {
		grep -qi 'permi\|not permitted\|fuse:' "$T/fuse.err" &&
			skip "mounting is not allowed here: nbdfuse NOT tested: $(tail -n 1 "$T/fuse.err")"
		fail "nbdfuse does not mount: $(cat "$T/fuse.err")"
	}
	E2E_MOUNTS=("$T/mnt")
}

mounted_or_ended() {
	[ -f "$FILE" ] || ! kill -0 "$FUSE_PID"
}

unmount_it() {
	fusermount3 -u "$T/mnt"
	E2E_MOUNTS=()
	wait "$FUSE_PID" || fail "nbdfuse ended with $?"
}

make_disk "$T/source.raw" $SIZE

step "written and read as a file"
serve disk --image "$T/disk.qcow2" --create --size $SIZE
mount_it
assert_eq $SIZE "$(stat -c %s "$FILE")" "size of the file"
dd if="$T/source.raw" of="$FILE" bs=1M conv=notrunc,fsync status=none
cmp "$T/source.raw" "$FILE"
for target in "$FILE" "$T/source.raw"; do
	dd if="$T/source.raw" of="$target" bs=1 skip=777 seek=$((1 << 20 | 12345)) count=5000 \
		conv=notrunc,fsync status=none
done
cmp "$T/source.raw" "$FILE"
unmount_it
finish
assert_point "$T/disk.qcow2" "$T/source.raw"

step "four connections"
serve four --image "$T/four.qcow2" --create --size $SIZE
mount_it -C 4
for i in 0 1 2 3; do
	dd if="$T/source.raw" of="$FILE" bs=1M skip=$((i * 8)) seek=$((i * 8)) count=8 \
		conv=notrunc,fsync status=none &
	WRITERS[i]=$!
done
for pid in "${WRITERS[@]}"; do wait "$pid" || fail "dd through nbdfuse"; done
cmp "$T/source.raw" "$FILE"
unmount_it
finish
assert_point "$T/four.qcow2" "$T/source.raw"

step "a file system inside"
serve fs --image "$T/fs.qcow2" --create --size $SIZE
mount_it
mke2fs -q -t ext4 -F "$FILE"
head -c 1000001 /dev/urandom >"$T/file"
debugfs -w -R "write $T/file file" "$FILE" >/dev/null 2>&1
unmount_it
finish
qemu-img convert -f qcow2 -O raw "$T/fs.qcow2" "$T/fs.raw"
e2fsck -fn "$T/fs.raw" >"$T/log" 2>&1 || { cat "$T/log" && fail "e2fsck"; }
debugfs -R "dump file $T/back" "$T/fs.raw" >/dev/null 2>&1
cmp "$T/file" "$T/back"

step "a chain, read-only"
make_chain $SIZE
serve chain --image "$T/chain.qcow2" --read-only
mount_it -r
cmp "$T/chain.raw" "$FILE"
! dd if=/dev/zero of="$FILE" bs=512 count=1 conv=notrunc status=none 2>/dev/null ||
	fail "a write was taken"
unmount_it
finish
