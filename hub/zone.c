#include "hub/zone.h"

#include <errno.h>
#include <glib.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define DAY_S 86400

struct zone {
	GTimeZone *tz;
};

/* A name, and nothing else that GLib would take for a zone: offsets, rules ("CET-1CEST"), paths. */
static bool name_is_plain(const char *name)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	size_t n = strlen(name);

	if (!n || n > 63 || !strchr(letters, name[0]) || strstr(name, ".."))
		return false;
	for (size_t i = 1; i < n; i++) {
		bool sign = name[i] == '+' || name[i] == '-';

		if (!strchr(letters, name[i]) && !strchr("0123456789_+-/", name[i]))
			return false;
		if (sign && strchr("0123456789", name[i + 1]) && strncmp(name, "Etc/", 4) != 0)
			return false;
	}
	return true;
}

int zone_open(struct zone **out, const char *name, struct err *err)
{
	GTimeZone *tz = name && name_is_plain(name) ? g_time_zone_new_identifier(name) : NULL;
	struct zone *zone;

	if (!tz)
		return err_set(err, -EINVAL,
			       "there is no time zone \"%.63s\" on this system: names are like UTC "
			       "or Europe/Berlin",
			       name ? name : "");
	zone = calloc(1, sizeof(*zone));
	if (!zone) {
		g_time_zone_unref(tz);
		return err_sys(err, -ENOMEM, "time zone");
	}
	zone->tz = tz;
	*out = zone;
	return 0;
}

void zone_close(struct zone *zone)
{
	if (zone)
		g_time_zone_unref(zone->tz);
	free(zone);
}

int64_t zone_offset(const struct zone *zone, int64_t utc_s)
{
	int interval = g_time_zone_find_interval(zone->tz, G_TIME_TYPE_UNIVERSAL, utc_s);

	return interval < 0 ? 0 : g_time_zone_get_offset(zone->tz, interval);
}

/* Clocks go forward somewhere in (@from, @to]: when those show @local_s or more. */
static int64_t find_change(const struct zone *zone, int64_t from, int64_t to, int64_t local_s)
{
	while (to - from > 1) {
		int64_t mid = from + (to - from) / 2;

		if (mid + zone_offset(zone, mid) >= local_s)
			to = mid;
		else
			from = mid;
	}
	return to;
}

int64_t zone_to_utc(const struct zone *zone, int64_t local_s)
{
	/* Farther from UTC than any zone is, so that changes near by are between them. */
	int64_t early = local_s - 2 * DAY_S, late = local_s + 2 * DAY_S;
	int64_t before = zone_offset(zone, early), after = zone_offset(zone, late);

	/* Clocks that go back show a time twice: the first is the one before the change. */
	if (zone_offset(zone, local_s - before) == before)
		return local_s - before;
	if (zone_offset(zone, local_s - after) == after)
		return local_s - after;
	return find_change(zone, early, late, local_s);
}
