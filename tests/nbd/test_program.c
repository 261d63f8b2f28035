/* sendense-nbd as its users meet it: options, ready line, images, signals. Runs the program of this
 * build; qemu-img and qemu-io are the judges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/scratch.h"

static char program[512];

/* Exit status of the program with these arguments; stdout and stderr in out.txt. */
static int run(const char *args)
{
	char *text;
	int status;

	scratch_run("timeout 120 %s %s >out.txt 2>&1; echo $? >rc", program, args);
	text = scratch_output("cat rc");
	status = atoi(text);
	free(text);
	return status;
}

static bool said(const char *text)
{
	char *out = scratch_output("cat out.txt");
	bool yes = strstr(out, text) != NULL;

	free(out);
	return yes;
}

/* A server that a failed test has left behind. */
static void kill_left(void)
{
	scratch_run("test ! -e pid || test -s status || kill -KILL $(cat pid)");
}

static int teardown(void **state)
{
	kill_left();
	return scratch_teardown(state);
}

/* Starts it with @args and waits for the ready line (in out.txt); its process id in `pid`, in the
 * end its exit status in `status`. */
static void serve(const char *args)
{
	kill_left();
	assert_int_equal(scratch_run("rm -f pid status out.txt err.txt; "
				     "(%s %s >out.txt 2>err.txt & echo $! >pid; "
				     "wait $!; echo $? >status) >/dev/null 2>&1 & "
				     "for i in $(seq 20000); do grep -qs ready out.txt && exit 0; "
				     "test ! -e status || break; sleep 0.05; done; "
				     "cat err.txt; exit 1",
				     program, args),
			 0);
}

/* Ends it with @signal; it must have nothing to complain about and exit with @status. */
static void end(const char *signal, int status)
{
	assert_int_equal(
		scratch_run("kill -%s $(cat pid); for i in $(seq 20000); do "
			    "test ! -s status || break; sleep 0.05; done; "
			    "cat status err.txt; "
			    "! grep -E ' (warn|error) ' err.txt && test \"$(cat status)\" = %d",
			    signal, status),
		0);
}

static void assert_clean(const char *image)
{
	assert_int_equal(scratch_run("qemu-img check -q %s", image), 0);
	assert_int_equal(scratch_run("! qemu-img info --output=json %s | grep -q '\"dirty-flag\": "
				     "true'",
				     image),
			 0);
}

static void help_and_version_tell_and_succeed(void **state)
{
	(void)state;
	assert_int_equal(run("--help"), 0);
	assert_true(said("--cluster-size") && said("Example:"));
	assert_int_equal(run("--version"), 0);
	assert_true(said("sendense-nbd "));
}

static void what_it_does_not_understand_it_refuses_with_status_2(void **state)
{
	static const char *const wrong[] = {
		"",
		"--frobnicate",
		"--image x.qcow2",
		"--socket s",
		"--socket s --listen 127.0.0.1:0 --image x.qcow2",
		"--socket s --image x.qcow2 --create",
		"--socket s --image x.qcow2 --size 1G",
		"--socket s --image x.qcow2 --create --size 1G --read-only",
		"--socket s --image x.qcow2 --create --size",
		"--socket s --image x.qcow2 --create --size 1Q",
		"--socket s --image x.qcow2 --create --size -1",
		"--socket s --image x.qcow2 --create --size 1GB",
		"--socket s --image x.qcow2 --create --size 99999999999999999999",
		"--socket s --image x.qcow2 --create --size 99999999999T",
		"--socket s --image x.qcow2 --workers 0",
		"--socket s --image x.qcow2 --workers 65",
		"--socket s --image x.qcow2 --max-connections 0",
		"--socket s --image x.qcow2 --max-connections 65537",
		"--socket s --image x.qcow2 --max-connections-per-peer -1",
		"--socket s --image x.qcow2 --max-connections-per-export many",
		"--socket s --image x.qcow2 --handshake-timeout 3601",
		"--socket s --image x.qcow2 --handshake-timeout 4294968",
		"--socket s --image x.qcow2 --idle-timeout 4294967",
		"--socket s --image x.qcow2 --stall-timeout 0",
		"--socket s --image x.qcow2 --max-option-bytes 511",
		"--socket s --image x.qcow2 --max-inflight-bytes 4M",
		"--socket s --image x.qcow2 --send-queue-bytes 1G",
		"--socket s --image x.qcow2 word",
	};
	unsigned i;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		if (run(wrong[i]) != 2)
			fail_msg("not refused: %s", wrong[i]);
		assert_true(said("Try 'sendense-nbd --help'."));
	}
}

