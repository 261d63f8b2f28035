#!/usr/bin/env bash
# sendense-ctl image: info, map, check, verify and convert on images that are healthy, dirty, leaking,
# damaged, missing, or whose chain leaves the repository; for people and as JSON, with every exit
# status. No hub is there.
. "$(dirname "$0")/lib.sh"

SIZE=$(((24 << 20) + 512))
CLUSTER=65536
cd "$T"

# Runs "sendense-ctl image ..." both ways; its exit status must be the one wanted. What it printed is
# in $T/text and $T/json, what it complained about in $T/why.
image() { # wanted status, verb, arguments...
	local code=0

	"$BIN/sendense-ctl" image "${@:2}" >"$T/text" 2>"$T/why" || code=$?
	assert_eq "$1" "$code" "exit status of image ${*:2} ($(head -n 1 "$T/why"))"
	[ "$1" = 0 ] || [ -s "$T/why" ] || fail "image ${*:2} fails without a reason"
	# the second run of what has changed something is not the same question
	case "$1 $2 $*" in "0 convert "*) return ;; 0*--repair*) return ;; esac
	code=0
	"$BIN/sendense-ctl" --json image "${@:2}" >"$T/json" 2>"$T/why" || code=$?
	assert_eq "$1" "$code" "exit status of --json image ${*:2}"
	[ ! -s "$T/json" ] || jq -e . "$T/json" >/dev/null || fail "image ${*:2} prints no JSON"
	[ "$1" = 0 ] || assert_eq "$1 true" "$(jq -r '"\(.exit_status) \(.error | length > 0)"' "$T/why")" \
		"the error of --json image ${*:2}"
}

answer() { # jq expression on the last answer
	jq -r "$1" "$T/json"
}

why() { # part of the last complaint
	assert_contains "$(cat "$T/why")" "$1" "the complaint"
}

serve() { # options...
	rm -f "$T/s"
	spawn nbd "$BIN/sendense-nbd" --socket "$T/s" "$@"
	NBD_PID=$SPAWNED
	await_ready nbd "$NBD_PID"
}

be64_at() { # file, offset
	od -An -tx1 -j"$2" -N8 "$1" | tr -d ' \n'
}

poke() { # file, offset, bytes as \xNN
	printf "$3" | dd of="$1" oflag=seek_bytes seek="$2" conv=notrunc bs=1M status=none
}

