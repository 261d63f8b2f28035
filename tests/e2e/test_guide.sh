#!/usr/bin/env bash
# docs/user-guide.md as its reader has it: the blocks of shell, one after the other, in an empty folder.
. "$(dirname "$0")/lib.sh"

# The programs under the names the guide gives them, on addresses nobody else has.
mkdir "$T/bin"
cat >"$T/bin/sendense-hub" <<'END'
#!/bin/sh
exec "$BIN/sendense-hub" "$@" --http 127.0.0.1:0 --agent-listen 127.0.0.1:0 --nbd 127.0.0.1:0 \
	--agent-url "http://127.0.0.1:$AGENT_PORT"
END
cat >"$T/bin/sendense-agent" <<'END'
#!/bin/sh
exec "$BIN/sendense-agent" "$@" --listen "127.0.0.1:$AGENT_PORT" \
	--hub-url "http://$(sed -n 's/^sendense-hub ready .*agent=\([^ ]*\).*/\1/p' "$RUN/hub.log")"
END
cat >"$T/bin/sendense-ctl" <<'END'
#!/bin/sh
exec "$BIN/sendense-ctl" "$@" --hub \
	"http://$(sed -n 's/^sendense-hub ready http=\([^ ]*\).*/\1/p' "$RUN/hub.log")"
END
chmod +x "$T"/bin/*
ln -s "$BIN/sendense-nbd" "$T/bin/"

# Whatever the blocks leave running ends with them.
{
	echo "trap 'kill \$(jobs -p) 2>/dev/null || true; wait' EXIT"
	awk '/^```/ {on = $0 == "```sh"; next} on' docs/user-guide.md
} >"$T/guide.sh"
assert_le 12 "$(grep -c '^```sh$' docs/user-guide.md)" "blocks of shell"

run_guide() {
	free_port
	rm -rf "$T/run"
	mkdir "$T/run"
	(
		cd "$T/run"
		export BIN RUN=$T/run AGENT_PORT=$PORT PATH=$T/bin:$PATH
		timeout 250 bash -euxo pipefail "$T/guide.sh" >"$T/guide.err" 2>&1
	)
}

step "the guide"
for try in 1 2 3; do
	! run_guide || break
	# The port may have been taken by another test: the agent then ends, and the guide waits for it.
	[ "$try" != 3 ] && grep -q "in use" "$T/run/agent.log" || fail "the guide does not work"
done

step "what its reader then has"
assert_eq "hello again" "$(debugfs -R 'cat /greeting' "$T/run/restored.raw" 2>/dev/null)" "the file restored"
assert_contains "$(cat "$T/guide.err")" "hello again" "what was shown"
assert_eq 64 "$(($(qemu-img info --output=json "$T/run/try.qcow2" | jq '."virtual-size"') >> 20))" "MiB of the copy"

step "messages that docs/troubleshooting.md quotes are in the programs"
python3 tests/e2e/messages.py || fail "a message is quoted that no program says"
