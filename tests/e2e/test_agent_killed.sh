#!/usr/bin/env bash
# The agent is killed mid-copy: the backup fails with the reason within the configured time, the
# previous point is untouched, and the next incremental works.
. "$(dirname "$0")/lib.sh"

GRACE_S=3
make_disk "$T/a.raw" $((96 << 20))
make_disk "$T/b.raw" $((32 << 20))
slow_source slow "$T/b.raw"
add_to_inventory vm1 "$T/a.raw" "$SOURCE"
hub_config disconnect_grace_s=$GRACE_S silence_timeout_s=300
start_hub_and_agent
ctl repo add local --path "$T/repo"
ctl vm add vm1
backup vm1 full
FULL_A=$(point 0) FULL_B=$(point 1)
keep_copy "$T/a.raw" "$T/a.0"
keep_copy "$T/b.raw" "$T/b.0"

step "killed while it copies the second disk"
change_disk "$T/a.raw" 5
change_disk "$T/b.raw" 50
set_rate slow 4M
ctl --json backup start --vm vm1 --type incremental --no-wait >"$T/started"
ID=$(jq -r .backup_id "$T/started")
second_disk_moves() {
	show_job "$ID" && [ "$(job '.disks[] | select(.disk_index == 1) | .bytes_received')" -gt 0 ]
}
wait_until 60 "the second disk moves" second_disk_moves
end KILL "$AGENT_PID"
KILLED=$SECONDS
wait_until 60 "the backup failed" job_is "$ID" failed
echo "failed after $((SECONDS - KILLED)) s: $(job .error_message)"
assert_ne "" "$(job .error_message)" "reason of the failure"
assert_ne null "$(job .error_message)" "reason of the failure"
assert_eq failed "$(job '.disks[] | select(.disk_index == 1) | .status')" "status of the second disk"

step "the previous point is what it was"
assert_point "$FULL_A" "$T/a.0"
assert_point "$FULL_B" "$T/b.0"
assert_eq 1 "$(ctl --json backup chain --vm vm1 --disk 1 | jq '.chains[0].backup_count')" "points of disk 1"
assert_eq "" "$(find "$T/repo" -name '*.part' -not -path '*/quarantine/*')" "partial files among the points"

step "the next incremental works, on both disks as incremental"
set_rate slow 100G
start_agent
backup vm1 incremental
assert_eq "incremental incremental" "$(job '[.disks[].mode] | join(" ")')" "modes"
assert_point "$(point 0)" "$T/a.raw"
assert_point "$(point 1)" "$T/b.raw"
assert_point "$FULL_A" "$T/a.0"
