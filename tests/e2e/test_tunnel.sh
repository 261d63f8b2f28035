#!/usr/bin/env bash
# Hub and agent on two machines with nothing between them but one SSH connection (M97): the agent runs in a
# network of its own, whose only way out is a socket that leads to a real sshd with the shipped configuration.
# The appliance enrolls with a key of ssh-keygen's; what was not permitted, and a revoked key, is refused.
. "$(dirname "$0")/lib.sh"

SSHD=$(command -v sshd) || skip "no sshd here (openssh-server)"
if [ "$(id -u)" = 0 ]; then
	APART=(unshare -n)
	ENTER=(-n)
	mkdir -p /run/sshd # where Debian's sshd wants to be when it is root; a service would have made it
else
	APART=(unshare -Urn)
	ENTER=(-U -n --preserve-credentials)
fi
"${APART[@]}" true 2>/dev/null || skip "this machine gives no network of one's own (unshare -n)"
ME=$(id -un)
APPLIANCE_PORT=8081 # where the agent listens: free, in a network of its own

make_disk "$T/a.raw" $((48 << 20))
make_disk "$T/b.raw" $((16 << 20))
add_to_inventory vm1 "$T/a.raw" "$T/b.raw"

# --- the hub's side -----------------------------------------------------------------------------------

# A host key, and the shipped configuration with this test's user, ports and paths.
configure_sshd() { # what sshd itself permits to open, to listen at
	[ -s "$T/hostkey" ] || ssh-keygen -q -t ed25519 -N '' -f "$T/hostkey"
	sed -e "/^Port 22/d; s/^Port 443/Port $SSHD_PORT/" -e "s/^Match User .*/Match User $ME/" \
		-e "s|/var/lib/sendense|$T/hub|" -e "s/CommandUser .*/CommandUser $ME/" \
		-e "s/PermitOpen .*/PermitOpen $1/" -e "s/PermitListen .*/PermitListen $2/" \
		packaging/ssh/sendense-tunnel.conf >"$T/sshd.conf"
	sed -i "1i ListenAddress 127.0.0.1\nHostKey $T/hostkey\nPidFile none\nUsePAM no" "$T/sshd.conf"
}

sshd_is_there_or_ended() {
	(: <"/dev/tcp/127.0.0.1/$SSHD_PORT") || ! kill -0 "$SSHD_PID"
}

# And the wire from the appliance to it, in WIRE.
start_sshd() { # name, what it permits to open, to listen at
	local try

	for try in 1 2 3 4 5; do
		free_port
		SSHD_PORT=$PORT
		configure_sshd "$2" "$3"
		spawn "$1" "$SSHD" -D -e -f "$T/sshd.conf"
		SSHD_PID=$SPAWNED
		wait_until 60 "sshd answers" sshd_is_there_or_ended
		kill -0 "$SSHD_PID" 2>/dev/null && break
	done
	kill -0 "$SSHD_PID" || fail "sshd does not start: $(tail -n 1 "$T/$1.err")"
	WIRE=$T/$1.wire
	spawn "$1.wire" socat "UNIX-LISTEN:$WIRE,fork" "TCP:127.0.0.1:$SSHD_PORT"
	wait_until 60 "the wire is there" test -S "$WIRE"
}

free_port
AGENT_PORT=$PORT # at the hub: where the tunnel is to be listened for
start_hub
start_sshd sshd "127.0.0.1:${HUB_AGENTS##*:} 127.0.0.1:${HUB_NBD##*:}" "$AGENT_PORT"

# --- the appliance's side -----------------------------------------------------------------------------

spawn apart "${APART[@]}" sh -c 'ip link set lo up && echo ready && exec sleep infinity'
APART_PID=$SPAWNED
await_ready apart "$APART_PID"
inside=(nsenter -t "$APART_PID" "${ENTER[@]}")

