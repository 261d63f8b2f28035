#!/usr/bin/env bash
# libnbd's shell says what programs seldom say: simple replies, DF, FUA, REQ_ONE, a hundred requests in
# flight that are answered in any order, a FLUSH that covers another connection's writes, requests no
# decent client would send, and what becomes of each of them.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/nbd.sh"

# The distribution's: another Python in front of it would not find its module.
shell() { # name of the script in $T
	PATH=/usr/bin:/bin URI=$URI nbdsh -c - <"$T/$1" >"$T/log" 2>&1 ||
		{ cat "$T/log" && fail "nbdsh: $1"; }
}
PATH=/usr/bin:/bin command -v nbdsh >/dev/null || skip "no nbdsh here (python3-libnbd): NOT tested"

SIZE=$((8 << 20))
truncate -s $SIZE "$T/model.raw"

cat >"$T/common" <<'END'
import errno, os, random, sys
uri = os.environ["URI"]
size = 8 << 20

def client(structured=True, contexts=("base:allocation",), strict=True):
    c = nbd.NBD()
    c.set_request_structured_replies(structured)
    for x in contexts:
        c.add_meta_context(x)
    if not strict:
        c.set_strict_mode(0)
    c.connect_uri(uri)
    return c

def refused(number, what, call, *args, **more):
    try:
        call(*args, **more)
    except nbd.Error as e:
        if e.errnum != number:
            raise AssertionError(f"{what}: {e.errno} ({e.string})")
        return
    raise AssertionError(f"{what}: was not refused")
END

cat "$T/common" - >"$T/requests" <<'END'
c = client()
assert c.get_size() == size
assert c.get_structured_replies_negotiated() and c.can_meta_context("base:allocation")
assert c.get_protocol() == "newstyle-fixed"
plain = client(structured=False)
assert not plain.get_structured_replies_negotiated() and not plain.can_df()

# One byte, odd ranges, FUA, simple and structured, DF over the whole disk.
c.pwrite(b"x", 511, nbd.CMD_FLAG_FUA)
plain.pwrite(b"yz", 65535)
assert plain.pread(1, 511) == b"x" and c.pread(2, 65535) == b"yz"
everything = plain.pread(size, 0)
assert everything.count(0) == size - 3
pieces = []
back = c.pread_structured(size, 0, lambda buf, off, status, err: pieces.append((off, len(buf))),
                          nbd.CMD_FLAG_DF)
assert back == everything and pieces == [(0, size)]
pieces = []
back = c.pread_structured(size, 0, lambda buf, off, status, err: pieces.append((off, len(buf), status)))
assert back == everything and sum(n for _, n, _ in pieces) == size

# FLUSH on one connection is what makes the other's writes durable: multi-conn.
assert c.can_multi_conn()
plain.pwrite(b"q" * 4096, 1 << 20)
c.flush()
assert c.pread(4096, 1 << 20) == b"q" * 4096

# Zeroes of all kinds, trim, cache.
for flags in (0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_FUA):
    c.pwrite(b"w" * 100000, 2000001)
    c.zero(99998, 2000002, flags)
    assert plain.pread(100000, 2000001) == b"w" + bytes(99998) + b"w"
c.pwrite(b"w" * 131072, 3 << 20)
c.trim(131072, 3 << 20, nbd.CMD_FLAG_FUA)
assert c.pread(131072, 3 << 20) == bytes(131072)
c.cache(65536, 1 << 20)

# base:allocation adds up, and REQ_ONE is one.
seen = []
c.block_status(size, 0, lambda name, off, entries, err: seen.append((name, off, list(entries))))
assert seen[0][0] == "base:allocation" and seen[0][1] == 0
assert sum(seen[0][2][0::2]) == size and len(seen[0][2]) > 4
one = []
c.block_status(size - 12345, 12345, lambda name, off, entries, err: one.extend(entries),
               nbd.CMD_FLAG_REQ_ONE)
assert len(one) == 2 and 0 < one[0] <= size - 12345
c.shutdown()
plain.shutdown()
END

cat "$T/common" - >"$T/flight" <<'END'
# Three connections, 300 writes in flight, then 300 reads of a random order.
random.seed(7)
model = bytearray(c for c in client().pread(size, 0))
cs = [client(structured=i != 1) for i in range(3)]
places = [i * 27001 for i in range(300)]
left = 0
for i, off in enumerate(places):
    data = bytes([i % 255 + 1]) * 27001
    model[off:off + 27001] = data
    cs[i % 3].aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), off,
                         lambda err: 1 if err.value == 0 else sys.exit(f"write: {err}"))
while any(c.aio_in_flight() for c in cs):
    for c in cs:
        if c.aio_in_flight():
            c.poll(1000)
cs[2].flush()
random.shuffle(places)
reads = [(off, nbd.Buffer(27001)) for off in places]
for i, (off, buf) in enumerate(reads):
    cs[i % 3].aio_pread(buf, off, lambda err: 1 if err.value == 0 else sys.exit(f"read: {err}"))
while any(c.aio_in_flight() for c in cs):
    for c in cs:
        if c.aio_in_flight():
            c.poll(1000)
for off, buf in reads:
    assert bytes(buf.to_bytearray()) == model[off:off + 27001], off
with open(os.environ["T"] + "/model.raw", "r+b") as f:
    f.write(model)
END

cat "$T/common" - >"$T/indecent" <<'END'
# What no decent client sends: the answer the specification asks for, and the connection goes on.
for structured in (True, False):
    c = client(structured=structured, contexts=(), strict=False)
    refused(errno.EINVAL, "READ past the end", c.pread, 512, size - 511)
    refused(errno.ENOSPC, "WRITE past the end", c.pwrite, b"n" * 512, size - 511)
    refused(errno.ENOSPC, "WRITE_ZEROES past the end", c.zero, 512, size)
    refused(errno.EINVAL, "TRIM past the end", c.trim, 512, size - 1)
    refused(errno.EINVAL, "CACHE past the end", c.cache, size, 1)
    refused(errno.EINVAL, "unknown flag", c.trim, 512, 0, 0x80)
    refused(errno.EINVAL, "NO_HOLE at a TRIM", c.trim, 512, 0, nbd.CMD_FLAG_NO_HOLE)
    refused(errno.ENOSPC, "WRITE far past the end", c.pwrite, b"n", (1 << 63) - 1)
    if not structured:
        refused(errno.EINVAL, "DF without structured replies", c.pread_structured, 512, 0,
                lambda *a: 0, nbd.CMD_FLAG_DF)
    if structured:
        refused(errno.EINVAL, "BLOCK_STATUS without a context", c.block_status, 512, 0, lambda *a: 0)
    assert len(c.pread(512, size - 512)) == 512
    c.shutdown()
END

cat "$T/common" - >"$T/readonly" <<'END'
c = client(strict=False)
assert c.is_read_only()
for what, call, args in (("WRITE", c.pwrite, (b"n" * 512, 0)), ("WRITE_ZEROES", c.zero, (512, 0)),
                         ("TRIM", c.trim, (512, 0))):
    refused(errno.EPERM, what, call, *args)
model = open(os.environ["T"] + "/model.raw", "rb").read()
assert c.pread(size, 0) == model
c.shutdown()
END
export T

serve disk --image "$T/disk.qcow2" --create --size $SIZE
for script in requests flight indecent; do
	step "$script"
	shell $script
done
finish
assert_point "$T/disk.qcow2" "$T/model.raw"

step "readonly"
serve ro --listen 127.0.0.1:0 --image "$T/disk.qcow2" --read-only
shell readonly
finish
