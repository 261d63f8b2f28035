#!/usr/bin/env bash
# The catalog's MariaDB server is killed (SIGKILL) mid-copy and comes back: the backup completes, and
# nothing of before is lost. While it is away the hub says so. No password in any log or process list.
E2E_DB=mariadb
. "$(dirname "$0")/lib.sh"

make_disk "$T/a.raw" $((64 << 20))
slow_source slow "$T/a.raw"
add_to_inventory vm1 "$SOURCE"
start_hub_and_agent
ctl repo add local --path "$T/repo"
ctl vm add vm1
backup vm1 full
keep_copy "$T/a.raw" "$T/a.0"
FULL=$(point 0)

step "killed mid-copy, and away for a while"
change_disk "$T/a.raw" 50
set_rate slow 4M
ctl --json backup start --vm vm1 --type incremental --no-wait >"$T/started"
ID=$(jq -r .backup_id "$T/started")
wait_until 60 "the backup moves" job_moves "$ID"
end KILL "$DB_PID"
api GET /api/v1/backups
assert_eq 503 "$STATUS" "status of a list without a database"
assert_contains "$(jq -r .error "$T/reply")" "cannot connect to the catalog database" "error"

step "back again, the backup completes"
run_mariadb
set_rate slow 100G
wait_until 120 "the backup is completed" job_is "$ID" completed
assert_point "$(point 0)" "$T/a.raw"
assert_point "$FULL" "$T/a.0"
assert_eq 2 "$(ctl --json backup list --vm vm1 | jq '.backups | length')" "backups"

step "the password is nowhere to be read"
PASSWORD=$(cat "$T/db-password")
! grep -F "$PASSWORD" "$T"/*.out "$T"/*.err "$T/reply" || fail "a log holds the password"
! tr '\0' ' ' <"/proc/$HUB_PID/cmdline" | grep -F "$PASSWORD" || fail "the process list holds the password"
