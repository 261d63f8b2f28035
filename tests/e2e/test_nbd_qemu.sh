#!/usr/bin/env bash
# QEMU's NBD client: qemu-img info, convert, compare, map, dd and bench, qemu-io with patterns,
# zeroes, discards, unaligned and asynchronous requests. Whatever is done to an export is done to a
# raw file as well, and both must end up the same.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/nbd.sh"

SIZE=$(((32 << 20) + 1536))
CLUSTER=65536
make_disk "$T/source.raw" $SIZE

# Runs qemu-io commands (one a line on stdin) on the export and on a raw file.
on_both() { # raw file
	tee "$T/commands" | qemu-io -f raw -d unmap "$1" >"$T/raw.log"
	qemu-io -f raw -d unmap "$URI" <"$T/commands" >"$T/nbd.log"
	! grep -iE 'failed|error|invalid' "$T/raw.log" "$T/nbd.log" || fail "qemu-io, see above"
}

same() { # raw file, what
	qemu-img compare -q -f raw -F raw "$1" "$URI" || fail "$2: differs"
}

step "info, convert both ways, compare"
serve disk --image "$T/disk.qcow2" --create --size $SIZE
assert_eq $SIZE "$(qemu-img info --output=json "$URI" | jq '."virtual-size"')" "size by qemu-img info"
qemu-img convert -n -f raw -O raw "$T/source.raw" "$URI"
same "$T/source.raw" "convert"
qemu-img convert -f raw -O raw -m 16 -W "$T/source.raw" -n "$URI"
same "$T/source.raw" "convert out of order"
qemu-img convert -f raw -O raw -S 0 "$T/source.raw" -n "$URI"
same "$T/source.raw" "convert, zeroes written as data"
for format in raw qcow2; do
	qemu-img convert -f raw -O $format -m 16 -W "$URI" "$T/out.$format"
	qemu-img compare -q -f raw -F $format "$T/source.raw" "$T/out.$format"
done
qemu-img dd -f raw -O raw bs=64k skip=300 if="$URI" of="$T/part"
cmp -i $((300 * CLUSTER)):0 "$T/source.raw" "$T/part"
! qemu-img compare -q -f raw -F raw "$T/part" "$URI" 2>/dev/null || fail "compare finds all alike"

step "patterns"
on_both "$T/source.raw" <<-END
	write -P 0x11 0 512
	write -P 0x12 1 1
	write -P 0x13 65535 2
	write -P 0x14 131071 65538
	write -P 0x15 1000001 777777
	write -P 0x16 $((SIZE - 1)) 1
	write -f -P 0x17 3M 1M
	write -z 3500001 200001
	write -z -u 4M 1M
	write -z -f 5000000 1
	discard 6M 1M
	discard 8388608 $CLUSTER
	writev -P 0x18 7340033 512 1024 4096 1
	write -P 0 9M 128k
	aio_write -P 0x19 10M 2M
	aio_write -P 0x1a 12M 2M
	aio_write -z 14M 1M
	aio_write -P 0x1b 15728641 333333
	aio_flush
	flush
	read -P 0x11 2 510
	read -P 0x12 1 1
	read -P 0x14 131071 65538
	read -P 0x17 3M 300000
	read -P 0 4M 1M
	read -P 0 6M 1M
	readv -P 0x18 7340033 4096 1024 513
	read -P 0x16 $((SIZE - 1)) 1
	aio_read -P 0x19 10M 2M
	aio_read -P 0x1a 12M 2M
	aio_read -P 0x1b 15728641 333333
	aio_flush
END
assert_eq 0 "$(grep -ci 'pattern verification' "$T/nbd.log" || true)" "patterns read wrong"
same "$T/source.raw" "patterns"

