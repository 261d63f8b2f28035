# shellcheck shell=bash disable=SC2034,SC2154 # used by the scripts
# What the families of bench/ share: contenders that serve a disk, loads that drive them, rows.
#
# A contender is a function start_NAME that serves an export of $size on the unix socket $sock (and
# on TCP port $port where it can), with its process id in $server. A measurement starts one on fresh
# files, drives it, reads its CPU time and peak memory, stops it, and writes one row:
#
#   {"family", "load", "name", "value", "unit", "cpu_s_gib", "rss_mib",
#    "memory_gib_s", "syscall_ns",                          just before: bench/machine
#    "cpu_idle", "disk_busy", "disk_queue", "disk_kib"}     while the disk was at it; see watch_machine()

sock=$work/s
img=$work/disk.qcow2
hz=$(getconf CLK_TCK)
server=""
tcp="" # HOST:PORT of a server that has no unix socket

row() { # family, load, name, value, unit, [cpu s/GiB, [rss MiB]]; what watched_machine() said belongs to it
	jq -cn --arg family "$1" --arg load "$2" --arg name "$3" --argjson value "$4" --arg unit "$5" \
		--argjson cpu "${6:-null}" --argjson rss "${7:-null}" --argjson machine "${machine:-{\}}" \
		'{family: $family, load: $load, name: $name, value: $value, unit: $unit,
		  cpu_s_gib: $cpu, rss_mib: $rss} + $machine' >>"$work/rows"
	machine=""
}

now() { date +%s.%N; }
calc() { awk "BEGIN { printf \"%.6f\", $1 }"; }

die() {
	echo "bench: $*" >&2
	[ ! -s "$work/log" ] || tail -n 5 "$work/log" >&2
	exit 1
}

# --- what the machine does meanwhile -----------------------------------------------------------------

machine="" gives="" watcher=""
work_device=$(stat -c '%Hd %Ld' "$work")
mkfifo "$work/never"

# Looks 20 times a second at the time the processors were idle and at what the disk below $work does. Without
# a process of its own for each look: it must not be what it sees.
watch_machine() {
	gives=$("$BUILD/bench/machine") || die "bench/machine failed"
	(
		trap - EXIT
		while :; do
			read -r _ user nice system idle iowait irq soft steal _ </proc/stat
			disk=""
			while read -r major minor _ reads _ rsectors _ writes _ wsectors _ _ busy queued _; do
				[ "$major $minor" != "$work_device" ] ||
					disk="$((reads + writes)) $((rsectors + wsectors)) $busy $queued"
			done </proc/diskstats
			echo "${EPOCHREALTIME%???} $((idle + iowait)) $((user + nice + system + irq + soft + steal)) $disk"
			read -r -t 0.05 <>"$work/never" || true
		done >"$work/watched"
	) &
	watcher=$!
}
# $machine gets what was seen from the disk's first move to its last, which leaves out what clients do
# before and after.
watched_machine() {
	kill "$watcher"
	wait "$watcher" 2>/dev/null || true
	machine=$(awk -v memory="${gives% *}" -v syscall="${gives#* }" 'NF == 7 {
		n++; t[n] = $1 * 1000; idle[n] = $2; spent[n] = $3; ios[n] = $4; sectors[n] = $5; busy[n] = $6; queued[n] = $7
		if (n > 1 && sectors[n] > sectors[n - 1]) { if (!a) a = n - 1; b = n }
	} END {
		printf "{\"memory_gib_s\":%s,\"syscall_ns\":%s", memory, syscall
		if (!b || b - a < 3) { print "}"; exit }
		ms = t[b] - t[a]
		printf ",\"cpu_idle\":%.3f,\"disk_busy\":%.3f,\"disk_queue\":%.2f,\"disk_kib\":%.0f}",
			(idle[b] - idle[a]) / (idle[b] - idle[a] + spent[b] - spent[a]), (busy[b] - busy[a]) / ms,
			(queued[b] - queued[a]) / ms, (sectors[b] - sectors[a]) / 2 / (ios[b] - ios[a])
	}' "$work/watched")
}

