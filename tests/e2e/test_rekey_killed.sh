#!/usr/bin/env bash
# The hub is killed (SIGKILL) while it changes the key of the credentials, over and over: whenever it was,
# every password can be read afterwards, and the key file comes down to one key.
. "$(dirname "$0")/lib.sh"

ROUNDS=12

make_disk "$T/a.raw" $((1 << 20))
add_to_inventory blue "$T/a.raw"
start_hub_and_agent
KEYS=$T/hub/credentials.key

every_login_works() {
	local i

	for i in 1 2 3 4 5; do
		ctl credential test "login$i" >/dev/null || fail "login$i cannot be read: $(tail -n 3 "$T/hub.err")"
	done
}

step "five logins"
for i in 1 2 3 4 5; do
	echo "secret $i" >"$T/password"
	ctl credential add "login$i" --user backup --password-file "$T/password" >/dev/null
done
every_login_works
FIRST=$(grep '^k-' "$KEYS")

step "killed $ROUNDS times in the midst of new keys"
for ((round = 0; round < ROUNDS; round++)); do
	: >"$T/changes"
	(while ctl credential rekey; do echo >>"$T/changes"; done) >/dev/null 2>&1 &
	KEEPS_ON=$!
	wait_until 60 "a first change" test -s "$T/changes"
	sleep "0.$(printf %03d $((20 + RANDOM % 300)))"
	end KILL "$HUB_PID"
	{ wait "$KEEPS_ON" || true; } 2>/dev/null
	start_hub
	every_login_works
	assert_eq 1 "$(grep -c '^k-' "$KEYS")" "keys after round $round"
	assert_eq 600 "$(stat -c %a "$KEYS")" "mode of the key file"
done
assert_ne "$FIRST" "$(grep '^k-' "$KEYS")" "the key after so many changes"
! grep -q "secret [1-5]" "$T/hub.err" "$T/agent.err" || fail "a password is in a log"
echo "the log tells of $(grep -c 'was cut off, and is done now' "$T/hub.err" || true) changes ended by the next start"
