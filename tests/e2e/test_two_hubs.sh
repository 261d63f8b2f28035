#!/usr/bin/env bash
# Two hubs on one MariaDB and one repository. Neither touches what the other is doing, nor when it
# starts anew. The jobs of one that is killed are ended by the other; one that is stopped for longer
# than its lease (SIGSTOP) finds them lost when it goes on, commits nothing, and is a hub again.
E2E_DB=mariadb
. "$(dirname "$0")/lib.sh"

LEASE_S=12 # a machine may rest for seconds, and a hub is to keep its lease

# The second hub, with an agent of its own, beside the first.
start_second() {
	local try

	mkdir -p "$T/second"
	for try in 1 2 3 4 5; do
		[ -n "${AGENT2_PORT:-}" ] || { free_port && AGENT2_PORT=$PORT; }
		[ -n "${HUB2_HTTP:-}" ] || { free_address && HUB2_HTTP=$ADDRESS && free_address && HUB2_AGENTS=$ADDRESS; }
		spawn hub2 "$BIN/sendense-hub" --data-dir "$T/hub2" --config "$T/hub.conf" --db "$DB_URL" \
			--name second --http "$HUB2_HTTP" --nbd 127.0.0.1:0 \
			--agent-listen "$HUB2_AGENTS" --agent-url "http://127.0.0.1:$AGENT2_PORT"
		HUB2_PID=$SPAWNED
		await_ready hub2 "$HUB2_PID"
		HUB2_HTTP=$(word_of http "$READY")
		HUB2_AGENTS=$(word_of agent "$READY")
		[ -z "${AGENT2_PID:-}" ] || return 0
		spawn agent2 "$BIN/sendense-agent" --listen "127.0.0.1:$AGENT2_PORT" \
			--hub-url "http://$HUB2_AGENTS" --inventory "$T/inventory.json" --state-dir "$T/agent2"
		AGENT2_PID=$SPAWNED
		wait_until 60 "the second agent was ready" has_line_or_ended agent2 "$AGENT2_PID"
		[ ! -s "$T/agent2.out" ] || return 0
		echo "try $try: port $AGENT2_PORT is taken"
		AGENT2_PORT='' AGENT2_PID=''
		end TERM "$HUB2_PID"
	done
	fail "the second agent does not start: $(tail -n 1 "$T/agent2.err")"
}

# A command with the other hub as its target.
at_second() {
	HUB_URL=http://$HUB2_HTTP HUB_AGENTS=$HUB2_AGENTS "$@"
}

partials() {
	find "$T/repo" -name '*.part' -not -path '*/quarantine/*'
}

sql() {
	mariadb --no-defaults -S "$T/db/sock" -u root -N hub -e "$1"
}

hub_config lease_s=$LEASE_S disconnect_grace_s=60
make_disk "$T/a.raw" $((64 << 20))
make_disk "$T/b.raw" $((8 << 20))
slow_source slow "$T/a.raw"
add_to_inventory vm1 "$SOURCE"
add_to_inventory vm2 "$T/b.raw"
start_hub_and_agent --name first
start_second
ctl repo add local --path "$T/repo"
ctl vm add vm1
ctl vm add vm2
backup vm1 full
FULL=$(point 0)
keep_copy "$T/a.raw" "$T/a.0"
assert_eq "first second" "$(sql 'SELECT name FROM hubs ORDER BY name' | xargs)" "hubs"

ctl --json hub list >"$T/stdout"
assert_eq "first live true,second live false" \
	"$(jq -r '[.hubs[] | "\(.name) \(.state) \(.this)"] | join(",")' "$T/stdout")" "hubs over the API"

step "a VM is backed up by one of them at a time"
change_disk "$T/a.raw" 50
set_rate slow 8M
ctl --json backup start --vm vm1 --type incremental --no-wait >"$T/started"
ID=$(jq -r .backup_id "$T/started")
wait_until 60 "the backup moves" job_moves "$ID"
at_second api POST /api/v1/backups "$(jq -nc '{vm_name: "vm1", backup_type: "full", repository: "local"}')"
assert_eq 409 "$STATUS" "a second backup of the VM"
assert_contains "$(cat "$T/reply")" "$ID" "who is busy"
at_second agent_api POST "/api/v1/backups/$ID/complete" '{"disk_id": 0, "change_id": "x/1", "bytes_transferred": 1}'
assert_eq 409 "$STATUS" "completing a disk at the wrong hub"
at_second backup vm2 full
assert_point "$(point 0)" "$T/b.raw"

step "a hub that is killed and starts anew leaves the other's backup alone"
end KILL "$HUB2_PID"
start_second
at_second job_is "$ID" running || fail "the backup of the first hub is $(job .status)"
assert_eq 1 "$(partials | wc -l)" "partial images"
set_rate slow 100G
wait_until 60 "the backup is completed" job_is "$ID" completed
assert_point "$(point 0)" "$T/a.raw"

