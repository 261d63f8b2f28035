#include "hub/metrics.h"

#include "base/bytes.h"
#include "hub/job.h"

const unsigned hub_duration_bounds[HUB_DURATIONS] = {10,   30,	 60,   120,   300,   600,
						     1800, 3600, 7200, 14400, 28800, 86400};

static void totals_add_disk(struct hub_totals *t, const struct hub_disk *disk)
{
	struct catalog_counters bytes;

	hub_disk_counters(disk, &bytes);
	t->bytes.bytes_transferred += bytes.bytes_transferred;
	t->bytes.bytes_zero += bytes.bytes_zero;
	t->bytes.bytes_unchanged += bytes.bytes_unchanged;
	if (disk->state == HUB_DISK_COMPLETED)
		t->bytes.bytes_stored += disk->row.bytes.bytes_stored;
	t->nbd_connections += disk->net.connections_total;
	for (size_t i = 0; i < NBD_STATS_COMMANDS; i++) {
		t->nbd[i].requests += disk->net.commands[i].requests;
		t->nbd[i].errors += disk->net.commands[i].errors;
		t->nbd[i].bytes += disk->net.commands[i].bytes;
		t->nbd[i].took_ns += disk->net.commands[i].took_ns;
		for (size_t k = 0; k < NBD_LATENCY_BUCKETS; k++)
			t->nbd[i].latency[k] += disk->net.commands[i].latency[k];
	}
}

/* `face` held. */
static void totals_add_disks(struct hub_totals *t, struct hub_job *job)
{
	for (size_t i = 0; i < job->disk_count; i++) {
		hub_disk_refresh(&job->disks[i]);
		totals_add_disk(t, &job->disks[i]);
	}
}

static void totals_add_duration(struct hub_totals *t, double seconds)
{
	size_t i = 0;

	while (i < HUB_DURATIONS && seconds > hub_duration_bounds[i])
		i++;
	t->durations[i]++;
	t->duration_sum_s += seconds;
}

void hub_totals_add_job(struct hub *hub, struct hub_job *job)
{
	pthread_mutex_lock(&job->face);
	totals_add_disks(&hub->totals, job);
	if (job->outcome != CATALOG_JOB_PENDING)
		hub->totals.ended[job->outcome]++;
	if (job->outcome == CATALOG_JOB_COMPLETED)
		totals_add_duration(&hub->totals, (double)(hub_now_ns() - job->reserved_ns) / 1e9);
	pthread_mutex_unlock(&job->face);
}

/* `face` held. */
static uint64_t job_depth(const struct hub_job *job)
{
	uint64_t depth = 0;

	for (size_t i = 0; i < job->disk_count; i++)
		if (job->disks[i].export)
			depth += job->disks[i].net.depth;
	return depth;
}

void hub_get_totals(struct hub *hub, struct hub_totals *out)
{
	struct list *pos;

	pthread_mutex_lock(&hub->lock);
	*out = hub->totals;
	list_for_each (pos, &hub->jobs) {
		struct hub_job *job = list_entry(pos, struct hub_job, node);

		pthread_mutex_lock(&job->face);
		totals_add_disks(out, job);
		out->nbd_depth += job_depth(job);
		pthread_mutex_unlock(&job->face);
	}
	pthread_mutex_unlock(&hub->lock);
}

void hub_get_nbd_stats(struct hub *hub, struct nbd_server_stats *out)
{
	nbd_server_get_stats(hub->nbd, out);
}

unsigned hub_nbd_workers(struct hub *hub)
{
	return nbd_server_workers(hub->nbd);
}

void hub_get_nbd_pools(struct hub *hub, unsigned worker, struct nbd_pool_stats out[NBD_POOLS])
{
	nbd_server_get_pool_stats(hub->nbd, worker, out);
}

unsigned hub_followers(struct hub *hub)
{
	return atomic_load(&hub->followers);
}
