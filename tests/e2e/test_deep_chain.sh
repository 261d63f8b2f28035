#!/usr/bin/env bash
# A chain of a thousand images, more files than the usual soft limit of a process: every program that
# opens chains raises it as far as it may, and says which limit it is when that is not enough.
. "$(dirname "$0")/lib.sh"

LINKS=1000
cd "$T"
[ "$(ulimit -Hn)" -ge 4096 ] || skip "the hard limit of open files is $(ulimit -Hn)"
ulimit -Sn 1024

step "make $LINKS images"
head -c 100000 /dev/urandom >data
truncate -s 1M data
qemu-img convert -O qcow2 -o cluster_size=4k data l0000
qemu-img create -q -f qcow2 -u -b l0000 -F qcow2 -o cluster_size=4k template 1M
for ((i = 1; i < LINKS; i++)); do
	printf -v name 'l%04d' $i
	printf -v parent 'l%04d' $((i - 1))
	sed "s/l0000/$parent/" template >"$name"
done
top=$name

step "read it"
"$BIN/sendense-ctl" --json image info "$top" >info
assert_eq "$LINKS" "$(jq '.chain | length' info)" "links"
"$BIN/sendense-ctl" image map "$top" >/dev/null
"$BIN/sendense-ctl" image convert "$top" flat.qcow2
qemu-img compare -q -f raw -F qcow2 data flat.qcow2
spawn nbd "$BIN/sendense-nbd" --socket "$T/s" --image "$T/$top" --read-only
await_ready nbd "$SPAWNED"
nbdcopy "nbd+unix:///?socket=$T/s" served.raw
end TERM "$SPAWNED"
cmp data served.raw

step "write on top of it"
spawn nbd "$BIN/sendense-nbd" --socket "$T/s" --image "$T/$top"
await_ready nbd "$SPAWNED"
qemu-io -f raw -c "write -P 9 900k 10k" "nbd+unix:///?socket=$T/s" >/dev/null
end TERM "$SPAWNED"
assert_eq 0 "$ENDED" "status"
"$BIN/sendense-ctl" image convert "$top" flat.raw --format raw
printf '\x09%.0s' {1..10240} | write_at data $((900 * 1024))
cmp data flat.raw

step "the hub raises its limit"
spawn hub "$BIN/sendense-hub" --data-dir "$T/hub" --http 127.0.0.1:0 --agent-listen off --nbd "unix:$T/hub.sock" \
	--agent-url http://127.0.0.1:9
await_ready hub "$SPAWNED"
read -r soft hard < <(awk '/^Max open files/ {print $4, $5}' "/proc/$SPAWNED/limits")
assert_eq "$hard" "$soft" "the hub's limit"
end TERM "$SPAWNED"

step "not enough"
code=0
(ulimit -n 200 && exec "$BIN/sendense-ctl" image info "$top") >/dev/null 2>why || code=$?
assert_eq 1 "$code" "exit status"
assert_contains "$(cat why)" "may have 200 files open" "the complaint"
code=0
(ulimit -n 200 && exec "$BIN/sendense-nbd" --socket "$T/s" --image "$T/$top") >/dev/null 2>why || code=$?
assert_eq 1 "$code" "exit status"
assert_contains "$(cat why)" "may have 200 files open" "the complaint"
