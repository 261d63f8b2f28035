#include "tools/nbd_summary.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

struct text {
	char *p;
	size_t size, used;
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (t->used >= t->size)
		return;
	va_start(ap, fmt);
	n = vsnprintf(t->p + t->used, t->size - t->used, fmt, ap);
	va_end(ap);
	t->used += n > 0 ? n : 0;
}

/* "p99 < 512 us": the upper end of the bucket in which that part of all answers lies. */
static void add_percentile(struct text *t, const struct nbd_command_stats *c, unsigned percent)
{
	uint64_t all = 0, below = 0;
	unsigned i;

	for (i = 0; i < NBD_LATENCY_BUCKETS; i++)
		all += c->latency[i];
	if (!all)
		return;
	for (i = 0; i < NBD_LATENCY_BUCKETS - 1; i++) {
		below += c->latency[i];
		if (below * 100 >= all * percent) {
			add(t, ", p%u < %" PRIu64 " us", percent, UINT64_C(1) << i);
			return;
		}
	}
	add(t, ", p%u > 67 s", percent);
}

static void add_commands(struct text *t, const struct nbd_export_stats *stats)
{
	unsigned i;

	for (i = 0; i < NBD_STATS_COMMANDS; i++) {
		const struct nbd_command_stats *c = &stats->commands[i];

		if (!c->requests)
			continue;
		add(t, "; %s: %" PRIu64 " requests", nbd_stats_command(i), c->requests);
		if (c->bytes)
			add(t, ", %" PRIu64 " bytes", c->bytes);
		if (c->errors)
			add(t, ", %" PRIu64 " errors", c->errors);
		add_percentile(t, c, 50);
		add_percentile(t, c, 99);
	}
}

static void add_limits(struct text *t, const struct nbd_server_stats *stats)
{
	bool any = false;
	unsigned i;

	for (i = 0; i < NBD_LIMITS; i++) {
		if (!stats->met[i])
			continue;
		add(t, "%s %s %" PRIu64, any ? "," : "; limits met:", nbd_limit_name(i),
		    stats->met[i]);
		any = true;
	}
}

const char *nbd_summary(char *text, size_t size, const struct nbd_export_stats *export,
			const struct nbd_server_stats *server)
{
	struct text t = {.p = text, .size = size};

	add(&t, "%" PRIu64 " connections accepted, %u open; depth %u, at most %u", server->accepted,
	    server->connections, export->depth, export->depth_peak);
	add_commands(&t, export);
	add_limits(&t, server);
	return text;
}
