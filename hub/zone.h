/*
 * A time zone by its IANA name ("Europe/Berlin", "UTC"), for others than the process's own: the C
 * library knows one zone a process. GLib reads the system's zone files, rules for the years to come
 * included.
 */
#ifndef HUB_ZONE_H
#define HUB_ZONE_H

#include <stdint.h>

#include "base/cleanup.h"
#include "base/err.h"

struct zone;

/* -EINVAL: no such zone on this system. The caller closes *@out. */
int zone_open(struct zone **out, const char *name, struct err *err);
void zone_close(struct zone *zone); /* accepts NULL */
DEFINE_CLEANUP(struct zone *, zone_close)

/* Seconds to add to UTC (seconds since 1970) for what clocks in the zone show then. */
int64_t zone_offset(const struct zone *zone, int64_t utc_s);

/* The first moment at which clocks in the zone show @local_s (seconds since 1970 as if it were
 * UTC); of a time that a change of clocks leaves out, the moment of the change. */
int64_t zone_to_utc(const struct zone *zone, int64_t local_s);

#endif
