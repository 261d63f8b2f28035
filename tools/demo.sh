#!/usr/bin/env bash
# The product's main job on this machine, told step by step and proven with QEMU's own tools.
#
#   make demo [DB=mariadb]        or        [DB=mariadb] BIN=build/bin tools/demo.sh [--keep]
#
# Makes a VM with two disks (a GPT-partitioned one with an ext4 of more than 1 GiB, filled from this
# machine's own files, and one of odd size), starts a hub and a capture agent, makes a full backup,
# changes about 3 % inside the file system, makes an incremental, and compares both points with the
# disks as they were. With DB=mariadb the catalog is in a MariaDB server of the demo's own instead of
# a SQLite file. Everything is in one temporary folder, removed at the end (--keep: left, and
# the hub and the agent keep running). Needs no root, 8 GiB of space and about a minute.
set -euo pipefail
: "${BIN:?set BIN to the folder of the programs, or run: make demo}"
PATH=$PATH:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL

NEEDED_GIB=8
ROOT_MIB=1408	   # the partitioned disk
FS_KIB=1306624	   # its ext4: 1.25 GiB
FILL_MIB=1040	   # of files in it,
FILL_FILES=60000   # and no more than it has room for
DATA_BYTES=$(((300 << 20) + 1536)) # the other disk: no multiple of 64 KiB
FS_OFFSET=1048576  # where the partition begins, bytes

KEEP=""
case ${1:-} in
"") ;;
--keep) KEEP=yes ;;
*)
	sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
	[ "$1" = --help ] && exit 0
	exit 2
	;;
esac

# --- telling and ending -----------------------------------------------------------------------------

if [ -t 1 ]; then
	BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
	BOLD="" DIM="" RED="" GREEN="" PLAIN=""
fi
STEP=0
PIDS=()

step() {
	STEP=$((STEP + 1))
	printf '\n%s%d. %s%s\n' "$BOLD" "$STEP" "$*" "$PLAIN"
}

say() {
	printf '   %s\n' "$*"
}

good() {
	printf '   %sok%s  %s\n' "$GREEN" "$PLAIN" "$*"
}

die() {
	printf '%sdemo: %s%s\n' "$RED" "$*" "$PLAIN" >&2
	exit 1
}

# Shows a command as one would type it, then runs it.
run() {
	printf '%s$ %s%s\n' "$DIM" "${*//$BIN\//}" "$PLAIN"
	"$@"
}

