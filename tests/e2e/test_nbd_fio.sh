#!/usr/bin/env bash
# fio's nbd engine writes, reads back and verifies: block sizes from a sector to 1 MiB, at random and
# in order, several jobs at once on one export, and once more after the server was started anew.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/nbd.sh"

SIZE=$((64 << 20))

fio_job() { # name, rw, block sizes, further options...
	fio --thread --name="$1" --ioengine=nbd --uri="$URI" --rw="$2" --bsrange="$3" --iodepth=16 \
		--randseed=17 --verify_state_save=0 --verify_fatal=1 --output="$T/fio.log" "${@:4}" ||
		{ cat "$T/fio.log" && fail "fio $1"; }
}

serve fio --image "$T/fio.qcow2" --create --size $SIZE

step "random writes, verified"
fio_job sectors randwrite 512-4k --size=4m --verify=crc32c
fio_job small randwrite 4k-4k --size=24m --verify=crc32c
fio_job medium randwrite 64k-64k --size=$SIZE --verify=crc32c --fsync=64
fio_job large randwrite 1m-1m --size=$SIZE --verify=crc32c
fio_job odd randwrite 512-256k --size=$SIZE --verify=crc32c

step "in order, and verified while they are written"
fio_job sequential write 1m-1m --size=$SIZE --verify=xxhash --verify_backlog=8
fio_job trims randtrim 4k-64k --size=$SIZE --io_size=16m
fio_job mixed randrw 4k-64k --size=$SIZE --io_size=32m

step "four jobs at once, a quarter of the disk each"
fio_job quarters randwrite 4k-128k --numjobs=4 --size=$((SIZE / 4)) --offset_increment=$((SIZE / 4)) \
	--verify=crc32c --do_verify=0 --end_fsync=1
finish
qemu-img check -q "$T/fio.qcow2" || fail "qemu-img check after fio"

step "a new server, read-only: all four quarters are still what was written"
serve again --image "$T/fio.qcow2" --read-only
fio_job quarters randwrite 4k-128k --numjobs=4 --size=$((SIZE / 4)) --offset_increment=$((SIZE / 4)) \
	--verify=crc32c --verify_only
finish

step "what fio would say if a byte were wrong"
serve spoilt --image "$T/fio.qcow2"
qemu-io -f raw -c "write -P 0 1M 64k" "$URI" >/dev/null
! (fio_job quarters randwrite 4k-128k --numjobs=4 --size=$((SIZE / 4)) \
	--offset_increment=$((SIZE / 4)) --verify=crc32c --verify_only) >/dev/null 2>&1 ||
	fail "fio verifies nothing"
finish