echo "[hub.example]:443 $(cut -d' ' -f1,2 "$T/hostkey.pub")" >"$T/known_hosts"
ssh-keygen -q -t ed25519 -N '' -C 'vma@appliance' -f "$T/key"
export SENDENSE_HUB_HOST=hub.example SENDENSE_TUNNEL_USER=$ME SENDENSE_TUNNEL_KEY=$T/key \
	SENDENSE_TUNNEL_KNOWN_HOSTS=$T/known_hosts SENDENSE_HUB_API_PORT=${HUB_AGENTS##*:} \
	SENDENSE_HUB_NBD_PORTS=${HUB_NBD##*:} SENDENSE_HUB_AGENT_PORT=$AGENT_PORT \
	SENDENSE_AGENT_PORT=$APPLIANCE_PORT
tunnel=("${inside[@]}" "$PWD/packaging/ssh/sendense-tunnel" -o "ProxyCommand=socat - UNIX-CONNECT:$WIRE")

# An ssh of the appliance's for something else; its exit status in GOT, what it said in $T/ssh.said.
try_ssh() { # arguments...
	GOT=0
	"${inside[@]}" timeout 120 ssh -F none -l "$ME" -i "$T/key" -o IdentitiesOnly=yes -o IdentityAgent=none \
		-o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile="$T/known_hosts" -p 443 \
		-o ProxyCommand="socat - UNIX-CONNECT:$WIRE" "$@" </dev/null >"$T/ssh.said" 2>&1 || GOT=$?
}

refused_key() {
	try_ssh -N hub.example
	assert_eq 255 "$GOT" "exit status of ssh"
	assert_contains "$(cat "$T/ssh.said")" "Permission denied (publickey)" "$1"
}

tunnel_answers() {
	"${inside[@]}" curl -s --noproxy '*' -o /dev/null \
		"http://127.0.0.1:${HUB_AGENTS##*:}/api/v1/backups/changeid?vm_name=none" &&
		curl -s --noproxy '*' -o /dev/null "http://127.0.0.1:$AGENT_PORT/api/v1/health"
}

start_tunnel() {
	spawn tunnel "${tunnel[@]}"
	TUNNEL_PID=$SPAWNED
	wait_until 60 "both ends of the tunnel answer" tunnel_answers
}

# The signature of the challenge in $T/reply by the key of ssh-keygen, base64. openssl reads it once
# the seed stands in a frame it knows (RFC 8410).
sign_challenge() {
	python3 - "$T/key" "$T/seed.der" <<-'PYTHON'
		import base64, struct, sys
		text = open(sys.argv[1]).read().split("-----")[2]
		blob = base64.b64decode("".join(text.split()))
		def take(at):
		    n = struct.unpack(">I", blob[at:at + 4])[0]
		    return blob[at + 4:at + 4 + n], at + 4 + n
		at = len(b"openssh-key-v1\0")
		for _ in range(3):  # cipher, kdf, its options
		    _, at = take(at)
		_, at = take(at + 4)  # public key
		blob, _ = take(at)
		at = 8  # two check words
		for _ in range(2):  # type, public key
		    _, at = take(at)
		private, _ = take(at)
		frame = bytes.fromhex("302e020100300506032b657004220420")
		open(sys.argv[2], "wb").write(frame + private[:32])
	PYTHON
	jq -r .challenge "$T/reply" | base64 -d >"$T/challenge"
	openssl pkeyutl -sign -keyform DER -inkey "$T/seed.der" -rawin -in "$T/challenge" | base64 -w0
}

enroll() { # pairing code
	local id signature

	api POST /api/v1/vma/enroll "$(jq -nc --arg code "$1" --arg key "$(cat "$T/key.pub")" \
		'{pairing_code: $code, vma_public_key: $key, vma_name: "appliance", vma_version: "v1.0.0",
		  vma_fingerprint: "SHA256:of-another-key"}')"
	assert_eq 200 "$STATUS" "enroll: $(cat "$T/reply")"
	id=$(jq -r .enrollment_id "$T/reply")
	signature=$(sign_challenge)
	api POST /api/v1/vma/enroll/verify \
		"$(jq -nc --arg id "$id" --arg s "$signature" '{enrollment_id: $id, signature: $s}')"
	assert_eq 200 "$STATUS" "verify: $(cat "$T/reply")"
	ENROLLMENT=$id
}

# --- the test -----------------------------------------------------------------------------------------

step "without the tunnel there is no way from one to the other"
"${inside[@]}" curl -s --noproxy '*' --max-time 5 "http://$HUB_AGENTS/" && fail "the agent's network reaches the hub"
refused_key "a key nobody has approved"

step "the appliance enrolls; it is let in when it is approved, not before"
enroll "$(ctl appliance pair 2>/dev/null)"
refused_key "a key that waits for a decision"
assert_contains "$(ctl appliance list)" "$(ssh-keygen -lf "$T/key.pub" | cut -d' ' -f2)" "fingerprint of who waits"
ctl appliance approve "$ENROLLMENT" --reason "the one in the test"
assert_eq 600 "$(stat -c %a "$T/hub/tunnel/authorized_keys")" "mode of authorized_keys"
assert_contains "$(ctl --json appliance list | jq -r '.connections[0] | .status + " " + .reason')" \
	"approved the one in the test" "list"

step "the tunnel of the shipped script opens, and the agent and the hub find each other"
spawn agent "${inside[@]}" "$BIN/sendense-agent" --listen "127.0.0.1:$APPLIANCE_PORT" \
	--hub-url "http://127.0.0.1:${HUB_AGENTS##*:}" --inventory "$T/inventory.json" --state-dir "$T/agent"
AGENT_PID=$SPAWNED
await_ready agent "$AGENT_PID"
start_tunnel
ctl repo add local --path "$T/repo"
ctl vm add vm1

step "a full and an incremental backup through it"
backup vm1 full
assert_point "$(point 0)" "$T/a.raw"
assert_point "$(point 1)" "$T/b.raw"
keep_copy "$T/a.raw" "$T/a.0"
FULL_A=$(point 0)
change_disk "$T/a.raw" 5
change_disk "$T/b.raw" 5
backup vm1 incremental
assert_eq "incremental incremental" "$(job '[.disks[].mode] | join(" ")')" "modes"
assert_point "$(point 0)" "$T/a.raw"
assert_point "$(point 1)" "$T/b.raw"
assert_point "$FULL_A" "$T/a.0"
echo "through the tunnel: $(job '[.disks[].bytes_received] | add') bytes of the incremental"

assert_refusals() {
	try_ssh -W "127.0.0.1:${HUB_HTTP##*:}" hub.example
	assert_ne 0 "$GOT" "exit status of a forward to the control API"
	assert_contains "$(cat "$T/ssh.said")" "administratively prohibited" "a forward to the control API"
	try_ssh -W "127.0.0.1:$SSHD_PORT" hub.example
	assert_contains "$(cat "$T/ssh.said")" "administratively prohibited" "a forward to sshd itself"
	free_port
	try_ssh -N -o ExitOnForwardFailure=yes -R "127.0.0.1:$PORT:127.0.0.1:$APPLIANCE_PORT" hub.example
	assert_eq 255 "$GOT" "exit status of another port listened for"
	assert_contains "$(cat "$T/ssh.said")" "remote port forwarding failed" "another port listened for"
	try_ssh hub.example id
	assert_ne 0 "$GOT" "exit status of a command"
	! grep -q uid= "$T/ssh.said" || fail "a command was run: $(cat "$T/ssh.said")"
}

step "a forward that is not permitted is refused, either way, and so is a command"
assert_refusals

step "nor is a socket in the file system of the hub, which no line of a key's could forbid"
try_ssh -N -o ExitOnForwardFailure=yes -R "$T/planted:127.0.0.1:$APPLIANCE_PORT" hub.example
assert_eq 255 "$GOT" "exit status of a socket listened at"
assert_contains "$(cat "$T/ssh.said")" "remote port forwarding failed" "a socket listened at"
[ ! -e "$T/planted" ] || fail "sshd has made $T/planted"

step "and by an sshd that permits every port: what the hub wrote of the key is enough"
KEPT=$WIRE
start_sshd lax any any
sed -i '/ForceCommand/d' "$T/sshd.conf"
end TERM "$SSHD_PID"
spawn lax "$SSHD" -D -e -f "$T/sshd.conf"
SSHD_PID=$SPAWNED
wait_until 60 "sshd answers" sshd_is_there_or_ended
assert_refusals
WIRE=$KEPT

step "the tunnel breaks and comes back; the next backup works"
end TERM "$TUNNEL_PID"
start_tunnel
change_disk "$T/a.raw" 2
backup vm1 incremental
assert_point "$(point 0)" "$T/a.raw"

step "a revoked key is let in no more"
SAID=$(ctl appliance revoke "$ENROLLMENT" 2>&1)
assert_contains "$SAID" "a connection that is open stays" "what revoking says"
tunnel_answers || fail "the tunnel that was open is not: what revoking says is wrong"
end TERM "$TUNNEL_PID"
refused_key "a revoked key"
"${tunnel[@]}" >"$T/ssh.said" 2>&1 && fail "the tunnel opens with a revoked key"
assert_contains "$(cat "$T/ssh.said")" "Permission denied" "the tunnel with a revoked key"
assert_contains "$(ctl audit list)" "POST /api/v1/admin/vma/revoke" "audit log"
