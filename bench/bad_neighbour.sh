#!/usr/bin/env bash
# What a bad neighbour takes from a good stream.
#
#   BUILD=/abs/build [LOADS="read ..."] [KINDS="deaf ..."] bench/bad_neighbour.sh [PAIRS [SECONDS]]
#
# One worker serves one image in memory, the neighbour is on the same export, and the worker has one CPU for itself
# while all clients share the others: so the server is what limits the stream, and what the stream loses is what the
# server spends on the neighbour or lets it hold. While one good stream (fio) runs, the neighbour comes and goes PAIRS
# times (default 12); what the stream got in SECONDS (0.5) beside it is divided by the mean of what it got just before
# and just after, alone. So a machine that is slower for a while is slower for both. The table shows medians:
#   stream    throughput of the good stream, with the neighbour / alone, and the 95 % confidence interval of that median
#   cpu       server CPU per byte of the good stream, with the neighbour / alone
#   share     CPU the server spends on the neighbour beside a client of 20 requests a second, of one core
#   own       CPU the neighbour itself takes, of one core
#   resident  what the server's memory grew by beside it, MiB
# Exit 1 when a neighbour takes more than LIMIT percent (default 5): by the stream's interval, all of it beyond, or by
# its share.
set -euo pipefail

: "${BUILD:?set BUILD to the absolute path of the build folder}"
pairs=${1:-12} seconds=${2:-0.5} limit=${LIMIT:-5}
work=$(mktemp -d /dev/shm/neighbour.XXXXXX)
server_cpu="taskset -c 0" clients_cpu="taskset -c 1-$(($(nproc) - 1))"
sock=$work/s
server="" bad="" tiny="" good=""
stop() { # a process of ours
	kill "$1"
	wait "$1" 2>/dev/null || true
}
cleanup() {
	[ -z "$good" ] || kill "$good" 2>/dev/null || true
	[ -z "$tiny" ] || kill "$tiny" 2>/dev/null || true
	[ -z "$bad" ] || kill "$bad" 2>/dev/null || true
	[ -z "$server" ] || kill "$server" 2>/dev/null || true
	wait
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

declare -A loads=(
	[write]="--rw=write --bs=64k --iodepth=16"
	[read]="--rw=read --bs=64k --iodepth=16"
	[random]="--rw=randwrite --bs=4k --iodepth=16"
)
neighbours=(
	"deaf 1" "deaf 8" "deaf 40"
	"silent 50"
	"idle 500"
	"dribble 1 1000" "dribble 40 4000"
	"headers 1 1000" "headers 40 4000"
	"tiny 1 1000"
	"churn 1 100" "churn 1 100000"
	"hello 100 100000"
	"slow 40 1000" "slow 40 100000"
)

# The certificate most servers have: RSA of 2048 bits.
mkdir "$work/pki"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=bench -keyout "$work/pki/server-key.pem" \
	-out "$work/pki/server-cert.pem" 2>/dev/null
chmod 600 "$work/pki/server-key.pem"
cp "$work/pki/server-cert.pem" "$work/pki/ca-cert.pem"

cpu_ns() { # of a process, all threads
	awk '{ n += $1 } END { printf "%.0f\n", n }' /proc/"$1"/task/*/schedstat
}

resident() {
	awk '/VmRSS/ { print $2 }' "/proc/$1/status"
}

neighbour() { # kind, connections, rate: comes
	$clients_cpu "$BUILD/bench/bad_neighbour" "unix:$sock" "$@" >"$work/bad" &
	bad=$!
	until [ -s "$work/bad" ]; do
		kill -0 "$bad" || exit 1
		sleep 0.01
	done
}

leaves() {
	stop "$bad"
	bad=""
	rm -f "$work/bad"
}

now_ms() {
	echo "${EPOCHREALTIME%???}" | tr -d .
}

# A stretch of the good stream: with or without, server CPU before it and after, when it began and ended.
window() { # with | alone
	local c0 t0

	c0=$(cpu_ns "$server")
	t0=$(now_ms)
	sleep "$seconds"
	echo "$1 $t0 $(now_ms) $c0 $(cpu_ns "$server")" >>"$work/windows"
}

good_fio=(fio --name=good --ioengine=nbd "--uri=nbd+unix:///?socket=$sock" --size=1G --output=/dev/null)

measure() { # load, kind, connections, rate
	local before c0 share o0 own=0 name="$2${3:+ x$3}${4:+, $4/s}" grown

	$server_cpu "$BUILD/bin/sendense-nbd" --socket "$sock" --image "$work/image" --create --size 1G --workers 1 \
		--max-connections-per-export 1024 --tls allow --tls-certificates "$work/pki" >"$work/ready" 2>"$work/log" &
	server=$!
	until [ -s "$work/ready" ]; do sleep 0.02; done
	$clients_cpu "${good_fio[@]}" --rw=write --bs=1M # every cluster is there
	before=$(resident "$server")

	# Alone with a client that is being served, if hardly: what that one costs is nothing to speak of.
	neighbour "${@:2}"
	$clients_cpu "$BUILD/bench/bad_neighbour" "unix:$sock" tiny 1 20 >/dev/null &
	tiny=$!
	sleep 0.5
	c0=$(cpu_ns "$server")
	sleep 2
	share=$(echo "($(cpu_ns "$server") - $c0) / 2000000000" | bc -l)
	stop "$tiny"
	tiny=""
	grown=$(($(resident "$server") - before))
	leaves

	: >"$work/windows"
	# shellcheck disable=SC2086
	$clients_cpu "${good_fio[@]}" --time_based --runtime=600 --write_bw_log="$work/fio" --log_avg_msec=20 \
		--log_unix_epoch=1 ${loads[$1]} &
	good=$!
	sleep 1
	window alone
	for ((i = 0; i < pairs; i++)); do
		neighbour "${@:2}"
		sleep 1 # what it does once is not what is measured
		o0=$(cpu_ns "$bad")
		window with
		own=$(echo "$own + ($(cpu_ns "$bad") - $o0) / $seconds / 1000000000 / $pairs" | bc -l)
		leaves
		sleep 0.1
		window alone
	done
	sleep 0.1
	kill -INT "$good"
	wait "$good" || true
	good=""
	stop "$server"
	server=""
	rm -f "$sock" "$work/ready" "$work/image"*
	awk -v name="$name" -v load="$1" -v share="$share" -v own="$own" -v grown="$grown" -v limit="$limit" "$table" \
		"$work/windows" "$work/"fio_bw.*.log | tee -a "$work/rows"
	rm -f "$work/fio"*
}

# shellcheck disable=SC2016
table='
	function sorted(v, n, i, j, t) {
		for (i = 1; i <= n; i++)
			for (j = i + 1; j <= n; j++)
				if (v[j] < v[i]) { t = v[i]; v[i] = v[j]; v[j] = t }
	}
	function median(v, n) {
		return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
	}
	FNR == NR { from[++n] = $2; to[n] = $3; cpu[n] = $5 - $4; next }
	BEGIN { w = 1; FS = "[ ,]+" }
	{ # an entry is the mean of the time before it
		while (w <= n && $1 > to[w]) w++
		if (w <= n && $1 - 20 >= from[w]) { bytes[w] += $2; entries[w]++ }
	}
	END {
		for (i = 1; i <= n; i++) {
			if (!entries[i]) { print "no figures of window " i >"/dev/stderr"; exit 2 }
			speed[i] = bytes[i] / entries[i]
			cost[i] = cpu[i] / ((to[i] - from[i]) * speed[i])
		}
		for (i = 2; i < n; i += 2) {
			stream[++k] = speed[i] / ((speed[i - 1] + speed[i + 1]) / 2)
			costs[k] = cost[i] / ((cost[i - 1] + cost[i + 1]) / 2)
		}
		sorted(stream, k)
		sorted(costs, k)
		low = int(k / 2 - 0.98 * sqrt(k))
		low = low < 1 ? 1 : low
		high = k + 1 - low
		bad = stream[high] < 1 - limit / 100 || share > limit / 100
		printf "%-8s%-20s%8.3f  %.3f-%.3f%8.3f%8.4f%8.3f%10.1f%s\n", load, name, median(stream, k), stream[low],
			stream[high], median(costs, k), share, own, grown / 1024, bad ? "  <" : ""
	}'

printf '%-8s%-20s%8s  %-11s%8s%8s%8s%10s\n' stream neighbour stream "" cpu share own resident
for load in ${LOADS:-write read random}; do
	for n in "${neighbours[@]}"; do
		[[ " ${KINDS:-${n%% *}} " == *" ${n%% *} "* ]] || continue
		# shellcheck disable=SC2086
		measure "$load" $n
	done
done
! grep -q '<$' "$work/rows"
