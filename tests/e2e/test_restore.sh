#!/usr/bin/env bash
# Files out of backups as their users get them: sendense-ctl backup files, extract and mount, on backups
# that sendense-agent made of a disk with an ext4 file system in a GPT partition.
. "$(dirname "$0")/lib.sh"

FS_MIB=64

# The tree as a disk: GPT, one ext4 partition; and a second disk without a table.
make_disks() {
	rm -f "$T/fs"
	truncate -s ${FS_MIB}M "$T/fs"
	mke2fs -q -F -t ext4 -d "$T/tree" "$T/fs"
	debugfs -w -R "mknod sda b 8 0" "$T/fs" >"$T/debugfs.out" 2>&1
	debugfs -w -R "mknod $(printf 'sd\033]b') b 8 16" "$T/fs" >>"$T/debugfs.out" 2>&1
	[ -f "$T/a.raw" ] || truncate -s $((FS_MIB + 4))M "$T/a.raw"
	echo "start=2048, size=$((FS_MIB * 2048))" | sfdisk -q --wipe-partitions never --label gpt "$T/a.raw" >"$T/sfdisk.out"
	dd if="$T/fs" of="$T/a.raw" bs=1M seek=1 conv=notrunc status=none
	[ -f "$T/b.raw" ] || {
		mkdir "$T/second"
		echo "on the second disk" >"$T/second/second.txt"
		echo "elsewhere" >"$T/second/both.txt"
		truncate -s 8M "$T/b.raw"
		mke2fs -q -F -t ext4 -d "$T/second" "$T/b.raw"
	}
}

make_tree() {
	mkdir -p "$T/tree/var/www" "$T/tree/deep/er/still" "$T/tree/many"
	echo '<?php echo 1;' >"$T/tree/var/www/index.php"
	chmod 640 "$T/tree/var/www/index.php"
	head -c 5000000 /dev/urandom >"$T/tree/random"
	echo here >"$T/tree/both.txt"
	echo low >"$T/tree/deep/er/still/low"
	echo snow >"$T/tree/Schnee ☃.txt"
	echo latin >"$T/tree/$(printf 'caf\351')"
	ln -s ../../../../../../etc/passwd "$T/tree/outside"
	ln -s var/www "$T/tree/site"
	ln -s loop "$T/tree/loop"
	ln -s ../.. "$T/tree/deep/up"
	ln -s /../../site/../www/index.php "$T/tree/far"
	for i in $(seq 1200); do echo "$i" >"$T/tree/many/$i"; done
}

status_of() { # wanted exit status, ctl arguments...
	local wanted=$1 got=0

	shift
	ctl "$@" >"$T/stdout" 2>"$T/stderr" || got=$?
	[ "$wanted" = "$got" ] || fail "exit status of $*: wanted $wanted, got $got: $(cat "$T/stderr")"
}

mounts() {
	ctl --json restore list | jq '.mounts | length'
}

# Bytes and times of everything in the repository.
repository() {
	find "$T/repo" -type f -printf '%P %s %T@ ' -exec sha256sum {} \; | sort
}

no_mount_is_left() {
	[ "$(mounts)" = 0 ]
}

sum() {
	sha256sum <"$1" | cut -d' ' -f1
}

make_tree
make_disks
add_to_inventory blue "$T/a.raw" "$T/b.raw"
hub_config tick_ms=50
start_hub_and_agent
ctl repo add daily --path "$T/repo" >/dev/null
ctl vm add --all >/dev/null

step "a full and an incremental, each with the files of its time"
backup blue full
FULL=$(job .backup_id)
cp -a "$T/tree" "$T/tree.full"
echo '<?php echo 2;' >"$T/tree/var/www/index.php"
echo new >"$T/tree/var/www/new.php"
rm "$T/tree/both.txt"
make_disks
backup blue incremental
INCR=$(job .backup_id)
assert_eq incremental "$(job '.disks[0].mode')" "mode of disk 0"
repository >"$T/repository.before"
status_of 0 backup files --backup-id "$INCR"
assert_contains "$(cat "$T/stdout")" ext4 "partitions"
status_of 0 backup files --backup-id "$FULL" --path /var/www --json
assert_eq index.php "$(jq -r '[.files[].name] | join(" ")' "$T/stdout")" "files of the full"
status_of 0 backup files --backup-id "$INCR" --path /var/www --json
assert_eq "index.php new.php" "$(jq -r '[.files[].name] | sort | join(" ")' "$T/stdout")" "files of the incremental"
status_of 0 backup files --backup-id "$INCR" --path /many --json
assert_eq 1200 "$(jq '.files | length' "$T/stdout")" "files of a large folder"
status_of 0 backup files --backup-id "$INCR" --disk 0 --path /partition-1 --recursive --json
# lost+found and the devices besides.
assert_eq $(($(find "$T/tree" -mindepth 1 | wc -l) + 3)) "$(jq '[.files[].path] | unique | length' "$T/stdout")" "all files"
no_mount_is_left || fail "a mount is left"

