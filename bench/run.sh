#!/usr/bin/env bash
# Our programs beside what a user would pick instead, in one run, on this machine.
#
#   bench/run.sh quick|full [FAMILY...]      (through `make bench`, `make bench-full`; FAMILIES="...")
#
# Every round runs each contender once, in turn (A B C A B C ...), on fresh files in one directory,
# with the limits of disk and wire measured in the same turn. The report shows medians, spread and
# ratios, then each target with what was reached. Absolute numbers belong to the machine and the hour.
# Results: bench/results/latest.json, FAMILY.svg (neither committed) and the table on stdout.
# How to read them: docs/performance.md.
#
# Environment: BUILD; BENCH_DIR: where the disks are made (default: TMPDIR or /tmp); ROUNDS; SIZE.
set -euo pipefail

mode=${1:-quick}
shift || true
: "${BUILD:?run through make bench}"
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/sendense-bench-XXXXXX")
server=""
cleanup() {
	[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true
	[ -z "${watcher:-}" ] || kill "$watcher" 2>/dev/null || true
	wait 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ "$mode" = full ]; then rounds=${ROUNDS:-5} size=${SIZE:-4G}; else rounds=${ROUNDS:-3} size=${SIZE:-1G}; fi
families=("$@")
[ ${#families[@]} -gt 0 ] || families=(ingest overlay chain verify zstd)
[ "$mode" != full ] || [ $# -gt 0 ] || families+=(streams hub idle growth)
: >"$work/rows"
. "$here/lib.sh"
full() { [ "$mode" = full ]; }

# --- one disk, one connection: what fio's nbd engine reaches -----------------------------------------

ingest_load() { # load, peers, fio options...
	local load=$1 peers=$2 peer
	shift 2
	measure_disk ingest "$load"
	measure_wire ingest "$load" drive_fio "$@"
	measure ingest "$load" "sendense" start_sendense -- drive_fio "$@"
	for peer in $peers; do
		case $peer in
		64k) measure ingest "$load" "qemu-nbd tuned 64 KiB" start_qemu 64k -- drive_fio "$@" ;;
		2M) measure ingest "$load" "qemu-nbd tuned 2 MiB" start_qemu 2M -- drive_fio "$@" ;;
		default) measure ingest "$load" "qemu-nbd default" start_qemu default -- drive_fio "$@" ;;
		qsd) measure ingest "$load" "qemu-storage-daemon 64 KiB" start_qsd 64k -- drive_fio "$@" ;;
		nbdkit) measure ingest "$load" "nbdkit file" start_nbdkit_file -- drive_fio "$@" ;;
		nbd-server) measure ingest "$load" "nbd-server file" start_nbd_server -- drive_fio "$@" ;;
		plain) measure ingest "$load" "sendense, no sums" start_sendense --no-sums -- drive_fio "$@" ;;
		esac
	done
}
family_ingest() {
	if full; then
		ingest_load "1 MiB, depth 16" "plain 64k 2M default qsd nbdkit nbd-server" --rw=write --bs=1M --iodepth=16
		# Where there is no target, beside the strongest peer alone.
		ingest_load "1 MiB, depth 1" 2M --rw=write --bs=1M --iodepth=1
		ingest_load "1 MiB, depth 64" 2M --rw=write --bs=1M --iodepth=64
		ingest_load "32 MiB, depth 16" 2M --rw=write --bs=32M --iodepth=16
		ingest_load "64 KiB, depth 1" 2M --rw=write --bs=64k --iodepth=1 --io_size=1G
		ingest_load "64 KiB, depth 64" 2M --rw=write --bs=64k --iodepth=64
		ingest_load "4 KiB, depth 1" 2M --rw=write --bs=4k --iodepth=1 --io_size=64M
		ingest_load "4 KiB, depth 16" 2M --rw=write --bs=4k --iodepth=16 --io_size=512M
		ingest_load "4 KiB, depth 64" 2M --rw=write --bs=4k --iodepth=64 --io_size=512M
		ingest_load "4 KiB random, depth 64" "64k 2M" --rw=randwrite --bs=4k --iodepth=64 --io_size=128M
	else
		ingest_load "1 MiB, depth 16" "plain 64k 2M default" --rw=write --bs=1M --iodepth=16
	fi
	ingest_load "32 MiB, depth 1" "2M" --rw=write --bs=32M --iodepth=1
	ingest_load "64 KiB, depth 16" "64k 2M" --rw=write --bs=64k --iodepth=16
}

# --- our own sender: shapes of data, sockets, connections, exports -----------------------------------

drive_tcp() { drive_send "$@" "$tcp"; }
drive_unix() { drive_send "$@" "unix:$sock"; }

