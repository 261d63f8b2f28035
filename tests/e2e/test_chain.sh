#!/usr/bin/env bash
# A full and five incrementals of a two-disk VM are each byte-equal to the disks as they were; a
# change of at most 5 % stores at most 10 % of the full; each disk keeps its own change ids.
. "$(dirname "$0")/lib.sh"

ROOT=$T/root.raw DATA=$T/data.raw
make_disk "$ROOT" $((256 << 20))
make_disk "$DATA" $(((96 << 20) + 1536)) # not a multiple of any cluster size
add_to_inventory pgtest1 "$ROOT" "$DATA"
start_hub_and_agent
ctl repo add local --path "$T/repo"
ctl vm add pgtest1

change() { # point number: what a guest might have done since the last
	case $1 in
	1) change_disk "$ROOT" 2 && change_disk "$DATA" 2 ;; # 4 % of their data: half of each is empty
	2) put_zeroes "$ROOT" $((8 << 20)) $((4 << 20)) ;; # data becomes zeroes; the other disk rests
	3) # the end of each disk, and single sectors
		put_random "$ROOT" $(((256 << 20) - 512)) 512
		put_random "$DATA" $((96 << 20)) 1536
		put_random "$DATA" 512 512
		;;
	4) # holes filled, zeroes overwritten with a sector each side of a cluster edge
		put_random "$ROOT" $(((200 << 20) - 512)) 1024
		put_random "$ROOT" $((8 << 20)) 512
		;;
	5) change_disk "$ROOT" 5 && put_zeroes "$DATA" 0 65536 ;;
	esac
}

POINTS_ROOT=() POINTS_DATA=() JOBS=()
for n in 0 1 2 3 4 5; do
	type=incremental
	[ "$n" != 0 ] || type=full
	change "$n"
	step "point $n: $type"
	backup pgtest1 $type
	keep_copy "$ROOT" "$T/root.$n"
	keep_copy "$DATA" "$T/data.$n"
	POINTS_ROOT+=("$(point 0)")
	POINTS_DATA+=("$(point 1)")
	JOBS+=("$(job .backup_id)")
	assert_eq 2 "$(job '.disks | length')" "disks of the job"
	assert_ne "$(job '.disks[0].change_id')" "$(job '.disks[1].change_id')" "change id of disk 1"
	assert_ne "" "$(job '.disks[0].change_id')" "change id of disk 0"
	if [ "$n" = 1 ]; then
		for disk in 0 1; do
			assert_eq incremental "$(job ".disks[$disk].mode")" "mode of disk $disk"
		done
		FULL=$(($(allocated "${POINTS_ROOT[0]}") + $(allocated "${POINTS_DATA[0]}")))
		INCR=$(($(allocated "${POINTS_ROOT[1]}") + $(allocated "${POINTS_DATA[1]}")))
		echo "full $FULL bytes, incremental $INCR bytes"
		assert_le $((INCR * 10)) "$FULL" "ten times what a change of 4 % stored"
	fi
done

step "the hub tells each disk's change id byte for byte"
ctl user add capture --role agent >/dev/null
ctl token create --user capture --name test --output "$T/agent-token" 2>/dev/null
printf 'Authorization: Bearer %s\n' "$(cat "$T/agent-token")" >"$T/authorization"
for disk in 0 1; do
	api GET "/api/v1/backups/changeid?vm_name=pgtest1&disk_id=$disk"
	assert_eq 200 "$STATUS" "status of changeid"
	assert_eq "$(job ".disks[$disk].change_id")" "$(jq -r .change_id "$T/reply")" "change id of disk $disk"
	assert_eq string "$(jq -r '[.[] | type] | unique | join(",")' "$T/reply")" "types in the answer"
done

step "every point equals the disks of its time"
for n in 0 1 2 3 4 5; do
	assert_point "${POINTS_ROOT[n]}" "$T/root.$n"
	assert_point "${POINTS_DATA[n]}" "$T/data.$n"
done

step "the chain resolves to the full, with the disk's exact size"
qemu-img info --backing-chain --output=json "${POINTS_DATA[5]}" >"$T/chain.json"
assert_eq 6 "$(jq length "$T/chain.json")" "images in the chain"
assert_eq "$(((96 << 20) + 1536))" "$(jq '.[0]["virtual-size"]' "$T/chain.json")" "virtual size"
ctl --json backup chain --vm pgtest1 >"$T/reply"
assert_eq 2 "$(jq '.chains | length' "$T/reply")" "chains of the VM"
assert_eq "6 6" "$(jq -r '[.chains[].backup_count] | join(" ")' "$T/reply")" "points a chain"
ctl --json backup chain --vm pgtest1 --disk 1 >"$T/reply"
assert_eq "${JOBS[*]}" "$(jq -r '[.chains[0].backups[].backup_id] | join(" ")' "$T/reply")" "backups of the chain"

step "the repository may move as a whole"
mv "$T/repo" "$T/elsewhere"
assert_point "${POINTS_ROOT[5]/$T\/repo/$T/elsewhere}" "$T/root.5"
