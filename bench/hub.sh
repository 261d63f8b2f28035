#!/usr/bin/env bash
# The hub under load: five VMs with two disks each sent at once, from start to complete; what a start
# and a complete take; look-ups and requests a second. Rows go to the file named first.
#
#   bench/hub.sh ROWS quick|full      (through bench/run.sh; BUILD and BENCH_DIR as there)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rows=$1 mode=$2
export TMPDIR=${BENCH_DIR:-${TMPDIR:-/tmp}}
. "$here/../tests/e2e/lib.sh"

work=$T img=$T/disk.qcow2 size=1G
growth="" # of how many VMs at once
[ "$mode" = full ] && vms=65 growth="1 10 50" || vms=25 # five a round, the others for latencies
. "$here/lib.sh"
row_file() { cat "$work/rows" >>"$rows" && : >"$work/rows"; }
: >"$work/rows"
drive_all() { drive_send --size "$size" --block 1M --depth 4 "$@"; }

# The agent of these VMs never gets anywhere: what arrives is what nbd_send sends.
spawn source nbdkit -f -U "$T/source.sock" --filter=rate pattern size=1G rate=1
wait_until 10 "nbdkit serves the source" test -S "$T/source.sock"
source_uri="nbd+unix:///?socket=$T/source.sock"
for i in $(seq "$vms"); do
	add_to_inventory "vm$i" "$source_uri" "$source_uri"
done
for n in $growth; do
	for i in $(seq "$n"); do add_to_inventory "grow$n-$i" "$source_uri" "$source_uri"; done
done
start_hub_and_agent
ctl repo add local --path "$T/repo" >/dev/null
ctl vm add --all >/dev/null

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# --- five VMs ----------------------------------------------------------------------------------------

start_vm() { # name
	ctl --json backup start --vm "$1" --type full --no-wait >"$T/$1.started"
}
complete_vm() { # name
	local id disk T=$T/$1
	id=$(jq -r .backup_id "$T.started")
	mkdir -p "$T"
	for disk in 0 1; do
		agent_api POST "/api/v1/backups/$id/complete" \
			"{\"change_id\":\"bench/$1/$disk\",\"disk_id\":$disk,\"bytes_transferred\":1073741824}"
		[ "$STATUS" = 200 ] || fail "complete of $1: $STATUS $(cat "$T/reply")"
	done
}
# Each VM has an agent of its own, and none waits for another's disks.
complete_vms() { # names
	local vm pid pids=()
	for vm in "$@"; do
		complete_vm "$vm" &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid" || fail "a complete failed"; done
}
# From the first byte to the last complete: $total GiB/s, $cpu s/GiB; the streams alone: $streamed GiB/s.
send_vms() { # GiB in all, names
	local vm targets=() t0 gib=$1 before

	shift
	for vm in "$@"; do
		start_vm "$vm"
		targets+=("unix:$T/hub.sock@$(jq -r '.disk_results[0].nbd_export_name' "$T/$vm.started")"
			"unix:$T/hub.sock@$(jq -r '.disk_results[1].nbd_export_name' "$T/$vm.started")")
	done
	before=$(cpu_of "$HUB_PID")
	t0=$(now)
	drive_send --size "$((gib * 1024 / ${#targets[@]}))M" --block 1M --depth 4 "${targets[@]}"
	streamed=$rate
	complete_vms "$@"
	total=$(calc "$gib / ($(now) - $t0)")
	cpu=$(calc "($(cpu_of "$HUB_PID") - $before) / $gib")
	rm -rf "$T"/repo/ctx-*
}
for round in 1 2 3; do
	step "five VMs, round $round"
	measure_disk hub "5 VMs, 2 disks each"
	sock=$work/null
	start_null
	wait_socket
	drive_all $(for i in $(seq 10); do echo "unix:$sock"; done)
	stop_server
	row hub "5 VMs, 2 disks each" "limit: wire, our null" "$rate" GiB/s
	# An agent that hangs is not asked twice: each round has VMs of its own.
	send_vms 10 $(for i in 1 2 3 4 5; do echo "vm$((round * 5 - 5 + i))"; done)
	row hub "5 VMs, 2 disks each" "sendense" "$total" GiB/s "$cpu" "$(rss_of "$HUB_PID")"
	row hub "slowest of 10 x mean" "sendense" "$(jq '.slowest / .mean' "$work/send.json")" ratio
done

# About as much data, spread over ever more VMs.
for n in $growth; do
	step "$n VMs at once"
	send_vms $((n < 4 ? n * 2 : 8)) $(for i in $(seq "$n"); do echo "grow$n-$i"; done)
	row growth "$n VMs, 2 disks each" "sendense hub" "$total" GiB/s "$cpu" "$(rss_of "$HUB_PID")"
	row growth "$n VMs, 2 disks each" "sendense hub, the streams" "$streamed" GiB/s
done

# --- latencies ---------------------------------------------------------------------------------------

step "start and complete"
for i in $(seq 16 "$vms"); do
	t0=$(now)
	start_vm "vm$i"
	calc "($(now) - $t0) * 1000" >>"$work/start" && echo >>"$work/start"
	t0=$(now)
	complete_vm "vm$i"
	calc "($(now) - $t0) * 1000 / 2" >>"$work/complete" && echo >>"$work/complete"
done
row hub "start of a backup, 2 disks" "sendense" "$(median <"$work/start")" ms
row hub "complete of an empty disk" "sendense" "$(median <"$work/complete")" ms

step "requests"
# changeid by an agent's token: without one it is asked a few times a second at most.
ctl user add bench --role agent >/dev/null
ctl token create --user bench --name bench --output "$T/agent-token" 2>/dev/null
printf 'Authorization: Bearer %s\n' "$(cat "$T/agent-token")" >"$T/agent-authorization"
per_second() { # path, file with a header
	wrk -t 1 -c 4 -d 3s -H "$(cat "$2")" "$HUB_URL$1" | awk '/Requests\/sec/ { print $2 }'
}
row hub "changeid look-ups" "sendense" \
	"$(per_second '/api/v1/backups/changeid?vm_name=vm1&disk_id=0' "$T/agent-authorization")" "1/s"
row hub "GET of a backup" "sendense" \
	"$(per_second "/api/v1/backups/$(jq -r .backup_id "$T/vm1.started")" "$T/authorization")" "1/s"
row_file