step "a file comes out as it was"
cd "$T"
status_of 0 backup extract --backup-id "$FULL" --file /var/www/index.php --output ./index.php
assert_eq "$(sum tree.full/var/www/index.php)" "$(sum index.php)" "index.php of the full"
assert_eq 640 "$(stat -c %a index.php)" "its mode"
assert_eq "$(stat -c %Y tree.full/var/www/index.php)" "$(stat -c %Y index.php)" "its time"
status_of 5 backup extract --backup-id "$INCR" --file /var/www/index.php --output ./index.php
assert_contains "$(cat stderr)" "--force" "what to do"
assert_eq "$(sum tree.full/var/www/index.php)" "$(sum index.php)" "what was there"
status_of 0 backup extract --backup-id "$INCR" --file /var/www/index.php --output ./index.php --force
assert_eq "$(sum tree/var/www/index.php)" "$(sum index.php)" "index.php of the incremental"
status_of 0 backup extract --backup-id "$INCR" --file /random --output -
assert_eq "$(sum tree/random)" "$(sum stdout)" "a file on stdout"
mkdir into
status_of 0 backup extract --backup-id "$INCR" --file /partition-1/random --disk 0 --output into
assert_eq "$(sum tree/random)" "$(sum into/random)" "a file in a folder"
status_of 0 backup extract --backup-id "$INCR" --file second.txt --output second.txt
assert_eq "on the second disk" "$(cat second.txt)" "a file of the second disk"
assert_eq "" "$(find . -maxdepth 2 -name '.sendense-*')" "files left over"

step "what is in several places, or in none, is told"
status_of 5 backup extract --backup-id "$FULL" --file /both.txt --output both
assert_contains "$(cat stderr)" "disk 0 /partition-1/both.txt, disk 1 /partition-1/both.txt" "places"
status_of 0 backup extract --backup-id "$FULL" --file /both.txt --disk 1 --output both
assert_eq elsewhere "$(cat both)" "the one that was meant"
status_of 4 backup extract --backup-id "$INCR" --file /none --output none
status_of 4 backup extract --backup-id backup-none --file /none --output none
status_of 4 backup extract --backup-id "$INCR" --file /none --disk 7 --output none
status_of 1 backup extract --backup-id "$INCR" --file /outside --output none
assert_contains "$(cat stderr)" "symbolic link" "why"
status_of 1 backup extract --backup-id "$INCR" --file /sda --output none
status_of 4 backup extract --backup-id "$INCR" --file /loop/x --output none
status_of 4 backup extract --backup-id "$INCR" --file /outside/x --output none
status_of 2 backup extract --backup-id "$INCR" --file /var --output -
[ ! -e none ] || fail "something was written"
no_mount_is_left || fail "a mount is left"

step "links lead where they lead in the guest, and never out of the partition"
for path in /site/index.php /far /partition-1/deep/up/site/../www/index.php; do
	status_of 0 backup extract --backup-id "$INCR" --disk 0 --file "$path" --output - --force
	assert_eq "$(sum tree/var/www/index.php)" "$(sum stdout)" "$path"
done
status_of 0 backup files --backup-id "$INCR" --path /site --json
assert_eq "index.php new.php" "$(jq -r '[.files[].name] | sort | join(" ")' "$T/stdout")" "files behind a link"

step "a folder comes out as a tree"
status_of 0 backup extract --backup-id "$INCR" --file /partition-1/ --disk 0 --output all
assert_contains "$(cat stderr)" "left out: sda" "devices"
assert_eq 2 "$(grep -c 'left out: sd' stderr)" "devices"
! grep -q "$(printf '\033')" stderr || fail "a name of the guest's talks to the terminal"
rmdir all/lost+found
diff -r --no-dereference tree all || fail "the tree differs"
assert_eq "$(readlink tree/outside)" "$(readlink all/outside)" "a link"
status_of 5 backup extract --backup-id "$INCR" --file /var --output all/var
status_of 0 backup extract --backup-id "$INCR" --file /var --output all/var --force

step "a folder that is there keeps its mode, a new one gets the guest's"
mkdir -p -m 1777 kept
mkdir -m 700 kept/www
status_of 0 backup extract --backup-id "$INCR" --file /var --output kept
assert_eq "1777 700" "$(stat -c %a kept kept/www | paste -sd ' ')" "modes"
status_of 0 backup extract --backup-id "$INCR" --file /var --output new
assert_eq "$(stat -c '%a %Y' tree/var/www)" "$(stat -c '%a %Y' new/www)" "mode and time"

