#!/usr/bin/env bash
# What clients learn about an export before they use it: nbdinfo in all its modes and nbd-client's
# handshake, on a writable image and on a read-only chain, over a unix socket and over TCP.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/nbd.sh"

SIZE=$((32 << 20))
make_chain $SIZE

told() { # uri, jq expression on the export
	nbdinfo --json "$1" | jq -r ".exports[0] | $2"
}

assert_can() { # uri, capability...
	local c

	for c in "${@:2}"; do
		nbdinfo --can "$c" "$1" || fail "nbdinfo --can $c $1"
	done
}

step "a writable image over a unix socket"
serve new --image "$T/new.qcow2" --create --size $((SIZE + 1536)) --cluster-size 128K
assert_eq $((SIZE + 1536)) "$(nbdinfo --size "$URI")" "--size"
assert_can "$URI" connect read write flush fua trim zero fast-zero df multi-conn cache
! nbdinfo --is read-only "$URI" || fail "a writable export is announced read-only"
! nbdinfo --is rotational "$URI" || fail "--is rotational"
! nbdinfo --is tls "$URI" || fail "--is tls"
assert_eq newstyle-fixed "$(nbdinfo --json "$URI" | jq -r .protocol)" "protocol"
assert_eq true "$(nbdinfo --json "$URI" | jq -r .structured)" "structured replies"
assert_eq disk0 "$(told "$URI" '."export-name"')" "name"
assert_eq "1 131072 33554432" "$(told "$URI" \
	'"\(.block_size_minimum) \(.block_size_preferred) \(.block_size_maximum)"')" "block sizes"
assert_contains "$(told "$URI" '.contexts | join(" ")')" base:allocation "metadata contexts"
assert_contains "$(nbdinfo "$URI")" "can_multi_conn: true" "in words"

step "its map grows with what is written"
assert_eq "0 $((SIZE + 1536)) zero" "$(nbdinfo --map --json "$URI" | zero_runs)" "map of an empty disk"
qemu-io -f raw -c "write -P 5 1M 256K" -c "write -P 6 $SIZE 1536" "$URI" >/dev/null
assert_eq "0 1048576 zero
1048576 262144 data
1310720 $((SIZE - 1310720)) zero
$SIZE 1536 data" "$(nbdinfo --map --json "$URI" | zero_runs)" "map of a disk with two writes"
assert_eq "$((262144 + 1536))" "$(nbdinfo --map --totals --json "$URI" |
	jq '.[] | select(.type == 0).size')" "bytes of data in all"

step "what there is, and what there is not"
assert_eq disk0 "$(nbdinfo --list --json "nbd+unix:///?socket=$T/new.sock" |
	jq -r '.exports[]."export-name"')" "--list"
! nbdinfo --size "nbd+unix:///disk1?socket=$T/new.sock" 2>"$T/log" || fail "disk1 was found"
assert_contains "$(cat "$T/log")" "no export named 'disk1'" "what nbdinfo says"

step "nbd-client, as far as it goes without the kernel"
# With a file where the device should be it negotiates, and then stops at the first ioctl.
client() { # options...
	: >"$T/device"
	nbd-client "$@" -nonetlink "$T/device" >"$T/client.log" 2>&1 || true
}
assert_contains "$(nbd-client -l -unix "$T/new.sock" 2>&1)" disk0 "nbd-client -l"
client -unix "$T/new.sock" -N disk0
assert_contains "$(cat "$T/client.log")" "size = 32MB" "NBD_OPT_GO by nbd-client"
client -unix "$T/new.sock" -N disk0 -g
assert_contains "$(cat "$T/client.log")" "size = 32MB" "NBD_OPT_EXPORT_NAME by nbd-client"
client -unix "$T/new.sock" -N disk1
assert_contains "$(cat "$T/client.log")" "no export of this name" "a wrong name by nbd-client"
finish
qemu-img check -q "$T/new.qcow2" || fail "qemu-img check"

step "a read-only chain over TCP"
qemu-img map --output=json -f qcow2 "$T/chain.qcow2" | zero_runs >"$T/wanted"
[ "$(wc -l <"$T/wanted")" -gt 5 ] || fail "the chain is too simple to tell anything"
serve ro --listen 127.0.0.1:0 --image "$T/chain.qcow2" --read-only
nbdinfo --is read-only "$URI" || fail "a read-only export is announced writable"
! nbdinfo --can write "$URI" || fail "--can write of a read-only export"
assert_can "$URI" connect read df multi-conn
assert_eq "$SIZE" "$(nbdinfo --size "$URI")" "--size"
nbdinfo --map --json "$URI" | zero_runs >"$T/map"
diff "$T/wanted" "$T/map" || fail "nbdinfo --map is not what qemu-img map says of the file"
port=${URI#nbd://127.0.0.1:}
assert_contains "$(nbd-client -l 127.0.0.1 "${port%%/*}" 2>&1)" disk0 "nbd-client -l over TCP"
client -N disk0 127.0.0.1 "${port%%/*}"
assert_contains "$(cat "$T/client.log")" "size = 32MB" "NBD_OPT_GO by nbd-client over TCP"
finish