finish() {
	local status=$? pid

	trap - EXIT
	trap '' INT TERM HUP
	if [ "$status" != 0 ] && [ -n "${WORK:-}" ]; then
		tail -n 20 "$WORK"/*.log >&2 2>/dev/null || true
		printf '%sdemo: failed in step %d (exit status %d)%s\n' "$RED" "$STEP" "$status" \
			"$PLAIN" >&2
	fi
	if [ -n "$KEEP" ] && [ "$status" = 0 ]; then
		say "kept: $WORK; hub and agent are running (process ids ${PIDS[*]})"
		say "try:  $BIN/sendense-ctl --hub $HUB_URL --token-file $WORK/hub/admin-token backup list"
		say "end:  kill ${PIDS[*]}; rm -rf $WORK"
		exit 0
	fi
	for pid in "${PIDS[@]}"; do
		kill "$pid" 2>/dev/null || true
	done
	wait || true
	[ -z "${WORK:-}" ] || rm -rf "$WORK"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- a VM to back up --------------------------------------------------------------------------------

check_space() {
	local free_kib

	free_kib=$(df -Pk "${TMPDIR:-/tmp}" | awk 'NR == 2 {print $4}')
	[ "$free_kib" -ge $((NEEDED_GIB << 20)) ] ||
		die "${TMPDIR:-/tmp} has $((free_kib >> 20)) GiB free, $NEEDED_GIB are needed;" \
			"set TMPDIR to a folder with more space"
}

# The machine's own files, the largest first: few and large fill a file system fastest. What cannot
# be read, or goes away meanwhile, is left out. Prints how many bytes it took.
collect_files() { # folder, bytes and number at most
	mkdir -p "$1"
	{ find /usr -xdev -type f -readable -size -64M -printf '%s %P\0' 2>/dev/null || true; } |
		sort -z -rn | awk -v room="$2" -v files="$3" '
			BEGIN {RS = ORS = "\0"}
			{
				size = $1
				sub(/^[0-9]+ /, "")
				if (n < files && sum + size <= room) { n++; sum += size; print }
			}
			END {print sum + 0 >"/dev/stderr"}' 2>"$WORK/sum" >"$WORK/list"
	{ tar -C /usr --null --files-from="$WORK/list" -cf - 2>/dev/null || true; } | tar -C "$1" -xf -
	tr -d '\0' <"$WORK/sum"
}

# A few of the files just collected, for the guest to remove later; of plain names, as debugfs reads
# them.
pick_doomed() {
	tr '\0' '\n' <"$WORK/list" | grep -E '^[A-Za-z0-9./_+-]+$' | tail -n 5 >"$WORK/doomed"
}

# A small machine's files do not fill the disk: then once more, into another folder.
fill_folder() { # folder
	local room=$((FILL_MIB << 20)) pass took

	for pass in 1 2 3 4; do
		took=$(collect_files "$1/usr.$pass" $room $((FILL_FILES / 4)))
		[ $pass != 1 ] || pick_doomed
		room=$((room - took))
		if [ "$took" = 0 ] || [ $room -lt $((FILL_MIB << 16)) ]; then
			break
		fi
	done
}

make_root_disk() { # file
	truncate -s "${ROOT_MIB}M" "$1"
	printf 'label: gpt\nstart=%d, size=%d, type=linux, name=root\n' \
		$((FS_OFFSET / 512)) $((FS_KIB * 2)) | sfdisk -q "$1"
	fill_folder "$WORK/files"
	mke2fs -q -F -t ext4 -L demo -E "offset=$FS_OFFSET" -d "$WORK/files" "$1" "${FS_KIB}k"
	rm -rf "$WORK/files"
}

# A third each of noise, text and nothing at all.
make_data_disk() { # file
	local third=$((DATA_BYTES / 3))

	truncate -s "$DATA_BYTES" "$1"
	head -c "$third" /dev/urandom | dd of="$1" bs=1M conv=notrunc status=none
	find /usr/share -xdev -type f -readable -size +4k -exec cat {} + 2>/dev/null | head -c "$third" |
		dd of="$1" bs=1M oflag=seek_bytes seek="$third" conv=notrunc status=none || true
	printf 'the last sector' | dd of="$1" oflag=seek_bytes seek=$((DATA_BYTES - 512)) conv=notrunc \
		status=none
}

debug_fs() { # disk, commands
	debugfs -w -f "$2" "$1?offset=$FS_OFFSET" >"$WORK/debugfs.log" 2>&1
	e2fsck -fn "$1?offset=$FS_OFFSET" >"$WORK/e2fsck.log" 2>&1 || die "the file system is damaged"
}

# What a guest does in a day: new files, a few old ones gone.
change_root_disk() { # file
	local i

	{
		echo "mkdir /changed"
		echo "cd /changed"
		for ((i = 0; i < 8; i++)); do
			head -c 4M /dev/urandom >"$WORK/new$i"
			echo "write $WORK/new$i new$i"
		done
		sed 's|^|rm /usr.1/|' "$WORK/doomed"
	} >"$WORK/commands"
	debug_fs "$1" "$WORK/commands"
	REMOVED=$(grep -c '^rm ' "$WORK/commands" || true)
	rm -f "$WORK"/new*
}

change_data_disk() { # file
	head -c 5000 /dev/urandom | dd of="$1" oflag=seek_bytes seek=100001280 conv=notrunc status=none
	head -c 512 /dev/urandom | dd of="$1" oflag=seek_bytes seek=$((DATA_BYTES - 512)) conv=notrunc \
		status=none
}

# --- hub and agent ----------------------------------------------------------------------------------

launch() { # name, command...: its ready line in READY
	local name=$1 pid deadline=$((SECONDS + 30))

	shift
	"$@" >"$WORK/$name.ready" 2>"$WORK/$name.log" </dev/null &
	pid=$!
	PIDS+=("$pid")
	until [ -s "$WORK/$name.ready" ]; do
		kill -0 "$pid" 2>/dev/null || die "$name did not start"
		[ "$SECONDS" -lt "$deadline" ] || die "$name is not ready after 30 s"
		sleep 0.05
	done
	READY=$(head -n 1 "$WORK/$name.ready")
	say "$READY"
}

word_of() { # key, line
	local word

	for word in $2; do
		[ "${word%%=*}" != "$1" ] || printf '%s' "${word#*=}"
	done
}

# A port nobody listens on, for the hub must know its agent before the agent knows the hub.
free_port() {
	PORT=$((10900 + RANDOM % 20000))
	while (: <"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do
		PORT=$((10900 + RANDOM % 20000))
	done
}

mariadb_sql() {
	mariadb --no-defaults -S "$WORK/db/sock" -u root -e "$1" >/dev/null 2>&1
}

# A MariaDB server with an empty database; HUB_DB is the hub's option.
launch_mariadb() {
	local deadline=$((SECONDS + 60))

	mkdir "$WORK/db"
	"$(dirname "$0")/private-mariadb.sh" "$WORK/db" >"$WORK/mariadb.log" 2>&1 </dev/null &
	PIDS+=($!)
	until mariadb_sql "SELECT 1"; do
		kill -0 $! 2>/dev/null || die "MariaDB did not start"
		[ "$SECONDS" -lt "$deadline" ] || die "MariaDB is not ready after 60 s"
		sleep 0.05
	done
	mariadb_sql "CREATE DATABASE sendense"
	HUB_DB=(--db "mariadb://root@localhost/sendense?socket=$WORK/db/sock")
	say "$(mariadbd --no-defaults --version), for the catalog"
}

write_inventory() {
	cat >"$WORK/inventory.json" <<-JSON
		{"vms": [{
		  "name": "demo-vm", "id": "vm-1", "guest_os": "debian12_64Guest",
		  "power_state": "poweredOn", "num_cpu": 2, "memory_mb": 4096,
		  "disks": [
		    {"key": 2000, "label": "root", "source": "$ROOT", "format": "raw"},
		    {"key": 2001, "label": "data", "source": "$DATA", "format": "raw"}
		  ]}]}
	JSON
}

ctl() {
	run "$BIN/sendense-ctl" --hub "$HUB_URL" --token-file "$WORK/hub/admin-token" "$@"
}

quiet_ctl() {
	"$BIN/sendense-ctl" --hub "$HUB_URL" --token-file "$WORK/hub/admin-token" "$@"
}

# Backs up with the progress shown, and keeps the job's description.
back_up() { # type, file for the description
	ctl backup start --vm demo-vm --type "$1"
	quiet_ctl --json backup list --vm demo-vm >"$WORK/list.json"
	quiet_ctl --json backup show "$(jq -r '.backups[0].backup_id' "$WORK/list.json")" >"$2"
}

# --- the proof --------------------------------------------------------------------------------------

prove() { # description of the job, disk index, disk as it was
	local image

	image=$(jq -r ".disks[] | select(.disk_index == $2) | .qcow2_path" "$1")
	qemu-img check -q -f qcow2 "$image" || die "qemu-img check finds faults in $image"
	qemu-img compare -q -f raw -F qcow2 "$3" "$image" || die "$image differs from $3"
	good "$(basename "$(dirname "$image")")/$(basename "$image"): check is clean, compare is identical"
}

mib() { # bytes
	awk -v b="$1" 'BEGIN {printf "%.1f MiB", b / 1048576}'
}

sum_of() { # field, description
	jq "[.disks[].$1] | add" "$2"
}

# Bytes the images of a job take on the disk.
stored() { # description
	jq -r '.disks[].qcow2_path' "$1" | xargs -d '\n' stat -c %b | awk '{n += $1} END {print n * 512}'
}

speed() { # description
	jq -r '
		def seconds: sub("\\.[0-9]+"; "") | fromdateiso8601;
		def fraction: (capture("\\.(?<f>[0-9]+)") | "0." + .f | tonumber) // 0;
		def time: seconds + fraction;
		((.completed_at | time) - (.started_at | time)) as $s
		| ([.disks[].bytes_received] | add) as $b
		| if $s > 0 then "\($b / $s / 1073741824 * 100 | round / 100) GiB/s over \($s * 10 | round / 10) s"
		  else "in less than a moment" end' "$1"
}

# --- the story --------------------------------------------------------------------------------------

check_space
for program in sendense-hub sendense-agent sendense-ctl; do
	[ -x "$BIN/$program" ] || die "$BIN/$program is missing; run: make"
done
WORK=$(mktemp -d "${TMPDIR:-/tmp}/sendense-demo.XXXXXX")
ROOT=$WORK/root.raw DATA=$WORK/data.raw

step "A VM with two disks"
make_root_disk "$ROOT"
say "root: GPT, ext4 with $(du -m "$ROOT" | cut -f1) MiB of this machine's files"
make_data_disk "$DATA"
say "data: $DATA_BYTES bytes (no multiple of 64 KiB), noise, text and holes"
cp --reflink=auto --sparse=always "$ROOT" "$WORK/root.at-full"
cp --reflink=auto --sparse=always "$DATA" "$WORK/data.at-full"

step "A hub and a capture agent"
free_port
write_inventory
HUB_DB=()
case ${DB:-sqlite} in
sqlite) ;;
mariadb) launch_mariadb ;;
*) die "DB is sqlite or mariadb, not $DB" ;;
esac
launch sendense-hub "$BIN/sendense-hub" --data-dir "$WORK/hub" --http 127.0.0.1:0 \
	--agent-listen 127.0.0.1:0 --nbd 127.0.0.1:0 \
	--agent-url "http://127.0.0.1:$PORT" "${HUB_DB[@]}"
HUB_URL=http://$(word_of http "$READY")
AGENTS_URL=http://$(word_of agent "$READY")
launch sendense-agent "$BIN/sendense-agent" --listen "127.0.0.1:$PORT" --hub-url "$AGENTS_URL" \
	--inventory "$WORK/inventory.json" --state-dir "$WORK/agent"
ctl repo add local --path "$WORK/repository"
ctl vm add demo-vm

step "The full backup"
back_up full "$WORK/full.json"

step "A day in the life of the VM: about 3 % of its files change"
change_root_disk "$ROOT"
change_data_disk "$DATA"
say "32 MiB of new files, $REMOVED old ones removed; a few sectors of the data disk, its last among them"

step "The incremental backup"
back_up incremental "$WORK/incr.json"

step "What there is now"
ctl backup list --vm demo-vm
echo
ctl backup chain --vm demo-vm
echo
say "full:        $(mib "$(sum_of bytes_received "$WORK/full.json")") sent, $(mib "$(stored "$WORK/full.json")") stored, $(speed "$WORK/full.json")"
say "incremental: $(mib "$(sum_of bytes_received "$WORK/incr.json")") sent, $(mib "$(stored "$WORK/incr.json")") stored"
say "the incremental is $(awk -v a="$(stored "$WORK/incr.json")" -v b="$(stored "$WORK/full.json")" \
	'BEGIN {printf "%.1f %%", 100 * a / b}') of the full"

step "The proof, with QEMU's tools"
TOP=$(jq -r '.disks[] | select(.disk_index == 0) | .qcow2_path' "$WORK/incr.json")
run qemu-img info --backing-chain "$TOP"
echo
say "the full, against the disks as they were then:"
prove "$WORK/full.json" 0 "$WORK/root.at-full"
prove "$WORK/full.json" 1 "$WORK/data.at-full"
say "the incremental, against the disks as they are now:"
prove "$WORK/incr.json" 0 "$ROOT"
prove "$WORK/incr.json" 1 "$DATA"

printf '\n%sBoth points equal their source.%s %d s in all.\n' "$GREEN$BOLD" "$PLAIN" "$SECONDS"
