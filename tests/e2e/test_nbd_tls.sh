#!/usr/bin/env bash
# nbds:// with the TLS of another make: nbdinfo, nbdcopy and qemu-img (GnuTLS), with certificates and
# with pre-shared keys, over unix sockets and TCP; and that nobody comes in who must not.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/nbd.sh"

SIZE=$((48 << 20))
make_disk "$T/disk.raw" $SIZE

# --- credentials ------------------------------------------------------------------------------------

# The authority of a folder: ca-cert.pem, ca-key.pem.
make_authority() { # folder
	mkdir -p "$1"
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$1" \
		-keyout "$1/ca-key.pem" -out "$1/ca-cert.pem" 2>/dev/null
}

# A key and certificate beside a copy of the authority's: NAME-key.pem, NAME-cert.pem.
make_certificate() { # folder, authority's folder, name, subject, names, usage
	mkdir -p "$1"
	cp "$2/ca-cert.pem" "$1"
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$4" \
		-keyout "$1/$3-key.pem" -out "$T/request.pem" 2>/dev/null
	openssl x509 -req -in "$T/request.pem" -CA "$2/ca-cert.pem" -CAkey "$2/ca-key.pem" -days 2 \
		-CAcreateserial -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=%s\n' "$5" "$6") \
		-out "$1/$3-cert.pem" 2>/dev/null
}

cd "$T"
make_authority authority
make_authority elsewhere
make_certificate server authority server /CN=localhost DNS:localhost,IP:127.0.0.1 serverAuth
make_certificate agent authority client /O=Example/CN=agent1 DNS:agent1 clientAuth
make_certificate other authority client /O=Example/CN=agent2 DNS:agent2 clientAuth
make_certificate stranger elsewhere client /O=Example/CN=agent1 DNS:agent1 clientAuth
cp authority/ca-cert.pem stranger # trusts the server, is not trusted
mkdir nobody && cp authority/ca-cert.pem nobody
psktool -u alice -p keys.psk >/dev/null
psktool -u bob -p keys.psk >/dev/null
mkdir psk && cp keys.psk psk
psktool -u alice -p wrong.psk >/dev/null

# --- clients ----------------------------------------------------------------------------------------

# The URI of the server with what a client of libnbd's needs to know for TLS.
with() { # parameter=value
	case $URI in
	*\?*) echo "$URI&$1" ;;
	*) echo "$URI?$1" ;;
	esac
}

# A disk through TLS, there and back, by all clients. qemu-img takes a URI with nbd:// in it and the
# credentials as an object.
exchange() { # image, URI, qemu's --object, further properties of qemu's image...
	local opts="driver=nbd,export=disk0,tls-creds=tls0,$4"

	step "nbdinfo and nbdcopy: $1"
	nbdinfo --is tls "$2" || fail "nbdinfo --is tls $2"
	assert_eq $SIZE "$(nbdinfo --size "$2")" "size"
	assert_contains "$(nbdinfo "$2")" "newstyle-fixed with TLS" "protocol"
	nbdcopy --connections=4 --requests=16 disk.raw "$2"
	nbdcopy "$2" back.raw
	cmp disk.raw back.raw
	step "qemu-img: $1"
	qemu-img compare -q --object "$3" --image-opts driver=raw,file.driver=file,file.filename=disk.raw "$opts"
	keep_copy disk.raw changed.raw
	change_disk changed.raw 20
	qemu-img convert -n --object "$3" --image-opts --target-image-opts -S 0 \
		driver=raw,file.driver=file,file.filename=changed.raw "$opts"
	rm -f back.raw
	nbdcopy "$2" back.raw
	cmp changed.raw back.raw
}

refused() { # what, command...
	local what=$1

	shift
	! "$@" >refused.log 2>&1 || fail "let in: $what"
}

# --- certificates -----------------------------------------------------------------------------------

step "certificates, TCP"
serve x509 --listen 127.0.0.1:0 --image x509.qcow2 --create --size $SIZE \
	--tls require --tls-certificates server