step "who listens goes away: the mount goes, too"
ctl backup files --backup-id "$INCR" --disk 0 --path /many 2>/dev/null | true || :
no_mount_is_left || fail "a mount is left"
ctl backup extract --backup-id "$INCR" --file /random --output - 2>/dev/null | true || :
no_mount_is_left || fail "a mount is left"

step "a link in the way leads nowhere"
mkdir trap outside
ln -s "$T/outside" trap/www
status_of 1 backup extract --backup-id "$INCR" --file /var --output trap --force
assert_eq "" "$(ls outside)" "what was written outside"

step "Ctrl-C in the middle: nothing is left, here or at the hub"
mkfifo pipe
"$BIN/sendense-ctl" --hub "$HUB_URL" --token-file "$T/hub/admin-token" backup extract --backup-id "$INCR" \
	--file /random --output - >pipe 2>interrupted.err &
CTL=$!
E2E_PIDS+=($CTL)
exec 8<pipe
head -c 100 <&8 >/dev/null
kill -INT $CTL
status=0
wait $CTL || status=$?
exec 8<&-
assert_eq 130 "$status" "exit status"
wait_until 60 "its mount is gone" no_mount_is_left

step "a hub that hangs: a second Ctrl-C ends the program"
kill -STOP "$HUB_PID"
"$BIN/sendense-ctl" --hub "$HUB_URL" --token-file "$T/hub/admin-token" backup files --backup-id "$INCR" \
	--path /var >hangs.out 2>&1 &
CTL=$!
E2E_PIDS+=($CTL)
waits_for_signals() { # Name and SigCgt; SIGINT is bit 1
	grep -q '^Name:.sendense-ctl$' "/proc/$CTL/status" && grep -q '^SigCgt:.*[2367abef]$' "/proc/$CTL/status"
}
interrupted_and_gone() {
	! kill -INT $CTL
}
wait_until 60 "it has begun" waits_for_signals
wait_until 20 "it has ended" interrupted_and_gone
status=0
wait $CTL || status=$?
kill -CONT "$HUB_PID"
assert_eq 130 "$status" "exit status"
wait_until 60 "no mount is left" no_mount_is_left

# From here on it needs FUSE.
[ -c /dev/fuse ] && [ -r /dev/fuse ] && [ -w /dev/fuse ] || skip "no /dev/fuse here: backup mount NOT tested"
command -v fusermount3 >/dev/null || skip "no fusermount3 here: backup mount NOT tested"

step "several mounts at once, the same disk twice"
mkdir m1 m2 m3
status_of 0 backup mount --backup-id "$FULL" --path m1
status_of 0 backup mount --backup-id "$INCR" --path m2
status_of 0 backup mount --backup-id "$INCR" --path m3
E2E_MOUNTS+=("$T/m1" "$T/m2" "$T/m3")
assert_eq 2 "$(mounts)" "mounts of the hub"
assert_eq 2 "$(ctl --json restore list | jq '[.mounts[].users] | max')" "users of the one"
diff -r --no-dereference -x lost+found -x 'sd*' tree.full m1/partition-1 || fail "m1 differs"
diff -r --no-dereference -x lost+found -x 'sd*' tree m2/partition-1 || fail "m2 differs"
cmp tree/random m3/partition-1/random
assert_eq "$(stat -c '%a %s %Y' tree/var/www/new.php)" "$(stat -c '%a %s %Y' m2/partition-1/var/www/new.php)" "stat"
! touch m2/partition-1/new 2>/dev/null || fail "a backup was written"
assert_contains "$(grep " $T/m2 " /proc/self/mounts)" "ro,nosuid,nodev" "options of the mount"
status_of 4 backup unmount --path into
status_of 0 backup unmount --path m3
assert_eq 2 "$(mounts)" "mounts of the hub"
status_of 0 backup unmount --path m2/
assert_eq 1 "$(mounts)" "mounts of the hub"
status_of 5 backup delete --yes --cascade "$FULL"
status_of 0 restore list
assert_contains "$(cat stdout)" "$FULL" "mounts"
fusermount3 -u m1
wait_until 60 "the hub knows" no_mount_is_left
status_of 4 restore unmount mount-none

step "in the foreground, until a signal"
"$BIN/sendense-ctl" --hub "$HUB_URL" --token-file "$T/hub/admin-token" backup mount --backup-id "$INCR" --path m1 \
	--foreground &
CTL=$!
E2E_PIDS+=($CTL)
wait_until 60 "it is mounted" test -e m1/partition-1/random
kill -TERM $CTL
wait $CTL || fail "exit status $? of a mount that was ended"
[ ! -e m1/partition-1 ] || fail "it is still mounted"
no_mount_is_left || fail "a mount is left"

