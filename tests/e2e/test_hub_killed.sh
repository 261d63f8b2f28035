#!/usr/bin/env bash
# The hub is killed (SIGKILL) mid-copy and started again: the backup has failed with the reason, its
# partial image is in the quarantine, earlier points are whole, and the next backup works.
. "$(dirname "$0")/lib.sh"

make_disk "$T/a.raw" $((96 << 20))
make_disk "$T/b.raw" $((32 << 20))
slow_source slow "$T/b.raw"
add_to_inventory vm1 "$T/a.raw" "$SOURCE"
start_hub_and_agent
ctl repo add local --path "$T/repo"
ctl vm add vm1
backup vm1 full
FULL_A=$(point 0) FULL_B=$(point 1)
keep_copy "$T/a.raw" "$T/a.0"
keep_copy "$T/b.raw" "$T/b.0"

step "killed while the second disk is copied"
change_disk "$T/a.raw" 5
change_disk "$T/b.raw" 50
set_rate slow 8M
ctl --json backup start --vm vm1 --type incremental --no-wait >"$T/started"
ID=$(jq -r .backup_id "$T/started")
second_disk_moves() {
	show_job "$ID" && [ "$(job '.disks[] | select(.disk_index == 1) | .bytes_received')" -gt 0 ]
}
wait_until 60 "the second disk moves" second_disk_moves
end KILL "$HUB_PID"
[ -n "$(find "$T/repo" -name '*.part')" ] || fail "no partial image was being written"

step "started again, the backup has failed and its partial is set aside"
start_hub
show_job "$ID"
assert_eq failed "$(job .status)" "status of the backup after the restart"
assert_contains "$(job .error_message)" "restart" "reason of the failure"
assert_eq "" "$(find "$T/repo" -name '*.part' -not -path '*/quarantine/*')" "partial images outside the quarantine"
[ -n "$(find "$T/repo" -path '*/quarantine/*' -type f)" ] || fail "the quarantine is empty"
assert_point "$FULL_A" "$T/a.0"
assert_point "$FULL_B" "$T/b.0"

step "the next backup works"
set_rate slow 100G
agent_is_free() {
	ctl --json backup start --vm vm1 --type incremental >"$T/job.json" 2>"$T/stderr"
}
wait_until 120 "the agent had given up the lost backup" agent_is_free
assert_eq completed "$(job .status)" "status of the next backup"
assert_point "$(point 0)" "$T/a.raw"
assert_point "$(point 1)" "$T/b.raw"
assert_point "$FULL_B" "$T/b.0"

step "SIGTERM while a backup runs stops in order"
set_rate slow 8M
ctl --json backup start --vm vm1 --type full --no-wait >"$T/started"
ID=$(jq -r .backup_id "$T/started")
wait_until 60 "the backup moves" job_moves "$ID"
end TERM "$HUB_PID"
assert_eq 0 "$ENDED" "exit status of the hub after SIGTERM"
start_hub
show_job "$ID"
assert_eq failed "$(job .status)" "backup that was running"
assert_contains "$(job .error_message)" "hub was stopped" "reason of the failure"
assert_eq "" "$(find "$T/repo" -name '*.part' -not -path '*/quarantine/*')" "partial images outside the quarantine"
assert_point "$FULL_B" "$T/b.0"

step "two signals stop at once, and the next start cleans up"
set_rate slow 100G
wait_until 120 "the agent had given up the lost backup" agent_is_free
set_rate slow 8M
ctl --json backup start --vm vm1 --type full --no-wait >"$T/started"
ID=$(jq -r .backup_id "$T/started")
wait_until 60 "the backup moves" job_moves "$ID"
kill -STOP "$HUB_PID" # so that both are there when it goes on
kill -TERM "$HUB_PID"
kill -INT "$HUB_PID"
end CONT "$HUB_PID"
assert_eq 3 "$ENDED" "exit status of the hub after two signals"
[ -n "$(find "$T/repo" -name '*.part' -not -path '*/quarantine/*')" ] || fail "it took its time"
start_hub
show_job "$ID"
assert_eq failed "$(job .status)" "backup that was running"
assert_contains "$(job .error_message)" "restart" "reason of the failure"
assert_eq "" "$(find "$T/repo" -name '*.part' -not -path '*/quarantine/*')" "partial images outside the quarantine"
assert_point "$FULL_B" "$T/b.0"
