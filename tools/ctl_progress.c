#include "tools/ctl_progress.h"

#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "tools/ctl_human.h"

/* A rate follows a step change to two thirds within this time. */
#define SMOOTHING_S 3.0
#define BAR_MIN	    10
#define BAR_MAX	    40
#define STATE_MAX   (3 * HUMAN_MAX)
/* What stands beside the bar: name, per cent, "1023 MiB", "1023 MiB/s", "ETA 3 d 4 h". */
#define OTHER_COLUMNS 66

static void copy_text(char *buf, size_t size, const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	human_printable(buf, size, text ? text : "");
}

static struct progress_disk *find_or_add(struct ctl_progress *progress, int index)
{
	struct progress_disk *disk;

	for (unsigned i = 0; i < progress->count; i++) {
		if (progress->disk[i].index == index)
			return &progress->disk[i];
	}
	if (progress->count == PROGRESS_DISKS_MAX)
		return NULL;
	disk = &progress->disk[progress->count++];
	*disk = (struct progress_disk){.index = index, .rate = -1, .pace = -1};
	return disk;
}

static bool is_completed(const struct progress_disk *disk)
{
	return strcmp(disk->status, "completed") == 0;
}

/* 100 for a completed disk and for no other. */
static double percent_of(const struct progress_disk *disk, const json_t *row)
{
	double percent = json_number_value(json_object_get(row, "progress_percent"));

	if (is_completed(disk))
		return 100;
	if (json_integer_value(json_object_get(row, "bytes_total")) <= 0)
		return -1;
	return percent < 0 ? 0 : MIN(percent, 99);
}

/* Exponential smoothing that does not care how often it is fed. What stands still from the start
 * has no speed yet: the agent is still at its snapshot. */
static void follow(double *speed, double gained, double passed)
{
	double now = gained / passed;

	if (gained < 0 || (*speed < 0 && gained == 0))
		return;
	if (*speed < 0)
		*speed = now;
	else
		*speed += (1 - exp(-passed / SMOOTHING_S)) * (now - *speed);
}

static void update_disk(struct ctl_progress *progress, const json_t *row, double now)
{
	int index = (int)json_integer_value(json_object_get(row, "disk_index"));
	json_int_t received = json_integer_value(json_object_get(row, "bytes_received"));
	struct progress_disk *disk = find_or_add(progress, index);
	double passed = now - progress->last_update, percent;

	if (!disk)
		return;
	copy_text(disk->label, sizeof(disk->label), row, "label");
	copy_text(disk->status, sizeof(disk->status), row, "status");
	percent = percent_of(disk, row);
	if (progress->last_update > 0 && passed > 0) {
		follow(&disk->rate, (double)received - (double)disk->received, passed);
		if (percent >= 0 && disk->percent >= 0)
			follow(&disk->pace, percent - disk->percent, passed);
	}
	disk->received = received > 0 ? (uint64_t)received : 0;
	disk->percent = percent;
}

void ctl_progress_update(struct ctl_progress *progress, const json_t *job, double now)
{
	const json_t *disks = json_object_get(job, "disks");
	json_t *row;
	size_t i;

	json_array_foreach (disks, i, row)
		update_disk(progress, row, now);
	progress->last_update = now;
}

double ctl_progress_eta(const struct progress_disk *disk)
{
	if (disk->percent < 0 || is_completed(disk) || !(disk->pace > 0))
		return -1;
	return (100 - disk->percent) / disk->pace;
}

static void draw_bar(char *buf, unsigned width, unsigned percent)
{
	unsigned full = width * percent / 100;

	memset(buf, '#', full);
	memset(buf + full, '.', width - full);
	buf[width] = '\0';
}

/* "1.24 GiB/s  ETA 0:12" while it runs, else its state. */
static void describe_state(const struct progress_disk *disk, char *buf, size_t size)
{
	char rate[HUMAN_MAX], eta[HUMAN_MAX];

	if (strcmp(disk->status, "running") != 0)
		snprintf(buf, size, "%s", *disk->status ? disk->status : "pending");
	else if (disk->rate < 0)
		snprintf(buf, size, "running");
	else if (disk->percent < 0)
		snprintf(buf, size, "%s", human_rate(rate, disk->rate));
	else
		snprintf(buf, size, "%s  ETA %s", human_rate(rate, disk->rate),
			 human_duration(eta, ctl_progress_eta(disk)));
}

/* "[####......]  41%", of a width that leaves room for the rest, or as many blanks. */
static void describe_percent(const struct progress_disk *disk, unsigned columns, char *buf,
			     size_t size)
{
	unsigned width = columns > OTHER_COLUMNS + BAR_MIN ? columns - OTHER_COLUMNS : BAR_MIN;
	char bar[BAR_MAX + 1];

	width = MIN(width, BAR_MAX);
	if (disk->percent < 0) {
		snprintf(buf, size, "%*s", (int)width + 7, "");
		return;
	}
	draw_bar(bar, width, (unsigned)disk->percent);
	snprintf(buf, size, "[%s] %3u%%", bar, (unsigned)disk->percent);
}

void ctl_progress_line(const struct progress_disk *disk, unsigned columns,
		       char buf[PROGRESS_LINE_MAX])
{
	char name[96], percent[BAR_MAX + 16], amount[HUMAN_MAX], state[STATE_MAX];

	snprintf(name, sizeof(name), "disk %d %s", disk->index, disk->label);
	describe_percent(disk, columns, percent, sizeof(percent));
	describe_state(disk, state, sizeof(state));
	snprintf(buf, PROGRESS_LINE_MAX, "%-18.30s %s  %9s  %s", name, percent,
		 human_bytes(amount, disk->received), state);
}

static void print_cut(const char *line, unsigned columns, FILE *out)
{
	int len = (int)strlen(line);

	/* Wider than the terminal it would wrap, and drawing over it would miss. */
	fprintf(out, "\r%.*s\033[K\n", len < (int)columns ? len : (int)columns - 1, line);
}

void ctl_progress_draw(struct ctl_progress *progress, unsigned columns, FILE *out)
{
	char line[PROGRESS_LINE_MAX];

	if (progress->drawn)
		fprintf(out, "\033[%uA", progress->drawn);
	for (unsigned i = 0; i < progress->count; i++) {
		ctl_progress_line(&progress->disk[i], columns, line);
		print_cut(line, columns, out);
	}
	progress->drawn = progress->count;
	fflush(out);
}

static unsigned tenth_of(const struct progress_disk *disk)
{
	return disk->percent < 0 ? 0 : (unsigned)disk->percent / 10;
}

static bool worth_telling(const struct progress_disk *disk)
{
	return strcmp(disk->status, disk->told_status) != 0 || tenth_of(disk) > disk->told_tenth;
}

static void tell(const struct progress_disk *disk, FILE *out)
{
	char amount[HUMAN_MAX], state[STATE_MAX];

	describe_state(disk, state, sizeof(state));
	fprintf(out, "disk %d %s: ", disk->index, disk->label);
	if (disk->percent >= 0)
		fprintf(out, "%u%%, ", (unsigned)disk->percent);
	fprintf(out, "%s, %s\n", human_bytes(amount, disk->received), state);
}

void ctl_progress_tell(struct ctl_progress *progress, FILE *out)
{
	for (unsigned i = 0; i < progress->count; i++) {
		struct progress_disk *disk = &progress->disk[i];

		if (!worth_telling(disk))
			continue;
		tell(disk, out);
		memcpy(disk->told_status, disk->status, sizeof(disk->status));
		disk->told_tenth = tenth_of(disk);
	}
	fflush(out);
}
