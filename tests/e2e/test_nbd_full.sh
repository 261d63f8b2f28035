#!/usr/bin/env bash
# The file system under sendense-nbd fills up: the client is told "No space left on device", what was
# flushed before is intact, the image is repaired on the full disk and continued when there is room
# again. Plain and compressed, on ext4 where a loop device can be had, and on tmpfs, in a mount namespace
# of its own.
if [ -z "${E2E_OWN_MOUNTS:-}" ]; then
	flags=-m
	[ "$(id -u)" = 0 ] || flags=-rm
	if ! unshare $flags true 2>/dev/null; then
		echo "skip: no mount namespaces here (needs root, or user namespaces)"
		exit 77
	fi
	E2E_OWN_MOUNTS=1 exec unshare $flags bash "$0"
fi
. "$(dirname "$0")/lib.sh"

# The distribution's: another Python in front of it would not find its module.
PATH=/usr/bin:/bin command -v nbdsh >/dev/null || skip "no nbdsh here (python3-libnbd): NOT tested"

SIZE=$((256 << 20))
KEPT=$((12 << 20)) # written and flushed before the disk fills up
SENT_AT=$((64 << 20))
SOCKET=$T/nbd.sock
URI="nbd+unix:///?socket=$SOCKET"

mkdir "$T/tmpfs" "$T/ext4"
mount -t tmpfs -o size=64m sendense-test "$T/tmpfs" || skip "tmpfs cannot be mounted"
E2E_MOUNTS+=("$T/tmpfs")
FILESYSTEMS=(tmpfs)
truncate -s 72M "$T/ext4.img"
if mke2fs -q -t ext4 -m 0 "$T/ext4.img" && mount -o loop "$T/ext4.img" "$T/ext4" 2>/dev/null; then
	E2E_MOUNTS+=("$T/ext4")
	FILESYSTEMS+=(ext4)
else
	echo "no loop devices: tmpfs alone"
fi

serve() { # options...
	rm -f "$SOCKET"
	spawn nbd "$BIN/sendense-nbd" --socket "$SOCKET" "$@"
	NBD_PID=$SPAWNED
	await_ready nbd "$NBD_PID"
}

# Its output in $T/io.log, failures and all.
client() { # commands...
	local -a args=()
	local c

	for c in "$@"; do args+=(-c "$c"); done
	qemu-io -f raw "${args[@]}" "$URI" >"$T/io.log" 2>&1 || true
}

# What was flushed is there; where writes failed is nothing but zeroes and what was sent, by sector.
assert_kept() { # image
	qemu-img convert -f qcow2 -O raw "$1" "$T/out.raw"
	cmp -n $KEPT "$T/model.raw" "$T/out.raw" || fail "flushed data was lost"
	python3 -c '
import sys
foreign = 0
with open(sys.argv[1], "rb") as sent, open(sys.argv[2], "rb") as disk:
    disk.seek(int(sys.argv[3]))
    while want := sent.read(512):
        foreign += disk.read(512) not in (want, bytes(512))
sys.exit(f"{foreign} sectors" if foreign else 0)' "$T/sent.raw" "$T/out.raw" $SENT_AT ||
		fail "foreign data"
}

# Text that shrinks by a quarter when it is compressed and never repeats.
some_text() { # bytes
	head -c "$1" /dev/urandom | base64 -w 0 | head -c "$1" || true
}

# The whole story, on an image with these options.
fill_up() { # file system, options of sendense-nbd...
	local fs=$1 i

	shift
	IMAGE=$T/$fs/disk.qcow2
	truncate -s 0 "$T/model.raw"
	some_text $((KEPT / 2)) | write_at "$T/model.raw" 0
	put_random "$T/model.raw" $((KEPT / 2)) $((KEPT / 2))
	head -c $((8 << 20)) /dev/urandom >"$T/$fs/ballast"

	step "$fs${*:+ $*}: the client is told"
	serve --image "$IMAGE" --create --size $SIZE "$@"
	client "write -s $T/model.raw 0 $KEPT" "flush"
	assert_eq 1 "$(grep -c wrote "$T/io.log")" "writes that fit"
	client "write -s $T/sent.0 64M 32M" "write -s $T/sent.1 96M 32M" \
		"write -s $T/sent.2 128M 32M" "flush"
	assert_contains "$(cat "$T/io.log")" "No space left on device" "what the client sees"
	client "read -P 17 0 512" "write 0 512"
	assert_contains "$(cat "$T/io.log")" "write failed: No space left on device" "a later write"
	PATH=/usr/bin:/bin nbdsh -u "$URI" -c 'h.flush()' >"$T/io.log" 2>&1 || true
	assert_contains "$(cat "$T/io.log")" "flush: command failed: No space left on device" "a flush"
	kill -0 "$NBD_PID" || fail "the server died"
	end TERM "$NBD_PID"
	assert_eq 1 "$ENDED" "exit status of sendense-nbd"
	assert_contains "$(cat "$T/nbd.err")" "No space left on device" "what it logs"

	step "$fs${*:+ $*}: the image is repaired on the full disk"
	code=0
	"$BIN/sendense-ctl" image check "$IMAGE" >/dev/null 2>"$T/check.err" || code=$?
	assert_eq 7 "$code" "exit status of image check"
	cp "$IMAGE" "$T/copy.qcow2"
	"$BIN/sendense-ctl" image check --repair "$IMAGE" >/dev/null || fail "image check --repair"
	qemu-img check -q "$IMAGE" || fail "qemu-img check after the repair"
	assert_kept "$IMAGE"

	step "$fs${*:+ $*}: QEMU repairs it as well"
	qemu-img check -q -r all "$T/copy.qcow2" >"$T/qemu.log" 2>&1 || fail "qemu-img check -r all"
	qemu-img check -q "$T/copy.qcow2" || fail "qemu-img check after QEMU's repair"
	assert_kept "$T/copy.qcow2"

	step "$fs${*:+ $*}: with room again it goes on"
	rm "$T/$fs/ballast"
	serve --image "$IMAGE" "$@"
	client "discard 64M 96M" "flush" "write -P 20 200M 4M" "flush"
	assert_eq 0 "$(grep -c failed "$T/io.log" || true)" "failures with room again"
	end TERM "$NBD_PID"
	assert_eq 0 "$ENDED" "exit status of sendense-nbd with room again"
	qemu-img check -q "$IMAGE" || fail "qemu-img check in the end"
	assert_kept "$IMAGE"
	qemu-io -f qcow2 -c "read -P 20 200M 4M" -c "read -P 0 64M 96M" "$IMAGE" >"$T/io.log"
	assert_eq 0 "$(grep -c -i -e failed -e 'verification' "$T/io.log" || true)" "what it holds"
	rm -f "$IMAGE" "$T/$fs"/*.sums
}

for i in 0 1 2; do some_text $((32 << 20)) >"$T/sent.$i"; done
cat "$T"/sent.[012] >"$T/sent.raw"
for fs in "${FILESYSTEMS[@]}"; do
	fill_up "$fs"
	fill_up "$fs" --compress zstd
done
