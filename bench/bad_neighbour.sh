#!/usr/bin/env bash
# What a bad neighbour takes from a good stream.
#
#   BUILD=/abs/build [LOADS="read ..."] [KINDS="deaf ..."] bench/bad_neighbour.sh [ROUNDS [SECONDS]]
#
# One worker serves one export with nothing behind it, so that nothing but the server is measured; the
# neighbour is on the same export. Each round runs the good stream (fio) alone and then beside each
# neighbour, in turn. The table shows, as a median over the rounds:
#   share     CPU the server spends on the neighbour beside a client of 20 requests a second, of one core: what a
#             busy worker has less for the good stream. Does not depend on what else the machine does
#   cpu       server CPU per byte of the good stream, with the neighbour / alone
#   stream    throughput of the good stream, with the neighbour / alone: the neighbour's own CPU and
#             everything else on the machine are in it
#   own       CPU the neighbour itself takes, of one core
#   resident  what the server's memory grew by beside it, MiB
# Exit 1 when a neighbour's share is more than LIMIT percent (default 5).
set -euo pipefail

: "${BUILD:?set BUILD to the absolute path of the build folder}"
rounds=${1:-5} seconds=${2:-2} limit=${LIMIT:-5}
work=$(mktemp -d "${TMPDIR:-/tmp}/neighbour.XXXXXX")
sock=$work/s
server="" bad="" tiny=""
stop() { # a process of ours
	kill "$1"
	wait "$1" 2>/dev/null || true
}
cleanup() {
	[ -z "$tiny" ] || kill "$tiny" 2>/dev/null || true
	[ -z "$bad" ] || kill "$bad" 2>/dev/null || true
	[ -z "$server" ] || kill "$server" 2>/dev/null || true
	wait
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

declare -A good=(
	[write]="--rw=write --bs=64k --iodepth=16"
	[read]="--rw=read --bs=64k --iodepth=16"
	[random]="--rw=randwrite --bs=4k --iodepth=16"
)
neighbours=(
	"alone"
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
	awk '{ n += $1 } END { printf "%d\n", n }' /proc/"$1"/task/*/schedstat
}

resident() {
	awk '/VmRSS/ { print $2 }' "/proc/$1/status"
}

# One row: load, neighbour, share, server ns per byte, bytes per second, own CPU, KiB more.
measure() { # load, kind, connections, rate
	local c0 c1 o0=0 o1=0 share=0 bytes bw before name="$2${3:+ x$3}${4:+, $4/s}"

	"$BUILD/bench/nbd_null" "unix:$sock" 64 1 "$work/pki" allow >"$work/ready" 2>"$work/log" &
	server=$!
	until [ -s "$work/ready" ]; do sleep 0.02; done
	before=$(resident "$server")
	if [ "$2" != alone ]; then
		"$BUILD/bench/bad_neighbour" "unix:$sock" "${@:2}" >"$work/bad" &
		bad=$!
		until [ -s "$work/bad" ]; do
			kill -0 "$bad" || exit 1
			sleep 0.02
		done
		# Somebody is being served, if hardly: what it costs is nothing to speak of.
		"$BUILD/bench/bad_neighbour" "unix:$sock" tiny 1 20 >/dev/null &
		tiny=$!
		sleep 0.5 # what it does once is not what is measured
		c0=$(cpu_ns "$server")
		sleep "$seconds"
		share=$(echo "($(cpu_ns "$server") - $c0) / $seconds / 1000000000" | bc -l)
		o0=$(cpu_ns "$bad")
		stop "$tiny"
		tiny=""
	fi
	c0=$(cpu_ns "$server")
	# shellcheck disable=SC2086
	fio --name=good --ioengine=nbd --uri="nbd+unix:///?socket=$sock" --size=4G --time_based \
		--runtime="$seconds" --output-format=json --output="$work/fio.json" ${good[$1]} >/dev/null
	c1=$(cpu_ns "$server")
	[ "$2" = alone ] || o1=$(cpu_ns "$bad")
	bytes=$(jq '[.jobs[] | .write.io_bytes + .read.io_bytes] | add' "$work/fio.json")
	bw=$(jq '[.jobs[] | .write.bw_bytes + .read.bw_bytes] | add' "$work/fio.json")
	printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$name" "$share" "$(echo "($c1 - $c0) / $bytes" | bc -l)" "$bw" \
		"$(echo "($o1 - $o0) / $seconds / 1000000000" | bc -l)" \
		$(($(resident "$server") - before)) >>"$work/rows"
	if [ -n "$bad" ]; then
		stop "$bad"
		bad=""
	fi
	stop "$server"
	server=""
	rm -f "$sock" "$work/ready" "$work/bad"
}

for round in $(seq "$rounds"); do
	for load in ${LOADS:-write read random}; do
		for neighbour in "${neighbours[@]}"; do
			[[ " alone ${KINDS:-${neighbour%% *}} " == *" ${neighbour%% *} "* ]] || continue
			printf 'round %d of %d: %s beside %s          \r' "$round" "$rounds" "$load" "$neighbour" >&2
			# shellcheck disable=SC2086
			measure "$load" $neighbour
		done
	done
done
echo >&2

# Every row is divided by the one of the same round and load that ran alone.
awk -F'\t' -v limit="$limit" '
	function median(list, v, n, i, j, t) {
		n = split(list, v, " ")
		for (i = 1; i <= n; i++)
			for (j = i + 1; j <= n; j++)
				if (v[j] + 0 < v[i] + 0) { t = v[i]; v[i] = v[j]; v[j] = t }
		return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
	}
	$2 == "alone" { cpu = $4; bw = $5; next }
	{
		key = sprintf("%-8s%-20s", $1, $2)
		if (!(key in costs)) order[++rows] = key
		shares[key] = shares[key] " " $3
		costs[key] = costs[key] " " $4 / cpu
		streams[key] = streams[key] " " $5 / bw
		own[key] = own[key] " " $6
		grown[key] = grown[key] " " $7 / 1024
	}
	END {
		printf "%-8s%-20s%8s%8s%8s%8s%10s\n", "stream", "neighbour", "share", "cpu", "stream", "own",
			"resident"
		for (i = 1; i <= rows; i++) {
			key = order[i]
			share = median(shares[key])
			bad = share > limit / 100
			worst += bad
			printf "%s%8.4f%8.3f%8.3f%8.3f%10.1f%s\n", key, share, median(costs[key]),
				median(streams[key]), median(own[key]), median(grown[key]), bad ? "  <" : ""
		}
		exit worst > 0
	}' "$work/rows"