static void what_cannot_be_done_fails_with_status_1_and_leaves_no_file(void **state)
{
	(void)state;
	assert_int_equal(run("--socket nowhere/s --image a.qcow2 --create --size 1M"), 1);
	assert_true(said("nowhere/s"));
	assert_int_equal(run("--listen 127.0.0.1 --image a.qcow2 --create --size 1M"), 1);
	assert_int_equal(run("--socket s --image a.qcow2"), 1);
	assert_true(said("a.qcow2"));
	assert_int_equal(run("--socket s --image a.qcow2 --create --size 1M --cluster-size 3K"), 1);
	assert_int_equal(run("--socket s --image a.qcow2 --create --backing missing.qcow2"), 1);
	assert_true(said("missing.qcow2"));
	assert_int_equal(scratch_run("test ! -e a.qcow2 && test ! -e s"), 0);
	scratch_run("echo junk > junk.qcow2");
	assert_int_equal(run("--socket s --image junk.qcow2"), 1);
	assert_int_equal(run("--socket s --image junk.qcow2 --create --size 1M"), 1);
	assert_int_equal(scratch_run("grep -q junk junk.qcow2"), 0);
}

static void limits_are_what_the_options_say(void **state)
{
	(void)state;
	assert_int_equal(run("--socket s --image x.qcow2 --max-option-bytes 511"), 2);
	assert_true(said("max_option_bytes is 511; it must be between 512 and 65536"));
	scratch_run("qemu-img create -q -f qcow2 l.qcow2 1M");
	serve("--socket s --image l.qcow2 --workers 2 --max-connections 41 "
	      "--max-connections-per-peer 42 --max-connections-per-export 43 "
	      "--handshake-timeout 44 --idle-timeout 0 --stall-timeout 45 "
	      "--max-option-bytes 1K --max-inflight-bytes 1M --send-queue-bytes 8K "
	      "--handshake-percent 46");
	assert_int_equal(scratch_run("grep -q 'limits: 2 workers .*; connections: 41, 42 an IP "
				     "address, 43 an export; handshake 44000 ms, idle off, stall "
				     "45000 ms; a connection: option 1024 bytes, 64 requests and "
				     "1048576 bytes of data in flight, send queue 8192 bytes; "
				     "new connections: 46 %%' err.txt"),
			 0);
	end("TERM", 0);
}

static void the_ready_line_is_the_uri(void **state)
{
	(void)state;
	scratch_run("qemu-img create -q -f qcow2 r.qcow2 1M");
	serve("--socket 'odd name.sock' --image r.qcow2 --export 'a b/c'");
	assert_int_equal(scratch_run("grep -qxF 'sendense-nbd ready on "
				     "nbd+unix:///a%%20b/c?socket=odd%%20name.sock' out.txt"),
			 0);
	assert_int_equal(scratch_run("nbdinfo --size \"$(sed 's/.* on //' out.txt)\""), 0);
	end("INT", 0);
	serve("--listen 127.0.0.1:0 --image r.qcow2");
	assert_int_equal(
		scratch_run("grep -qE '^sendense-nbd ready on nbd://127.0.0.1:[1-9][0-9]*/$' "
			    "out.txt"),
		0);
	assert_int_equal(scratch_run("nbdinfo --size \"$(sed 's/.* on //' out.txt)\""), 0);
	end("HUP", 0);
	assert_clean("r.qcow2");
}

#define URI "'nbd+unix:///?socket=s'"