# L1 of an image of ours begins in cluster 3; the first table's first entry is where it points.
l2_of() { # file
	echo $((16#$(be64_at "$1" $((3 * CLUSTER)) | tail -c 14)))
}

make_disk disk.raw $SIZE
mkdir repo repo/vm elsewhere
serve --image "$T/repo/vm/full.qcow2" --create --size $SIZE
nbdcopy disk.raw "nbd+unix:///?socket=$T/s"
end TERM "$NBD_PID"
FULL=repo/vm/full.qcow2
keep_copy disk.raw changed.raw
put_random changed.raw $((5 << 20)) 300000
serve --image "$T/repo/vm/incr.qcow2" --create --backing full.qcow2
nbdcopy changed.raw "nbd+unix:///?socket=$T/s"
end TERM "$NBD_PID"
INCR=repo/vm/incr.qcow2

step "healthy"
image 0 info $INCR
assert_eq "incr.qcow2 full.qcow2" "$(answer '[.chain[].path] | join(" ")')" "the chain"
assert_eq "$SIZE $CLUSTER 3 false" \
	"$(answer '.chain[0] | "\(.virtual_size) \(.cluster_size) \(.version) \(.dirty)"')" "info"
assert_contains "$(cat text)" full.qcow2 "info as a table"
image 0 map $INCR
assert_eq $SIZE "$(answer 'map(.length) | add')" "bytes mapped"
assert_eq "$(qemu-img map --output=json $INCR | jq '[.[] | select(.data) | .length] | add')" \
	"$(answer '[.[] | select(.kind == "data") | .length] | add')" "bytes of data"
image 0 check $INCR
assert_eq "0 0 false" "$(answer '"\(.corruptions) \(.leaks) \(.dirty)"')" "check"
image 0 check --repair $INCR
image 0 verify $INCR
assert_eq 0 "$(answer .differing_clusters)" "clusters that differ"
image 0 convert $INCR flat.qcow2
assert_point flat.qcow2 changed.raw
image 0 verify flat.qcow2
image 0 convert $INCR flat.raw --format raw
cmp flat.raw changed.raw
image 0 convert $INCR small.qcow2 --cluster-size 4096 --no-sums
image 0 convert $INCR packed.qcow2 --compress zstd:3
assert_contains "$(qemu-img info packed.qcow2)" "compression type: zstd" "a compressed copy"
qemu-img check -q packed.qcow2 && qemu-img compare -q $INCR packed.qcow2 || fail "a compressed copy differs"
image 2 convert $INCR x.qcow2 --compress lz4
image 2 convert $INCR x.raw --format raw --compress zstd
assert_eq 4096 "$(qemu-img info --output=json small.qcow2 | jq '."cluster-size"')" "cluster size"
"$BIN/sendense-ctl" --json image convert $INCR once.qcow2 >json || fail "convert --json"

step "a source of odd size comes back as long as it was"
head -c 100001 /dev/urandom >odd.raw
spawn odd "$BIN/sendense-nbd" --socket "$T/odd.sock" --image odd.qcow2 --create --size 100001
await_ready odd "$SPAWNED"
nbdcopy odd.raw "nbd+unix:///?socket=$T/odd.sock"
end TERM "$SPAWNED"
assert_eq 0 "$ENDED" "exit status of the server of the odd disk"
image 0 convert odd.qcow2 odd.out.raw --format raw
cmp odd.raw odd.out.raw

step "an existing output is kept"
image 5 convert $INCR flat.raw --format raw
cmp flat.raw changed.raw
image 5 convert $INCR flat.qcow2

step "usage"
for verb in info map check verify convert; do image 2 $verb; done
image 2 info $INCR $FULL
image 2 check --no-such-option $INCR
image 2 convert $INCR x.vmdk --format vmdk
image 2 convert $INCR x.qcow2 --cluster-size many
image 2 convert $INCR x.qcow2 --cluster-size 12345
image 2 convert $INCR x.qcow2 --cluster-size 512
image 2 convert $INCR x.raw --format raw --cluster-size 65536
image 2 convert $INCR
image 2 melt $INCR
[ ! -e x.qcow2 ] && [ ! -e x.vmdk ] || fail "a refused conversion left a file"

step "missing"
for verb in info map check verify; do
	image 4 $verb nowhere.qcow2
	why nowhere.qcow2
done
image 4 convert nowhere.qcow2 x.raw
image 4 convert $INCR nowhere/x.raw
image 4 info --repository nowhere $INCR
image 4 verify small.qcow2
why sums

step "no image at all"
mkfifo fifo
mkdir folder
: >empty
for name in disk.raw fifo folder empty; do
	for verb in info map check; do
		image 8 $verb $name
		why "$name"
	done
	image 8 convert $name x.raw
done

step "a chain that is broken, or leaves the repository"
image 0 info --repository repo $INCR
image 0 verify --repository repo $INCR
image 9 info --repository elsewhere $INCR
why "not inside"
qemu-img create -q -f qcow2 -u -b ../repo/vm/full.qcow2 -F qcow2 elsewhere/out.qcow2 $SIZE
qemu-img create -q -f qcow2 -u -b gone.qcow2 -F qcow2 elsewhere/orphan.qcow2 $SIZE
qemu-img create -q -f qcow2 -u -b "$T/$FULL" -F qcow2 elsewhere/absolute.qcow2 $SIZE
qemu-img create -q -f qcow2 -u -b nbd://127.0.0.1/x -F qcow2 elsewhere/remote.qcow2 $SIZE
qemu-img create -q -f qcow2 -u -b 'json:{"file.filename":"x"}' -F qcow2 elsewhere/json.qcow2 $SIZE
qemu-img create -q -f qcow2 -u -b back.qcow2 -F qcow2 elsewhere/forth.qcow2 $SIZE
qemu-img create -q -f qcow2 -u -b forth.qcow2 -F qcow2 elsewhere/back.qcow2 $SIZE
qemu-img create -q -f qcow2 -u -b link.qcow2 -F qcow2 elsewhere/linked.qcow2 $SIZE
ln -s "$T/$FULL" elsewhere/link.qcow2
cp repo/vm/incr.sums elsewhere/out.sums
for name in out orphan absolute remote json forth linked; do
	for verb in info map; do image 9 $verb elsewhere/$name.qcow2; done
	cp repo/vm/incr.sums elsewhere/$name.sums
	image 9 verify elsewhere/$name.qcow2
	image 9 convert elsewhere/$name.qcow2 x.raw
	image 9 convert elsewhere/$name.qcow2 x.qcow2
	image 0 check elsewhere/$name.qcow2 # of the file alone
done
image 0 map --repository "$T" elsewhere/out.qcow2
[ ! -e x.raw ] && [ ! -e x.qcow2 ] || fail "a refused conversion left a file"
ln -s out.qcow2 elsewhere/inside.qcow2 # a link that stays inside may be followed
image 0 map --repository "$T" elsewhere/inside.qcow2

step "features that are refused, by name"
qemu-img create -q -f qcow2 -o data_file=data.bin,data_file_raw=on external.qcow2 1M
qemu-img create -q -f qcow2 --object secret,id=s,data=x -o encrypt.format=aes,encrypt.key-secret=s \
	encrypted.qcow2 1M
qemu-img create -q -f qcow2 future.qcow2 1M
poke future.qcow2 72 '\x40\x00\x00\x00\x00\x00\x00\x00'
for verb in info map check; do
	image 8 $verb external.qcow2 && why "external data file"
	image 8 $verb encrypted.qcow2 && why "encrypted"
	image 8 $verb future.qcow2 && why "0x4000000000000000"
done
qemu-img create -q -f qcow2 -u -b disk.raw -F raw over-raw.qcow2 $SIZE
image 8 info over-raw.qcow2
why "format raw"

step "names that are no text"
odd=$'odd\xff\n\x1b[31m.qcow2'
cp $FULL "$odd"
qemu-img create -q -f qcow2 -u -b "$odd" -F qcow2 child.qcow2 $SIZE
image 0 info child.qcow2
assert_eq "2 true" "$(answer '"\(.chain | length) \(.chain[0].backing | startswith("odd?"))"')" "odd names"
! grep -q $'\x1b' text || fail "info hands a terminal what a file says"
rm "$odd" child.qcow2

step "in use"
serve --image "$T/busy.qcow2" --create --size $SIZE
image 5 check --repair busy.qcow2
end TERM "$NBD_PID"

step "dirty"
serve --image "$T/dirty.qcow2" --create --size $SIZE
qemu-io -f raw -c "write -P 5 1M 3M" -c flush "nbd+unix:///?socket=$T/s" >/dev/null
end KILL "$NBD_PID"
image 7 check dirty.qcow2
assert_eq true "$(answer .dirty)" "dirty"
image 0 info dirty.qcow2
assert_eq true "$(answer '.chain[0].dirty')" "dirty by info"
image 0 map dirty.qcow2
image 0 check --repair dirty.qcow2
image 0 check dirty.qcow2
qemu-img check -q dirty.qcow2
qemu-io -f qcow2 -c "read -P 5 1M 3M" dirty.qcow2 >/dev/null

step "leaking"
cp $FULL leak.qcow2
clusters=$(($(stat -c %s leak.qcow2) / CLUSTER))
truncate -s +$CLUSTER leak.qcow2
poke leak.qcow2 $((2 * CLUSTER + 2 * clusters)) '\x00\x01'
qemu-img check leak.qcow2 >/dev/null 2>&1 && fail "the leak is none"
image 7 check leak.qcow2
assert_eq 1 "$(answer .leaks)" "leaks"
image 0 check --repair leak.qcow2
assert_contains "$(cat text)" "1 of 1 repaired" "what the repair says"
image 0 check leak.qcow2
assert_point leak.qcow2 disk.raw

step "damaged: an entry points behind the end of the file"
cp $FULL bad.qcow2
cp repo/vm/full.sums bad.sums
poke bad.qcow2 "$(l2_of bad.qcow2)" '\x80\x00\x7f\x00\x00\x00\x00\x00'
image 6 check bad.qcow2
assert_eq 1 "$(answer .corruptions)" "corruptions"
image 0 map bad.qcow2
image 6 verify bad.qcow2
assert_eq "1 0 $CLUSTER" \
	"$(answer '"\(.differing_clusters) \(.ranges[0].start) \(.ranges[0].length)"')" "what differs"
cp bad.qcow2 same.qcow2
image 6 check --repair bad.qcow2
cmp bad.qcow2 same.qcow2 || fail "a repair changed a damaged image"
image 6 convert bad.qcow2 x.raw --format raw
image 6 convert bad.qcow2 x.qcow2
[ ! -e x.raw ] && [ ! -e x.qcow2 ] || fail "a failed conversion left a file"

step "damaged: the header points to nowhere"
cp $FULL lost.qcow2
poke lost.qcow2 40 '\x00\x7f\x00\x00\x00\x00\x00\x00'
cp repo/vm/full.sums lost.sums
for verb in info map check verify "check --repair"; do
	image 6 $verb lost.qcow2
	why "L1 table"
done
image 6 convert lost.qcow2 x.raw

step "internal snapshots"
qemu-img convert -O qcow2 disk.raw snapshots.qcow2
qemu-img snapshot -c one snapshots.qcow2
qemu-io -c "write -P 9 1M 1M" snapshots.qcow2 >/dev/null
image 0 check snapshots.qcow2
assert_eq "1 0 0" "$(answer '"\(.snapshots) \(.leaks) \(.refcount_errors)"')" "check with a snapshot"
assert_contains "$(cat text)" "1 internal snapshots" "what the check says"
poke snapshots.qcow2 $((2 * CLUSTER + 20)) '\x00\x07'
image 7 check snapshots.qcow2
image 0 check --repair snapshots.qcow2
qemu-img check -q snapshots.qcow2
qemu-img convert -O raw -l snapshot.name=one snapshots.qcow2 one.raw
cmp one.raw disk.raw

step "no space, no permission"
if mountpoint -q /dev/shm && [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
	code=0
	unshare -m sh -c 'mkdir "$1/small" && mount -t tmpfs -o size=4m none "$1/small" &&
		exec "$2/sendense-ctl" --json image convert "$3" "$1/small/x.raw" --format raw' \
		sh "$T" "$BIN" "$INCR" 2>why || code=$?
	assert_eq "1 1" "$code $(jq .exit_status why)" "a full file system"
	why "No space left"
fi

step "damaged: bytes of one cluster have rotted, in the parent"
cp $FULL repo/vm/full.kept
off=$((16#$(be64_at $FULL $(($(l2_of $FULL) + 8)) | tail -c 14)))
poke $FULL $((off + 1000)) 'rot'
for point in $FULL $INCR; do
	image 0 check $point
	image 6 verify $point
	assert_eq "1 $CLUSTER $CLUSTER" \
		"$(answer '"\(.differing_clusters) \(.ranges[0].start) \(.ranges[0].length)"')" "$point"
done
mv repo/vm/full.kept $FULL
image 0 verify $INCR

step "damaged: the checksum file"
cp $FULL sums.qcow2
cp repo/vm/full.sums sums.sums
poke sums.sums 4100 'rot'
image 8 verify sums.qcow2
head -c 100 repo/vm/full.sums >sums.sums
image 8 verify sums.qcow2

step "the help names every status"
for status in 0 1 2 4 5 6 7 8 9; do
	"$BIN/sendense-ctl" image check --help | grep -q "^  $status  " || fail "help says nothing of status $status"
done
