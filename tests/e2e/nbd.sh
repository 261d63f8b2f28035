# shellcheck shell=bash disable=SC2034 # used by the scripts
# sendense-nbd, and disks for it, for the scripts that put clients of all makes to work against it.
# Sourced after lib.sh.

# Serves an image as "disk0", on a unix socket of its own unless the options say --listen: URI,
# NBD_PID; finish() ends the one that was started last.
serve() { # name, options...
	local -a where=(--socket "$T/$1.sock")

	[[ " $* " != *" --listen "* ]] || where=()
	NBD_NAME=$1
	spawn "$1" "$BIN/sendense-nbd" --export disk0 "${where[@]}" "${@:2}"
	NBD_PID=$SPAWNED
	await_ready "$1" "$NBD_PID"
	URI=${READY##* }
}

# It ends in order and had nothing to complain about: its clients were all well-behaved.
finish() {
	end TERM "$NBD_PID"
	assert_eq 0 "$ENDED" "exit status of sendense-nbd after SIGTERM"
	! grep -E ' (warn|error) ' "$T/$NBD_NAME.err" || fail "sendense-nbd complained"
}

# A chain of three images, chain.qcow2 on top of middle.qcow2 on top of base.qcow2, made by QEMU: data
# everywhere, data and zeroes over data, holes. What the disk holds is in chain.raw.
make_chain() { # bytes, a multiple of 1 MiB and at least 16 MiB
	local mib=$(($1 >> 20))

	make_disk "$T/chain.raw" "$1"
	qemu-img convert -f raw -O qcow2 "$T/chain.raw" "$T/base.qcow2"
	qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 "$T/middle.qcow2"
	qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 "$T/chain.qcow2"
	change_layer middle.qcow2 "write -P 1 1M 1M" "write -z 3M 1M" "write -P 2 $((mib - 1))M 1M"
	change_layer chain.qcow2 "write -P 3 1572864 1M" "write -z 0 65536" \
		"write -P 4 $((mib - 2))M 4096" "write -z $((mib - 1))M 512K"
}

change_layer() { # image, qemu-io commands...
	local -a commands=()
	local c

	for c in "${@:2}"; do commands+=(-c "$c"); done
	qemu-io -f qcow2 "${commands[@]}" "$T/$1" >/dev/null
	qemu-io -f raw "${commands[@]}" "$T/chain.raw" >/dev/null
}

# What `nbdinfo --map --json` or `qemu-img map --output=json` says (on stdin) about zeroes: a line
# "START LENGTH zero|data" for each run.
zero_runs() {
	jq -r 'map({s: (.start // .offset), l: .length,
		    z: (if has("type") then (.type / 2 | floor) % 2 == 1 else .zero end)})
		| reduce .[] as $e ([]; if length > 0 and .[-1].z == $e.z
			then .[-1].l += $e.l else . + [$e] end)
		| .[] | "\(.s) \(.l) \(if .z then "zero" else "data" end)"'
}
