#!/usr/bin/env bash
# Runs test programs in parallel and counts them.
#
#   BUILD=/abs/build tests/run.sh PROGRAM...
#
# A program is a unit-test binary, a fuzz replay (build/tests/fuzz/NAME, given its corpus folder
# tests/fuzz/corpus/NAME), or a shell script. It passes with exit 0, is skipped with exit 77 (its
# last line says why) and fails with anything else, a run longer than TEST_TIMEOUT included. Each
# gets a TMPDIR of its own, removed afterwards, and a log in $BUILD/test-logs. Scripts go first:
# they are the slow ones, and a long tail behind a short queue is idle time.
#
# Environment: BUILD; JOBS (default: processors + 1); TEST_TIMEOUT in seconds (default: 600).
# The last line is exactly "N passed, N failed" or "N passed, N failed, N skipped".
# Exit: 0 when something passed and nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${BUILD:?set BUILD to the absolute path of the build folder}"
jobs=${JOBS:-$(($(nproc) + 1))}
limit=${TEST_TIMEOUT:-600}
logs=$BUILD/test-logs
tail_lines=40

mkdir -p "$logs"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/sendense-test.XXXXXX")

declare -A name_of=() started=() tmp_of=() # by process id of the running tests
declare -a failures=()
passed=0 failed=0 skipped=0 serial=0

# timeout(1) gives each test a process group of its own, and passes the signal on to all of it.
stop_all() {
	local pid
	for pid in "${!name_of[@]}"; do
		kill -TERM "$pid" 2>/dev/null || true
	done
	wait || true
}

finish() {
	stop_all
	chmod -R u+rwX "$scratch" 2>/dev/null || true
	rm -rf "$scratch"
}
trap finish EXIT
trap 'echo "interrupted" >&2; exit 130' INT
trap 'echo "terminated" >&2; exit 143' TERM HUP

# "tests/nbd/test_wire", whether built or written.
display_name() {
	local name=${1#"$PWD"/}
	name=${name#"${BUILD#"$PWD"/}"/}
	printf '%s' "${name%.sh}"
}

log_of() {
	local name=${1#tests/}
	printf '%s/%s.log' "$logs" "${name//\//-}"
}

start() {
	local program=$1 name tmp pid
	local -a command=("$program")

	name=$(display_name "$program")
	case $program in
	*.sh) command=(bash "$program") ;;
	*/tests/fuzz/*) command=("$program" "tests/fuzz/corpus/$(basename "$program")") ;;
	esac
	serial=$((serial + 1))
	tmp=$scratch/$serial
	mkdir "$tmp"
	TMPDIR=$tmp BUILD=$BUILD timeout --kill-after=15 "$limit" "${command[@]}" \
		>"$(log_of "$name")" 2>&1 </dev/null &
	pid=$!
	name_of[$pid]=$name
	started[$pid]=$(now_ms)
	tmp_of[$pid]=$tmp
}

now_ms() {
	local t=$EPOCHREALTIME
	printf '%s' "$((${t/[.,]/} / 1000))"
}

report() { # pid, exit status
	local pid=$1 status=$2 name=${name_of[$1]} ms verdict note=""

	ms=$(($(now_ms) - ${started[$pid]}))
	case $status in
	0) verdict=ok passed=$((passed + 1)) ;;
	77)
		verdict=skip skipped=$((skipped + 1))
		note="  ($(tail -n 1 "$(log_of "$name")"))"
		;;
	*)
		verdict=FAIL failed=$((failed + 1))
		failures+=("$name")
		note="  (exit $status)"
		[ "$status" != 124 ] || note="  (longer than $limit s)"
		;;
	esac
	printf '%-4s %4d.%d s  %s%s\n' "$verdict" $((ms / 1000)) $((ms % 1000 / 100)) "$name" "$note"
	chmod -R u+rwX "${tmp_of[$pid]}" 2>/dev/null || true
	rm -rf "${tmp_of[$pid]}"
	unset "name_of[$pid]" "started[$pid]" "tmp_of[$pid]"
}

reap_one() {
	local pid="" status=0
	wait -n -p pid "${!name_of[@]}" || status=$?
	report "$pid" "$status"
}

declare -a scripts=() binaries=()
for program in "$@"; do
	case $program in
	*.sh) scripts+=("$program") ;;
	*) binaries+=("$program") ;;
	esac
done

for program in "${scripts[@]}" "${binaries[@]}"; do
	[ "${#name_of[@]}" -lt "$jobs" ] || reap_one
	start "$program"
done
while [ "${#name_of[@]}" -gt 0 ]; do
	reap_one
done

for name in "${failures[@]}"; do
	printf '\n--- %s: last %d lines of %s\n' "$name" "$tail_lines" "$(log_of "$name")"
	tail -n "$tail_lines" "$(log_of "$name")"
done
[ "${#failures[@]}" = 0 ] || echo

summary="$passed passed, $failed failed"
[ "$skipped" = 0 ] || summary+=", $skipped skipped"
echo "$summary"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