family_streams() {
	local n options=(--size "$size" --block 1M --depth 16)

	measure_disk streams "plain"
	measure_wire streams "plain" drive_unix "${options[@]}"
	measure streams "plain" "sendense" start_sendense -- drive_unix "${options[@]}"
	measure streams "zero-mixed" "sendense" start_sendense -- drive_unix "${options[@]}" --zero-mixed
	measure streams "unaligned" "sendense" start_sendense -- drive_unix "${options[@]}" --skew 3584
	measure streams "TCP" "sendense" start_sendense_tcp -- drive_tcp "${options[@]}"
	measure streams "TCP" "qemu-nbd tuned 2 MiB" start_qemu_tcp 2M -- drive_tcp "${options[@]}"
	for n in 1 2 5 8; do
		measure streams "$n connections" "sendense" start_sendense -- drive_unix "${options[@]}" --connections "$n"
		measure streams "$n connections" "qemu-nbd tuned 2 MiB" start_qemu 2M -- drive_unix "${options[@]}" --connections "$n"
	done
}

# --- an incremental: writes into an overlay ----------------------------------------------------------

declare -A chain=()
build_chain() { # depth, MiB
	[ -z "${chain[$1]:-}" ] || return 0
	mkdir -p "$work/chain$1"
	chain[$1]=$("$BUILD/bench/chain_read" build "$work/chain$1" "$2" "$1")
}
# A small write into an overlay reads a cluster and writes one: what the disk gives to that, in bytes
# of 4 KiB writes.
measure_disk_cow() { # load
	fresh
	fio --name=d --filename="$img" --ioengine=io_uring --direct=1 --rw=randrw --bs=64k --iodepth=64 \
		--size=1G --io_size=1G --fallocate=posix --end_fsync=1 --output-format=json \
		--output="$work/fio.json" >/dev/null 2>&1 || die "fio failed on the disk"
	row overlay "$1" "limit: disk, 64 KiB for each 4" \
		"$(jq '.jobs[0].write.bw_bytes / 16 / 1073741824' "$work/fio.json")" GiB/s
	fresh
}
overlay_load() { # depth, load, fio options
	local load="$2, depth $1" BACKING
	BACKING=${chain[$1]}
	[ "$2" != "4 KiB random" ] || measure_disk_cow "$load"
	shift 2
	measure overlay "$load" "sendense" start_sendense -- drive_fio "$@"
	measure overlay "$load" "qemu-nbd tuned 64 KiB" start_qemu 64k -- drive_fio "$@"
}
family_overlay() {
	local depth depths="1" mib=1024 size=1G
	full && depths="1 10 100"
	for depth in $depths; do
		build_chain "$depth" $mib
		overlay_load "$depth" "4 KiB random" --rw=randwrite --bs=4k --iodepth=64 --io_size=64M
		full && overlay_load "$depth" "1 MiB" --rw=write --bs=1M --iodepth=16
	done
	return 0
}

# --- reading a chain back ----------------------------------------------------------------------------

measure_chain_reader() { # depth, who, name, MiB
	local t0 t1 cpu rss gib
	gib=$(calc "$4 / 1024")
	start_reader "$2" "${chain[$1]}"
	wait_socket
	t0=$(now)
	nbdcopy "nbd+unix:///?socket=$sock" null: || die "nbdcopy failed"
	t1=$(now)
	cpu=$(calc "$(cpu_of "$server") / $gib")
	rss=$(rss_of "$server")
	stop_server
	row chain "nbdcopy, depth $1" "$3" "$(calc "$gib / ($t1 - $t0)")" GiB/s "$cpu" "$rss"
}
# The full under the chain, cluster by cluster in any order: from depth 2 on that is what there is to read.
measure_disk_read() { # depth
	local rw=randread
	[ "$1" != 1 ] || rw=read
	fio --name=r --filename="$work/chain$1/chain-0.qcow2" --readonly --ioengine=io_uring --direct=1 \
		--rw=$rw --bs=64k --iodepth=64 --output-format=json --output="$work/fio.json" >/dev/null 2>&1 ||
		die "fio failed on the disk"
	row chain "nbdcopy, depth $1" "limit: disk" "$(jq '.jobs[0].read.bw_bytes / 1073741824' "$work/fio.json")" GiB/s
}
family_chain() {
	local depth depths="1 100" mib=1024
	full && depths="1 2 10 100"
	for depth in $depths; do
		build_chain "$depth" $mib
		measure_disk_read "$depth"
		row chain "engine, depth $depth" "sendense" \
			"$("$BUILD/bench/chain_read" scan "${chain[$depth]}" | awk '{ print $2 }')" GiB/s
		measure_chain_reader "$depth" sendense "sendense" $mib
		measure_chain_reader "$depth" qemu "qemu-nbd tuned 64 KiB" $mib
	done
}

