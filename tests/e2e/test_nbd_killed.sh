#!/usr/bin/env bash
# sendense-nbd is killed under load, time and again, and continues the image each time: what was
# flushed before is intact, what was not holds old or new bytes and nothing else, and in the end the
# image is clean. Alone, and over a backing file whose data must not shine through what was trimmed.
. "$(dirname "$0")/lib.sh"

ROUNDS=5
PART=$((4 << 20))            # written and flushed in every round
LOAD_AT=$((32 << 20))        # from here on fio is at work when the server dies
SIZE=$((96 << 20))
SOCKET=$T/nbd.sock
URI="nbd+unix:///?socket=$SOCKET"

serve() { # options...
	rm -f "$SOCKET"
	spawn nbd "$BIN/sendense-nbd" --socket "$SOCKET" "$@"
	NBD_PID=$SPAWNED
	await_ready nbd "$NBD_PID"
}

load() { # name, fio options...
	spawn "$1" fio --thread --name="$1" --ioengine=nbd --uri="$URI" --offset=$LOAD_AT \
		--size=$((SIZE - LOAD_AT)) --bsrange=512-192k --iodepth=16 --randrepeat=0 \
		--buffer_pattern=0xab --time_based --runtime=60 --output=/dev/null "${@:2}"
	LOADS+=("$SPAWNED")
}

# The listening socket and one more for every client.
clients_are() { # number
	[ "$(grep -c " $SOCKET\$" /proc/net/unix)" = $(($1 + 1)) ]
}

# Random bytes at the round's place, through the server and into the model; flushed.
write_flushed() { # round
	local off=$(($1 * PART + 512 * $1))

	head -c $PART /dev/urandom >"$T/part"
	qemu-io -f raw -c "write -s $T/part $off $PART" -c flush "$URI" >/dev/null
	write_at "$T/model.raw" "$off" <"$T/part"
}

kill_under_load() {
	local pid

	LOADS=()
	load writes --rw=randwrite
	load flushes --rw=randwrite --fsync=7
	load trims --rw=randtrim --rate_iops=200
	wait_until 20 "the load is on" clients_are ${#LOADS[@]}
	sleep 0.$((RANDOM % 6 + 1)) # any instant will do
	end KILL "$NBD_PID"
	assert_eq 137 "$ENDED" "exit status of the killed server"
	for pid in "${LOADS[@]}"; do
		end KILL "$pid" 2>/dev/null || true # some fio spin when their server is gone
	done
}

# The flushed part equals the model; under the load only bytes that can be there are.
assert_survived() { # octal bytes that may be
	nbdcopy "$URI" "$T/out.raw"
	cmp -n $LOAD_AT "$T/model.raw" "$T/out.raw" || fail "flushed data was lost"
	assert_eq 0 "$(tail -c +$((LOAD_AT + 1)) "$T/out.raw" | tr -d "$1" | wc -c)" "foreign bytes"
	# what the load left is what it is from here on
	tail -c +$((LOAD_AT + 1)) "$T/out.raw" | write_at "$T/model.raw" $LOAD_AT
}

torture() { # octal bytes that may be under the load, options of the creation...
	local round allowed=$1 code

	shift
	serve --image "$IMAGE" --create "$@"
	for round in $(seq 0 $((ROUNDS - 1))); do
		write_flushed "$round"
		kill_under_load
		code=0
		"$BIN/sendense-ctl" image check "$IMAGE" >/dev/null 2>&1 || code=$?
		assert_eq 7 "$code" "exit status of image check after a kill"
		serve --image "$IMAGE"
		assert_survived "$allowed"
	done
	end TERM "$NBD_PID"
	assert_eq 0 "$ENDED" "exit status of sendense-nbd in the end"
	assert_point "$IMAGE" "$T/model.raw"
	"$BIN/sendense-ctl" image check "$IMAGE" >/dev/null || fail "image check in the end"
	"$BIN/sendense-ctl" image verify "$IMAGE" >/dev/null || fail "image verify in the end"
}

step "an image of its own"
IMAGE=$T/full.qcow2
truncate -s $SIZE "$T/model.raw"
torture '\000\253' --size $SIZE

step "an overlay"
head -c $((SIZE - LOAD_AT)) /dev/zero | tr '\000' '\315' | write_at "$T/model.raw" $LOAD_AT
rm "$IMAGE" "$T/full.sums"
serve --image "$IMAGE" --create --size $SIZE
nbdcopy "$T/model.raw" "$URI"
end TERM "$NBD_PID"
IMAGE=$T/overlay.qcow2
torture '\000\253\315' --backing full.qcow2

step "compressed clusters"
IMAGE=$T/packed.qcow2
rm -f "$T/model.raw"
truncate -s $SIZE "$T/model.raw"
ROUNDS=2
torture '\000\253' --size $SIZE --compress zstd
