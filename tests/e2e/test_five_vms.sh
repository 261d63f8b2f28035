#!/usr/bin/env bash
# Five VMs are backed up at once, full and then incremental, without cross-talk.
. "$(dirname "$0")/lib.sh"

VMS=(one two three four five)
for vm in "${VMS[@]}"; do
	make_disk "$T/$vm.0.raw" $(((24 << 20) + 512))
	make_disk "$T/$vm.1.raw" $((12 << 20))
	add_to_inventory "$vm" "$T/$vm.0.raw" "$T/$vm.1.raw"
done
start_hub_and_agent
ctl repo add local --path "$T/repo"
ctl vm add --all

back_up_all() { # type, number of the point
	local vm id

	for vm in "${VMS[@]}"; do
		ctl --json backup start --vm "$vm" --type "$1" --no-wait >"$T/$vm.started"
	done
	for vm in "${VMS[@]}"; do
		id=$(jq -r .backup_id "$T/$vm.started")
		ctl --json backup wait "$id" >"$T/$vm.$2.json" || fail "$1 of $vm"
		keep_copy "$T/$vm.0.raw" "$T/$vm.0.$2"
		keep_copy "$T/$vm.1.raw" "$T/$vm.1.$2"
	done
}

step "five fulls at once"
back_up_all full 0
for vm in "${VMS[@]}"; do
	change_disk "$T/$vm.0.raw" 10
	put_random "$T/$vm.1.raw" $((RANDOM * 64)) 65536
done
step "five incrementals at once"
back_up_all incremental 1

step "every point equals its own disk"
for vm in "${VMS[@]}"; do
	for n in 0 1; do
		cp "$T/$vm.$n.json" "$T/job.json"
		assert_eq "$vm" "$(job .vm_name)" "VM of the backup"
		assert_point "$(point 0)" "$T/$vm.0.$n"
		assert_point "$(point 1)" "$T/$vm.1.$n"
	done
done
assert_eq 20 "$(jq -r '.disks[].change_id' "$T"/*.[01].json | sort -u | wc -l)" "different change ids"
