#include "tools/ctl_progress.h"

#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "tools/ctl_human.h"

/* A rate follows a step change to two thirds within this time. */
#define SMOOTHING_S 3.0
#define BAR_MIN	    10
#define BAR_MAX	    40
#define AMOUNT_MAX  (3 * HUMAN_MAX)
/* What stands beside the bar: name, percentage, "1023 MiB of 1023 MiB", "1023 MiB/s", "ETA 3 d 4
 * h". */
#define OTHER_COLUMNS 78

static uint64_t field(const json_t *object, const char *name)
{
	json_int_t value = json_integer_value(json_object_get(object, name));

	return value > 0 ? (uint64_t)value : 0;
}

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
	*disk = (struct progress_disk){.index = index, .rate = -1};
	return disk;
}

static bool is_completed(const struct progress_disk *disk)
{
	return strcmp(disk->status, "completed") == 0;
}

/* Exponential smoothing that does not care how often it is fed. */
static void follow_rate(struct progress_disk *disk, uint64_t done, double now, double last)
{
	double passed = now - last, rate, weight;

	if (last <= 0 || passed <= 0 || done < disk->done)
		return;
	if (!disk->first_seen) {
		if (done == disk->done)
			return;
		disk->first_seen = last;
	}
	rate = (double)(done - disk->done) / passed;
	weight = 1 - exp(-passed / SMOOTHING_S);
	disk->rate = disk->rate < 0 ? rate : disk->rate + weight * (rate - disk->rate);
}

static void update_disk(struct ctl_progress *progress, const json_t *row, double now)
{
	int index = (int)json_integer_value(json_object_get(row, "disk_index"));
	struct progress_disk *disk = find_or_add(progress, index);
	uint64_t done = field(row, "bytes_received") + field(row, "bytes_zero");

	if (!disk)
		return;
	copy_text(disk->label, sizeof(disk->label), row, "label");
	copy_text(disk->status, sizeof(disk->status), row, "status");
	copy_text(disk->mode, sizeof(disk->mode), row, "mode");
	disk->total = field(row, "bytes_total");
	if (!is_completed(disk))
		follow_rate(disk, done, now, progress->last_update);
	disk->done = done;
}

void ctl_progress_update(struct ctl_progress *progress, const json_t *job, double now)
{
	const json_t *disks = json_object_get(job, "disks");
	json_t *row;
	size_t i;

	json_array_foreach(disks, i, row) update_disk(progress, row, now);
	progress->last_update = now;
}

unsigned ctl_progress_percent(const struct progress_disk *disk)
{
	double part;

	if (is_completed(disk))
		return 100;
	if (!disk->total)
		return 0;
	part = 100.0 * (double)disk->done / (double)disk->total;
	return part >= 99 ? 99 : (unsigned)part;
}

double ctl_progress_eta(const struct progress_disk *disk)
{
	if (is_completed(disk) || !(disk->rate > 0) || disk->total < disk->done)
		return -1;
	return (double)(disk->total - disk->done) / disk->rate;
}

static void draw_bar(char *buf, unsigned width, unsigned percent)
{
	unsigned full = width * percent / 100;

	memset(buf, '#', full);
	memset(buf + full, '.', width - full);
	buf[width] = '\0';
}

/* "412 MiB of 10.0 GiB", or what was sent alone while nobody knows how much it will be. */
static void describe_amount(const struct progress_disk *disk, char *buf, size_t size)
{
	char done[HUMAN_MAX], total[HUMAN_MAX];

	if (!disk->total)
		snprintf(buf, size, "%s", human_bytes(done, disk->done));
	else
		snprintf(buf, size, "%s of %s", human_bytes(done, MIN(disk->done, disk->total)),
			 human_bytes(total, disk->total));
}

/* "1.24 GiB/s  ETA 0:12" while it runs, else its state. */
static void describe_state(const struct progress_disk *disk, char *buf, size_t size)
{
	char rate[HUMAN_MAX], eta[HUMAN_MAX];

	if (strcmp(disk->status, "running") != 0)
		snprintf(buf, size, "%s", *disk->status ? disk->status : "pending");
	else if (disk->rate < 0)
		snprintf(buf, size, "running");
	else if (!disk->total)
		snprintf(buf, size, "%s", human_rate(rate, disk->rate));
	else
		snprintf(buf, size, "%s  ETA %s", human_rate(rate, disk->rate),
			 human_duration(eta, ctl_progress_eta(disk)));
}

static bool has_percent(const struct progress_disk *disk)
{
	return disk->total || is_completed(disk);
}

/* "[####......]  41%", of a width that leaves room for the rest, or as many blanks. */
static void describe_percent(const struct progress_disk *disk, unsigned columns, char *buf,
			     size_t size)
{
	unsigned width = columns > OTHER_COLUMNS + BAR_MIN ? columns - OTHER_COLUMNS : BAR_MIN;
	unsigned percent = ctl_progress_percent(disk);
	char bar[BAR_MAX + 1];

	width = MIN(width, BAR_MAX);
	draw_bar(bar, width, percent);
	if (has_percent(disk))
		snprintf(buf, size, "[%s] %3u%%", bar, percent);
	else
		snprintf(buf, size, "%*s", (int)width + 7, "");
}

void ctl_progress_line(const struct progress_disk *disk, unsigned columns,
		       char buf[PROGRESS_LINE_MAX])
{
	char name[96], percent[BAR_MAX + 16], amount[AMOUNT_MAX], state[AMOUNT_MAX];

	snprintf(name, sizeof(name), "disk %d %s", disk->index, disk->label);
	describe_percent(disk, columns, percent, sizeof(percent));
	describe_amount(disk, amount, sizeof(amount));
	describe_state(disk, state, sizeof(state));
	snprintf(buf, PROGRESS_LINE_MAX, "%-18.30s %s  %s  %s", name, percent, amount, state);
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

static bool worth_telling(const struct progress_disk *disk)
{
	return strcmp(disk->status, disk->told_status) != 0 ||
	       ctl_progress_percent(disk) / 10 > disk->told_tenth;
}

static void tell(const struct progress_disk *disk, FILE *out)
{
	char amount[AMOUNT_MAX], state[AMOUNT_MAX];

	describe_amount(disk, amount, sizeof(amount));
	describe_state(disk, state, sizeof(state));
	fprintf(out, "disk %d %s: ", disk->index, disk->label);
	if (has_percent(disk))
		fprintf(out, "%u%%, ", ctl_progress_percent(disk));
	fprintf(out, "%s, %s\n", amount, state);
}

void ctl_progress_tell(struct ctl_progress *progress, FILE *out)
{
	for (unsigned i = 0; i < progress->count; i++) {
		struct progress_disk *disk = &progress->disk[i];

		if (!worth_telling(disk))
			continue;
		tell(disk, out);
		memcpy(disk->told_status, disk->status, sizeof(disk->status));
		disk->told_tenth = ctl_progress_percent(disk) / 10;
	}
	fflush(out);
}
