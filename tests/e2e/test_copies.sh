#!/usr/bin/env bash
# Copies of backups by the programs themselves: asked for with sendense-ctl, the hub killed while one is
# made, one taken away while it is made, and a repository that fills up. tmpfs in a mount namespace of the
# test's own.
if [ -z "${E2E_OWN_MOUNTS:-}" ]; then
	flags=-m
	[ "$(id -u)" = 0 ] || flags=-rm
	if ! unshare $flags true 2>/dev/null; then
		echo "skip: no mount namespaces here (needs root, or user namespaces)"
		exit 77
	fi
	E2E_OWN_MOUNTS=1 exec unshare $flags bash "$0"
fi
. "$(dirname "$0")/lib.sh"

mkdir "$T/small"
mount -t tmpfs -o size=20m sendense-test "$T/small" || skip "tmpfs cannot be mounted"
E2E_MOUNTS+=("$T/small")
make_disk "$T/a.raw" $((192 << 20))
make_disk "$T/b.raw" $((16 << 20))
add_to_inventory vm1 "$T/a.raw" "$T/b.raw"
hub_config tick_ms=50 copy_retry_s=1
start_hub_and_agent
ctl repo add local --path "$T/repo"
ctl repo add far --path "$T/far"
# Slow enough to be met while it is at it.
api POST /api/v1/repositories \
	"{\"name\":\"slow\",\"type\":\"local\",\"config\":{\"path\":\"$T/slow\",\"compression\":\"zstd:19\"}}"
assert_eq 201 "$STATUS" "making a repository that compresses"
api POST /api/v1/repositories \
	"{\"name\":\"small\",\"type\":\"local\",\"config\":{\"path\":\"$T/small/repo\",\"compression\":\"zstd\"}}"
assert_eq 201 "$STATUS" "making a small repository"
api POST /api/v1/repositories "{\"name\":\"plain\",\"type\":\"local\",\"config\":{\"path\":\"$T/small/plain\"}}"
assert_eq 201 "$STATUS" "making another one"
ctl vm add --all
for type in full incremental incremental; do
	ctl --json backup start --vm vm1 --type "$type" --repo local >"$T/job.json"
	change_disk "$T/a.raw" 5
done
# What was backed up last, before the change after it.
MIDDLE=$(job .backup_id)
POINTS=("$(point 0)" "$(point 1)")
for disk in 0 1; do
	qemu-img convert -O raw "${POINTS[disk]}" "$T/$disk.raw"
done

# Nothing is written to the disk while a copy is looked at, which may hold up for seconds who writes there.
copy_of() { # repository; the copy in COPY
	COPY=$(ctl --json backup copies "$MIDDLE" |
		jq -e --arg r "$1" '.copies[] | select(.repository_name == $r)')
}

copy() { # jq expression on the copy
	printf %s "$COPY" | jq -r "$1"
}

copy_is() { # repository, jq condition
	copy_of "$1" && printf %s "$COPY" | jq -e "$2"
}

assert_copied() { # repository
	local disk path

	copy_of "$1" || fail "there is no copy in $1"
	for disk in 0 1; do
		path=$(copy ".disks[$disk].qcow2_path")
		assert_point "$path" "$T/$disk.raw"
		qemu-img compare -q -U -f qcow2 -F qcow2 "${POINTS[disk]}" "$path" || fail "$path is not ${POINTS[disk]}"
		assert_eq null "$(qemu-img info -U --output=json "$path" | jq '."backing-filename"')" "its parent"
		assert_eq "$(copy ".disks[$disk].sha256")" "$(sha256sum <"$path" | cut -d' ' -f1)" \
			"its SHA-256"
	done
}

# Images, partial ones among them, wherever they are.
images() { # folder
	find "$1" -name '*.qcow2*' | wc -l
}

step "asked for and waited for"
ctl backup copy "$MIDDLE" --repo far --wait >"$T/said"
assert_contains "$(cat "$T/said")" "verification: passed" "what sendense-ctl says"
assert_copied far
ctl backup copies "$MIDDLE" >"$T/said"
assert_contains "$(cat "$T/said")" "completed" "the list"
code=0
ctl backup copy "$MIDDLE" --repo far 2>"$T/stderr" || code=$?
assert_ne 0 "$code" "exit status of a second copy"
assert_contains "$(cat "$T/stderr")" "already" "why there is no second one"

step "the hub is killed while a copy is made"
ctl backup copy "$MIDDLE" --repo slow >/dev/null
wait_until 60 "the copy moves" copy_is slow '.status == "copying" and .bytes_copied > 0'
end KILL "$HUB_PID"
[ -n "$(find "$T/slow" -name '*.part')" ] || fail "no partial image was being written"
start_hub
wait_until 120 "the copy is completed" copy_is slow '.status == "completed"'
assert_copied slow
assert_eq 2 "$(images "$T/slow")" "images in the repository"
assert_eq "" "$(find "$T/slow/quarantine" -type f)" "what is in the quarantine"

step "stopped in order while a copy is made, it begins anew"
ID=$(copy .id)
api DELETE "/api/v1/copies/$ID"
assert_eq 204 "$STATUS" "deleting the copy"
assert_eq 0 "$(images "$T/slow")" "images that are left"
ctl backup copy "$MIDDLE" --repo slow >/dev/null
wait_until 60 "the copy moves" copy_is slow '.status == "copying" and .bytes_copied > 0'
end TERM "$HUB_PID"
assert_eq 0 "$ENDED" "exit status of the hub after SIGTERM"
assert_eq 0 "$(images "$T/slow")" "images that are left"
start_hub
wait_until 60 "the copy moves again" copy_is slow '.status == "copying" and .bytes_copied > 0'

step "taken away while it is made"
api DELETE "/api/v1/copies/$(copy .id)"
assert_eq 204 "$STATUS" "deleting the copy"
no_copy() {
	! copy_of slow
}
wait_until 60 "the copy is gone" no_copy
assert_eq 0 "$(images "$T/slow")" "images that are left"

step "no room, known before"
code=0
ctl backup copy "$MIDDLE" --repo plain 2>"$T/stderr" || code=$?
assert_ne 0 "$code" "exit status"
assert_contains "$(cat "$T/stderr")" "has room for" "why"
api POST "/api/v1/backups/$MIDDLE/copy" '{"repository":"plain"}'
assert_eq 507 "$STATUS" "status of the API"

step "no room, met on the way: nothing is left, and it is tried again"
ctl backup copy "$MIDDLE" --repo small >/dev/null
wait_until 60 "an attempt failed" copy_is small '.attempts >= 1 and .status == "pending" and .retry_at != null'
assert_contains "$(copy .error_message)" "No space left on device" "reason"
assert_le "$(images "$T/small")" 1 "images that are left" # the next attempt may have begun
ctl health >/dev/null
mount -o remount,size=200m "$T/small"
wait_until 120 "the copy is completed" copy_is small '.status == "completed"'
assert_copied small
assert_eq 2 "$(images "$T/small")" "images in the repository"
ctl backup log "$MIDDLE" >"$T/said"
assert_contains "$(cat "$T/said")" "No space left on device" "the backup's story"
