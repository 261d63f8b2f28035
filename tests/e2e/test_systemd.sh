#!/usr/bin/env bash
# The unit under a real systemd, which runs as the first process of a namespace of its own: started
# and ready, reloaded, restarted by the watchdog when it hangs, stopped in order. Nothing outside is
# touched: what systemd and the unit write to is mounted over. Where that is not allowed the unit is
# still verified, and the rest is skipped.
. "$(dirname "$0")/lib.sh"

command -v systemd-analyze >/dev/null || skip "no systemd here: the unit NOT tested"
INIT=/lib/systemd/systemd
UNIT=$(cd "$(dirname "$0")/../.." && pwd)/packaging/systemd/sendense-hub.service
NAMESPACES=(--pid --fork --mount --mount-proc --cgroup --uts --ipc --kill-child)

step "systemd understands the unit"
sed "s#/usr/local/bin#$BIN#" "$UNIT" >"$T/sendense-hub.service"
systemd-analyze verify --man=no "$T/sendense-hub.service" >"$T/verify" 2>&1 || fail "verify: $(cat "$T/verify")"
assert_eq "" "$(cat "$T/verify")" "what systemd-analyze says of the unit"
sed 's#^Type=.*#Type=notifi#' "$T/sendense-hub.service" >"$T/wrong.service"
systemd-analyze verify --man=no "$T/wrong.service" >"$T/verify" 2>&1 || true
assert_contains "$(cat "$T/verify")" "notifi" "a mistake is seen"

step "boot"
cat >"$T/boot" <<'BOOT'
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd /run/lock /run/t /run/etc /run/work
mount --bind "$1" /run/t
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work overlay /etc
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /var/tmp
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /usr/local/bin
mount -t tmpfs tmpfs /lib/systemd/system/sysinit.target.wants
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cp /run/t/sendense-hub /usr/local/bin/
chmod 755 /run/t
rm -rf /etc/systemd/system /etc/sendense
mkdir -p /etc/systemd/system/sendense-hub.service.d /etc/sendense
cp /run/t/unit/sendense-hub.service /etc/systemd/system/
cp /run/t/hub.json /etc/sendense/
printf '[Service]\nWatchdogSec=3\nRestartSec=100ms\nStandardOutput=append:/run/t/hub.out\nStandardError=append:/run/t/hub.err\n' \
	>/etc/systemd/system/sendense-hub.service.d/test.conf
printf '[Unit]\nDefaultDependencies=no\n' >/etc/systemd/system/boot.target
grep -q '^sendense:' /etc/group || echo 'sendense:x:64950:' >>/etc/group
grep -q '^sendense:' /etc/passwd || echo 'sendense:x:64950:64950::/var/lib/sendense:/bin/false' >>/etc/passwd
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin "$2" --system --unit=boot.target --log-target=null
BOOT

cat >"$T/may" <<'MAY'
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir /run/etc /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work overlay /etc
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
MAY

inside() {
	nsenter -t "$INIT_PID" -m -p -- "$@"
}

property() {
	inside systemctl show -P "$1" sendense-hub
}

is_up() {
	INIT_PID=$(pgrep -P "$UNSHARE_PID" | head -n 1)
	[ -n "$INIT_PID" ] && inside systemctl is-system-running 2>/dev/null | grep -Eq 'running|degraded'
}

up_or_ended() {
	is_up || ! kill -0 "$UNSHARE_PID" 2>/dev/null
}

hub_says() {
	grep -q "$1" "$T/hub.err"
}

settings() {
	jq -n --argjson n "$1" '{http: "127.0.0.1:0", agent_listen: "127.0.0.1:0", nbd: "127.0.0.1:0", schedule_max_running: $n}'
}

settings 3 >"$T/hub.json"
mkdir "$T/unit"
cp "$UNIT" "$T/unit/"
cp "$BIN/sendense-hub" "$T/"
unshare "${NAMESPACES[@]}" bash "$T/may" >"$T/may.out" 2>&1 ||
	skip "no namespaces or mounts here: the unit verified, NOT run: $(tail -n 1 "$T/may.out")"
spawn init unshare "${NAMESPACES[@]}" bash "$T/boot" "$T" "$INIT"
UNSHARE_PID=$SPAWNED
wait_until 60 "systemd is up, or has ended" up_or_ended
is_up || fail "systemd does not run: $(tail -n 3 "$T/init.err")"

step "start: it is ready when systemctl returns"
inside systemctl start sendense-hub || fail "start: $(tail -n 3 "$T/hub.err")"
assert_eq "active running" "$(property ActiveState) $(property SubState)" "state"
URL=http://$(word_of http "$(grep '^sendense-hub ready' "$T/hub.out" | tail -n 1)")
assert_contains "$(curl -sf --noproxy '*' "$URL/health")" healthy "health"
PID=$(property MainPID)
assert_eq sendense "$(inside ps -o user= -p "$PID")" "whom it runs as"
assert_eq "750 sendense" "$(inside stat -c '%a %U' /var/lib/sendense)" "the data folder"

step "reload"
inside bash -c "cat >/etc/sendense/hub.json" <<<"$(settings 5)"
inside systemctl reload sendense-hub
wait_until 60 "the setting has changed" hub_says "schedule_max_running has changed"
inside bash -c "echo '{' >/etc/sendense/hub.json"
inside systemctl reload sendense-hub
wait_until 60 "the mistake is named" hub_says "the settings stay as they were"
assert_eq "active $PID" "$(property ActiveState) $(property MainPID)" "state after a bad reload"
inside bash -c "cat >/etc/sendense/hub.json" <<<"$(settings 5)"

step "a hub that hangs is killed by the watchdog and started again"
inside kill -STOP "$PID"
restarted() {
	[ "$(property NRestarts)" = 1 ] && [ "$(property ActiveState)" = active ] && [ "$(property MainPID)" != "$PID" ]
}
served_twice() {
	[ "$(grep -c '^sendense-hub ready' "$T/hub.out")" = 2 ]
}
wait_until 40 "it was started again" restarted
wait_until 60 "it says where it serves" served_twice
URL=http://$(word_of http "$(grep '^sendense-hub ready' "$T/hub.out" | tail -n 1)")
assert_contains "$(curl -sf --noproxy '*' "$URL/health")" healthy "health of the second"

step "stop, in order"
inside systemctl stop sendense-hub
assert_eq "inactive success 0" "$(property ActiveState) $(property Result) $(property ExecMainStatus)" "how it ended"
hub_says "SIGTERM: stopping" || fail "it was not stopped by SIGTERM"

step "a wrong configuration is refused before the start"
inside bash -c "echo '{\"tick\": 1}' >/etc/sendense/hub.json"
! inside systemctl start sendense-hub 2>/dev/null || fail "it was started with a wrong configuration"
hub_says 'unknown key "tick"' || fail "the reason is not in the log: $(tail -n 2 "$T/hub.err")"
end KILL "$UNSHARE_PID"
