#!/usr/bin/env bash
# A full copy of an unchanged disk into an overlay stores less than 0.1 % of its size: with the
# parent's checksums, without them, and over a compressed parent; and of a disk in which one sector
# changed, one cluster is stored.
. "$(dirname "$0")/lib.sh"

SIZE=$((256 << 20))
SOCKET=$T/nbd.sock
URI="nbd+unix:///?socket=$SOCKET"

copy_into() { # image, source, options of the creation...
	rm -f "$SOCKET"
	spawn nbd "$BIN/sendense-nbd" --socket "$SOCKET" --image "$T/$1" --create "${@:3}"
	NBD_PID=$SPAWNED
	await_ready nbd "$NBD_PID"
	nbdcopy "$2" "$URI"
	end TERM "$NBD_PID"
	assert_eq 0 "$ENDED" "exit status of sendense-nbd"
}

stored() { # image
	du --block-size=1 "$T/$1" | cut -f1
}

put_random "$T/disk.raw" 0 $SIZE
copy_into full.qcow2 "$T/disk.raw" --size $SIZE
assert_point "$T/full.qcow2" "$T/disk.raw"
copy_into packed.qcow2 "$T/disk.raw" --size $SIZE --compress zstd

step "the same disk again"
copy_into with-sums.qcow2 "$T/disk.raw" --backing full.qcow2
mv "$T/full.sums" "$T/kept"
copy_into without-sums.qcow2 "$T/disk.raw" --backing full.qcow2
mv "$T/kept" "$T/full.sums"
copy_into on-packed.qcow2 "$T/disk.raw" --backing packed.qcow2
copy_into third.qcow2 "$T/disk.raw" --backing with-sums.qcow2
for image in with-sums without-sums on-packed third; do
	echo "$image: $(stored $image.qcow2) bytes for a disk of $SIZE"
	[ "$(stored $image.qcow2)" -lt $((SIZE / 1000)) ] ||
		fail "$image takes $(stored $image.qcow2) bytes of disk"
	assert_point "$T/$image.qcow2" "$T/disk.raw"
done

step "the same disk but for one sector"
keep_copy "$T/disk.raw" "$T/changed.raw"
put_random "$T/changed.raw" $((100 << 20)) 512
copy_into sector.qcow2 "$T/changed.raw" --backing full.qcow2
assert_le "$(stored sector.qcow2)" $((SIZE / 1000 + 2 * 65536)) "bytes of an overlay with one cluster and its table"
assert_point "$T/sector.qcow2" "$T/changed.raw"

step "suppression can be turned off"
copy_into all.qcow2 "$T/disk.raw" --backing full.qcow2 --no-suppress
[ "$(stored all.qcow2)" -ge $SIZE ] || fail "an overlay without suppression is too small"
