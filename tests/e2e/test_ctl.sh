#!/usr/bin/env bash
# sendense-ctl against a real hub: what it prints for people and for scripts, and its exit statuses.
. "$(dirname "$0")/lib.sh"

make_disk "$T/a.raw" $((16 << 20))
make_disk "$T/b.raw" $((8 << 20))
add_to_inventory blue "$T/a.raw" "$T/b.raw"
add_to_inventory "two words" "$T/b.raw"
start_hub_and_agent

status_of() { # wanted exit status, ctl arguments...
	local wanted=$1 got=0

	shift
	ctl "$@" >"$T/stdout" 2>"$T/stderr" || got=$?
	assert_eq "$wanted" "$got" "exit status of: $*"
}

step "health"
status_of 0 health
status_of 0 health --json
assert_eq object "$(jq -r type "$T/stdout")" "health"

step "an empty hub says what to do next"
status_of 4 backup start --vm blue --type full
assert_contains "$(cat "$T/stderr")" "repo add" "advice"
status_of 0 repo add daily --path "$T/repo"
status_of 5 repo add daily --path "$T/repo2"
status_of 4 vm disks blue
assert_contains "$(cat "$T/stderr")" "vm add" "advice"
status_of 0 backup list --vm blue
status_of 0 vm add --all
assert_contains "$(cat "$T/stdout")" "two words" "VMs added"
status_of 0 vm list
assert_contains "$(cat "$T/stdout")" "two words" "VMs listed"
status_of 0 vm list --json
assert_eq 2 "$(jq '.vm_contexts | length' "$T/stdout")" "VMs"
status_of 0 vm add blue
status_of 0 vm list --json
assert_eq 2 "$(jq '.vm_contexts | length' "$T/stdout")" "VMs after adding one again"

step "disks, with their exact sizes"
status_of 0 vm disks blue
assert_contains "$(cat "$T/stdout")" 16777216 "disks of blue"
assert_contains "$(cat "$T/stdout")" "16.0 MiB" "disks of blue"

step "a backup, told as it goes and shown at the end"
status_of 0 backup start --vm blue --type full
assert_contains "$(cat "$T/stderr")" "started" "progress"
assert_contains "$(cat "$T/stderr")" "disk 1" "progress"
assert_contains "$(cat "$T/stdout")" "completed" "result"
status_of 0 backup start --vm "two words" --type full --repo daily --no-wait --json
ID=$(jq -r .backup_id "$T/stdout")
status_of 0 backup wait "$ID"
status_of 0 backup show "$ID"
assert_contains "$(cat "$T/stdout")" "two words" "backup shown"
status_of 0 backup list
assert_contains "$(cat "$T/stdout")" "$ID" "list"
status_of 0 backup list --vm "two words" --json
assert_eq "$ID" "$(jq -r '[.backups[].backup_id] | join(" ")' "$T/stdout")" "backups of one VM"
status_of 0 backup chain --vm blue
assert_contains "$(cat "$T/stdout")" "disk 1" "chains"
status_of 0 backup chain --vm blue --disk 1
status_of 0 repo list
assert_contains "$(cat "$T/stdout")" "daily" "repositories"

step "repositories are changed and removed"
mkdir "$T/second-repo"
status_of 0 repo add second --path "$T/second-repo"
status_of 2 repo set second
status_of 2 repo set second --enable --disable
status_of 4 repo set nowhere --disable
status_of 5 repo set second --name daily
status_of 0 repo set second --name other --disable --compress zstd:3 --min-retention-days 14
status_of 0 repo list --json
assert_eq 'false zstd:3 14' "$(jq -r '.repositories[] | select(.name == "other") | "\(.enabled) \(.config.compression) \(.min_retention_days)"' \
	"$T/stdout")" "the repository as changed"
status_of 0 repo set other --enable --compress none
status_of 0 repo list --json
assert_eq "true null $T/second-repo" "$(jq -r '.repositories[] | select(.name == "other") | "\(.enabled) \(.config.compression) \(.config.path)"' \
	"$T/stdout")" "the repository as changed again"
status_of 5 repo remove daily
status_of 0 hub list
assert_contains "$(cat "$T/stdout")" "live" "hubs"
status_of 0 hub list --json
assert_eq true "$(jq '.hubs | length == 1 and .[0].this and .[0].version != ""' "$T/stdout")" "this hub"

step "logins, policies and schedules"
echo "secret of vc1" >"$T/password"
status_of 0 credential add main --vcenter vc1 --user backup --password-file "$T/password"
status_of 5 credential add main --user backup --password-file "$T/password"
status_of 2 credential add other --user backup --password-file "$T/nowhere"
status_of 0 credential list
assert_contains "$(cat "$T/stdout")" "backup" "logins"
status_of 0 credential test main
status_of 0 credential rekey
status_of 0 credential list --json
assert_eq 1 "$(jq .total "$T/stdout")" "logins"
! grep -rq "secret of vc1" "$T/stdout" "$T/hub" || fail "the password lies open"
status_of 0 policy add gold --repo daily --keep-daily 7
status_of 0 policy list
assert_contains "$(cat "$T/stdout")" "gold" "policies"
status_of 4 policy copy-add silver other
status_of 4 policy copy-add gold nowhere
status_of 0 policy copy-add gold other --mode manual --priority 2 --no-verify
status_of 5 policy copy-add gold other
status_of 0 policy copy-list gold
assert_contains "$(cat "$T/stdout")" "manual" "copy rules"
assert_contains "$(cat "$T/stdout")" "other" "copy rules"
status_of 0 policy copy-list gold --json
assert_eq 'manual 2 false' "$(jq -r '.copy_rules[] | "\(.copy_mode) \(.priority) \(.verify_after_copy)"' "$T/stdout")" "the rule"
status_of 5 repo remove other
status_of 0 policy copy-remove gold other
status_of 4 policy copy-remove gold other
status_of 0 repo remove other
status_of 4 repo remove other
status_of 4 vm set blue --policy silver
status_of 2 vm set blue
status_of 0 vm set blue --policy gold --notes "the blue one"
status_of 2 schedule add nightly --policy gold
status_of 1 schedule add nightly --policy gold --cron "61 2 * * *"
assert_contains "$(cat "$T/stderr")" "no minute" "what is wrong with it"
status_of 0 schedule add nightly --policy gold --cron "0 2 * * *" --timezone Europe/Berlin
status_of 0 schedule list
assert_contains "$(cat "$T/stdout")" "Europe/Berlin" "schedules"
status_of 0 schedule run nightly
ran() {
	[ "$(ctl backup list --vm blue --json | jq '[.backups[] | select(.policy_id != "" and .status == "completed")] | length')" = 1 ]
}
wait_until 60 "the scheduled backup" ran
status_of 5 policy remove gold
status_of 0 schedule remove nightly
status_of 4 schedule remove nightly
status_of 0 vm set blue --policy none
status_of 0 policy remove gold
status_of 0 credential remove main

step "mistakes have their own exit statuses"
status_of 2
status_of 2 backup start --vm blue
status_of 2 backup start --vm blue --type sometimes
status_of 2 repo add other --path relative/path
status_of 4 backup start --vm nobody --type full
status_of 4 backup start --vm blue --type full --repo weekly
assert_contains "$(cat "$T/stderr")" "daily" "repositories there are"
status_of 4 backup show backup-unknown
status_of 4 backup show ../../health
status_of 3 health --hub http://127.0.0.1:1
status_of 3 health --hub http://127.0.0.1:1 --json
assert_eq 3 "$(jq .exit_status "$T/stderr")" "error for scripts"
