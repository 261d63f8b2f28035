/*
 * Cron expressions: "minute hour day-of-month month day-of-week" as crontab(5) has them, and the
 * moments they name in a time zone.
 *
 * A field is a list of `*`, numbers, ranges and steps (1,5-9,10-50/20); months and days of the week
 * also by three letters; 0 and 7 are Sunday. When both days are restricted, either is enough. Also
 * @hourly, @daily, @weekly, @monthly, @yearly.
 *
 * Change of clocks, as cron has it: with an hour that is said, a moment the clocks leave out is
 * the one of the change, and one they show twice is the first. With any hour (`*`), moments follow
 * the clock as it is shown.
 */
#ifndef HUB_CRON_H
#define HUB_CRON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "hub/zone.h"

struct cron {
	uint64_t minutes; /* bit n: minute n */
	uint32_t hours, days, months, weekdays;
	bool any_hour, any_day, any_weekday; /* the field begins with '*' */
};

/* -EINVAL: the sentence names the field. */
int cron_parse(struct cron *cron, const char *text, struct err *err);

/* The first moment after @after_s (seconds since 1970, UTC); false when there is none in the next
 * ten years. */
bool cron_next(const struct cron *cron, const struct zone *zone, int64_t after_s, int64_t *out_s);

#endif