step "the backups are as they were"
repository >"$T/repository.after"
cmp "$T/repository.before" "$T/repository.after" || fail "a backup was written"

step "what is refused is refused before it is in the background"
status_of 4 backup mount --backup-id backup-none --path m1
status_of 4 backup mount --backup-id "$INCR" --path m1/none
status_of 4 backup mount --backup-id "$INCR" --path m1 --disk 7

step "a hub that is killed: errors, no hang; nothing of it is left after its restart"
status_of 0 backup mount --backup-id "$INCR" --path m1
assert_eq 1 "$(mounts)" "mounts of the hub"
end KILL "$HUB_PID"
begun=$SECONDS
! cat m1/partition-1/deep/er/still/low 2>"$T/eio" || fail "a file was read without a hub"
assert_contains "$(cat "$T/eio")" "Input/output error" "why"
assert_le $((SECONDS - begun)) 20 "seconds until then"
start_hub
assert_eq 0 "$(mounts)" "mounts after the restart"
# Used again, it is mounted again.
assert_eq low "$(cat m1/partition-1/deep/er/still/low)" "a file, with the hub back"
assert_eq 1 "$(mounts)" "mounts of the hub"
end KILL "$HUB_PID"
start_hub
status_of 0 backup delete --yes "$INCR"
status_of 0 backup unmount --path m1

step "no room at the hub: an error, and not that there is no such file"
hub_config tick_ms=50 restore_max_mounts=1
end TERM "$HUB_PID"
start_hub
status_of 0 backup mount --backup-id "$FULL" --path m1
status_of 1 backup mount --backup-id "$FULL" --path m2 --disk 1
assert_contains "$(cat stderr)" restore_max_mounts "the cap"
status_of 0 restore unmount "$(ctl --json restore list | jq -r '.mounts[0].mount_id')"
api POST /api/v1/restore/mount "{\"backup_id\":\"$FULL\",\"disk_index\":1}"
assert_eq 201 "$STATUS" "mount of another disk"
! cat m1/partition-1/many/9 2>"$T/eio" || fail "a file was read without a mount"
assert_contains "$(cat "$T/eio")" "Input/output error" "why"
status_of 0 restore unmount "$(jq -r .mount_id "$T/reply")"
assert_eq 9 "$(cat m1/partition-1/many/9)" "the file, with room at the hub"
status_of 0 backup unmount --path m1

step "nobody uses it: unmounted"
hub_config tick_ms=50 restore_idle_s=1
end TERM "$HUB_PID"
start_hub
status_of 0 backup mount --backup-id "$FULL" --path m1
cmp tree.full/random m1/partition-1/random
wait_until 60 "the idle mount is gone" no_mount_is_left
cat m1/partition-1/many/7 >/dev/null || fail "it does not come back"
status_of 0 backup unmount --path m1
wait_until 60 "no mount is left" no_mount_is_left

step "more than a gibibyte, in little memory"
hub_config tick_ms=50
end TERM "$HUB_PID"
start_hub
rm -rf big
mkdir big
truncate -s 1200M big/large
echo middle | dd of=big/large bs=1M seek=700 conv=notrunc status=none
truncate -s 1300M "$T/c.raw"
mke2fs -q -F -t ext4 -d big "$T/c.raw"
add_to_inventory large "$T/c.raw"
end TERM "$AGENT_PID"
start_agent || fail "the agent does not start"
ctl vm add large >/dev/null
backup large full
LARGE=$(job .backup_id)
memory() { # VmRSS or VmHWM, in KiB
	awk -v what="$1:" '$1 == what {print $2}' "/proc/$HUB_PID/status"
}
echo 5 >"/proc/$HUB_PID/clear_refs" # VmHWM begins anew
before=$(memory VmRSS)
status_of 0 backup extract --backup-id "$LARGE" --file /large --output large
assert_eq "$(sum big/large)" "$(sum large)" "the large file"
rm large
# A folder of it, as a stream.
api POST /api/v1/restore/mount "{\"backup_id\":\"$LARGE\"}"
assert_eq 201 "$STATUS" "mount"
curl -sS --noproxy '*' -H "@$T/authorization" \
	"$HUB_URL$(jq -r .mount_path "$T/reply")/download-directory?path=/partition-1&format=tar.gz" |
	tar -xzO partition-1/large | sha256sum | cut -d' ' -f1 >large.sum
assert_eq "$(sum big/large)" "$(cat large.sum)" "the large file in an archive"
after=$(memory VmHWM)
echo "resident: $before KiB before, $after KiB at most"
assert_le $((after - before)) 65536 "KiB more of memory"
