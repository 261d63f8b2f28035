#!/usr/bin/env bash
# The repository's disk fills up: the backup fails and names the reason, the hub lives, points made
# before are whole, and a backup that fits works afterwards. On tmpfs, and on ext4 where a loop
# device can be had, in a mount namespace of its own.
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

mkdir "$T/tmpfs" "$T/ext4"
mount -t tmpfs -o size=64m sendense-test "$T/tmpfs" || skip "tmpfs cannot be mounted"
E2E_MOUNTS+=("$T/tmpfs")
FILESYSTEMS=(tmpfs)
truncate -s 72M "$T/ext4.img"
if mke2fs -q -t ext4 -m 0 "$T/ext4.img" && mount -o loop "$T/ext4.img" "$T/ext4" 2>/dev/null; then
	E2E_MOUNTS+=("$T/ext4")
	FILESYSTEMS+=(ext4)
else
	echo "no loop devices: tmpfs alone"
fi

make_disk "$T/small.raw" $((16 << 20))
truncate -s 160M "$T/big.raw"
put_random "$T/big.raw" 0 $((160 << 20))
add_to_inventory small "$T/small.raw"
add_to_inventory big "$T/big.raw"
start_hub_and_agent
ctl vm add --all

for fs in "${FILESYSTEMS[@]}"; do
	step "$fs: a small backup fits"
	ctl repo add "$fs" --path "$T/$fs/repo"
	ctl --json backup start --vm small --type full --repo "$fs" >"$T/job.json"
	SMALL=$(point 0)
	keep_copy "$T/small.raw" "$T/small.0"

	step "$fs: a big one does not"
	code=0
	ctl --json backup start --vm big --type full --repo "$fs" >"$T/job.json" 2>"$T/stderr" || code=$?
	assert_eq 1 "$code" "exit status of sendense-ctl"
	assert_eq failed "$(job .status)" "status of the big backup"
	assert_contains "$(job .error_message)" "No space left on device" "reason"
	assert_contains "$(cat "$T/stderr")" "No space left on device" "what sendense-ctl says"

	step "$fs: the hub lives, what was there is whole, what fits goes on"
	ctl health >/dev/null
	assert_point "$SMALL" "$T/small.0"
	change_disk "$T/small.raw" 10
	ctl --json backup start --vm small --type incremental --repo "$fs" >"$T/job.json"
	assert_point "$(point 0)" "$T/small.raw"
	assert_point "$SMALL" "$T/small.0"
done
