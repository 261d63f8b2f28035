#!/usr/bin/env bash
# A repository's file system hangs, as a network file system does whose server is gone: nbdfuse is
# mounted over the folder, and stopped. Nobody who merely looks may wait for it, and no further
# thread may get stuck with every look. Where FUSE is not to be had this test is skipped.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/nbd.sh"

[ -c /dev/fuse ] && [ -r /dev/fuse ] && [ -w /dev/fuse ] || skip "no /dev/fuse here: hanging storage NOT tested"
command -v fusermount3 >/dev/null || skip "no fusermount3 here: hanging storage NOT tested"

threads() {
	ls "/proc/$HUB_PID/task" | wc -l
}

# Status and duration of a call, which may take as long as a look, and what the machine takes; the file system
# itself would hold it for as long as it hangs.
look() { # path
	local began=$SECONDS

	api GET "$1"
	assert_le $((SECONDS - began)) 30 "seconds that $1 took"
}

ready_detail() {
	jq -r '.checks[] | select(.name == "hangs") | .detail' "$T/reply"
}

make_disk "$T/a.raw" $((1 << 20))
add_to_inventory vm1 "$T/a.raw"
start_hub_and_agent
mkdir "$T/hangs"
ctl repo add hangs --path "$T/hangs"
ctl repo add well --path "$T/well"
look /ready
assert_eq "200 true" "$STATUS $(jq .ready "$T/reply")" "readiness"

step "the file system hangs"
serve disk --image "$T/disk.qcow2" --create --size $((1 << 20))
spawn fuse nbdfuse "$T/hangs" "$URI"
FUSE_PID=$SPAWNED
mounted_or_ended() {
	[ -f "$T/hangs/nbd" ] || ! kill -0 "$FUSE_PID" 2>/dev/null
}
wait_until 60 "nbdfuse mounted it, or gave up" mounted_or_ended
[ -f "$T/hangs/nbd" ] || skip "mounting is not allowed here: hanging storage NOT tested: $(tail -n 1 "$T/fuse.err")"
E2E_MOUNTS=("$T/hangs")
kill -STOP "$FUSE_PID"
look /ready
assert_contains "$(ready_detail)" "has not answered for" "what is said of it"
assert_eq "200 true" "$STATUS $(jq .ready "$T/reply")" "readiness: the other one is well"
BEFORE=$(threads)
for i in 1 2 3 4 5; do
	look /ready
	look /metrics
	look /api/v1/repositories
done
assert_le "$(threads)" $((BEFORE + 2)) "threads of the hub"
assert_contains "$(cat "$T/reply")" '"hangs"' "the repositories, with what was seen last"
ID=$(jq -r '.repositories[] | select(.name == "hangs") | .id' "$T/reply")
look "/api/v1/repositories/$ID/storage"
assert_eq 409 "$STATUS" "its space, now"
assert_contains "$(cat "$T/reply")" "has not answered for" "why"

step "it goes on"
kill -CONT "$FUSE_PID"
answers() {
	api GET /ready
	[ -z "$(ready_detail)" ]
}
wait_until 60 "the repository is well again" answers
fusermount3 -u "$T/hangs"
E2E_MOUNTS=()
wait "$FUSE_PID" || fail "nbdfuse ended with $?"
finish
