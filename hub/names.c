/*
 * Names the agent depends on (agent contract 1.3). Export names end in "disk<N>", because that is
 * where the agent reads the disk index from, have no byte that means something in an NBD URL, and
 * fit 63 bytes; the hash over the whole identity keeps names apart that a cut would make equal.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/xxh3.h"
#include "hub/job.h"

#define HUB_SLUG_MAX 20

void hub_stamp(int64_t us, char out[HUB_STAMP_SIZE])
{
	time_t s = us / 1000000;
	struct tm tm;

	gmtime_r(&s, &tm);
	strftime(out, HUB_STAMP_SIZE, "%Y%m%d-%H%M%S", &tm);
}

/* Letters and digits in lower case, everything else one '-', none at the ends. */
static void hub_slug(const char *name, char out[HUB_SLUG_MAX + 1])
{
	size_t n = 0;

	for (; *name && n < HUB_SLUG_MAX; name++) {
		unsigned char c = (unsigned char)*name;

		if (c < 0x80 && isalnum(c))
			out[n++] = (char)tolower(c);
		else if (n && out[n - 1] != '-')
			out[n++] = '-';
	}
	while (n && out[n - 1] == '-')
		n--;
	out[n] = '\0';
	if (!n)
		strcpy(out, "vm");
}

static uint32_t hub_identity_hash(const struct hub_job *job, int disk_index)
{
	char text[4 * CATALOG_NAME_SIZE];
	int n = snprintf(text, sizeof(text), "%s/%s/%s/%d", job->vm.context_id,
			 job->context.context_id, job->row.id, disk_index);

	return (uint32_t)XXH3_64bits(text, MIN((size_t)n, sizeof(text) - 1));
}

void hub_export_names(const struct hub_job *job, const struct catalog_backup_disk *disk,
		      char name[CATALOG_EXPORT_SIZE], char alias[HUB_ALIAS_SIZE])
{
	bool full = disk->mode == CATALOG_BACKUP_FULL;
	char slug[HUB_SLUG_MAX + 1], when[HUB_STAMP_SIZE];

	hub_slug(job->vm_name, slug);
	strcpy(when, job->stamp);
	when[8] = 'T';
	snprintf(name, CATALOG_EXPORT_SIZE, "backup-%s-%08x-%c-%s-disk%d", slug,
		 hub_identity_hash(job, disk->disk_index), full ? 'f' : 'i', when,
		 disk->disk_index);
	snprintf(alias, HUB_ALIAS_SIZE, "backup-%s-disk%d-%s-%s", job->vm.context_id,
		 disk->disk_index, full ? "full" : "incr", when);
}

const char *hub_path_name(const char *vm_path)
{
	const char *slash = strrchr(vm_path, '/');

	return slash ? slash + 1 : vm_path;
}

/* --- what the agent connects to ------------------------------------------------------------- */

static int hub_tcp_port(const char *address)
{
	const char *colon = strrchr(address, ':');

	if (strncmp(address, "unix:", 5) == 0 || !colon)
		return 0;
	return atoi(colon + 1);
}

/* Every address of this machine is reached through the tunnel as 127.0.0.1. */
static void hub_advertise(struct hub_address *to, const char *address)
{
	static const char *const anywhere[] = {"0.0.0.0:", "[::]:", "127."};

	to->port = hub_tcp_port(address);
	for (size_t i = 0; to->port && i < ARRAY_SIZE(anywhere); i++) {
		if (strncmp(address, anywhere[i], strlen(anywhere[i])) == 0) {
			snprintf(to->text, sizeof(to->text), "127.0.0.1:%d", to->port);
			return;
		}
	}
	snprintf(to->text, sizeof(to->text), "%s", address);
}

/* How much an agent would like to be told of a listener: capture agents of old do no TLS, and their
 * tunnels end at certain ports. */
static int hub_listener_worth(const char *bound, enum nbd_tls_policy tls)
{
	int port = hub_tcp_port(bound);

	return (tls != NBD_TLS_REQUIRE ? 4 : 0) + (port >= 10100 && port <= 10200 ? 2 : 0) +
	       (port ? 1 : 0);
}

void hub_choose_advertised(struct hub *hub)
{
	int best = -1;

	for (size_t i = 0; i < hub->listener_count; i++) {
		const struct hub_listener *l = &hub->listeners[i];
		int worth = hub_listener_worth(l->bound, l->tls);

		if (worth <= best)
			continue;
		best = worth;
		hub->advertised.tls = l->tls == NBD_TLS_REQUIRE;
		hub_advertise(&hub->advertised, l->bound);
	}
	if (hub->advertised.tls)
		log_warn(&hub->log, "every NBD listener requires TLS: capture agents are told "
				    "nbds:// and must know how");
}

struct hub_address hub_advertised(struct hub *hub)
{
	struct hub_address at;

	pthread_mutex_lock(&hub->lock);
	at = hub->advertised;
	pthread_mutex_unlock(&hub->lock);
	return at;
}

static void hub_target(const struct hub_address *at, const struct catalog_backup_disk *row,
		       FILE *to)
{
	const char *scheme = at->tls ? "nbds" : "nbd";

	fprintf(to, "%lld:%s", (long long)row->vmware_disk_key, scheme);
	if (at->port)
		fprintf(to, "://%s/%s", at->text, row->export_name);
	else
		fprintf(to, "+unix:///%s?socket=%s", row->export_name, at->text + strlen("unix:"));
}

char *hub_nbd_targets(struct hub *hub, const struct hub_job *job)
{
	const struct hub_address at = hub_advertised(hub);
	char *text = NULL;
	size_t len;
	FILE *to = open_memstream(&text, &len);

	if (!to)
		return NULL;
	for (size_t i = 0; i < job->disk_count; i++) {
		if (i)
			fputc(',', to);
		hub_target(&at, &job->disks[i].row, to);
	}
	if (fclose(to) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