step "killed: the other one ends its backup, and backs the VM up"
keep_copy "$T/a.raw" "$T/a.1"
SECOND=$(point 0)
change_disk "$T/a.raw" 30
set_rate slow 8M
ctl --json backup start --vm vm1 --type incremental --no-wait >"$T/started"
ID=$(jq -r .backup_id "$T/started")
wait_until 60 "the backup moves" job_moves "$ID"
end KILL "$HUB_PID"
wait_until 60 "the other hub has ended it" at_second job_is "$ID" failed
assert_contains "$(job .error_message)" "the hub that ran this backup is gone" "reason"
assert_eq "" "$(partials)" "partial images outside the quarantine"
[ -n "$(find "$T/repo" -path '*/quarantine/*' -type f)" ] || fail "the quarantine is empty"
set_rate slow 100G
at_second backup vm1 incremental
assert_point "$(point 0)" "$T/a.raw"
assert_point "$SECOND" "$T/a.1"
assert_eq second "$(sql 'SELECT name FROM hubs' | xargs)" "hubs"

step "stopped for longer than its lease: it has lost its backup, and commits nothing"
keep_copy "$T/a.raw" "$T/a.2"
THIRD=$(point 0)
start_hub --name first
agent_is_free() {
	ctl --json backup start --vm vm1 --type incremental --no-wait >"$T/started" 2>"$T/stderr"
}
set_rate slow 8M
change_disk "$T/a.raw" 30
wait_until 120 "the agent had given up the lost backup" agent_is_free
ID=$(jq -r .backup_id "$T/started")
wait_until 60 "the backup moves" job_moves "$ID"
TOKEN=$(sql "SELECT token FROM hubs WHERE name = 'first'")
# Not in the midst of a transaction: that would hold up the other one too, until the database ends it after a
# minute.
stopped_at_rest() {
	local i

	kill -STOP "$HUB_PID"
	for ((i = 0; i < 20; i++)); do
		[ "$(sql 'SELECT COUNT(*) FROM information_schema.innodb_trx')" != 0 ] || return 0
		sleep 0.05
	done
	kill -CONT "$HUB_PID"
	return 1
}
wait_until 60 "the hub is stopped between two transactions" stopped_at_rest
wait_until 60 "the other hub has ended it" at_second job_is "$ID" failed
BEFORE=$(sql "SELECT COUNT(*) FROM backup_disks WHERE status = 'completed'")
ROW=$(sql "SELECT j.*, d.* FROM backup_jobs j JOIN backup_disks d ON d.backup_job_id = j.id WHERE j.id = '$ID'")
set_rate slow 100G
kill -CONT "$HUB_PID"
agent_api POST "/api/v1/backups/$ID/complete" '{"disk_id": 0, "change_id": "late/1", "bytes_transferred": 1}'
assert_ne 200 "$STATUS" "status of the completion that came too late"
has_lost() {
	grep -q "others took its backups over" "$T/hub.err"
}
wait_until 60 "the hub knows that its lease is lost" has_lost
new_token() {
	[ "$(sql "SELECT token FROM hubs WHERE name = 'first'")" -gt "$TOKEN" ]
}
wait_until 60 "the hub has a new token" new_token
assert_eq "$ROW" "$(sql "SELECT j.*, d.* FROM backup_jobs j JOIN backup_disks d ON d.backup_job_id = j.id WHERE j.id = '$ID'")" \
	"rows of the lost backup"
assert_eq "$BEFORE" "$(sql "SELECT COUNT(*) FROM backup_disks WHERE status = 'completed'")" "points"
assert_eq "" "$(partials)" "partial images outside the quarantine"
assert_point "$THIRD" "$T/a.2"
assert_point "$FULL" "$T/a.0"

step "and is a hub again"
agent_is_done() {
	ctl --json backup start --vm vm1 --type incremental >"$T/job.json" 2>"$T/stderr"
}
wait_until 120 "the agent had given up the lost backup" agent_is_done
assert_eq completed "$(job .status)" "status of the next backup"
assert_point "$(point 0)" "$T/a.raw"
assert_point "$THIRD" "$T/a.2"

step "after an outage of the database, longer than a lease, both go on"
make_disk "$T/a.raw" $((64 << 20))
set_rate slow 8M
ctl --json backup start --vm vm1 --type full --no-wait >"$T/started"
ID=$(jq -r .backup_id "$T/started")
wait_until 60 "the backup moves" job_moves "$ID"
end KILL "$DB_PID"
sleep $((LEASE_S + 1)) # so that no lease is left
run_mariadb
renewed() {
	[ "$(sql 'SELECT COUNT(*) FROM hubs WHERE lease_until > UNIX_TIMESTAMP() * 1000000')" = 2 ]
}
wait_until 60 "both have renewed their leases" renewed
set_rate slow 100G
wait_until 60 "the backup is completed" job_is "$ID" completed
assert_point "$(point 0)" "$T/a.raw"

step "a hub that stops in order takes its row along"
e2e_stop "$AGENT2_PID" "the second agent"
e2e_stop "$HUB2_PID" "the second hub"
assert_eq first "$(sql 'SELECT name FROM hubs' | xargs)" "hubs"
