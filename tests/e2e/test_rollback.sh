#!/usr/bin/env bash
# Back to an older program's schema and up again, as docs/admin-guide.md says, on both databases:
# what was backed up stays, and an incremental goes on from it.
. "$(dirname "$0")/lib.sh"

make_disk "$T/disk.raw" $((8 << 20))
add_to_inventory blue "$T/disk.raw"

schema_now() {
	sed -n 's/.*, catalog schema \([0-9]*\)$/\1/p' <("$BIN/sendense-hub" --version)
}

# The hub with the same data and database, to do one thing; what it said in $T/said.
hub_once() { # wanted exit status, options...
	local wanted=$1 got=0

	shift
	"$BIN/sendense-hub" --data-dir "$T/hub" ${DB_URL:+--db "$DB_URL"} "$@" >"$T/said" 2>&1 || got=$?
	assert_eq "$wanted" "$got" "exit status of: $* ($(cat "$T/said"))"
}

copies() {
	find "$T/hub" -name '*.schema-*' | wc -l
}

there_and_back() {
	local latest id

	latest=$(schema_now)
	start_hub_and_agent
	ctl repo add daily --path "$T/repo"
	ctl vm add blue
	backup blue full
	id=$(job .backup_id)
	keep_copy "$T/disk.raw" "$T/full.raw"

	step "a hub that runs is in the way"
	hub_once 1 --migrate-down-to $((latest - 1))
	assert_contains "$(cat "$T/said")" "another hub runs" "said"
	api GET /ready
	assert_eq 200 "$STATUS" "ready"

	step "a hub that was killed is in the way for as long as its lease"
	end KILL "$HUB_PID"
	hub_once 1 --migrate-down-to $((latest - 1))
	assert_contains "$(cat "$T/said")" "uses this catalog: stop it first" "said"
	start_hub
	end TERM "$HUB_PID"
	assert_eq 0 "$ENDED" "the hub's end"

	step "down, with the losses named and a copy put aside"
	assert_eq 0 "$(copies)" "copies before"
	hub_once 2 --migrate-down-to some
	hub_once 1 --migrate-down-to "$latest"
	assert_contains "$(cat "$T/said")" "nothing to undo" "said"
	hub_once 0 --migrate-down-to 5
	assert_contains "$(cat "$T/said")" "006_access: table users with 1 rows" "said"
	assert_contains "$(cat "$T/said")" "the catalog has schema 5 now" "said"
	assert_contains "$(cat "$T/said")" "$(find "$T/hub" -name '*.schema-*')" "said"
	assert_eq 1 "$(copies)" "copies"
	hub_once 1 --migrate-down-to 5

	step "up again: the points are there, and the next one leans on them"
	rm "$T/hub/audit-anchor"
	start_hub
	assert_eq "$id" "$(ctl --json backup list --vm blue | jq -r '.backups[0].backup_id')" "backup"
	change_disk "$T/disk.raw" 10
	backup blue incremental
	assert_eq "$id" "$(job .parent_backup_id)" "parent"
	assert_point "$(point 0)" "$T/disk.raw"
	end TERM "$AGENT_PID"
	end TERM "$HUB_PID"
	HUB_PID=""
}

there_and_back
rm -rf "$T/hub" "$T/repo" "$T/agent"
unset HUB_HTTP HUB_AGENTS HUB_NBD
E2E_DB=mariadb
there_and_back
