/*
 * GET /metrics in Prometheus' text format (version 0.0.4).
 *
 * Counters begin at zero with the program, as the format wants it; what the catalog counts are
 * gauges. No label takes values from a client or grows with the number of VMs.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "catalog/catalog.h"
#include "catalog/deletions.h"
#include "hub/metrics.h"
#include "hub/repositories.h"

/* --- the format ------------------------------------------------------------------------------ */

static void head(FILE *out, const char *name, const char *type, const char *help)
{
	fprintf(out, "# HELP sendense_%s %s\n# TYPE sendense_%s %s\n", name, help, name, type);
}

static void one(FILE *out, const char *name, const char *type, const char *help, double value)
{
	head(out, name, type, help);
	fprintf(out, "sendense_%s %.17g\n", name, value);
}

/* A label's value: backslash, quote and line feed are escaped. */
static void label(FILE *out, const char *name, const char *value)
{
	fprintf(out, "%s=\"", name);
	for (; *value; value++) {
		if (*value == '\\' || *value == '"')
			fputc('\\', out);
		if (*value == '\n')
			fputs("\\n", out);
		else
			fputc(*value, out);
	}
	fputc('"', out);
}

static void labelled(FILE *out, const char *name, const char *label_name, const char *label_value,
		     double value)
{
	fprintf(out, "sendense_%s{", name);
	label(out, label_name, label_value);
	fprintf(out, "} %.17g\n", value);
}

/* --- backups --------------------------------------------------------------------------------- */

static int tell_jobs(struct hub *hub, FILE *out, struct err *err)
{
	int64_t jobs[CATALOG_JOB_STATUSES] = {0};
	int rc = hub_from_catalog(catalog_backup_count(hub_catalog(hub), jobs, err));

	if (rc)
		return rc;
	head(out, "backups", "gauge", "Backups in the catalog, by status.");
	for (int i = 0; i < CATALOG_JOB_STATUSES; i++)
		labelled(out, "backups", "status",
			 catalog_job_status_name((enum catalog_job_status)i), (double)jobs[i]);
	one(out, "backups_running_here", "gauge", "Backups this hub runs now.",
	    hub_running_backups(hub));
	return 0;
}

static int tell_deletions(struct hub *hub, FILE *out, struct err *err)
{
	int64_t all = 0, failed = 0;
	int rc = hub_from_catalog(catalog_deletions_count(hub_catalog(hub), &all, &failed, err));

	if (rc)
		return rc;
	one(out, "deletions_unfinished", "gauge", "Deleted backups with files left.", (double)all);
	one(out, "deletions_failing", "gauge",
	    "Of them those whose files could not be removed when last tried.", (double)failed);
	return 0;
}

static void tell_durations(const struct hub_totals *t, FILE *out)
{
	static const char name[] = "backup_duration_seconds";
	uint64_t sum = 0;
	char bound[24];

	head(out, name, "histogram", "From start to end of backups that completed.");
	for (size_t i = 0; i < HUB_DURATIONS; i++) {
		sum += t->durations[i];
		snprintf(bound, sizeof(bound), "%u", hub_duration_bounds[i]);
		labelled(out, "backup_duration_seconds_bucket", "le", bound, (double)sum);
	}
	sum += t->durations[HUB_DURATIONS];
	labelled(out, "backup_duration_seconds_bucket", "le", "+Inf", (double)sum);
	fprintf(out, "sendense_%s_sum %.17g\nsendense_%s_count %llu\n", name, t->duration_sum_s,
		name, (unsigned long long)sum);
}

static void tell_totals(const struct hub_totals *t, FILE *out)
{
	static const enum catalog_job_status ends[] = {CATALOG_JOB_COMPLETED, CATALOG_JOB_FAILED,
						       CATALOG_JOB_CANCELLED};

	head(out, "backups_ended_total", "counter", "Backups that ended, by outcome.");
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		labelled(out, "backups_ended_total", "outcome", catalog_job_status_name(ends[i]),
			 (double)t->ended[ends[i]]);
	tell_durations(t, out);
	one(out, "backup_received_bytes_total", "counter", "Data received from agents.",
	    (double)t->bytes.bytes_transferred);
	one(out, "backup_zero_bytes_total", "counter", "Announced as zeroes, without data.",
	    (double)t->bytes.bytes_zero);
	one(out, "backup_unchanged_bytes_total", "counter",
	    "Received, equal to the parent's, not stored again.", (double)t->bytes.bytes_unchanged);
	one(out, "backup_stored_bytes_total", "counter", "Space that committed images took.",
	    (double)t->bytes.bytes_stored);
}

