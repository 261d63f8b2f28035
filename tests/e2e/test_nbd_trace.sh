#!/usr/bin/env bash
# The probes of the NBD server: there is a note for each in the program, with the arguments that
# docs/nbd.md promises, and a tracer sees every request go by.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/nbd.sh"

# A copy: a probe is in every process that runs the file.
mkdir "$T/bin"
cp "$BIN/sendense-nbd" "$T/bin"
BIN=$T/bin
PROGRAM=$(readlink -f "$BIN/sendense-nbd")
TRACING=/sys/kernel/tracing
GROUP=e2e_nbd_$$

# --- the notes: "name address arg arg..." a line --------------------------------------------------

readelf -n "$PROGRAM" 2>/dev/null | awk '
	/Provider:/ { ours = $2 == "sendense_nbd" }
	/Name:/ { name = $2 }
	/Location:/ { sub(",", "", $2); address = $2 }
	/Arguments:/ && ours { sub(/^ *Arguments: */, ""); print name, address, $0 }' >"$T/notes"

step "every probe is there, with its number of arguments"
for want in accept:2 negotiated:5 request_start:6 request_done:6 close:2; do
	awk -v name="${want%:*}" -v args="${want#*:}" '
		$1 == name { found = 1; if (NF != args + 2) exit 1 }
		END { exit !found }' "$T/notes" || { cat "$T/notes" && fail "probe $want"; }
done
assert_eq 5 "$(cut -d' ' -f1 "$T/notes" | sort -u | wc -l)" "number of probes"

# --- the use ----------------------------------------------------------------------------------------

[ "$(id -u)" = 0 ] || skip "the notes are right; tracing needs root and was NOT tested"
[ -w $TRACING/uprobe_events ] || skip "the notes are right; no uprobes here: tracing NOT tested"
mkdir "$TRACING/instances/$GROUP" || skip "the notes are right; no trace instance: NOT tested"
INSTANCE=$TRACING/instances/$GROUP

untrace() {
	local status=$? event

	set +e
	echo 0 >"$INSTANCE/events/$GROUP/enable"
	rmdir "$INSTANCE"
	for event in $(grep -o "$GROUP/[a-z0-9_]*" $TRACING/uprobe_events); do
		echo "-:$event" >>$TRACING/uprobe_events
	done
	(exit $status)
	e2e_cleanup
}
trap untrace EXIT

# Where a virtual address lies in the file.
file_offset() {
	readelf -lW "$PROGRAM" | awk -v a="$1" '
		function hex(s, v, i) {
			s = tolower(substr(s, 3)); v = 0
			for (i = 1; i <= length(s); i++) v = v * 16 + index("0123456789abcdef", substr(s, i, 1)) - 1
			return v
		}
		$1 == "LOAD" && hex(a) >= hex($3) && hex(a) < hex($3) + hex($5) {
			printf "0x%x\n", hex(a) - hex($3) + hex($2) }'
}

# "8@160(%rbx)" as the kernel wants it: "+160(%bx):u64".
fetch_arg() {
	local arg=$1 type=u where size

	[[ $arg == -* ]] && type=s && arg=${arg#-}
	size=$((${arg%%@*} * 8))
	where=${arg#*@}
	where=$(sed -E 's/%r(ax|bx|cx|dx|si|di|bp|sp)/%\1/; s/%e?(ax|bx|cx|dx|si|di)\b/%\1/
		s/%(r[0-9]+)[dwb]/%\1/; s/^([0-9]+)?\(/+\1(/; s/^\+\(/+0(/; s/^\$/\\/' <<<"$where")
	echo "$where:$type$size"
}

while read -r name address args; do
	n=$((${n:-0} + 1))
	line="p:$GROUP/${name}_$n $PROGRAM:$(file_offset "$address")"
	i=0
	for arg in $args; do
		i=$((i + 1))
		if [ "$name" = negotiated ] && [ $i = 2 ]; then # a pointer to text
			fetch=$(fetch_arg "$arg")
			line+=" a2=+0(${fetch%:*}):ustring"
		else
			line+=" a$i=$(fetch_arg "$arg")"
		fi
	done
	echo "$line" >>$TRACING/uprobe_events || { echo "$line" && fail "the kernel refuses a probe"; }
done <"$T/notes"
echo 1 >"$INSTANCE/events/$GROUP/enable"

events() { # probe, pattern
	grep -E "${1}_[0-9]+: .* $2" "$INSTANCE/trace"
}

step "a tracer sees a session from beginning to end"
serve traced --image "$T/t.qcow2" --create --size 64M --export 'a disk'
qemu-io -f raw -c 'write 4096 1M' -c 'read 0 65536' -c 'discard 8M 4M' "$URI" >"$T/log" ||
	{ cat "$T/log" && fail "qemu-io"; }
finish
assert_eq 1 "$(events accept a1=1 | wc -l)" "clients that came"
assert_eq 1 "$(events negotiated 'a1=1 a2="a disk" a3=67108864' | wc -l)" "clients that entered"
assert_eq 1 "$(events close a1=1 | wc -l)" "clients that left"
assert_eq 1 "$(events request_start 'a1=1 a2=[0-9]+ a3=1 a4=4096 a5=1048576 ' | wc -l)" "writes"
assert_eq 1 "$(events request_done 'a1=1 a2=[0-9]+ a3=1 a4=1048576 a5=0 a6=[0-9]+$' | wc -l)" \
	"writes that ended well"
assert_eq 1 "$(events request_start 'a1=1 a2=[0-9]+ a3=0 a4=0 a5=65536 ' | wc -l)" "reads"
assert_eq 1 "$(events request_start 'a1=1 a2=[0-9]+ a3=4 a4=8388608 a5=4194304 ' | wc -l)" "trims"
assert_eq "$(events request_start a1=1 | wc -l)" "$(events request_done a1=1 | wc -l)" \
	"every request that began is seen to end"
