#!/usr/bin/env bash
# Our server beside what a user would pick instead, in one run, on this machine.
#
#   bench/run.sh quick|full      (through `make bench` and `make bench-full`)
#
# Every round runs each contender once, in turn (A B C A B C ...), on fresh files in one directory;
# the table shows medians, the spread, and the ratio to the best tuned qemu-nbd of the same load.
# Absolute numbers belong to the machine and the hour; ratios of one run are what to quote.
# Results: bench/results/latest.json (not committed) and the table on stdout.
set -euo pipefail

mode=${1:-quick}
: "${BUILD:?run through make bench}"
here=$(cd "$(dirname "$0")" && pwd)
results=$here/results
work=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/sendense-bench-XXXXXX")
server=""
cleanup() {
	[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ "$mode" = full ]; then rounds=7 size=8G; else rounds=3 size=2G; fi
sock=$work/s
img=$work/disk
hz=$(getconf CLK_TCK)
mkdir -p "$results"
: >"$work/rows"

# --- contenders: each starts a server on $sock for an export of $size, foreground process in $server

start_sendense() { # [cluster size]
	rm -f "$img"
	"$BUILD/bin/sendense-nbd" --socket "$sock" --image "$img" --create --size "$size" \
		${1:+--cluster-size "$1"} >/dev/null 2>"$work/log" &
	server=$!
}
start_null() {
	"$BUILD/bench/nbd_null" "unix:$sock" >/dev/null 2>"$work/log" &
	server=$!
}
start_nbdkit_null() {
	nbdkit -f -U "$sock" null "$size" >/dev/null 2>"$work/log" &
	server=$!
}
start_nbdkit_file() {
	rm -f "$img" && truncate -s "$size" "$img"
	nbdkit -f -U "$sock" file "$img" >/dev/null 2>"$work/log" &
	server=$!
}
start_qemu() { # CLUSTER|default
	rm -f "$img"
	if [ "$1" = default ]; then
		qemu-img create -q -f qcow2 "$img" "$size"
		qemu-nbd -f qcow2 -t -e 16 -k "$sock" "$img" 2>"$work/log" &
	else
		qemu-img create -q -f qcow2 -o "cluster_size=$1,lazy_refcounts=on" "$img" "$size"
		qemu-nbd -f qcow2 -t -e 16 --cache=none --aio=io_uring -k "$sock" "$img" 2>"$work/log" &
	fi
	server=$!
}

wait_socket() {
	local i
	for i in $(seq 200); do
		[ -S "$sock" ] && return 0
		kill -0 "$server" 2>/dev/null || break
		sleep 0.05
	done
	echo "bench: the server did not start:" >&2
	cat "$work/log" >&2
	exit 1
}

cpu_of() { # user + system seconds of a process so far
	awk -v hz="$hz" '{ sub(/^.*\) /, ""); print ($12 + $13) / hz }' "/proc/$1/stat"
}

# The clean close is part of the work: its time counts.
stop_server() {
	kill -TERM "$server"
	wait "$server" 2>/dev/null || true
	server=""
	rm -f "$sock"
}

# measure LOAD CONTENDER START-COMMAND... -- FIO-OPTIONS...
measure() {
	local load=$1 name=$2 t0 t1 bytes cpu rss
	local -a start=()
	shift 2
	while [ "$1" != -- ]; do start+=("$1"); shift; done
	shift
	"${start[@]}"
	wait_socket
	t0=$(date +%s.%N)
	fio --name=b --ioengine=nbd --uri="nbd+unix:///?socket=$sock" --size="$size" \
		--end_fsync=1 --refill_buffers=0 --output-format=json --output="$work/fio.json" "$@" \
		>/dev/null 2>&1 || { echo "bench: fio failed for $name" >&2; cat "$work/log" >&2; exit 1; }
	bytes=$(jq '[.jobs[] | .write.io_bytes + .read.io_bytes] | add' "$work/fio.json")
	rss=$(awk '/VmHWM/ { print $2 }' "/proc/$server/status")
	cpu=$(cpu_of "$server")
	stop_server
	t1=$(date +%s.%N)
	jq -cn --arg load "$load" --arg name "$name" --argjson bytes "$bytes" \
		--argjson fio "$(jq '[.jobs[] | .write.bw_bytes + .read.bw_bytes] | add' "$work/fio.json")" \
		--argjson wall "$(echo "$t1 - $t0" | bc)" --argjson cpu "$cpu" --argjson rss "$rss" \
		'{load: $load, name: $name, gib_s: ($fio / 1073741824), wall_s: $wall,
		  cpu_s_gib: ($cpu / ($bytes / 1073741824)), rss_mib: ($rss / 1024)}' >>"$work/rows"
}

# What the directory itself takes: O_DIRECT, io_uring, fresh space.
measure_disk() {
	rm -f "$img"
	fio --name=d --filename="$img" --ioengine=io_uring --direct=1 --rw=write --bs=2M --iodepth=8 \
		--size="$size" --fallocate=posix --refill_buffers=0 --output-format=json \
		--output="$work/fio.json" >/dev/null 2>&1
	jq -c '{load: "limits", name: "disk, fio O_DIRECT", gib_s: (.jobs[0].write.bw_bytes / 1073741824),
		wall_s: 0, cpu_s_gib: 0, rss_mib: 0}' "$work/fio.json" >>"$work/rows"
	rm -f "$img"
}

