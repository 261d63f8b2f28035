#!/usr/bin/env bash
# Makes the committed seeds of the image targets again: small images of every kind, by QEMU and by
# us, and their first bytes for the header. Other inputs, those of fuzz_qcow2_chain (which describe
# files instead of being one) among them, were written by hand or found by fuzzing, and stay.
set -euo pipefail
: "${BUILD:?the build directory}"
corpus=$(cd "$(dirname "$0")" && pwd)/corpus
out=$corpus/fuzz_qcow2_tables
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p "$out"

head -c 3000 /dev/urandom >raw
truncate -s 40000 raw
printf 'words words words %.0s' {1..300} | dd of=raw bs=512 seek=20 conv=notrunc status=none
make_image() { # NAME qemu-img options...
	qemu-img convert -f raw -O qcow2 "${@:2}" raw "$out/$1"
}
make_image plain-512 -o cluster_size=512
make_image v2-1k -o compat=0.10,cluster_size=1k
make_image zlib-1k -c -o cluster_size=1k
make_image zstd-4k -c -o cluster_size=4k,compression_type=zstd
make_image refcount1-1k -o cluster_size=1k,refcount_bits=1
make_image lazy-1k -o cluster_size=1k,lazy_refcounts=on

# Subclusters need large clusters: cut down to header, L1, L2 and data, so that it stays below 64 KiB.
qemu-img convert -f raw -O qcow2 -o cluster_size=16k,extended_l2=on raw subclusters
cluster=16384
poke() { # offset, bytes as hex
	printf '%b' "$(sed 's/../\\x&/g' <<<"$2")" | dd of=subclusters bs=1 seek="$1" conv=notrunc status=none
}
poke 40 0000000000004000                    # L1 in cluster 1
poke 48 000000000000000000000000            # no refcount table
poke $((3 * cluster)) 8000000000008000      # the table in cluster 2
poke $((4 * cluster)) 800000000000c000      # the data in cluster 3
{ head -c $cluster subclusters && tail -c +$((3 * cluster + 1)) subclusters; } >"$out/subclusters"

qemu-img create -q -f qcow2 -o cluster_size=512 "$out/empty" 100k
qemu-img create -q -f qcow2 -u -b a.qcow2 -F qcow2 -o cluster_size=512 "$out/own-backing" 64k
cp "$out/plain-512" snapshot && qemu-img snapshot -c one snapshot && mv snapshot "$out/snapshot-512"
"$BUILD/bin/sendense-ctl" image convert "$out/plain-512" ours.qcow2 --cluster-size 4096 --no-sums
mv ours.qcow2 "$out/ours-4k"
rm -f "$out"/*.sums
mkdir -p "$corpus/fuzz_qcow2_header"
for name in plain-512 v2-1k zlib-1k zstd-4k refcount1-1k lazy-1k subclusters empty own-backing snapshot-512 ours-4k; do
	head -c 1024 "$out/$name" >"$corpus/fuzz_qcow2_header/$name"
done
du -sb "$corpus"/fuzz_qcow2_*