# --- verify ------------------------------------------------------------------------------------------

family_verify() {
	local t0 t1 gib
	fresh
	start_sendense
	wait_socket
	drive_unix --size "$size"
	stop_server
	gib=$(calc "$moved / 1073741824")
	fio --name=r --filename="$img" --readonly --ioengine=io_uring --direct=1 --rw=read --bs=2M \
		--iodepth=8 --size="$size" --output-format=json --output="$work/fio.json" >/dev/null 2>&1 ||
		die "fio failed"
	row verify "a full" "limit: disk" "$(jq '.jobs[0].read.bw_bytes / 1073741824' "$work/fio.json")" GiB/s
	t0=$(now)
	"$BUILD/bin/sendense-ctl" image verify "$img" >/dev/null || die "verify failed"
	t1=$(now)
	row verify "a full" "sendense" "$(calc "$gib / ($t1 - $t0)")" GiB/s
	fresh
}

# --- compression -------------------------------------------------------------------------------------

# Text-like data: base64 of noise gives zstd a quarter, which is what it finds on ordinary disks.
make_compressible() {
	[ ! -e "$work/text.raw" ] || return 0
	head -c $((768 << 20)) /dev/urandom | base64 -w 0 | head -c 1G >"$work/text.raw"
	qemu-img convert -f raw -O qcow2 "$work/text.raw" "$work/text.qcow2"
}
zstd_on() { # load, processors
	local t0 t1

	fresh
	t0=$(now)
	taskset -c "$2" "$BUILD/bin/sendense-ctl" image convert "$work/text.qcow2" "$img" --compress zstd:1 \
		>/dev/null || die "convert failed"
	t1=$(now)
	row zstd "$1" "sendense convert" "$(calc "1 / ($t1 - $t0)")" GiB/s
	fresh
	t0=$(now)
	taskset -c "$2" qemu-img convert -c -f qcow2 -O qcow2 -o compression_type=zstd -t none -T none -W -m 8 \
		"$work/text.qcow2" "$img" || die "qemu-img failed"
	t1=$(now)
	row zstd "$1" "qemu-img convert -c" "$(calc "1 / ($t1 - $t0)")" GiB/s
	fresh
}
family_zstd() {
	make_compressible
	zstd_on "one core" 0
	[ "$(nproc)" -lt 2 ] || zstd_on "two cores" 0,1
}

# --- what idle clients cost, and growth --------------------------------------------------------------

family_idle() {
	local before after i

	fresh
	start_sendense --max-connections 1100 --max-connections-per-export 1100
	wait_socket
	before=$(awk '/VmRSS/ { print $2 }' "/proc/$server/status")
	"$BUILD/bench/nbd_send" --idle 1000 "unix:$sock" >"$work/idle" 2>&1 &
	i=$!
	until [ -s "$work/idle" ]; do kill -0 "$i" 2>/dev/null || die "idle clients: $(cat "$work/idle")"; sleep 0.05; done
	after=$(awk '/VmRSS/ { print $2 }' "/proc/$server/status")
	kill "$i" && wait "$i" 2>/dev/null || true
	stop_server
	row idle "1000 idle connections" "sendense" "$(calc "($after - $before) / 1000")" "KiB each"
	fresh
}

# CPU and memory per GiB must not grow with the disk. Larger disks only as far as there is room.
family_growth() {
	local gib room
	room=$(($(df --output=avail -B1G "$work" | tail -n 1) - 8))

	for gib in 1 4 16 64; do
		[ "$gib" -le "$room" ] || continue
		local size=${gib}G
		measure growth "disk of $gib GiB" "sendense" start_sendense -- \
			drive_unix --size "$size" --block 1M --depth 16
	done
}

# --- the hub -----------------------------------------------------------------------------------------

family_hub() {
	bash "$here/hub.sh" "$work/rows" "$mode" || die "the hub's part failed"
}

# --- all of it ---------------------------------------------------------------------------------------

once() { case $1 in growth | idle | hub) return 0 ;; *) return 1 ;; esac; }

for round in $(seq "$rounds"); do
	for family in "${families[@]}"; do
		[ "$round" = 1 ] || ! once "$family" || continue
		printf '\rround %d of %d: %-10s' "$round" "$rounds" "$family" >&2
		"family_$family"
	done
done
printf '\r%40s\r' '' >&2
"$here/report.sh" "$work/rows" "$here/results"
