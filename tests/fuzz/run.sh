#!/usr/bin/env bash
# Fuzzes every target for FUZZ_SECONDS with clang's libFuzzer, ASan and UBSan, from the committed
# corpus. What is found stays in build/fuzz/ and fails the run; add it to the corpus with its fix.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${FUZZ_SECONDS:-30}

if ! command -v clang >/dev/null || ! ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-x86_64.a >/dev/null 2>&1; then
	sudo=""
	[ "$(id -u)" = 0 ] || sudo=sudo
	echo "fuzz: installing clang and its runtime"
	$sudo apt-get update -qq
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		clang libclang-rt-14-dev >/dev/null
fi

mkdir -p build/fuzz
failed=0
for source in tests/fuzz/fuzz_*.c; do
	name=$(basename "$source" .c)
	clang -std=gnu17 -g -O1 -I. -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -fno-omit-frame-pointer \
		-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -pthread \
		-o "build/fuzz/$name" "$source" base/*.c qcow2/*.c -luring -lxxhash -lzstd -lz
	work=$(mktemp -d)
	echo "fuzz: $name for $seconds s"
	"build/fuzz/$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=1024 -max_len=65536 \
		-artifact_prefix="build/fuzz/$name-" -print_final_stats=1 "$work" \
		"tests/fuzz/corpus/$name" >"build/fuzz/$name.log" 2>&1 || {
		failed=1
		tail -n 40 "build/fuzz/$name.log"
	}
	grep -E "stat::(number_of_executed_units|peak_rss_mb)" "build/fuzz/$name.log" || true
	rm -rf "$work"
done
exit "$failed"
