#!/usr/bin/env bash
# The catalog on a Galera cluster of three nodes. The node the hub talks to is killed mid-copy: the hub
# goes on with another one, and the backup completes. Two hubs write through different nodes at once:
# what conflicts is run again, and nobody is told of it. A node without the others takes nothing.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/galera.sh"

hub_connections() { # node
	node_sql "$1" "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'hub'"
}

catalog_sums() { # node
	node_sql "$1" "SET SESSION wsrep_sync_wait = 1; CHECKSUM TABLE $(node_sql "$1" "SELECT
		GROUP_CONCAT('hub.', table_name) FROM information_schema.tables
		WHERE table_schema = 'hub' AND table_name <> 'hubs' AND table_name <> 'catalog_writer'")"
}

conflicts() { # nodes...
	local n sum=0

	for n in "$@"; do
		sum=$((sum + $(node_status "$n" wsrep_local_cert_failures) + $(node_status "$n" wsrep_local_bf_aborts)))
	done
	echo "$sum"
}

# Forty changes, one after the other.
add_many() { # hub's URL, prefix
	local i

	for i in $(seq 40); do
		HUB_URL=$1 ctl repo add "$2$i" --path "$T/$2$i" || return 1
	done
}

repositories() {
	ctl --json repo list | jq '.repositories | length'
}

run_galera
make_disk "$T/a.raw" $((64 << 20))
make_disk "$T/b.raw" $((1 << 20))
slow_source slow "$T/a.raw"
add_to_inventory vm1 "$SOURCE"
add_to_inventory vm2 "$T/b.raw"
start_hub_and_agent --name first
ctl repo add local --path "$T/repo"
ctl vm add vm1
ctl vm add vm2
backup vm1 full
FULL=$(point 0)
keep_copy "$T/a.raw" "$T/a.0"
assert_ne 0 "$(hub_connections 1)" "connections of the hub to the first node"
assert_eq "0 0" "$(hub_connections 2) $(hub_connections 3)" "connections of the hub to the others"

step "the hub's node is killed mid-copy, and while changes are being committed"
change_disk "$T/a.raw" 50
set_rate slow 4M
ctl --json backup start --vm vm1 --type incremental --repo local --no-wait >"$T/started"
ID=$(jq -r .backup_id "$T/started")
wait_until 60 "the backup moves" job_moves "$ID"
add_many "$HUB_URL" during >"$T/added0" 2>&1 &
ADDING=$!
ten_are_there() {
	[ "$(node_sql 1 'SELECT COUNT(*) FROM hub.backup_repositories')" -ge 10 ]
}
wait_until 60 "changes are under way" ten_are_there
end KILL "${NODE_PID[1]}"
wait "$ADDING" || fail "a change was lost, or done twice: $(tail -n 1 "$T/added0")"
set_rate slow 100G
wait_until 120 "the backup is completed" job_is "$ID" completed
assert_point "$(point 0)" "$T/a.raw"
assert_point "$FULL" "$T/a.0"
assert_ne 0 "$(hub_connections 2)" "connections of the hub to the second node"
wait_until 60 "the cluster has two nodes" eval '[ "$(node_status 2 wsrep_cluster_size)" = 2 ]'
assert_eq "$(catalog_sums 2)" "$(catalog_sums 3)" "the catalog on both nodes"

step "two hubs at two nodes, writing at once"
free_port
spawn hub2 "$BIN/sendense-hub" --data-dir "$T/hub2" --db "$(galera_url 3 2 1)" --name second \
	--http 127.0.0.1:0 --agent-listen off --nbd 127.0.0.1:0 --agent-url "http://127.0.0.1:$AGENT_PORT"
HUB2_PID=$SPAWNED
await_ready hub2 "$HUB2_PID"
HUB2_URL=http://$(word_of http "$READY")
assert_ne 0 "$(hub_connections 3)" "connections of the second hub to the third node"
assert_eq 41 "$(repositories)" "repositories"
BEFORE=$(conflicts 2 3)
# As often as it takes for their writes to meet, which they do at the first time as a rule.
for round in 1 2 3 4 5; do
	add_many "$HUB2_URL" "second$round-" >"$T/added2" 2>&1 &
	ADDING=$!
	add_many "$HUB_URL" "first$round-" >"$T/added" 2>&1 || fail "the first hub: $(tail -n 1 "$T/added")"
	wait "$ADDING" || fail "the second hub: $(tail -n 1 "$T/added2")"
	assert_eq $((41 + 80 * round)) "$(repositories)" "repositories"
	AFTER=$(conflicts 2 3)
	[ "$AFTER" = "$BEFORE" ] || break
done
echo "$((AFTER - BEFORE)) conflicts in $round rounds"
assert_ne "$BEFORE" "$AFTER" "conflicts"

step "the same VM started at both: one of them does it"
for i in 1 2 3 4 5; do
	HUB_URL=$HUB2_URL ctl backup start --vm vm2 --type full --repo local >"$T/second" 2>&1 &
	STARTING=$!
	ENDED=0 STATUS=0
	ctl backup start --vm vm2 --type full --repo local >"$T/first" 2>&1 || STATUS=$?
	wait "$STARTING" || ENDED=$?
	RUN=$(node_sql 2 "SELECT COUNT(*) FROM hub.backup_jobs WHERE status IN ('pending', 'running')")
	assert_eq 0 "$RUN" "backups left running in round $i"
done
assert_eq 0 "$(node_sql 2 "SELECT COUNT(*) FROM hub.backup_jobs a JOIN hub.backup_jobs b ON a.vm_name = b.vm_name
	AND a.id < b.id AND a.vm_name = 'vm2' AND a.status = 'completed' AND b.status = 'completed'
	AND b.created_at < a.completed_at")" "backups of one VM at the same time"
e2e_stop "$HUB2_PID" "the second hub"

step "a node without the others takes nothing, and the backup waits for it"
change_disk "$T/a.raw" 30
set_rate slow 4M
ctl --json backup start --vm vm1 --type incremental --repo local --no-wait >"$T/started"
ID=$(jq -r .backup_id "$T/started")
wait_until 60 "the backup moves" job_moves "$ID"
end KILL "${NODE_PID[2]}"
node_is_alone() {
	[ "$(node_status 3 wsrep_cluster_status)" != Primary ]
}
wait_until 60 "the third node knows that it is alone" node_is_alone
hub_says_so() {
	api GET /api/v1/backups
	assert_eq 503 "$STATUS" "status of a list without a cluster"
	jq -e '.error | contains("not part of its cluster")' "$T/reply"
}
# Connections that were waiting for the cluster have their own errors first.
wait_until 60 "the hub says why" hub_says_so
node_sql 3 "SET GLOBAL wsrep_provider_options = 'pc.bootstrap=true'"
set_rate slow 100G
wait_until 120 "the backup is completed" job_is "$ID" completed
assert_point "$(point 0)" "$T/a.raw"
assert_point "$FULL" "$T/a.0"
