#!/usr/bin/env bash
# Backups are deleted from the command line: with their files, never a parent, and what could not be
# removed is removed later, whatever happened to the hub meanwhile. What stays is whole.
. "$(dirname "$0")/lib.sh"

files_in_repo() {
	find "$T/repo" -type f -not -path '*/quarantine/*' | wc -l
}

# A backup of the disk as it is now: its id in ID, the disk in $T/NAME.
take() { # name, type
	change_disk "$T/a.raw" 5
	backup vm1 "$2"
	ID=$(job .backup_id)
	keep_copy "$T/a.raw" "$T/$1"
	cp "$T/job.json" "$T/$1.json"
}

point_of() { # name
	jq -r '.disks[0].qcow2_path' "$T/$1.json"
}

# Exit status and words of a ctl call that is refused.
refused() { # status, words, arguments...
	local want=$1 words=$2 got=0

	shift 2
	ctl "$@" >"$T/refused" 2>&1 </dev/null || got=$?
	assert_eq "$want" "$got" "exit status of sendense-ctl $*"
	assert_contains "$(cat "$T/refused")" "$words" "what sendense-ctl $* says"
}

make_disk "$T/a.raw" $((16 << 20))
add_to_inventory vm1 "$T/a.raw"
start_hub_and_agent
ctl repo add local --path "$T/repo"
ctl vm add vm1
take full full
FULL=$ID
take i1 incremental
I1=$ID
take i2 incremental
I2=$ID

step "a parent stays, and nobody is asked where nobody is"
refused 5 "$I1" backup delete "$FULL" --yes
refused 5 "$I2" backup delete "$I1" --yes
refused 2 "--yes" backup delete "$I2"
refused 4 "backup-none" backup delete backup-none --yes
assert_eq 9 "$(files_in_repo)" "files"

step "on a terminal it asks"
on_terminal() { # answer, arguments...
	local answer=$1

	shift
	printf '%s\n' "$answer" | script -qec "'$BIN/sendense-ctl' --hub '$HUB_URL' --token-file '$T/hub/admin-token' $*" /dev/null
}
on_terminal no "backup delete $I2" >"$T/asked" && fail "it was deleted without a yes"
assert_contains "$(cat "$T/asked")" "Delete the completed incremental backup $I2 of VM vm1" "the question"
show_job "$I2"
on_terminal yes "backup delete $I2" >"$T/asked" || fail "$(cat "$T/asked")"
assert_contains "$(cat "$T/asked")" "is deleted" "what is said then"
assert_eq 6 "$(files_in_repo)" "files"
assert_point "$(point_of i1)" "$T/i1"
refused 4 "$I2" backup show "$I2"

step "the next incremental leans on the one before"
take i3 incremental
I3=$ID
assert_eq "$I1" "$(job '.disks[0].parent_backup_id')" "parent of the next one"
assert_point "$(point_of i3)" "$T/i3"

step "a repository that is away: deleted all the same, and the files go when it is back"
mv "$T/repo" "$T/away"
ctl backup delete "$I3" --yes >"$T/said"
assert_contains "$(cat "$T/said")" "remain" "what is said of files that remain"
refused 4 "files of it remain" backup show "$I3"
ctl backup deletions >"$T/said"
assert_contains "$(cat "$T/said")" "$I3" "the list of deletions"
end KILL "$HUB_PID"
mv "$T/away" "$T/repo"
assert_eq 9 "$(files_in_repo)" "files"
start_hub
assert_eq 1 "$(ctl --json backup deletions | jq .total)" "deletions after a restart"
ctl backup delete "$I3" --yes
assert_eq 6 "$(files_in_repo)" "files"
assert_eq 0 "$(ctl --json backup deletions | jq .total)" "deletions"
assert_point "$(point_of i1)" "$T/i1"

step "with everything that leans on it"
take i4 incremental
refused 5 "$ID" backup delete "$I1" --yes
ctl backup delete "$I1" --cascade --yes >"$T/said"
assert_contains "$(cat "$T/said")" "2 backups in all" "what is said of a cascade"
assert_eq 3 "$(files_in_repo)" "files"
assert_point "$(point_of full)" "$T/full"

step "a VM with all of them"
refused 5 "backups=delete" vm remove vm1 --yes
refused 2 "keep or delete" vm remove vm1 --backups burn --yes
ctl vm remove vm1 --backups delete --yes
assert_eq "" "$(find "$T/repo" -mindepth 1 -not -path "$T/repo/quarantine*")" "what is left in the repository"
assert_eq 0 "$(ctl --json backup list | jq .total)" "backups"
refused 4 vm1 vm disks vm1
