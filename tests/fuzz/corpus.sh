#!/usr/bin/env bash
# Makes the committed seed inputs again: small images of every kind, by QEMU and by us.
set -euo pipefail
: "${BUILD:?the build directory}"
out=$(cd "$(dirname "$0")" && pwd)/corpus/fuzz_qcow2
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
make_image subclusters -o cluster_size=16k,extended_l2=on
qemu-img create -q -f qcow2 -o cluster_size=512 "$out/empty" 100k
qemu-img create -q -f qcow2 -u -b a.qcow2 -F qcow2 -o cluster_size=512 "$out/own-backing" 64k
cp "$out/plain-512" snapshot && qemu-img snapshot -c one snapshot && mv snapshot "$out/snapshot-512"
"$BUILD/bin/sendense-ctl" image convert "$out/plain-512" ours.qcow2 --cluster-size 4096 --no-sums
mv ours.qcow2 "$out/ours-4k"
rm -f "$out"/*.sums
du -sb "$out"
