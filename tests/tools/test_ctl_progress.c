/* Progress as sendense-ctl shows it, from what the hub says about a running backup. */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tools/ctl_human.h"
#include "tools/ctl_progress.h"

/* A job of one disk as the hub describes it; @total 0: an incremental nobody knows the size of. */
static void feed(struct ctl_progress *progress, const char *status, uint64_t received,
		 uint64_t total, double now)
{
	double percent = total ? 100.0 * (double)received / (double)total : 0;
	json_t *job =
		json_pack("{s:[{s:i, s:s, s:s, s:I, s:I, s:f}]}", "disks", "disk_index", 0, "label",
			  "Hard disk 1", "status", status, "bytes_received", (json_int_t)received,
			  "bytes_total", (json_int_t)total, "progress_percent", percent);

	assert_non_null(job);
	ctl_progress_update(progress, job, now);
	json_decref(job);
}

static char *collected(void (*print)(struct ctl_progress *, FILE *), struct ctl_progress *progress)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	assert_non_null(out);
	print(progress, out);
	fclose(out);
	return text;
}

static void rate_and_time_to_go_come_from_two_answers(void **state)
{
	struct ctl_progress progress = {0};
	const struct progress_disk *disk = &progress.disk[0];

	(void)state;
	feed(&progress, "running", 0, 10 * GIB, 100);
	assert_true(disk->rate < 0);
	assert_true(ctl_progress_eta(disk) < 0);
	feed(&progress, "running", 1 * GIB, 10 * GIB, 101);
	assert_true(disk->rate == (double)GIB);
	assert_true(ctl_progress_eta(disk) == 9);
	assert_true(disk->percent == 10);
}

static void a_rate_follows_what_happens_without_jumping(void **state)
{
	struct ctl_progress progress = {0};
	uint64_t done = 0;

	(void)state;
	for (int i = 0; i <= 40; i++)
		feed(&progress, "running", done += 100 * MIB, 100 * GIB, 100 + i);
	feed(&progress, "running", done, 100 * GIB, 141); /* one second of silence */
	assert_true(progress.disk[0].rate < 75.0 * MIB && progress.disk[0].rate > 65.0 * MIB);
	for (int i = 0; i < 30; i++)
		feed(&progress, "running", done, 100 * GIB, 142 + i);
	assert_true(progress.disk[0].rate < MIB);
}

static void only_a_completed_disk_is_at_a_hundred(void **state)
{
	struct ctl_progress progress = {0};

	(void)state;
	feed(&progress, "running", 10 * GIB, 10 * GIB, 1);
	assert_true(progress.disk[0].percent == 99);
	feed(&progress, "failed", 10 * GIB, 10 * GIB, 2);
	assert_true(progress.disk[0].percent == 99);
	feed(&progress, "completed", 1 * GIB, 10 * GIB, 3);
	assert_true(progress.disk[0].percent == 100);
}

static void a_line_fits_its_terminal(void **state)
{
	struct ctl_progress progress = {0};
	char line[PROGRESS_LINE_MAX];

	(void)state;
	feed(&progress, "running", 0, 102 * GIB, 100);
	feed(&progress, "running", 55 * GIB, 102 * GIB, 150);
	ctl_progress_line(&progress.disk[0], 100, line);
	assert_non_null(strstr(line, " 53%"));
	assert_non_null(strstr(line, "1.10 GiB/s"));
	assert_non_null(strstr(line, "ETA 0:43"));
	assert_non_null(strchr(line, '#'));
	for (unsigned columns = 80; columns < 200; columns += 10) {
		ctl_progress_line(&progress.disk[0], columns, line);
		assert_true(human_width(line) <= columns);
	}
}

static void an_amount_nobody_knows_beforehand_has_no_percentage(void **state)
{
	struct ctl_progress progress = {0};
	char line[PROGRESS_LINE_MAX];

	(void)state;
	feed(&progress, "running", 0, 0, 100);
	feed(&progress, "running", 30 * MIB, 0, 101);
	ctl_progress_line(&progress.disk[0], 100, line);
	assert_null(strchr(line, '%'));
	assert_null(strstr(line, "ETA"));
	assert_non_null(strstr(line, "30.0 MiB"));
	assert_non_null(strstr(line, "30.0 MiB/s"));
}

static void plain_lines_tell_changes_and_tenths_only(void **state)
{
	struct ctl_progress progress = {0};
	unsigned lines = 0;

	(void)state;
	for (uint64_t i = 0; i <= 1000; i++) {
		feed(&progress, i < 1000 ? "running" : "completed", i * MIB, 1000 * MIB,
		     100 + (double)i / 10);
		char *text = collected(ctl_progress_tell, &progress);

		for (char *p = text; *p; p++)
			lines += *p == '\n';
		assert_null(strchr(text, '\033'));
		free(text);
	}
	assert_int_equal(lines, 11); /* running, nine tenths, completed */
}

static void draw_wide(struct ctl_progress *progress, FILE *out)
{
	ctl_progress_draw(progress, 100, out);
}

static void a_terminal_is_drawn_over_in_place(void **state)
{
	struct ctl_progress progress = {0};
	char *first, *second;

	(void)state;
	feed(&progress, "running", 0, GIB, 100);
	first = collected(draw_wide, &progress);
	second = collected(draw_wide, &progress);
	assert_null(strstr(first, "\033[1A"));
	assert_ptr_equal(strstr(second, "\033[1A"), second);
	free(first);
	free(second);
}

static void more_disks_than_there_is_room_for_are_left_out(void **state)
{
	struct ctl_progress progress = {0};
	json_t *disks = json_array();
	json_t *job;

	(void)state;
	for (int i = 0; i < 2 * PROGRESS_DISKS_MAX; i++)
		json_array_append_new(disks, json_pack("{s:i}", "disk_index", i));
	job = json_pack("{s:o}", "disks", disks);
	ctl_progress_update(&progress, job, 1);
	ctl_progress_update(&progress, job, 2);
	assert_int_equal(progress.count, PROGRESS_DISKS_MAX);
	json_decref(job);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rate_and_time_to_go_come_from_two_answers),
		cmocka_unit_test(a_rate_follows_what_happens_without_jumping),
		cmocka_unit_test(only_a_completed_disk_is_at_a_hundred),
		cmocka_unit_test(a_line_fits_its_terminal),
		cmocka_unit_test(an_amount_nobody_knows_beforehand_has_no_percentage),
		cmocka_unit_test(plain_lines_tell_changes_and_tenths_only),
		cmocka_unit_test(a_terminal_is_drawn_over_in_place),
		cmocka_unit_test(more_disks_than_there_is_room_for_are_left_out),
	};

	setlocale(LC_CTYPE, "C.UTF-8");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
