#!/usr/bin/env bash
# Runs fuzz targets built with libFuzzer, ASan and UBSan for FUZZ_SECONDS each, from their committed
# corpus; `make fuzz` builds and calls.
#
#   run.sh PROGRAM...
#
# What is found stays in build/fuzz/ and fails the run; add it to the corpus together with its fix.
# FUZZ_CORPUS: a folder to keep what was learned in, one subfolder a target; default: forgotten.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${FUZZ_SECONDS:-30}
out=build/fuzz
failed=0
scratch=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
trap 'rm -rf "$scratch"' EXIT

mkdir -p "$out"
for program in "$@"; do
	name=$(basename "$program")
	corpus=tests/fuzz/corpus/$name
	work=${FUZZ_CORPUS:-$scratch/corpus}/$name
	mkdir -p "$work" "$scratch/$name"
	echo "fuzz: $name for $seconds s"
	# No input is larger than 64 KiB, so nothing may ask for memory in earnest: what a target
	# needs for itself, sanitizers included, fits below these.
	TMPDIR=$scratch/$name "$program" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=1024 -malloc_limit_mb=64 \
		-max_len=65536 -artifact_prefix="$out/$name-" -print_final_stats=1 \
		"$work" "$corpus" >"$out/$name.log" 2>&1 || {
		failed=1
		tail -n 40 "$out/$name.log"
	}
	grep -E "stat::(number_of_executed_units|peak_rss_mb)" "$out/$name.log" || true
	rm -rf "${scratch:?}/$name"
done
exit "$failed"