step "the same, at random"
random_commands() { # how many
	local i off len kind

	for ((i = 0; i < $1; i++)); do
		len=$(((RANDOM * 32768 + RANDOM) % 300000 + 1))
		off=$(((RANDOM * 32768 + RANDOM) % (SIZE - len)))
		kind=$((RANDOM % 10))
		case $kind in
		[0-4]) echo "write -P $((i % 255 + 1)) $off $len" ;;
		5) echo "write -f -P $((i % 255 + 1)) $off $len" ;;
		6) echo "write -z $off $len" ;;
		7) echo "write -z -u $off $len" ;;
		8) echo "discard $((off / CLUSTER * CLUSTER)) $((len / CLUSTER * CLUSTER))" ;;
		9) echo "read $off $len" ;;
		esac
	done
	echo flush
}
SEED=${SEED:-$((SRANDOM % 32768))} # to be set to what a failure showed
RANDOM=$SEED
random_commands 300 >"$T/random"
on_both "$T/source.raw" <"$T/random"
same "$T/source.raw" "commands at random, SEED=$SEED"

step "two of them at once on halves of the disk"
bench() { # offset, pattern
	qemu-img bench -q -f raw -w -c 512 -d 32 -s 32768 -o "$1" --pattern="$2" "$URI" >/dev/null &
	BENCHES+=($!)
}
BENCHES=()
bench 0 81
bench $((16 << 20)) 82
for pid in "${BENCHES[@]}"; do wait "$pid" || fail "qemu-img bench"; done
qemu-io -f raw -c "write -P 81 0 16M" -c "write -P 82 16M 16M" "$T/source.raw" >/dev/null
same "$T/source.raw" "qemu-img bench"
finish
assert_point "$T/disk.qcow2" "$T/source.raw"
"$BIN/sendense-ctl" image check "$T/disk.qcow2" >/dev/null || fail "image check"

step "a read-only chain over TCP"
make_chain $((32 << 20))
qemu-img map --output=json -f qcow2 "$T/chain.qcow2" | zero_runs >"$T/wanted"
serve chain --listen 127.0.0.1:0 --image "$T/chain.qcow2" --read-only
same "$T/chain.raw" "chain"
qemu-img map --output=json -f raw "$URI" | zero_runs >"$T/map"
diff "$T/wanted" "$T/map" || fail "qemu-img map of the export and of the file"
qemu-img convert -f raw -O qcow2 -c "$URI" "$T/out.qcow2"
qemu-img compare -q -f raw -F qcow2 "$T/chain.raw" "$T/out.qcow2"
! qemu-io -f raw -c "write 0 512" "$URI" >"$T/log" 2>&1 || fail "a write was taken"
assert_contains "$(cat "$T/log")" "Permission denied" "what qemu-io says"
finish

step "an overlay over TCP, its backing file relative to it"
serve overlay --listen 127.0.0.1:0 --image "$T/overlay.qcow2" --create --backing disk.qcow2
keep_copy "$T/source.raw" "$T/changed.raw"
same "$T/source.raw" "untouched overlay"
on_both "$T/changed.raw" <<-END
	write -P 7 1000448 5120
	write -z 2M 1M
	discard 20M 1M
	write -s $T/part $((SIZE - 512)) 512
	flush
END
same "$T/changed.raw" "overlay"
finish
assert_point "$T/overlay.qcow2" "$T/changed.raw"
assert_point "$T/disk.qcow2" "$T/source.raw"
assert_eq disk.qcow2 "$(qemu-img info --output=json "$T/overlay.qcow2" | jq -r '."backing-filename"')" "backing file"
assert_le "$(allocated "$T/overlay.qcow2")" $((2 << 20)) "bytes of a small overlay"

step "QEMU's own chain on top of an export"
serve base --image "$T/disk.qcow2" --read-only
qemu-img create -q -f qcow2 -b "$URI" -F raw "$T/top.qcow2"
qemu-io -f qcow2 -c "write -P 9 65000 70000" -c "read -P 82 17M 1M" "$T/top.qcow2" >"$T/log"
assert_eq 0 "$(grep -ci 'verification failed' "$T/log" || true)" "read through QEMU's overlay"
qemu-io -f raw -c "write -P 9 65000 70000" "$T/source.raw" >/dev/null
qemu-img compare -q -f raw -F qcow2 "$T/source.raw" "$T/top.qcow2"
finish
