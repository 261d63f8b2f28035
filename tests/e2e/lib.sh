# shellcheck shell=bash disable=SC2034,SC2120 # used by the scripts
# What the end-to-end scripts share. Sourced first:
#
#   . "$(dirname "$0")/lib.sh"
#
# Gives a scratch folder $T, programs that are started with their ready lines read and that are
# killed at the end whatever happens, disks to back up, and assertions that say what they wanted.
# Nothing waits by guess: wait_until polls with a deadline. Exit 77 skips.
set -euo pipefail
: "${BUILD:?set BUILD to the absolute path of the build folder}"
BIN=$BUILD/bin
PATH=$PATH:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL

T=$(mktemp -d "${TMPDIR:-/tmp}/e2e.XXXXXX")
echo '{}' >"$T/hub.conf"
E2E_PIDS=()
E2E_MOUNTS=() # taken down at the end

# --- endings ----------------------------------------------------------------------------------------

# What still runs after a good test must stop in order: exit 0 after SIGTERM, and nothing for a
# sanitizer to say.
e2e_stop() { # pid, name
	local deadline=$((SECONDS + 60)) status=0

	kill -TERM "$1" 2>/dev/null || return 0
	while kill -0 "$1" 2>/dev/null; do
		[ "$SECONDS" -lt "$deadline" ] || { echo "FAIL: $2 does not stop" && return 1; }
		sleep 0.05
	done
	wait "$1" || status=$?
	[ "$status" = 0 ] || { echo "FAIL: $2 ended with $status after SIGTERM" && return 1; }
}

