#!/usr/bin/env bash
# nbdcopy in every mode, both ways: each copy in makes an image that equals its source, each copy out
# a file that equals the disk.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/nbd.sh"

SIZE=$(((32 << 20) + 1536))
make_disk "$T/source.raw" $SIZE

step "copies in"
copy_in() { # name, nbdcopy options...
	serve "$1" --image "$T/$1.qcow2" --create --size $SIZE
	nbdcopy "${@:2}" "$T/source.raw" "$URI" || fail "nbdcopy ${*:2}"
	finish
	assert_point "$T/$1.qcow2" "$T/source.raw"
}
copy_in plain
copy_in four --connections=4 --requests=32
copy_in eight --connections=8 --requests=8 --flush
copy_in flush --flush
copy_in synchronous --synchronous
copy_in small --request-size=4096 --requests=64
copy_in large --request-size=33554432
copy_in whole --no-extents --sparse=0
copy_in allocated --allocated
copy_in blank --destination-is-zero
copy_in threads --threads=4 --connections=4 --queue-size=1048576
assert_le "$(allocated "$T/plain.qcow2")" $((SIZE * 3 / 4)) "bytes stored of a disk with holes and zeroes"

step "over what is there"
put_random "$T/junk.raw" 0 $SIZE
serve over --image "$T/over.qcow2" --create --size $SIZE
nbdcopy "$T/junk.raw" "$URI"
nbdcopy --connections=4 --flush "$T/source.raw" "$URI"
finish
assert_point "$T/over.qcow2" "$T/source.raw"

step "from a pipe"
serve pipe --image "$T/pipe.qcow2" --create --size $SIZE
nbdcopy - "$URI" <"$T/source.raw"
finish
assert_point "$T/pipe.qcow2" "$T/source.raw"

step "an overlay"
keep_copy "$T/source.raw" "$T/changed.raw"
put_random "$T/changed.raw" 1000448 300000
put_zeroes "$T/changed.raw" 4000000 300000
serve overlay --image "$T/overlay.qcow2" --create --backing plain.qcow2
nbdcopy --connections=4 "$T/changed.raw" "$URI"
finish
assert_point "$T/overlay.qcow2" "$T/changed.raw"
assert_point "$T/plain.qcow2" "$T/source.raw"
assert_le "$(allocated "$T/overlay.qcow2")" $((2 << 20)) "bytes of an overlay with little in it"

step "copies out, of a read-only chain"
make_chain $((32 << 20))
copy_out() { # nbdcopy options...
	rm -f "$T/out.raw"
	nbdcopy "$@" "$URI" "$T/out.raw" || fail "nbdcopy $*"
	cmp "$T/chain.raw" "$T/out.raw" || fail "what nbdcopy $* read"
}
for where in "" "--listen 127.0.0.1:0"; do
	# shellcheck disable=SC2086
	serve chain $where --image "$T/chain.qcow2" --read-only
	copy_out
	copy_out --connections=4 --requests=64
	copy_out --synchronous
	copy_out --request-size=33554432
	copy_out --request-size=4096 --connections=2
	copy_out --no-extents
	copy_out --allocated --sparse=0
	nbdcopy "$URI" - | cmp "$T/chain.raw" - || fail "what nbdcopy wrote into a pipe"
	finish
done

step "from one server to another"
serve from --image "$T/chain.qcow2" --read-only
FROM=$URI FROM_PID=$NBD_PID
serve to --listen 127.0.0.1:0 --image "$T/to.qcow2" --create --size $((32 << 20)) --compress zstd
nbdcopy --connections=4 --flush "$FROM" "$URI"
finish
end TERM "$FROM_PID"
assert_eq 0 "$ENDED" "exit status of the source"
assert_point "$T/to.qcow2" "$T/chain.raw"