static void an_image_is_made_served_and_continued(void **state)
{
	(void)state;
	serve("--socket s --image c.qcow2 --create --size 64M");
	assert_int_equal(scratch_run("qemu-io -f raw -c 'write -P 1 12345 1000000' " URI), 0);
	end("TERM", 0);
	assert_clean("c.qcow2");
	assert_int_equal(scratch_run("test ! -e s"), 0);
	serve("--socket s --image c.qcow2");
	assert_int_equal(scratch_run("qemu-io -f raw -c 'read -P 1 12345 1000000' "
				     "-c 'write -P 2 512345 1000000' " URI),
			 0);
	end("TERM", 0);
	assert_clean("c.qcow2");
	assert_int_equal(scratch_run("qemu-io -c 'read -P 1 12345 500000' "
				     "-c 'read -P 2 512345 1000000' c.qcow2"),
			 0);
}

static void a_killed_server_leaves_what_was_flushed(void **state)
{
	(void)state;
	serve("--socket s --image k.qcow2 --create --size 64M");
	assert_int_equal(scratch_run("qemu-io -f raw -c 'write -P 9 3M 5M' -c flush " URI), 0);
	end("KILL", 137);
	serve("--socket s --image k.qcow2"); /* the stale socket and the dirty image are in order */
	assert_int_equal(scratch_run("qemu-io -f raw -c 'read -P 9 3M 5M' " URI), 0);
	end("TERM", 0);
	assert_clean("k.qcow2");
}

static void an_overlay_takes_size_and_content_from_its_parent(void **state)
{
	(void)state;
	scratch_run("mkdir d && qemu-img create -q -f qcow2 d/p.qcow2 10000384");
	assert_int_equal(scratch_run("qemu-io -c 'write -P 5 0 9M' d/p.qcow2"), 0);
	serve("--socket s --image d/o.qcow2 --create --backing p.qcow2");
	assert_int_equal(scratch_run("test $(nbdinfo --size " URI ") = 10000384"), 0);
	assert_int_equal(scratch_run("qemu-io -f raw -c 'read -P 5 0 9M' -c 'write -P 6 1M 70000' "
				     "-c 'write -P 5 4M 1M' -c 'write -z 2M 512k' " URI),
			 0);
	end("TERM", 0);
	assert_clean("d/o.qcow2");
	assert_int_equal(scratch_run("qemu-io -c 'read -P 5 0 1M' -c 'read -P 6 1M 70000' "
				     "-c 'read -P 0 2M 512k' -c 'read -P 5 4M 5M' d/o.qcow2"),
			 0);
	/* What equals the parent was not stored. */
	assert_int_equal(scratch_run("test $(stat -c %%s d/o.qcow2) -lt 1000000"), 0);
	assert_int_equal(scratch_run("qemu-img info d/o.qcow2 | grep -q 'backing file: p.qcow2'"),
			 0);
}

static void a_parent_outside_the_folder_needs_a_repository(void **state)
{
	(void)state;
	scratch_run("mkdir -p repo/a repo/b && qemu-img create -q -f qcow2 repo/a/p.qcow2 1M");
	assert_int_equal(run("--socket s --image repo/b/o.qcow2 --create --backing ../a/p.qcow2"),
			 1);
	assert_int_equal(scratch_run("test ! -e repo/b/o.qcow2"), 0);
	serve("--socket s --image repo/b/o.qcow2 --create --backing ../a/p.qcow2 "
	      "--repository repo");
	end("TERM", 0);
	assert_clean("repo/b/o.qcow2");
}

static void read_only_changes_nothing_at_all(void **state)
{
	(void)state;
	scratch_run("qemu-img create -q -f qcow2 ro.qcow2 1M && md5sum ro.qcow2 > sum");
	serve("--socket s --image ro.qcow2 --read-only");
	assert_int_equal(scratch_run("nbdinfo " URI " | grep -q 'is_read_only: true'"), 0);
	assert_int_equal(scratch_run("qemu-img convert -f raw " URI " ro.raw"), 0);
	end("TERM", 0);
	assert_int_equal(scratch_run("md5sum -c sum"), 0);
}

