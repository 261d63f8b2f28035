#!/usr/bin/env bash
# Users, tokens and the audit log from the command line, as an administrator of a new hub meets them.
. "$(dirname "$0")/lib.sh"

echo '{"vms":[]}' >"$T/inventory.json"
start_hub_and_agent

run_ctl() { # wanted exit status, token file, ctl arguments...
	local wanted=$1 token=$2 got=0

	shift 2
	"$BIN/sendense-ctl" --hub "$HUB_URL" --token-file "$token" "$@" >"$T/stdout" 2>"$T/stderr" || got=$?
	assert_eq "$wanted" "$got" "exit status of $*: $(cat "$T/stderr")"
}
admin=$T/hub/admin-token

step "the first run left a token that nobody else can read, and said so"
assert_eq 600 "$(stat -c %a "$admin")" "mode of admin-token"
assert_contains "$(cat "$T/hub.err")" "admin-token" "log of the first run"
run_ctl 0 "$admin" whoami
assert_contains "$(cat "$T/stdout")" "user admin, role admin" "whoami"

step "without a token there is no way in but to what is public"
curl -s --noproxy '*' -D "$T/headers" "$HUB_URL/api/v1/vm-contexts" >"$T/reply"
assert_contains "$(cat "$T/headers")" "401 Unauthorized" "status without a token"
assert_contains "$(jq -r .error "$T/reply")" "needs a token" "what is missing"
curl -sf --noproxy '*' "$HUB_URL/health" >/dev/null || fail "/health asks for a token"

step "a user, a token in a file, and what they may do"
run_ctl 0 "$admin" user add ann --role operator
run_ctl 5 "$admin" user add ann --role viewer
run_ctl 1 "$admin" user add "a b" --role viewer
run_ctl 2 "$admin" user add bob
run_ctl 0 "$admin" token create --user ann --name nightly --output "$T/ann" --expires-days 30
assert_eq "" "$(cat "$T/stdout")" "stdout beside a file"
assert_eq 600 "$(stat -c %a "$T/ann")" "mode of the file"
run_ctl 2 "$admin" token create --user ann --name nightly --output "$T/ann"
run_ctl 0 "$T/ann" vm list
run_ctl 10 "$T/ann" user list
assert_contains "$(cat "$T/stderr")" "needs the role admin; user ann has the role operator" "reason"
run_ctl 10 "$T/ann" user list --json
assert_eq 10 "$(jq .exit_status "$T/stderr")" "error for scripts"
SENDENSE_TOKEN=$(cat "$T/ann") "$BIN/sendense-ctl" --hub "$HUB_URL" whoami >"$T/stdout"
assert_contains "$(cat "$T/stdout")" "user ann, role operator" "whoami by the environment"

step "a token of narrow scope, told on stdout once"
run_ctl 0 "$admin" token create --user ann --name look --scopes viewer
cp "$T/stdout" "$T/look"
run_ctl 0 "$T/look" repo list
run_ctl 10 "$T/look" vm add --all
run_ctl 1 "$admin" token create --user ann --name bad --scopes root
run_ctl 0 "$admin" token list --user ann
assert_contains "$(cat "$T/stdout")" "nightly" "tokens"
! grep -q sdn_ "$T/stdout" || fail "a list tells tokens"

step "revoked, disabled, deleted"
run_ctl 0 "$admin" token list --user ann --json
id=$(jq -r '.tokens[] | select(.name == "look") | .id' "$T/stdout")
run_ctl 0 "$admin" token revoke "$id"
run_ctl 10 "$T/look" repo list
assert_contains "$(cat "$T/stderr")" "was revoked" "reason"
run_ctl 0 "$admin" user disable ann
run_ctl 10 "$T/ann" vm list
run_ctl 0 "$admin" user list
assert_contains "$(cat "$T/stdout")" "no" "a disabled user"
run_ctl 0 "$admin" user enable ann
run_ctl 0 "$admin" user role ann viewer
run_ctl 0 "$T/ann" vm list
run_ctl 5 "$admin" user disable admin
run_ctl 0 "$admin" user delete ann
run_ctl 10 "$T/ann" vm list
run_ctl 4 "$admin" user delete ann

step "files that hold no token"
printf 'two words\n' >"$T/bad"
run_ctl 2 "$T/bad" whoami
run_ctl 2 "$T/missing" whoami
: >"$T/bad"
run_ctl 2 "$T/bad" whoami

step "the audit log has all of it, and is whole"
run_ctl 0 "$admin" audit verify
assert_contains "$(cat "$T/stdout")" "the audit log is whole" "verify"
run_ctl 0 "$admin" audit list --outcome denied
assert_contains "$(cat "$T/stdout")" "POST /api/v1/discovery" "denied calls"
run_ctl 0 "$admin" audit list --user admin --json --limit 1
assert_eq "DELETE /api/v1/users/{user_id}" "$(jq -r '.entries[0].action' "$T/stdout")" "last change"

step "until somebody changes it"
python3 - "$T/hub/catalog.db" <<-'PYTHON'
	import sqlite3, sys
	with sqlite3.connect(sys.argv[1]) as db:
	    db.execute("UPDATE audit_log SET user_name = 'eve' WHERE id = 9")
PYTHON
run_ctl 6 "$admin" audit verify
assert_contains "$(cat "$T/stdout")" "entry 9 was changed" "verify"

step "no token is in any log or command line"
! grep -l sdn_ "$T"/*.err || fail "a log tells a token"
! tr '\0' ' ' <"/proc/$HUB_PID/cmdline" | grep sdn_ || fail "a command line tells a token"
