#!/usr/bin/env bash
# Runs a command with BENCH_DIR on a file system of its own, all of whose space has been written before.
#
#   bench/written.sh GIB COMMAND...         as root; GIB of room in TMPDIR or /tmp
#
# A disk that gets its space only when it is written (a virtual machine's, a thin volume's) takes fresh files at a
# fraction of the speed at which it takes what it knows already. What such a disk allows is then all that a
# bench shows. Here files are fresh, and the space below them is not.
set -euo pipefail

gib=$1
shift
dir=$(mktemp -d "${TMPDIR:-/tmp}/written.XXXXXX")
loop=""
cleanup() {
	mountpoint -q "$dir/mnt" && umount "$dir/mnt"
	[ -z "$loop" ] || losetup -d "$loop"
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

mkdir "$dir/mnt"
fio --name=fill --filename="$dir/disk" --rw=write --bs=2M --iodepth=8 --ioengine=io_uring --direct=1 \
	--size="${gib}G" --fallocate=posix --refill_buffers=1 --output=/dev/null
loop=$(losetup --find --show --direct-io=on "$dir/disk")
mkfs.ext4 -q -E nodiscard "$loop"
mount -o nodiscard "$loop" "$dir/mnt"
BENCH_DIR=$dir/mnt "$@"