static void two_servers_cannot_write_one_image(void **state)
{
	(void)state;
	serve("--socket s --image w.qcow2 --create --size 1M");
	scratch_run("cp out.txt first.txt");
	assert_int_equal(run("--socket s2 --image w.qcow2"), 1);
	assert_true(said("in use"));
	assert_int_equal(run("--socket s --image other.qcow2 --create --size 1M"), 1);
	assert_int_equal(scratch_run("test ! -e other.qcow2"), 0);
	assert_int_equal(scratch_run("nbdinfo --size " URI), 0);
	end("TERM", 0);
	assert_clean("w.qcow2");
}

/* Whether the last summary in err.txt has @pattern in it, now or soon. */
static bool summary_says(const char *pattern)
{
	return scratch_run("for i in $(seq 2000); do "
			   "grep ' sendense-nbd: summary: ' err.txt | tail -n 1 | grep -qE '%s' && "
			   "exit 0; sleep 0.05; done; cat err.txt; exit 1",
			   pattern) == 0;
}

static void a_summary_is_given_on_request_and_at_the_end(void **state)
{
	(void)state;
	serve("--socket s --image sum.qcow2 --create --size 64M --max-connections-per-export 1");
	scratch_run("kill -USR1 $(cat pid)");
	assert_true(summary_says("summary: 0 connections accepted, 0 open; depth 0, at most 0$"));
	assert_int_equal(scratch_run("qemu-io -f raw -c 'write 0 1M' -c 'write 8M 4k' "
				     "-c 'read 0 64k' " URI),
			 0);
	assert_int_equal(scratch_run("qemu-io -f raw -c 'read 0 64k' -c 'discard 0 64k' " URI), 0);
	scratch_run("kill -USR1 $(cat pid)");
	assert_true(summary_says("2 connections accepted, .*; depth 0, at most [1-9]"));
	assert_true(summary_says("; read: 2 requests, 131072 bytes, p50 < [0-9]+ us, p99 < "));
	assert_true(summary_says("; write: 2 requests, 1052672 bytes, p50 < "));
	assert_true(summary_says("; trim: 1 requests, 65536 bytes, "));
	/* Two connections at once are one too many. */
	assert_int_equal(scratch_run("U=" URI " PATH=/usr/bin:$PATH nbdsh -u " URI
				     " -c 'import os; os._exit(not os.system("
				     "\"nbdinfo $U >/dev/null 2>&1\"))'"),
			 0);
	/* Not end(): the limit that was met is a warning. */
	assert_int_equal(scratch_run("kill -TERM $(cat pid); for i in $(seq 20000); do "
				     "test ! -s status || break; sleep 0.05; done; "
				     "test \"$(cat status)\" = 0"),
			 0);
	assert_true(summary_says("connections accepted, .*; limits met: export [1-9]"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(help_and_version_tell_and_succeed),
		cmocka_unit_test(what_it_does_not_understand_it_refuses_with_status_2),
		cmocka_unit_test(what_cannot_be_done_fails_with_status_1_and_leaves_no_file),
		cmocka_unit_test(limits_are_what_the_options_say),
		cmocka_unit_test(the_ready_line_is_the_uri),
		cmocka_unit_test(an_image_is_made_served_and_continued),
		cmocka_unit_test(a_killed_server_leaves_what_was_flushed),
		cmocka_unit_test(an_overlay_takes_size_and_content_from_its_parent),
		cmocka_unit_test(a_parent_outside_the_folder_needs_a_repository),
		cmocka_unit_test(read_only_changes_nothing_at_all),
		cmocka_unit_test(two_servers_cannot_write_one_image),
		cmocka_unit_test(a_summary_is_given_on_request_and_at_the_end),
	};
	const char *build = getenv("BUILD");

	snprintf(program, sizeof(program), "%s/bin/sendense-nbd", build ? build : "");
	if (!build || access(program, X_OK)) {
		puts("set BUILD to the build folder, with bin/sendense-nbd in it");
		return 77;
	}
	return cmocka_run_group_tests(tests, scratch_setup, teardown);
}
