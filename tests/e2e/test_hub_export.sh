#!/usr/bin/env bash
# A backup's export takes any NBD client: nbdinfo, nbdcopy, qemu-img, qemu-io and fio work on it, on
# TCP and on the unix socket at once, and what they wrote is the point once it is completed by hand.
. "$(dirname "$0")/lib.sh"

SIZE=$(((64 << 20) + 1536))
make_disk "$T/a.raw" $SIZE
slow_source slow "$T/a.raw"
add_to_inventory vm1 "$SOURCE"
start_hub_and_agent
ctl repo add local --path "$T/repo"
ctl vm add vm1

# The agent of this VM does not get anywhere: what arrives is what the clients below send.
set_rate slow 1
ctl --json backup start --vm vm1 --type full --no-wait >"$T/started"
ID=$(jq -r .backup_id "$T/started")
EXPORT=$(jq -r '.disk_results[0].nbd_export_name' "$T/started")
TCP=nbd://$HUB_NBD/$EXPORT
UNIX="nbd+unix:///$EXPORT?socket=$T/hub.sock"

step "nbdinfo"
assert_eq $SIZE "$(nbdinfo --size "$TCP")" "size over TCP"
assert_eq $SIZE "$(nbdinfo --size "$UNIX")" "size over the unix socket"
[[ $EXPORT =~ ^backup-.*disk0$ ]] || fail "export name $EXPORT"
assert_contains "$(nbdinfo "$TCP")" "can_multi_conn: true" "nbdinfo"

step "fio, verified"
fio --name=verify --ioengine=nbd --uri="$UNIX" --rw=randwrite --bsrange=512-256k --size=32m \
	--iodepth=16 --randrepeat=0 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output="$T/fio.log" ||
	{ cat "$T/fio.log" && fail "fio"; }

step "qemu-img and nbdcopy write, both read back"
qemu-img convert -n -f raw -O raw "$T/a.raw" "$TCP"
qemu-img compare -q -f raw -F raw "$T/a.raw" "$UNIX"
put_random "$T/a.raw" $((5 << 20)) $((3 << 20))
nbdcopy --connections=4 "$T/a.raw" "$UNIX"
nbdcopy "$TCP" "$T/out.raw"
cmp "$T/a.raw" "$T/out.raw"
put_zeroes "$T/a.raw" $((1 << 20)) $((1 << 20))
qemu-io -f raw -c "write -z 1M 1M" "$TCP" >/dev/null

step "completed by hand, the point is what was written"
agent_api POST "/api/v1/backups/$ID/complete" '{"change_id":"52 66 8c/1","disk_id":0,"bytes_transferred":0}'
assert_eq 200 "$STATUS" "status of complete: $(cat "$T/reply")"
show_job "$ID"
assert_eq completed "$(job .status)" "status of the backup"
assert_point "$(point 0)" "$T/a.raw"
! nbdinfo --size "$TCP" >/dev/null 2>&1 || fail "the export is still there"