static void tell_copies(const struct hub_totals *t, FILE *out)
{
	head(out, "copies_ended_total", "counter", "Attempts to copy a backup, by outcome.");
	labelled(out, "copies_ended_total", "outcome", "completed",
		 (double)t->copies[HUB_COPY_COMPLETED]);
	labelled(out, "copies_ended_total", "outcome", "failed",
		 (double)t->copies[HUB_COPY_FAILED]);
	one(out, "copied_bytes_total", "counter", "Space that completed copies took.",
	    (double)t->copied_bytes);
}

/* --- NBD ------------------------------------------------------------------------------------- */

enum nbd_column { REQUESTS, ERRORS, BYTES };

static void tell_commands(const struct hub_totals *t, FILE *out, enum nbd_column column,
			  const char *name, const char *help)
{
	head(out, name, "counter", help);
	for (unsigned i = 0; i < NBD_STATS_COMMANDS; i++) {
		const struct nbd_command_stats *c = &t->nbd[i];

		labelled(out, name, "command", nbd_stats_command(i),
			 (double)(column == REQUESTS ? c->requests
				  : column == ERRORS ? c->errors
						     : c->bytes));
	}
}

/* The buckets that are told: a factor of 4 from one to the next, from 1 us to 67 s. */
#define LATENCY_STEP 2

static void tell_latency(const char *name, const char *command, const struct nbd_command_stats *c,
			 FILE *out)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < NBD_LATENCY_BUCKETS; i++) {
		sum += c->latency[i];
		if (i + 1 < NBD_LATENCY_BUCKETS && i % LATENCY_STEP == 0)
			fprintf(out, "sendense_%s_bucket{command=\"%s\",le=\"%.9g\"} %llu\n", name,
				command, (double)(1ULL << i) / 1e6, (unsigned long long)sum);
	}
	fprintf(out, "sendense_%s_bucket{command=\"%s\",le=\"+Inf\"} %llu\n", name, command,
		(unsigned long long)sum);
	fprintf(out, "sendense_%s_sum{command=\"%s\"} %.17g\n", name, command,
		(double)c->took_ns / 1e9);
	fprintf(out, "sendense_%s_count{command=\"%s\"} %llu\n", name, command,
		(unsigned long long)sum);
}

static void tell_latencies(const struct hub_totals *t, FILE *out)
{
	static const char name[] = "nbd_request_duration_seconds";

	head(out, name, "histogram", "From a request's header to its reply being queued.");
	for (unsigned i = 0; i < NBD_STATS_COMMANDS; i++)
		tell_latency(name, nbd_stats_command(i), &t->nbd[i], out);
}

static double pool_number(const struct nbd_pool_stats *s, unsigned which)
{
	const double numbers[] = {s->count, s->free, s->waiters, (double)s->waits};

	return numbers[which];
}

static void tell_buffers(struct hub *hub, FILE *out)
{
	static const struct {
		const char *name, *type, *help;
	} told[] = {
		{"nbd_buffers", "gauge", "Buffers of an NBD worker, by what they are for."},
		{"nbd_buffers_free", "gauge", "Of them free, a moment ago."},
		{"nbd_buffer_waiters", "gauge", "Who waited for one, a moment ago."},
		{"nbd_buffer_waits_total", "counter", "How often one had to be waited for."},
	};
	struct nbd_pool_stats s[NBD_POOLS];

	for (unsigned k = 0; k < ARRAY_SIZE(told); k++) {
		head(out, told[k].name, told[k].type, told[k].help);
		for (unsigned i = 0; i < hub_nbd_workers(hub); i++) {
			hub_get_nbd_pools(hub, i, s);
			for (unsigned p = 0; p < NBD_POOLS; p++)
				fprintf(out, "sendense_%s{worker=\"%u\",pool=\"%s\"} %.17g\n",
					told[k].name, i, nbd_pool_name((enum nbd_pool)p),
					pool_number(&s[p], k));
		}
	}
}

static void tell_nbd(struct hub *hub, const struct hub_totals *t, FILE *out)
{
	struct nbd_server_stats s;

	hub_get_nbd_stats(hub, &s);
	one(out, "nbd_connections", "gauge", "NBD connections now.", s.connections);
	one(out, "nbd_accepted_total", "counter", "NBD connections accepted.", (double)s.accepted);
	head(out, "nbd_limits_met_total", "counter", "How often a limit was met.");
	for (unsigned i = 0; i < NBD_LIMITS; i++)
		labelled(out, "nbd_limits_met_total", "limit", nbd_limit_name((enum nbd_limit)i),
			 (double)s.met[i]);
	one(out, "nbd_export_connections_total", "counter", "Connections that reached an export.",
	    (double)t->nbd_connections);
	tell_commands(t, out, REQUESTS, "nbd_requests_total", "Requests taken up, by command.");
	tell_commands(t, out, ERRORS, "nbd_errors_total", "Requests answered with an error.");
	tell_commands(t, out, BYTES, "nbd_bytes_total", "Lengths of requests that succeeded.");
	tell_latencies(t, out);
	one(out, "nbd_requests_in_flight", "gauge", "Requests taken up and not answered yet.",
	    (double)t->nbd_depth);
	tell_buffers(hub, out);
}