# --- reading a chain: the engine alone, and over NBD with nbdcopy, beside qemu-nbd

build_chains() {
	local depth

	for depth in 1 2 10 100; do
		mkdir -p "$work/chain$depth"
		chain[$depth]=$("$BUILD/bench/chain_read" build "$work/chain$depth" 2048 "$depth")
	done
}

start_reader() { # sendense|qemu, image
	if [ "$1" = sendense ]; then
		"$BUILD/bin/sendense-nbd" --socket "$sock" --image "$2" --read-only >/dev/null 2>"$work/log" &
	else
		qemu-nbd -f qcow2 -r -t -e 16 --cache=none --aio=io_uring -k "$sock" "$2" 2>"$work/log" &
	fi
	server=$!
}

measure_chain() { # depth
	local depth=$1 who name t0 t1 cpu rss gib

	gib=$("$BUILD/bench/chain_read" scan "${chain[$depth]}" | awk '{ print $2 }')
	jq -cn --arg load "read, depth $depth" --argjson gib "$gib" \
		'{load: $load, name: "engine alone", gib_s: $gib, wall_s: 0, cpu_s_gib: 0, rss_mib: 0}' \
		>>"$work/rows"
	for who in sendense qemu; do
		name="sendense 64 KiB"
		[ "$who" = sendense ] || name="qemu-nbd tuned 64 KiB"
		start_reader "$who" "${chain[$depth]}"
		wait_socket
		t0=$(date +%s.%N)
		nbdcopy "nbd+unix:///?socket=$sock" null:
		t1=$(date +%s.%N)
		rss=$(awk '/VmHWM/ { print $2 }' "/proc/$server/status")
		cpu=$(cpu_of "$server")
		stop_server
		jq -cn --arg load "read, depth $depth" --arg name "$name" \
			--argjson wall "$(echo "$t1 - $t0" | bc)" --argjson cpu "$cpu" --argjson rss "$rss" \
			'{load: $load, name: $name, gib_s: (2 / $wall), wall_s: $wall,
			  cpu_s_gib: ($cpu / 2), rss_mib: ($rss / 1024)}' >>"$work/rows"
	done
}

declare -a chain=()
[ "$mode" != full ] || build_chains

seq1m=(--rw=write --bs=1M --iodepth=16)
seq64k=(--rw=write --bs=64k --iodepth=16)
agent=(--rw=write --bs=32M --iodepth=1)

for round in $(seq "$rounds"); do
	printf 'round %d of %d\r' "$round" "$rounds" >&2
	measure_disk
	measure limits "wire, nbdkit null" start_nbdkit_null -- "${seq1m[@]}"
	measure limits "wire, our null export" start_null -- "${seq1m[@]}"
	measure "1 MiB depth 16" "sendense 64 KiB" start_sendense -- "${seq1m[@]}"
	measure "1 MiB depth 16" "qemu-nbd tuned 2 MiB" start_qemu 2M -- "${seq1m[@]}"
	measure "1 MiB depth 16" "qemu-nbd tuned 64 KiB" start_qemu 64k -- "${seq1m[@]}"
	measure "32 MiB depth 1" "sendense 64 KiB" start_sendense -- "${agent[@]}"
	measure "32 MiB depth 1" "qemu-nbd tuned 2 MiB" start_qemu 2M -- "${agent[@]}"
	[ "$mode" = full ] || continue
	for depth in 1 2 10 100; do measure_chain "$depth"; done
	measure "1 MiB depth 16" "qemu-nbd default" start_qemu default -- "${seq1m[@]}"
	measure "1 MiB depth 16" "nbdkit file" start_nbdkit_file -- "${seq1m[@]}"
	measure "64 KiB depth 16" "sendense 64 KiB" start_sendense -- "${seq64k[@]}"
	measure "64 KiB depth 16" "qemu-nbd tuned 2 MiB" start_qemu 2M -- "${seq64k[@]}"
	measure "64 KiB depth 16" "qemu-nbd tuned 64 KiB" start_qemu 64k -- "${seq64k[@]}"
done

jq -s 'def median: sort | .[length / 2 | floor];
	group_by([.load, .name]) | map({load: .[0].load, name: .[0].name, runs: length,
		gib_s: (map(.gib_s) | median), low: (map(.gib_s) | min), high: (map(.gib_s) | max),
		cpu_s_gib: (map(.cpu_s_gib) | median), rss_mib: (map(.rss_mib) | max)})' \
	"$work/rows" >"$results/latest.json"

jq -r '. as $all | ["load", "server", "GiB/s", "low..high", "CPU s/GiB", "peak MiB", "x qemu-nbd tuned"],
	(.[] | . as $r | ([$all[] | select(.load == $r.load and (.name | startswith("qemu-nbd tuned")))
		| .gib_s] | max) as $peer
	| [.load, .name, (.gib_s * 100 | round / 100), "\(.low * 100 | round / 100)..\(.high * 100 | round / 100)",
	   (.cpu_s_gib * 1000 | round / 1000), (.rss_mib | round),
	   (if $peer then (.gib_s / $peer * 100 | round / 100) else "" end)]) | @tsv' \
	"$results/latest.json" | awk -F'\t' '{ printf "%-16s %-24s %8s %14s %10s %9s  %s\n", $1, $2, $3, $4, $5, $6, $7 }'
