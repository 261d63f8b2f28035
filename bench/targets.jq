# The targets of docs/performance.md against one run: verdict, what, reached, wanted.
# A target whose rows were not measured says so.

def v($family; $load; $name): [.[] | select(.family == $family and .load == $load and .name == $name) | .value][0];
def cpu($family; $load; $name): [.[] | select(.family == $family and .load == $load and .name == $name) | .cpu_s_gib][0];
def limit($family; $load): [.[] | select(.family == $family and .load == $load and (.name | startswith("limit"))) | .value] | min;
def over($a; $b): if $a and $b and $b > 0 then $a / $b else null end;
def least($what; $reached; $wanted):
	[if $reached == null then "-" elif $reached >= $wanted then "met" else "MISSED" end, $what,
	 (if $reached == null then "" else ($reached * 100 | round / 100) end), "at least \($wanted)"] | @tsv;
# Against a peer nobody gets further than the limit: what it allows is said beside a ratio that misses.
def against($what; $reached; $peer; $limit; $wanted):
	least($what; over($reached; $peer); $wanted)
	+ (over($limit; $peer) as $most | if $most and $most < $wanted then ", the limit allows \($most * 100 | round / 100)" else "" end);
def most($what; $reached; $wanted):
	[if $reached == null then "-" elif $reached <= $wanted then "met" else "MISSED" end, $what,
	 (if $reached == null then "" else ($reached * 1000 | round / 1000) end), "at most \($wanted)"] | @tsv;

"1 MiB, depth 16" as $big | "64 KiB, depth 16" as $small | "qemu-nbd tuned 64 KiB" as $q64 | "qemu-nbd tuned 2 MiB" as $q2
| v("ingest"; $big; "sendense") as $ours | limit("ingest"; $big) as $limit
| least("1 MiB writes, depth 16: x limit"; over($ours; $limit); 0.9),
against("  x qemu-nbd tuned, 64 KiB clusters"; $ours; v("ingest"; $big; $q64); $limit; 2.5),
against("  x qemu-nbd tuned, 2 MiB clusters"; $ours; v("ingest"; $big; $q2); $limit; 2),
against("  x qemu-nbd as it comes"; $ours; v("ingest"; $big; "qemu-nbd default"); $limit; 5),
most("  server CPU s/GiB, plain"; cpu("ingest"; $big; "sendense, no sums"); 0.30),
most("  server CPU s/GiB, zero detection and checksums"; cpu("ingest"; $big; "sendense"); 0.40),
least("the agent: 32 MiB writes, depth 1: x limit"; over(v("ingest"; "32 MiB, depth 1"; "sendense"); limit("ingest"; "32 MiB, depth 1")); 0.85),
against("64 KiB writes, depth 16: x qemu-nbd tuned"; v("ingest"; $small; "sendense"); ([v("ingest"; $small; $q64), v("ingest"; $small; $q2)] | max); limit("ingest"; $small); 2),
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
