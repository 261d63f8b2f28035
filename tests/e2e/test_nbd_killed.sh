#!/usr/bin/env bash
# sendense-nbd is killed under load, time and again, and continues the image each time: what was
# flushed before is intact, what was not holds old or new bytes and nothing else, and in the end the
# image is clean. Alone, over a backing file whose data must not shine through what was trimmed, and
# compressed. A journal goes on until the server dies: whatever it was told is flushed has to be there,
# whoever else was writing at that moment.
. "$(dirname "$0")/lib.sh"

# The distribution's: another Python in front of it would not find its module.
PATH=/usr/bin:/bin command -v nbdsh >/dev/null || skip "no nbdsh here (python3-libnbd): NOT tested"

ROUNDS=5
PART=$((4 << 20))            # written and flushed in every round
JOURNAL_AT=$((24 << 20))     # records written and flushed until the server dies
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

# Records of a journal: SLOTS of them, each written again and again with a growing number, at unaligned
# places, half of what they hold compresses. $T/journal says "w SLOT NUMBER" before a record is sent,
# "u SLOT" when it was acknowledged with FUA, and "f" when a flush was acknowledged.
cat >"$T/record.py" <<'END'
import os, random
SLOTS, STRIDE = 64, 146 * 512
at = int(os.environ["JOURNAL_AT"])

def place(slot):
    return at + slot * STRIDE

def record(slot, number):
    half = 256 * (1 + slot * 37 % 140)
    text = b"%d of %d, " % (number, slot)
    noise = random.Random(slot << 32 | number).randbytes(half)
    parts = []
    for i in range(0, half, 256): # every sector tells which record it belongs to
        parts.append(noise[i:i + 256] + (text * 256)[:256])
    return b"".join(parts)
END

cat "$T/record.py" - >"$T/write.py" <<'END'
log = open(os.environ["LOG"], "a", buffering=1)
number = int(os.environ["FROM"])
c = nbd.NBD()
c.connect_uri(os.environ["URI"])
while True:
    slots = random.sample(range(SLOTS), random.randint(1, 4))
    for slot in slots:
        number += 1
        log.write(f"w {slot} {number}\n")
        fua = slot % 4 == 0
        c.pwrite(record(slot, number), place(slot), nbd.CMD_FLAG_FUA if fua else 0)
        if fua:
            log.write(f"u {slot}\n")
    c.flush()
    log.write("f\n")
END

# What is on the disk, sector by sector: the last record that was flushed, or one sent after it; or what
# was there before, when none was flushed.
cat "$T/record.py" - >"$T/judge.py" <<'END'
sent, kept = {}, {}
for line in open(os.environ["LOG"]):
    if line == "f\n":
        kept.update((slot, len(numbers) - 1) for slot, numbers in sent.items())
    elif line[0] == "u":
        kept[int(line[2:])] = len(sent[int(line[2:])]) - 1
    else:
        slot, number = map(int, line.split()[1:])
        sent.setdefault(slot, []).append(number)

def read(path, slot, length):
    with open(os.environ[path], "rb") as disk:
        disk.seek(place(slot))
        return disk.read(length)

for slot, numbers in sent.items():
    may = [record(slot, n) for n in numbers[kept.get(slot, 0):]]
    if slot not in kept:
        may.append(read("BEFORE", slot, len(may[0])))
    have = read("DISK", slot, len(may[0]))
    for i in range(0, len(have), 512):
        assert have[i:i + 512] in [m[i:i + 512] for m in may], \
            f"record {slot}, byte {i}: {numbers}, {kept.get(slot)} kept, is {have[i:i + 512]!r}"
print(len(kept), "records were flushed")
END

journal() { # round
	rm -f "$T/journal"
	spawn writer env PATH=/usr/bin:/bin LOG="$T/journal" FROM=$(($1 * 1000000)) URI="$URI" \
		JOURNAL_AT=$JOURNAL_AT nbdsh -c "exec(open('$T/write.py').read())"
	LOADS+=("$SPAWNED")
}

journal_goes_on() {
	[ "$(grep -c f "$T/journal")" -gt 5 ]
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

kill_under_load() { # round
	local pid

	LOADS=()
	journal "$1"
	load writes --rw=randwrite
	load flushes --rw=randwrite --fsync=7
	load trims --rw=randtrim --rate_iops=200
	wait_until 60 "the load is on" clients_are ${#LOADS[@]}
	wait_until 60 "the journal is written" journal_goes_on
	sleep 0.$((RANDOM % 6 + 1)) # any instant will do
	end KILL "$NBD_PID"
	assert_eq 137 "$ENDED" "exit status of the killed server"
	for pid in "${LOADS[@]}"; do
		end KILL "$pid" 2>/dev/null || true # some fio spin when their server is gone
	done
}

# The flushed part equals the model, the journal holds what it was promised; under the load only bytes
# that can be there are.
assert_survived() { # octal bytes that may be
	nbdcopy "$URI" "$T/out.raw"
	cmp -n $JOURNAL_AT "$T/model.raw" "$T/out.raw" || fail "flushed data was lost"
	LOG=$T/journal DISK=$T/out.raw BEFORE=$T/model.raw JOURNAL_AT=$JOURNAL_AT python3 "$T/judge.py" ||
		fail "the journal is not what it was told"
	assert_eq 0 "$(tail -c +$((LOAD_AT + 1)) "$T/out.raw" | tr -d "$1" | wc -c)" "foreign bytes"
	# what the load left is what it is from here on
	tail -c +$((JOURNAL_AT + 1)) "$T/out.raw" | write_at "$T/model.raw" $JOURNAL_AT
}

torture() { # octal bytes that may be under the load, options of the creation...
	local round allowed=$1 code

	shift
	serve --image "$IMAGE" --create "$@"
	for round in $(seq 0 $((ROUNDS - 1))); do
		write_flushed "$round"
		kill_under_load "$round"
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
ROUNDS=3
torture '\000\253' --size $SIZE --compress zstd
