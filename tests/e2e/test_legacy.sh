#!/usr/bin/env bash
# The backups of an old database, whose points are on the disk, come into a new hub's catalog: they are
# listed, whole, and have their change ids. tests/catalog/test_legacy has the rules.
. "$(dirname "$0")/lib.sh"

OLD=$T/repo/ctx-pgtest1-20251006-201320
make_disk "$T/a.raw" $((16 << 20))
make_disk "$T/b.raw" $((4 << 20))
mkdir -p "$OLD/disk-0" "$OLD/disk-1"

step "an old database, and the files it speaks of"
run_mariadb
mariadb --no-defaults -S "$T/db/sock" -u root -e "CREATE DATABASE old"
sed "s#/srv/old#$T/repo#g; s#109521666048#$((16 << 20))#; s#5368709120#$((4 << 20))#" \
	tests/support/legacy.sql | mariadb --no-defaults -S "$T/db/sock" -u root old
old_points() { # disk index, raw
	local last='' path

	mariadb --no-defaults -S "$T/db/sock" -u root -N old -e "SELECT repository_path FROM backup_jobs
		WHERE repository_path LIKE '%/disk-$1/%' AND status = 'completed' ORDER BY created_at" |
		while read -r path; do
			if [ -z "$last" ]; then
				qemu-img convert -q -O qcow2 "$2" "$path"
			else
				qemu-img create -q -f qcow2 -F qcow2 -b "$(basename "$last")" "$path"
			fi
			last=$path
		done
}
old_points 0 "$T/a.raw"
old_points 1 "$T/b.raw"

step "imported"
import() {
	"$BIN/sendense-hub" --data-dir "$T/hub" \
		--import-legacy "mariadb://root@localhost/old?socket=$T/db/sock"
}
assert_eq "imported repositories=1 vms=1 contexts=1 jobs=27 disks=21 points=20 unusable=0 present=0" \
	"$(import 2>"$T/import.err")" "the import"
assert_eq "imported repositories=0 vms=0 contexts=0 jobs=0 disks=0 points=0 unusable=0 present=27" \
	"$(import 2>"$T/import.err")" "the import, again"

step "the hub knows them"
add_to_inventory pgtest1 "$T/a.raw" "$T/b.raw"
# The VM as the old inventory had it.
jq '.vms[0] += {id: "420570c7-f61f-a930-77c5-1e876786cb3c"}' "$T/inventory.json" >"$T/inventory.new"
mv "$T/inventory.new" "$T/inventory.json"
start_hub_and_agent
assert_eq 27 "$(ctl --json backup list --vm pgtest1 | jq '.backups | length')" "backups"
show_job backup-pgtest1-disk1-20251007-180000
assert_eq completed "$(job .status)" "status of the latest point"
assert_point "$(job '.disks[0].qcow2_path')" "$T/b.raw"
assert_eq "52 ed 45 cf 23 2c 6a f0-a5 26 59 71 b7 9f 1f b3/5510" "$(job '.disks[0].change_id')" "change id"
