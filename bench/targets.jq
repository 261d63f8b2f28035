# The targets of docs/performance.md against one run: verdict, what, reached, its spread, wanted.
# Two values are set against each other round by round, where both have as many rounds, and the median of the
# ratios counts: what the machine does to a whole round falls out. A target whose rows were not measured says so.

def median: sort | .[length / 2 | floor];
def two: . * 100 | round / 100;
def rows($family; $load): [.[] | select(.family == $family and .load == $load)];
# Each value is the list of its rounds; null: not measured.
def v($family; $load; $name): [rows($family; $load)[] | select(.name == $name) | .runs][0];
def cpu($family; $load; $name): [rows($family; $load)[] | select(.name == $name) | .cpu_s_gib][0];
def limit($family; $load): [rows($family; $load)[] | select(.name | startswith("limit")) | .runs]
	| if length == 0 then null elif (map(length) | unique | length) == 1 then transpose | map(min)
	  else [map(median) | min] end;
def over($a; $b):
	if ($a | not) or ($b | not) then null
	elif ($a | length) == ($b | length) then [$a, $b] | transpose | map(.[0] / .[1])
	else [($a | median) / ($b | median)] end;
def verdict($what; $ratios; $wanted; met; $note):
	[if $ratios == null then "-" elif $ratios | median | met then "met" else "MISSED" end, $what,
	 ($ratios // [] | if length > 0 then median | two else "" end),
	 ($ratios // [] | if length > 1 then "\(min | two)..\(max | two)" else "" end), $wanted + $note] | @tsv;
def least($what; $ratios; $wanted): verdict($what; $ratios; "at least \($wanted)"; . >= $wanted; "");
def most($what; $reached; $wanted):
	verdict($what; if $reached then [$reached] else null end; "at most \($wanted)"; . <= $wanted; "");
# Against a peer nobody gets further than the limit: what it allows is said beside a ratio that misses.
def against($what; $reached; $peer; $limit; $wanted):
	(over($limit; $peer) | if . then median else null end) as $allowed
	| verdict($what; over($reached; $peer); "at least \($wanted)"; . >= $wanted;
		if $allowed and $allowed < $wanted then ", the limit allows \($allowed | two)" else "" end);

"1 MiB, depth 16" as $big | "64 KiB, depth 16" as $small | "qemu-nbd tuned 64 KiB" as $q64 | "qemu-nbd tuned 2 MiB" as $q2
| v("ingest"; $big; "sendense") as $ours | limit("ingest"; $big) as $limit
| v("ingest"; $small; $q64) as $a | v("ingest"; $small; $q2) as $b
| least("1 MiB writes, depth 16: x limit"; over($ours; $limit); 0.9),
against("  x qemu-nbd tuned, 64 KiB clusters"; $ours; v("ingest"; $big; $q64); $limit; 2.5),
against("  x qemu-nbd tuned, 2 MiB clusters"; $ours; v("ingest"; $big; $q2); $limit; 2),
against("  x qemu-nbd as it comes"; $ours; v("ingest"; $big; "qemu-nbd default"); $limit; 5),
most("  server CPU s/GiB, plain"; cpu("ingest"; $big; "sendense, no sums"); 0.30),
most("  server CPU s/GiB, zero detection and checksums"; cpu("ingest"; $big; "sendense"); 0.40),
least("the agent: 32 MiB writes, depth 1: x limit"; over(v("ingest"; "32 MiB, depth 1"; "sendense"); limit("ingest"; "32 MiB, depth 1")); 0.85),
against("64 KiB writes, depth 16: x qemu-nbd tuned"; v("ingest"; $small; "sendense");
	if $a and $b then [$a, $b] | transpose | map(max) else $a // $b end; limit("ingest"; $small); 2),
against("4 KiB random into an overlay, depth 64: x qemu-nbd tuned"; v("overlay"; "4 KiB random, depth 1"; "sendense"); v("overlay"; "4 KiB random, depth 1"; $q64); limit("overlay"; "4 KiB random, depth 1"); 1.5),
least("5 VMs, 2 disks each: x limit"; over(v("hub"; "5 VMs, 2 disks each"; "sendense"); limit("hub"; "5 VMs, 2 disks each")); 0.85),
least("  slowest stream x mean"; v("hub"; "slowest of 10 x mean"; "sendense"); 0.7),
least("zero-mixed: x plain"; over(v("streams"; "zero-mixed"; "sendense"); v("streams"; "plain"; "sendense")); 1),
against("chain read, depth 100: x depth 1"; v("chain"; "nbdcopy, depth 100"; "sendense"); v("chain"; "nbdcopy, depth 1"; "sendense"); limit("chain"; "nbdcopy, depth 100"); 0.9),
against("  x qemu-nbd at depth 100"; v("chain"; "nbdcopy, depth 100"; "sendense"); v("chain"; "nbdcopy, depth 100"; $q64); limit("chain"; "nbdcopy, depth 100"); 3),
least("verify: x disk read"; over(v("verify"; "a full"; "sendense"); limit("verify"; "a full")); 0.85),
least("null export: x nbdkit null"; over(v("ingest"; $big; "limit: wire, our null"); v("ingest"; $big; "wire, nbdkit null")); 1),
least("zstd 1: x qemu-img convert -c"; over(v("zstd"; "two cores"; "sendense convert"); v("zstd"; "two cores"; "qemu-img convert -c")); 1.5),
least("  two cores x one core"; over(v("zstd"; "two cores"; "sendense convert"); v("zstd"; "one core"; "sendense convert")); 1.6)