assert_contains "$READY" "nbds://127.0.0.1:" "ready line"
PORT=${URI##*:} && PORT=${PORT%%/*}
exchange "any client" "$(with "tls-certificates=$T/nobody")" \
	"tls-creds-x509,id=tls0,dir=$T/nobody,endpoint=client" \
	"server.type=inet,server.host=127.0.0.1,server.port=$PORT"
refused "in plain text" nbdinfo "${URI/nbds:/nbd:}"
refused "the list in plain text" nbdinfo --list "nbd://127.0.0.1:$PORT"
finish
qemu-img check -q x509.qcow2
qemu-img compare -q -f raw -F qcow2 changed.raw x509.qcow2

step "certificates, a unix socket, clients by name"
serve named --image named.qcow2 --create --size $SIZE --tls require --tls-certificates server \
	--tls-verify-peer --tls-allow agent7 --tls-allow CN=agent1,O=Example
named=$(with "tls-hostname=localhost&tls-certificates=$T")
exchange "one client" "$named/agent" "tls-creds-x509,id=tls0,dir=$T/agent,endpoint=client" \
	"tls-hostname=localhost,server.type=unix,server.path=$T/named.sock"
refused "a client without a certificate" nbdinfo "$named/nobody"
refused "a client of another name" nbdinfo "$named/other"
refused "a client of another authority" nbdinfo "$named/stranger"
end TERM "$NBD_PID"
assert_eq 0 "$ENDED" "exit status"
assert_eq 1 "$(grep -c ' warn .*TLS failed' named.err)" "warnings about the first failure of three"
qemu-img compare -q -f raw -F qcow2 changed.raw named.qcow2

# --- pre-shared keys --------------------------------------------------------------------------------

step "pre-shared keys, a unix socket"
serve psk --image psk.qcow2 --create --size $SIZE --tls require --tls-psk keys.psk --verbose
mine=${URI/nbds+unix:\/\//nbds+unix:\/\/alice@}
exchange alice "$mine&tls-psk-file=$T/keys.psk" \
	"tls-creds-psk,id=tls0,dir=$T/psk,username=bob,endpoint=client" \
	"server.type=unix,server.path=$T/psk.sock"
step "the same with TLS 1.2"
qemu-img compare -q --object "tls-creds-psk,id=tls0,dir=$T/psk,username=alice,endpoint=client,priority=NORMAL:-VERS-TLS1.3" \
	--image-opts driver=raw,file.driver=file,file.filename=changed.raw \
	"driver=nbd,export=disk0,tls-creds=tls0,server.type=unix,server.path=$T/psk.sock"
grep -q "TLSv1.2 with" psk.err || fail "TLS 1.2 was not spoken"
grep -q "TLSv1.3 with" psk.err || fail "TLS 1.3 was not spoken"
refused "a wrong key" nbdinfo "$mine&tls-psk-file=$T/wrong.psk"
refused "an unknown user" nbdinfo "${mine/alice@/mallory@}&tls-psk-file=$T/keys.psk"
refused "nobody in particular" nbdinfo "$URI"
for secret in $(sed 's/.*://' keys.psk); do
	! grep -q "$secret" psk.err psk.out || fail "a key is in the log"
done
end TERM "$NBD_PID"
assert_eq 0 "$ENDED" "exit status"
qemu-img compare -q -f raw -F qcow2 changed.raw psk.qcow2

step "TLS is offered, and taken or not"
serve offered --listen 127.0.0.1:0 --image psk.qcow2 --tls allow --tls-psk keys.psk
assert_contains "$READY" " nbd://" "ready line"
! nbdinfo --is tls "$URI" || fail "plain text is TLS"
nbdinfo --is tls "${URI/nbd:\/\//nbds:\/\/alice@}?tls-psk-file=$T/keys.psk" || fail "TLS is plain text"
nbdcopy "$URI" back.raw
cmp changed.raw back.raw
finish

# --- what is told to the operator -------------------------------------------------------------------

step "secrets that lie open are warned of, credentials out of order refused"
chmod 640 keys.psk
serve open --image psk.qcow2 --read-only --tls require --tls-psk keys.psk
end TERM "$NBD_PID"
assert_contains "$(cat open.err)" "'keys.psk' is a secret, but its mode 640" "warning"
starts_not() { # what it says, options...
	local wanted=$1 status=0

	shift
	timeout 120 "$BIN/sendense-nbd" --socket no.sock --image psk.qcow2 "$@" >no.log 2>&1 || status=$?
	assert_ne 0 "$status" "exit status with $*"
	assert_contains "$(cat no.log)" "$wanted" "complaint about $*"
	[ ! -e no.sock ] || fail "a socket was made"
}
starts_not "agent/server-cert.pem" --tls require --tls-certificates agent
starts_not "needs one of" --tls require --tls-certificates server --tls-psk keys.psk
starts_not "go with --tls" --tls-psk keys.psk
starts_not "needs one of" --tls allow
starts_not "takes no such value" --tls on
starts_not "goes with --tls-certificates" --tls require --tls-psk keys.psk --tls-verify-peer
starts_not "goes with --tls-verify-peer" --tls require --tls-certificates server --tls-allow agent1
