#!/usr/bin/env bash
# Rows of a run into what is read: a table and the targets on stdout, latest.json, one SVG a family.
#
#   bench/report.sh ROWS RESULTS
set -euo pipefail
rows=$1 results=$2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$results"

jq -s 'def median: sort | .[length / 2 | floor];
	group_by([.family, .load, .name]) | map({
		family: .[0].family, load: .[0].load, name: .[0].name, unit: .[0].unit, runs: map(.value),
		value: (map(.value) | median), low: (map(.value) | min), high: (map(.value) | max),
		cpu_s_gib: (map(.cpu_s_gib) | if .[0] then median else null end),
		cpu_idle: (map(.cpu_idle // empty) | if .[0] then median else null end),
		disk_busy: (map(.disk_busy // empty) | if .[0] then median else null end),
		disk_queue: (map(.disk_queue // empty) | if .[0] then median else null end),
		disk_kib: (map(.disk_kib // empty) | if .[0] then median else null end),
		memory_gib_s: (map(.memory_gib_s // empty) | if .[0] then median else null end),
		syscall_ns: (map(.syscall_ns // empty) | if .[0] then median else null end),
		rss_mib: (map(.rss_mib) | if .[0] then max else null end)})' "$rows" >"$results/latest.json"

# --- the table: beside each of ours, its ratio to the limit and to the best peer of the same load -----

jq -r 'def two: . * 100 | round / 100;
	. as $all | ["load", "who", "median", "low..high", "", "CPU s/GiB", "peak MiB", "x limit", "x best peer", "memory", "CPU idle", "disk busy"],
	(.[] | . as $r
	| [$all[] | select(.family == $r.family and .load == $r.load)] as $same
	| ([$same[] | select(.name | startswith("limit")) | .value] | min) as $limit
	| ([$same[] | select((.name | startswith("limit") or startswith("sendense") or startswith("wire")) | not) | .value] | max) as $peer
	| ($r.name | startswith("sendense")) as $ours
	| ["\($r.family): \($r.load)", $r.name, ($r.value | two), "\($r.low | two)..\($r.high | two)", $r.unit,
	   (if $r.cpu_s_gib then ($r.cpu_s_gib * 1000 | round / 1000) else "" end),
	   (if $r.rss_mib then ($r.rss_mib | round) else "" end),
	   (if $ours and $limit then ($r.value / $limit | two) else "" end),
	   (if $ours and $peer then ($r.value / $peer | two) else "" end),
	   (if $r.memory_gib_s then ($r.memory_gib_s | . * 10 | round / 10) else "" end),
	   (if $r.cpu_idle then "\($r.cpu_idle * 100 | round) %" else "" end),
	   (if $r.disk_busy then "\($r.disk_busy * 100 | round) %, \($r.disk_queue | round) of \($r.disk_kib | round) KiB" else "" end)]) | @tsv' "$results/latest.json" |
	awk -F'\t' '{ printf "%-34s %-28s %9s %16s %-9s %9s %8s %8s %11s %7s %8s  %s\n", $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 }'

# --- the targets --------------------------------------------------------------------------------------

echo
jq -r -f "$here/targets.jq" "$results/latest.json" | awk -F'\t' '{ printf "%-7s %-62s %8s  %-12s %s\n", $1, $2, $3, $4, $5 }'

# --- plots --------------------------------------------------------------------------------------------

command -v gnuplot >/dev/null || { echo "no plots: gnuplot is not installed" && exit 0; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
for family in $(jq -r 'map(.family) | unique[]' "$results/latest.json"); do
	jq -r --arg f "$family" '.[] | select(.family == $f)
		| ["\(.load) | \(.name)", .value, .low, .high, .unit] | @tsv' "$results/latest.json" >"$tmp/data"
	n=$(wc -l <"$tmp/data")
	gnuplot <<-END
		set terminal svg size 900,$((n * 22 + 90)) dynamic background rgb 'white' font 'sans-serif,12'
		set output '$results/$family.svg'
		set datafile separator '\t'
		set title '$family: median, with the lowest and the highest run'
		set xlabel '$(cut -f5 "$tmp/data" | head -n 1)'
		set xrange [0:*]
		set yrange [$n:-1] noreverse
		set yrange [-1:$n] reverse
		set ytics font ',10'
		set style fill solid 0.6
		set grid xtics
		unset key
		plot '$tmp/data' using (\$2 / 2):0:(\$2 / 2):(0.35):ytic(1) with boxxyerror lc rgb '#4477aa', \\
			'' using 2:0:3:4 with xerrorbars pt 7 ps 0.3 lc rgb '#222222'
	END
done
