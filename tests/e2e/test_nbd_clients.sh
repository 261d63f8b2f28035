#!/usr/bin/env bash
# Clients of all makes work against sendense-nbd: nbdinfo, nbdcopy both ways, qemu-img (info,
# convert, compare), qemu-nbd's reader on the finished file, fio with verification.
. "$(dirname "$0")/lib.sh"

SIZE=$(((64 << 20) + 1536))
IMAGE=$T/disk.qcow2
SOCKET=$T/nbd.sock
URI="nbd+unix:///disk0?socket=$SOCKET"

serve() { # options...
	spawn nbd "$BIN/sendense-nbd" --export disk0 "$@"
	NBD_PID=$SPAWNED
	await_ready nbd "$NBD_PID"
}

finish() {
	end TERM "$NBD_PID"
	assert_eq 0 "$ENDED" "exit status of sendense-nbd after SIGTERM"
}

make_disk "$T/source.raw" $SIZE

step "a new image over a unix socket"
serve --socket "$SOCKET" --image "$IMAGE" --create --size $SIZE
assert_eq $SIZE "$(nbdinfo --size "$URI")" "size by nbdinfo"
assert_contains "$(nbdinfo "$URI")" "can_multi_conn: true" "nbdinfo"
assert_contains "$(nbdinfo --list "nbd+unix:///?socket=$SOCKET")" disk0 "exports listed"

step "nbdcopy in, nbdcopy out"
nbdcopy "$T/source.raw" "$URI"
nbdcopy "$URI" "$T/out.raw"
cmp "$T/source.raw" "$T/out.raw"

step "qemu-img reads and writes it"
qemu-img info "$URI" >/dev/null
qemu-img compare -q -f raw -F raw "$T/source.raw" "$URI"
qemu-img convert -n -f raw -O raw "$T/source.raw" "$URI"
qemu-img compare -q -f raw -F raw "$T/source.raw" "$URI"
assert_contains "$(nbdinfo --map "$URI")" zero "map of the disk"

step "SIGTERM leaves a clean image"
finish
assert_point "$IMAGE" "$T/source.raw"
assert_eq "" "$(qemu-img info --output=json "$IMAGE" | jq -r '."dirty-flag" // empty | select(.)')" "dirty flag"

step "an overlay over TCP, its backing file relative to it"
serve --listen 127.0.0.1:0 --image "$T/overlay.qcow2" --create --size $SIZE --backing disk.qcow2
TCP=${READY##* }
cp "$T/source.raw" "$T/changed.raw"
put_random "$T/changed.raw" $((3 << 20)) 700
put_random "$T/changed.raw" $((SIZE - 512)) 512
qemu-img compare -q -f raw -F raw "$T/source.raw" "$TCP"
qemu-io -f raw -c "write -P 7 1000448 5120" -c "write -z 2M 1M" -c "flush" "$TCP" >/dev/null
qemu-io -f raw -c "write -P 7 1000448 5120" -c "write -z 2M 1M" "$T/changed.raw" >/dev/null
for off in $((3 << 20)) $((SIZE - 512)); do
	dd if="$T/changed.raw" of="$T/part" bs=512 skip=$((off / 512)) count=2 status=none
	qemu-io -f raw -c "write -s $T/part $off $(stat -c %s "$T/part")" "$TCP" >/dev/null
done
qemu-img compare -q -f raw -F raw "$T/changed.raw" "$TCP"
finish
assert_point "$T/overlay.qcow2" "$T/changed.raw"
assert_point "$IMAGE" "$T/source.raw"
assert_eq disk.qcow2 "$(qemu-img info --output=json "$T/overlay.qcow2" | jq -r '."backing-filename"')" "backing file"
assert_le "$(allocated "$T/overlay.qcow2")" $((4 << 20)) "bytes of a small overlay"

step "read-only is read-only"
serve --socket "$SOCKET" --image "$IMAGE" --read-only
assert_contains "$(nbdinfo "$URI")" "is_read_only: true" "nbdinfo"
! qemu-io -f raw -c "write 0 512" "$URI" >/dev/null 2>&1 || fail "a write was taken"
qemu-img compare -q -f raw -F raw "$T/source.raw" "$URI"
finish

step "fio writes at random, reads back and verifies"
serve --socket "$SOCKET" --image "$T/fio.qcow2" --create --size $((128 << 20))
fio_job() { # name, rw, block sizes, further options...
	fio --name="$1" --ioengine=nbd --uri="$URI" --rw="$2" --bsrange="$3" --size=128m --iodepth=16 \
		--randrepeat=0 --verify_state_save=0 --output="$T/fio.log" "${@:4}" ||
		{ cat "$T/fio.log" && fail "fio $1"; }
}
fio_job random randwrite 512-256k --verify=crc32c --verify_fatal=1
fio_job sequential write 1m-1m --verify=crc32c --verify_fatal=1
fio_job trims randtrim 4k-64k --io_size=32m
fio_job mixed randrw 4k-64k --io_size=32m
finish
qemu-img check -q "$T/fio.qcow2" || fail "image after fio"

step "eight clients at once on one export"
serve --socket "$SOCKET" --image "$T/many.qcow2" --create --size $((64 << 20))
make_disk "$T/source64.raw" $((64 << 20))
nbdcopy --connections=8 --requests=8 "$T/source64.raw" "$URI"
finish
assert_point "$T/many.qcow2" "$T/source64.raw"
