#!/usr/bin/env bash
# A second start for a VM that is being backed up is refused with 409 and the running id; another VM
# may start meanwhile, and the first goes on undisturbed, also when whoever waited is interrupted.
. "$(dirname "$0")/lib.sh"

make_disk "$T/a.raw" $((64 << 20))
make_disk "$T/b.raw" $((16 << 20))
slow_source slow "$T/a.raw"
add_to_inventory busy "$SOURCE"
add_to_inventory idle "$T/b.raw"
start_hub_and_agent
ctl repo add local --path "$T/repo"
ctl vm add --all
REPO=$(ctl --json repo list | jq -r '.repositories[0].id')

set_rate slow 4M
ctl --json backup start --vm busy --type full --no-wait >"$T/started"
ID=$(jq -r .backup_id "$T/started")
wait_until 60 "the backup moves" job_moves "$ID"

step "a second start is refused"
api POST /api/v1/backups "{\"vm_name\":\"busy\",\"backup_type\":\"full\",\"repository_id\":\"$REPO\"}"
assert_eq 409 "$STATUS" "status of the second start"
assert_contains "$(cat "$T/reply")" "$ID" "answer to the second start"
code=0
ctl backup start --vm busy --type incremental 2>"$T/stderr" || code=$?
assert_eq 5 "$code" "exit status of sendense-ctl"

step "another VM is free to start"
backup idle full
assert_point "$(point 0)" "$T/b.raw"
show_job "$ID"
assert_eq running "$(job .status)" "status of the first backup"

step "who stops waiting does not stop the backup"
spawn waiting "$BIN/sendense-ctl" --hub "$HUB_URL" --token-file "$T/hub/admin-token" backup wait "$ID"
wait_until 60 "it tells progress" grep -q running "$T/waiting.err"
end INT "$SPAWNED"
assert_eq 130 "$ENDED" "exit status of an interrupted wait"
assert_contains "$(tail -n 1 "$T/waiting.err")" "backup wait $ID" "what it says"
show_job "$ID"
assert_eq running "$(job .status)" "status of the backup nobody waits for"

step "the first completes"
set_rate slow 100G
ctl --json backup wait "$ID" >"$T/job.json"
assert_point "$(point 0)" "$T/a.raw"
api GET /api/v1/backups
assert_eq 2 "$(jq '.backups | length' "$T/reply")" "backups there are"