e2e_cleanup() {
	local status=$? pid mount log

	trap - EXIT
	trap '' INT TERM HUP
	if [ "$status" = 0 ] && [ -n "${HUB_PID:-}" ]; then
		e2e_stop "$AGENT_PID" sendense-agent || status=1
		e2e_stop "$HUB_PID" sendense-hub || status=1
	fi
	if [ "$status" != 0 ] && [ "$status" != 77 ]; then
		for log in "$T"/*.err; do
			[ ! -s "$log" ] || { echo "--- $(basename "$log")" && tail -n 15 "$log"; }
		done
		[ -z "${E2E_REASON:-}" ] || echo "FAIL: $E2E_REASON"
	fi
	exec 2>/dev/null # bash would report each of them as killed
	for pid in "${E2E_PIDS[@]}"; do
		kill -KILL "$pid" || true
	done
	wait || true
	for mount in "${E2E_MOUNTS[@]}"; do
		umount "$mount" || true
	done
	rm -rf "$T"
	exit "$status"
}
trap e2e_cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Said again last, behind the logs.
fail() {
	E2E_REASON="$*"
	echo "FAIL: $*"
	exit 1
}

skip() {
	echo "skip: $*"
	exit 77
}

step() {
	echo "== $*"
}

# --- assertions and waiting -------------------------------------------------------------------------

assert_eq() { # wanted, got, what
	[ "$1" = "$2" ] || fail "$3: wanted \"$1\", got \"$2\""
}

assert_ne() { # unwanted, got, what
	[ "$1" != "$2" ] || fail "$3: \"$2\" is what it must not be"
}

assert_le() { # number, bound, what
	[ "$1" -le "$2" ] || fail "$3: $1 is more than $2"
}

assert_contains() { # text, part, what
	[[ $1 == *"$2"* ]] || fail "$3: \"$2\" is not in \"$1\""
}

# Runs a command until it succeeds; fails after so many seconds.
wait_until() { # seconds, what, command...
	local deadline=$((SECONDS + $1)) what=$2

	shift 2
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$deadline" ] || fail "waited in vain until $what"
		sleep 0.05
	done
}

# --- programs ---------------------------------------------------------------------------------------

# Starts a program in the background: $T/NAME.out, $T/NAME.err, its process id in SPAWNED.
spawn() { # name, command...
	local name=$1

	shift
	: >"$T/$name.out" # here, not only in the child: a ready line of before is none
	"$@" >"$T/$name.out" 2>>"$T/$name.err" </dev/null &
	SPAWNED=$!
	E2E_PIDS+=("$SPAWNED")
}

has_line_or_ended() { # name, pid
	[ -s "$T/$1.out" ] && [ "$(wc -l <"$T/$1.out")" -ge 1 ] || ! kill -0 "$2"
}

# The one line a program prints on stdout when it is ready, in READY.
await_ready() { # name, pid
	wait_until 60 "$1 was ready" has_line_or_ended "$1" "$2"
	READY=$(head -n 1 "$T/$1.out")
	[ -n "$READY" ] || fail "$1 ended before it was ready"
}

# Value of a word KEY=VALUE in a line.
word_of() { # key, line
	local word

	for word in $2; do
		[ "${word%%=*}" != "$1" ] || { printf '%s' "${word#*=}" && return; }
	done
	echo "no $1= in: $2" >&2
	return 1
}

# Ends a program with a signal and waits for it; its exit status in ENDED.
end() { # signal, pid
	ENDED=0
	kill -"$1" "$2"
	{ wait "$2" || ENDED=$?; } 2>/dev/null
}

# A TCP port nobody listens on, another one with each call. Below the range the kernel hands out by itself, so that
# it stays ours while whoever listens there is killed and started again; and of a part of it that is this script's,
# as long as few others run. Only a start on it tells for certain, so start_hub_and_agent tries again when it was
# taken meanwhile.
PORTS=20
PORT_FIRST=$((10900 + $$ % 1000 * PORTS))
PORT_NEXT=$((RANDOM % PORTS))
free_port() {
	PORT=$((PORT_FIRST + PORT_NEXT++ % PORTS))
	while (: <"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do
		PORT=$((PORT_FIRST + PORT_NEXT++ % PORTS))
	done
}

# --- hub and agent ----------------------------------------------------------------------------------

# Numbers for the hub's configuration file: hub_config disconnect_grace_s=3 ...
hub_config() {
	jq -n '$ARGS.positional | map(split("=") | {(.[0]): (.[1] | tonumber)}) | add // {}' \
		--args "$@" >"$T/hub.conf"
}

mariadb_answers() {
	mariadb --no-defaults -S "$T/db/sock" -u root -e "SELECT 1"
}

# A MariaDB server, or the one there was before. DB_PID.
run_mariadb() {
	mkdir -p "$T/db"
	MARIADB_TEMPLATE=$BUILD/tests/mariadb-data spawn mariadb "$PWD/tools/private-mariadb.sh" "$T/db" \
		--innodb-flush-method=nosync --debug-no-sync
	DB_PID=$SPAWNED
	wait_until 60 "MariaDB answers" mariadb_answers
}

# A database on it, and a user whose password is in a file. DB_URL.
make_database() {
	echo "open sesame $RANDOM" >"$T/db-password"
	chmod 600 "$T/db-password"
	mariadb --no-defaults -S "$T/db/sock" -u root <<-SQL
		CREATE DATABASE hub;
		CREATE USER hub@localhost IDENTIFIED BY '$(cat "$T/db-password")';
		GRANT ALL ON hub.* TO hub@localhost;
	SQL
	DB_URL="mariadb://hub@localhost/hub?socket=$T/db/sock&password-file=$T/db-password"
}

# An address on a port nobody listens on, in ADDRESS.
free_address() {
	free_port
	ADDRESS=127.0.0.1:$PORT
}

# The hub on ports that are free, or the ones it had before. HUB_PID, HUB_URL, HUB_NBD, and HUB_AGENTS
# where agents call it. $T/authorization is the administrator's header for curl. Its catalog is SQLite's default one, or with E2E_DB=mariadb in a server of this test's own.
start_hub() { # further options...
	local try

	if [ "${E2E_DB:-}" = mariadb ] && [ -z "${DB_URL:-}" ]; then
		run_mariadb
		make_database
	fi
	for try in 1 2 3 4 5; do
		[ -n "${HUB_NBD:-}" ] || { free_address && HUB_NBD=$ADDRESS && free_address && HUB_HTTP=$ADDRESS &&
			free_address && HUB_AGENTS=$ADDRESS; }
		spawn hub "$BIN/sendense-hub" --data-dir "$T/hub" --config "$T/hub.conf" ${DB_URL:+--db "$DB_URL"} \
			--http "$HUB_HTTP" --agent-listen "$HUB_AGENTS" --nbd "$HUB_NBD" \
			--nbd "unix:$T/hub.sock" --agent-url "http://127.0.0.1:$AGENT_PORT" "$@"
		HUB_PID=$SPAWNED
		wait_until 60 "the hub was ready" has_line_or_ended hub "$HUB_PID"
		if [ -s "$T/hub.out" ] || ! tail -n 3 "$T/hub.err" | grep -q "Address already in use"; then break; fi
		echo "try $try: one of the ports $HUB_NBD, $HUB_HTTP, $HUB_AGENTS is taken"
		HUB_NBD=''
	done
	await_ready hub "$HUB_PID"
	HUB_HTTP=$(word_of http "$READY")
	HUB_URL=http://$HUB_HTTP
	HUB_AGENTS=$(word_of agent "$READY")
	printf 'Authorization: Bearer %s\n' "$(cat "$T/hub/admin-token")" >"$T/authorization"
	HUB_NBD=$(word_of nbd "$READY")
	HUB_NBD=${HUB_NBD%%,*}
}

# True when it came up; AGENT_PID.
start_agent() {
	spawn agent "$BIN/sendense-agent" --listen "127.0.0.1:$AGENT_PORT" --hub-url "http://$HUB_AGENTS" \
		--inventory "$T/inventory.json" --state-dir "$T/agent"
	AGENT_PID=$SPAWNED
	wait_until 60 "the agent was ready" has_line_or_ended agent "$AGENT_PID"
	[ -s "$T/agent.out" ]
}

start_hub_and_agent() { # further options of the hub...
	local try

	for try in 1 2 3 4 5; do
		free_port
		AGENT_PORT=$PORT
		start_hub "$@"
		start_agent && return
		echo "try $try: port $AGENT_PORT is taken"
		end TERM "$HUB_PID"
	done
	fail "the agent does not start: $(tail -n 1 "$T/agent.err")"
}

ctl() {
	"$BIN/sendense-ctl" --hub "$HUB_URL" --token-file "$T/hub/admin-token" "$@"
}

# One call of the API as its administrator: HTTP status in STATUS, answer in $T/reply.
api() { # method, path, [body]
	STATUS=$(curl -sS --noproxy '*' -o "$T/reply" -w '%{http_code}' -X "$1" -H "@$T/authorization" \
		${3:+-H 'Content-Type: application/json' -d "$3"} "$HUB_URL$2")
}

# The same as a capture agent.
agent_api() { # method, path, [body]
	STATUS=$(curl -sS --noproxy '*' -o "$T/reply" -w '%{http_code}' -X "$1" \
		${3:+-H 'Content-Type: application/json' -d "$3"} "http://$HUB_AGENTS$2")
}

# Adds a VM whose disks are raw files (or any NBD URI) to the agent's inventory: keys 2000, 2001...
add_to_inventory() { # name, source...
	local vm=$1 source disks=() key=2000

	shift
	[ -s "$T/inventory.json" ] || echo '{"vms":[]}' >"$T/inventory.json"
	for source in "$@"; do
		disks+=("$(jq -nc --argjson key "$key" --arg source "$source" \
			'{key: $key, label: "Hard disk \($key - 1999)", source: $source}
			 + if ($source | startswith("/")) then {format: "raw"} else {} end')")
		key=$((key + 1))
	done
	jq -c --arg name "$vm" --argjson disks "$(printf '%s\n' "${disks[@]}" | jq -sc .)" \
		'.vms += [{name: $name, id: "vm-\(.vms | length + 1)", disks: $disks}]' \
		"$T/inventory.json" >"$T/inventory.new"
	mv "$T/inventory.new" "$T/inventory.json"
}

# Backs up and waits; the job as the hub describes it in $T/job.json. Fails unless it completes.
backup() { # vm, type
	ctl --json backup start --vm "$1" --type "$2" >"$T/job.json" ||
		fail "$2 backup of $1: $(jq -r .error_message "$T/job.json" 2>/dev/null)"
	assert_eq completed "$(jq -r .status "$T/job.json")" "status of the $2 backup of $1"
}

job() { # jq expression on the last job
	jq -r "$1" "$T/job.json"
}

# Path of a disk's point of the last job.
point() { # disk index
	job ".disks[] | select(.disk_index == $1) | .qcow2_path"
}

show_job() { # backup id; refreshes $T/job.json
	ctl --json backup show "$1" >"$T/job.json"
}

job_is() { # backup id, status
	show_job "$1" && [ "$(job .status)" = "$2" ]
}

# Data of a running backup has arrived, so that what happens next happens mid-copy.
job_moves() { # backup id
	show_job "$1" && [ "$(job '[.disks[].bytes_received] | add')" -gt 0 ]
}

# --- disks ------------------------------------------------------------------------------------------

# A disk with random data, text, zeroes written and holes, in this order, a quarter each.
make_disk() { # file, bytes
	local quarter=$(($2 / 4))

	truncate -s "$2" "$1"
	put_random "$1" 0 "$quarter"
	{ yes "the quick brown fox jumps over the lazy dog" 2>/dev/null || true; } |
		head -c "$quarter" | write_at "$1" "$quarter"
	head -c "$quarter" /dev/zero | write_at "$1" $((2 * quarter))
	put_random "$1" $(($2 - 4096)) 4096
}

write_at() { # file, offset; data on stdin
	dd of="$1" bs=1M oflag=seek_bytes seek="$2" conv=notrunc iflag=fullblock status=none
}

put_random() { # file, offset, bytes
	head -c "$3" /dev/urandom | write_at "$1" "$2"
}

put_zeroes() { # file, offset, bytes
	head -c "$3" /dev/zero | write_at "$1" "$2"
}

# Random bytes at random places, sector aligned, @percent of the disk in runs of 256 KiB.
change_disk() { # file, percent
	local size run=262144 i runs

	size=$(stat -c %s "$1")
	runs=$((size * $2 / 100 / run))
	for ((i = 0; i < runs; i++)); do
		put_random "$1" $(((RANDOM * 32768 + RANDOM) % ((size - run) / 512) * 512)) $run
	done
}

keep_copy() { # file, name of the copy
	cp --sparse=always "$1" "$2"
}

# A point is a sound image and equals the disk as it was.
assert_point() { # point, raw copy
	qemu-img check -q -f qcow2 "$1" || fail "qemu-img check of $1"
	qemu-img compare -q -f raw -F qcow2 "$2" "$1" || fail "$1 differs from $2"
	assert_eq "$(stat -c %s "$2")" "$(qemu-img info --output=json "$1" | jq '."virtual-size"')" \
		"virtual size of $1"
}

# Bytes a file takes in its file system.
allocated() {
	echo $(($(stat -c %b "$1") * 512))
}

# Serves a disk file as an NBD source whose speed can be set while it is read: the way to be certain
# that a backup is still running when the test needs it to. SOURCE is its URI. One thread a
# connection: nbdkit 1.32 with more of them may abort when a client goes away mid-request.
slow_source() { # name, file
	echo 100G >"$T/$1.rate"
	spawn "$1" nbdkit -f -t 1 -U "$T/$1.sock" -P "$T/$1.listens" --filter=rate file "$2" rate=100G \
		rate-file="$T/$1.rate"
	wait_until 60 "nbdkit serves $1" test -s "$T/$1.listens"
	SOURCE="nbd+unix:///?socket=$T/$1.sock"
}

set_rate() { # name, bits per second
	echo "$2" >"$T/$1.rate.new"
	mv "$T/$1.rate.new" "$T/$1.rate"
}