# --- contenders --------------------------------------------------------------------------------------

sendense() { # options; BACKING=image for an overlay
	local what=(--size "$size")

	[ -z "${BACKING:-}" ] || what=(--backing "${BACKING#"$work"/}" --repository "$work")
	"$BUILD/bin/sendense-nbd" --image "$img" --create "${what[@]}" "$@" >"$work/out" 2>"$work/log" &
	server=$!
}
start_sendense() { sendense --socket "$sock" "$@"; }
start_sendense_tcp() { # no unix socket appears: when it is ready it says where it listens
	: >"$work/out"
	sendense --listen 127.0.0.1:0 "$@"
	until [ -s "$work/out" ]; do kill -0 "$server" || die "the server did not start"; sleep 0.02; done
	tcp=$(grep -o '127\.0\.0\.1:[0-9]*' "$work/out" | head -n 1)
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
	truncate -s "$size" "$img"
	nbdkit -f -U "$sock" file "$img" >/dev/null 2>"$work/log" &
	server=$!
}
start_nbd_server() {
	truncate -s "$size" "$img"
	printf '[generic]\nunixsock = %s\n[disk]\nexportname = %s\nflush = true\n' "$sock" "$img" >"$work/nbd.conf"
	rm -f "$work/nbd.pid"
	nbd-server -C "$work/nbd.conf" -p "$work/nbd.pid" >/dev/null 2>"$work/log" # goes to the background
	until [ -s "$work/nbd.pid" ]; do sleep 0.02; done
	server=$(cat "$work/nbd.pid")
}
qemu_image() { # cluster size; BACKING
	if [ -z "${BACKING:-}" ]; then
		qemu-img create -q -f qcow2 -o "cluster_size=$1,lazy_refcounts=on" "$img" "$size"
	else
		qemu-img create -q -f qcow2 -b "$BACKING" -F qcow2 \
			-o "cluster_size=$1,lazy_refcounts=on" "$img"
	fi
}
start_qemu() { # CLUSTER: tuned; default: as it comes
	if [ "$1" = default ]; then
		qemu-img create -q -f qcow2 "$img" "$size"
		qemu-nbd -f qcow2 -t -e 64 -k "$sock" "$img" 2>"$work/log" &
	else
		qemu_image "$1"
		qemu-nbd -f qcow2 -t -e 64 --cache=none --aio=io_uring -k "$sock" "$img" 2>"$work/log" &
	fi
	server=$!
}
start_qemu_tcp() { # CLUSTER
	local port
	qemu_image "$1"
	for port in $(shuf -n 20 -i 20000-30000); do # one of them is free
		qemu-nbd -f qcow2 -t -e 64 --cache=none --aio=io_uring -b 127.0.0.1 -p "$port" "$img" 2>"$work/log" &
		server=$!
		until (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
			kill -0 "$server" 2>/dev/null || continue 2
			sleep 0.02
		done
		tcp=127.0.0.1:$port
		return 0
	done
	die "qemu-nbd found no free port"
}
start_qsd() { # CLUSTER
	qemu_image "$1"
	qemu-storage-daemon \
		--blockdev "file,node-name=f,filename=$img,cache.direct=on,aio=io_uring" \
		--blockdev qcow2,node-name=q,file=f,cache.direct=on \
		--nbd-server "addr.type=unix,addr.path=$sock,max-connections=64" \
		--export nbd,id=e,node-name=q,name=,writable=on 2>"$work/log" &
	server=$!
}
start_reader() { # sendense|qemu, image
	if [ "$1" = sendense ]; then
		"$BUILD/bin/sendense-nbd" --socket "$sock" --image "$2" --read-only >/dev/null 2>"$work/log" &
	else
		qemu-nbd -f qcow2 -r -t -e 64 --cache=none --aio=io_uring -k "$sock" "$2" 2>"$work/log" &
	fi
	server=$!
}

wait_socket() {
	local i

	[ -z "$tcp" ] || return 0
	for i in $(seq 500); do
		# listening, not only bound
		awk -v path="$sock" '$4 == "00010000" && $NF == path { found = 1 } END { exit !found }' \
			/proc/net/unix && return 0
		kill -0 "$server" 2>/dev/null || break
		sleep 0.02
	done
	die "the server did not start"
}

cpu_of() { # user + system seconds of a process so far, its threads and the children it waited for included
	awk -v hz="$hz" '{ sub(/^.*\) /, ""); print ($12 + $13 + $14 + $15) / hz }' "/proc/$1/stat"
}
rss_of() { # peak MiB
	awk '/VmHWM/ { print $2 / 1024 }' "/proc/$1/status"
}

# The clean close belongs to the work: who asks for it has it inside the time.
stop_server() {
	kill -TERM "$server"
	wait "$server" 2>/dev/null || true
	while kill -0 "$server" 2>/dev/null; do sleep 0.02; done # one that is no child of ours
	server="" tcp=""
	rm -f "$sock"
}

# Room on the disk that a file frees late is taken from the next measurement: settle first.
fresh() {
	rm -f "$img" "${img%.qcow2}.sums"
	sync -f "$work"
}

# --- loads -------------------------------------------------------------------------------------------

# drive_*: run a load against $sock; $moved gets bytes, $rate GiB/s.
drive_fio() { # fio options
	fio --name=b --ioengine=nbd --uri="nbd+unix:///$export_name?socket=$sock" --size="$size" \
		--end_fsync=1 --refill_buffers=0 --output-format=json --output="$work/fio.json" "$@" \
		>/dev/null 2>"$work/fio.err" || die "fio failed: $(head -n 1 "$work/fio.err")"
	moved=$(jq '[.jobs[] | .write.io_bytes + .read.io_bytes] | add' "$work/fio.json")
	# with the final flush: bytes over the job's whole run time
	rate=$(jq '([.jobs[] | .write.io_bytes + .read.io_bytes] | add) /
		([.jobs[] | .job_runtime] | max) * 1000 / 1073741824' "$work/fio.json")
}
drive_send() { # nbd_send options and addresses
	"$BUILD/bench/nbd_send" "$@" >"$work/send.json" || die "nbd_send failed"
	moved=$(jq .bytes "$work/send.json")
	rate=$(jq .gib_s "$work/send.json")
}

# measure FAMILY LOAD CONTENDER START... -- DRIVE...
measure() {
	local family=$1 load=$2 name=$3 cpu rss
	local -a start=()
	export_name=""
	shift 3
	while [ "$1" != -- ]; do start+=("$1"); shift; done
	shift
	case ${start[0]} in start_nbd_server) export_name=disk ;; esac
	fresh
	"${start[@]}"
	wait_socket
	watch_machine
	"$@"
	watched_machine
	cpu=$(calc "$(cpu_of "$server") / ($moved / 1073741824)")
	rss=$(rss_of "$server")
	stop_server
	row "$family" "$load" "$name" "$rate" GiB/s "$cpu" "$rss"
	fresh
}

# What the directory itself takes: O_DIRECT, io_uring, fresh space, as deep as we go. From memory in large
# pages: a disk that is given scattered ones cuts the requests up, and fio then measures that.
measure_disk() { # family, load
	fresh
	watch_machine
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 fio --name=d --filename="$img" --ioengine=io_uring --direct=1 \
		--rw=write --bs=2M --iodepth=8 --size="$size" --fallocate=posix --end_fsync=1 --refill_buffers=0 \
		--output-format=json --output="$work/fio.json" >/dev/null 2>&1 || die "fio failed on the disk"
	watched_machine
	rate=$(jq '.jobs[0].write.io_bytes / .jobs[0].job_runtime * 1000 / 1073741824' "$work/fio.json")
	row "$1" "$2" "limit: disk" "$rate" GiB/s
	fresh
}
measure_wire() { # family, load, drive...
	local family=$1 load=$2
	shift 2
	measure "$family" "$load" "limit: wire, our null" start_null -- "$@"
	measure "$family" "$load" "wire, nbdkit null" start_nbdkit_null -- "$@"
}
