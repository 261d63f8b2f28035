#!/usr/bin/env bash
# nbdkit's nbd plugin as a proxy in front of our server: several connections behind one, structured
# replies, its filters on top, and copies that pass through it both ways.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/nbd.sh"

SIZE=$(((32 << 20) + 1536))
make_disk "$T/source.raw" $SIZE
make_chain $((32 << 20))

# Starts a proxy for $URI: PROXY, PROXY_PID.
proxy() { # name, nbdkit options and parameters...
	PROXY="nbd+unix:///?socket=$T/nbdkit-$1.sock"
	spawn "nbdkit-$1" nbdkit -f -U "$T/nbdkit-$1.sock" "${@:2}"
	PROXY_PID=$SPAWNED
	wait_until 60 "nbdkit $1 serves" nbdinfo --can connect "$PROXY"
}

proxy_ends() {
	end TERM "$PROXY_PID"
	assert_eq 0 "$ENDED" "exit status of nbdkit"
}

step "the proxy can what the server can"
serve chain --image "$T/chain.qcow2" --read-only
proxy seen nbd "uri=$URI"
for c in read df multi-conn; do
	nbdinfo --can "$c" "$PROXY" || fail "nbdinfo --can $c through the proxy"
done
nbdinfo --is read-only "$PROXY" || fail "read-only through the proxy"
nbdinfo --map --json "$URI" | zero_runs >"$T/wanted"
nbdinfo --map --json "$PROXY" | zero_runs >"$T/map"
diff "$T/wanted" "$T/map" || fail "the map through the proxy"

step "copies out"
nbdcopy "$PROXY" "$T/out.raw"
cmp "$T/chain.raw" "$T/out.raw"
nbdcopy --connections=4 --requests=32 "$PROXY" "$T/out.raw"
cmp "$T/chain.raw" "$T/out.raw"
qemu-img compare -q -f raw -F raw "$T/chain.raw" "$PROXY"
proxy_ends
proxy shared nbd "uri=$URI" shared=true
nbdcopy --connections=4 "$PROXY" "$T/out.raw"
cmp "$T/chain.raw" "$T/out.raw"
proxy_ends

step "filters that change how it is asked"
proxy blocks --filter=blocksize --filter=noextents nbd "uri=$URI" minblock=512 maxdata=64k
nbdcopy --connections=2 "$PROXY" "$T/out.raw"
cmp "$T/chain.raw" "$T/out.raw"
proxy_ends
proxy cow --filter=cow nbd "uri=$URI"
qemu-io -f raw -c "write -P 9 1M 70000" -c "read -P 9 1M 70000" "$PROXY" >"$T/log"
! grep -iE 'failed|verification' "$T/log" || fail "a copy-on-write layer on top"
proxy_ends
nbdcopy "$URI" "$T/out.raw"
cmp "$T/chain.raw" "$T/out.raw"
finish

step "copies in"
copy_in() { # name, nbdkit arguments behind the URI, nbdcopy options...
	local -a more=()

	[ -z "$2" ] || more=("$2")
	serve "$1" --listen 127.0.0.1:0 --image "$T/$1.qcow2" --create --size $SIZE
	proxy "$1" nbd "uri=$URI" "${more[@]}"
	nbdcopy "${@:3}" "$T/source.raw" "$PROXY" || fail "nbdcopy ${*:3} through the proxy"
	proxy_ends
	finish
	assert_point "$T/$1.qcow2" "$T/source.raw"
}
copy_in plain ""
copy_in four "" --connections=4 --flush
copy_in one-behind shared=true --connections=4 --flush
copy_in small "" --request-size=4096 --requests=64 --synchronous

step "trims, zeroes and FUA pass through it"
serve more --image "$T/plain.qcow2"
proxy more nbd "uri=$URI"
for c in write flush fua trim zero fast-zero multi-conn cache; do
	nbdinfo --can "$c" "$PROXY" || fail "nbdinfo --can $c through the proxy"
done
for target in "$PROXY" "$T/source.raw"; do
	qemu-io -f raw -d unmap -c "write -f -P 9 12345 67890" -c "write -z 1M 1M" \
		-c "discard 2M 1M" -c "write -z -u 4M 300001" -c flush "$target" >/dev/null
done
qemu-img compare -q -f raw -F raw "$T/source.raw" "$PROXY" || fail "changes through the proxy"
proxy_ends
finish
assert_point "$T/plain.qcow2" "$T/source.raw"

step "nbdkit's retry carries a copy over a restart of the server"
serve first --image "$T/retry.qcow2" --create --size $SIZE
set_rate retry 4M
proxy retry --filter=rate --filter=retry nbd "uri=$URI" rate=100G rate-file="$T/retry.rate" \
	retry-delay=1 retries=20
nbdcopy --connections=1 --flush "$T/source.raw" "$PROXY" &
COPY=$!
E2E_PIDS+=("$COPY")
has_data() { nbdinfo --map --totals --json "$URI" | jq -e 'map(select(.type == 0).size) | add > 0'; }
wait_until 60 "the copy is under way" has_data
end TERM "$NBD_PID"
assert_eq 0 "$ENDED" "exit status of the server that was ended mid-copy"
kill -0 "$COPY" || fail "the copy was over too early"
spawn second "$BIN/sendense-nbd" --export disk0 --socket "$T/first.sock" --image "$T/retry.qcow2"
NBD_PID=$SPAWNED NBD_NAME=second
await_ready second "$NBD_PID"
set_rate retry 100G
wait "$COPY" || fail "nbdcopy over a restart"
proxy_ends
finish
assert_point "$T/retry.qcow2" "$T/source.raw"