/* --- repositories, pools, process ------------------------------------------------------------ */

static int tell_repositories(struct hub *hub, FILE *out, struct err *err)
{
	static const struct {
		const char *name, *help;
		size_t off;
	} sizes[] = {
		{"repository_size_bytes", "Size of the repository's storage.",
		 offsetof(struct catalog_repository, total_size_bytes)},
		{"repository_used_bytes", "Of it in use.",
		 offsetof(struct catalog_repository, used_size_bytes)},
		{"repository_available_bytes", "Of it free for backups.",
		 offsetof(struct catalog_repository, available_size_bytes)},
		{"repository_backups", "Backups in the repository, whatever their status.",
		 offsetof(struct catalog_repository, backup_count)},
	};
	_cleanup_(freep) struct catalog_repository *rows = NULL;
	size_t n = 0;
	int rc = hub_repositories_list(hub, &rows, &n, err);

	for (size_t k = 0; !rc && k < ARRAY_SIZE(sizes); k++) {
		head(out, sizes[k].name, "gauge", sizes[k].help);
		for (size_t i = 0; i < n; i++)
			labelled(out, sizes[k].name, "repository", rows[i].name,
				 (double)*(const int64_t *)((const char *)&rows[i] + sizes[k].off));
	}
	return rc;
}

static void tell_pool(struct hub *hub, FILE *out)
{
	struct catalog_pool_stats s;

	catalog_get_pool_stats(hub_catalog(hub), &s);
	one(out, "catalog_connections_max", "gauge", "Database connections there may be.", s.max);
	one(out, "catalog_connections_open", "gauge", "Database connections there are.", s.open);
	one(out, "catalog_connections_busy", "gauge", "Of them in use.", s.busy);
	one(out, "catalog_writers_queued", "gauge", "Writers that wait for their turn.", s.queued);
	one(out, "api_followers", "gauge", "Clients that follow backups by events.",
	    hub_followers(hub));
}

static double open_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	double n = -3; /* ".", ".." and the one that reads */

	if (!d)
		return 0;
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static double resident_bytes(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	long total = 0, resident = 0;

	if (!f)
		return 0;
	if (fscanf(f, "%ld %ld", &total, &resident) != 2)
		resident = 0;
	fclose(f);
	return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static void tell_process(struct hub *hub, FILE *out)
{
	head(out, "build_info", "gauge", "1, with the version.");
	labelled(out, "build_info", "version", SENDENSE_VERSION, 1);
	one(out, "uptime_seconds", "gauge", "Since the hub started.", (double)hub_uptime_s(hub));
	one(out, "resident_memory_bytes", "gauge", "Memory of the process.", resident_bytes());
	one(out, "open_descriptors", "gauge", "Open file descriptors.", open_descriptors());
}

static int get_metrics(struct api_request *req, struct err *err)
{
	struct hub_totals totals;
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);
	int rc;

	if (!out)
		return err_sys(err, -ENOMEM, "metrics");
	hub_get_totals(req->hub, &totals);
	rc = tell_jobs(req->hub, out, err);
	if (!rc)
		rc = tell_deletions(req->hub, out, err);
	tell_totals(&totals, out);
	tell_copies(&totals, out);
	tell_nbd(req->hub, &totals, out);
	if (!rc)
		rc = tell_repositories(req->hub, out, err);
	tell_pool(req->hub, out);
	tell_process(req->hub, out);
	if (fclose(out) && !rc)
		rc = err_sys(err, -ENOMEM, "metrics");
	if (rc) {
		free(text);
		return rc;
	}
	return api_reply_text(req, "text/plain; version=0.0.4; charset=utf-8", text, err);
}

static const struct api_route metrics_routes[] = {
	API_ROUTE(GET, "/metrics", get_metrics, VIEWER, "Numbers for Prometheus",
		  .content_type = "text/plain; version=0.0.4; charset=utf-8"),
};
const struct api_noun api_metrics_noun =
	API_NOUN("Metrics", "The hub in numbers, for a monitoring system.", metrics_routes);
