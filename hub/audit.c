#include "hub/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "hub/audit_pending.h"
#include "hub/job.h"

#define ANCHOR_LINE   86 /* "<id, 20 digits> <hash, 64>\n" */
#define ANCHORS_MAX   16
#define BUSY_ATTEMPTS 10

struct hub_audit {
	pthread_mutex_t lock; /* adds one after the other: numbers only grow */
	int fd;
	struct catalog_audit_anchor anchors[ANCHORS_MAX]; /* the last one moves */
	size_t count;
	struct hub_audit_pending *pending;
};

/* --- the file --------------------------------------------------------------------------------- */

static bool parse_anchor(const char *line, struct catalog_audit_anchor *out)
{
	char text[ANCHOR_LINE + 1];

	memcpy(text, line, ANCHOR_LINE);
	text[ANCHOR_LINE] = '\0';
	if (text[20] != ' ' || text[85] != '\n' || strspn(text, "0123456789") != 20 ||
	    strspn(text + 21, "0123456789abcdef") != 64)
		return false;
	out->id = strtoll(text, NULL, 10);
	memcpy(out->hash, text + 21, 64);
	out->hash[64] = '\0';
	return out->id > 0;
}

static int read_anchors(struct hub_audit *audit, const char *path, struct err *err)
{
	char text[ANCHORS_MAX * ANCHOR_LINE];
	ssize_t n = pread(audit->fd, text, sizeof(text), 0);

	if (n < 0)
		return err_sys(err, -errno, "reading %s", path);
	if (n % ANCHOR_LINE)
		return err_set(err, -EUCLEAN,
			       "%s is not as this program writes it: if nobody tampered with it, "
			       "remove it",
			       path);
	for (size_t at = 0; at < (size_t)n; at += ANCHOR_LINE)
		if (!parse_anchor(text + at, &audit->anchors[audit->count++]))
			return err_set(err, -EUCLEAN,
				       "line %zu of %s is not as this program writes it: if nobody "
				       "tampered with it, remove the file",
				       audit->count, path);
	return 0;
}

/* What cannot be written now stays for the next start. */
static int take_left(struct hub *hub, struct err *err)
{
	struct hub_audit_pending *pending = hub->audit->pending;
	struct catalog_audit entry;
	size_t at = 0;

	while (hub_pending_left(pending, &at, &entry)) {
		log_warn(&hub->log, "audit: the last run ended during %s of %s by %s", entry.action,
			 entry.object, entry.user_name);
		if (!hub_audit_add(hub, &entry))
			return err_set(err, -EIO,
				       "the audit log does not take what the last run has left");
	}
	return hub_pending_clear(pending, err);
}

int hub_audit_start(struct hub *hub, struct err *err)
{
	struct hub_audit *audit = calloc(1, sizeof(*audit));
	char path[CATALOG_PATH_SIZE + 32];
	int rc;

	if (!audit)
		return err_sys(err, -ENOMEM, "audit log");
	hub->audit = audit;
	pthread_mutex_init(&audit->lock, NULL);
	snprintf(path, sizeof(path), "%s/audit-anchor", hub->data_dir);
	audit->fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (audit->fd < 0)
		return err_sys(err, -errno, "opening %s", path);
	rc = read_anchors(audit, path, err);
	if (!rc)
		rc = hub_pending_open(&audit->pending, hub->data_dir, err);
	return rc ? rc : take_left(hub, err);
}

void hub_audit_stop(struct hub *hub)
{
	struct hub_audit *audit = hub->audit;

	if (!audit)
		return;
	hub->audit = NULL;
	if (audit->fd >= 0)
		close(audit->fd);
	hub_pending_close(audit->pending);
	pthread_mutex_destroy(&audit->lock);
	free(audit);
}

/* --- adding ----------------------------------------------------------------------------------- */

/* Hubs at several nodes of a cluster get into each other's way, and the catalog has tried a few
 * times before it says so: an entry is worth a few more. */
static int add(struct hub *hub, struct catalog_audit *entry)
{
	struct err err = ERR_INIT;
	int r = catalog_audit_add(hub->catalog, entry, &err);

	for (long i = 1; r == -EBUSY && i <= BUSY_ATTEMPTS; i++) {
		nanosleep(&(struct timespec){.tv_nsec = i * 20 * 1000000L}, NULL);
		r = catalog_audit_add(hub->catalog, entry, &err);
	}
	if (r)
		log_error(&hub->log, "audit: %s of %s by %s was not recorded: %s", entry->action,
			  entry->object, entry->user_name, err.text);
	return r;
}

/* Not synced: an anchor that is older after a power cut is still one of the log's entries. */
static void move_anchor(struct hub *hub, const struct catalog_audit *entry)
{
	struct hub_audit *audit = hub->audit;
	struct catalog_audit_anchor *last = &audit->anchors[audit->count - 1];
	char line[ANCHOR_LINE + 1];

	last->id = entry->id;
	strcpy(last->hash, entry->entry_hash);
	snprintf(line, sizeof(line), "%020" PRId64 " %s\n", entry->id, entry->entry_hash);
	if (pwrite(audit->fd, line, ANCHOR_LINE, (off_t)(audit->count - 1) * ANCHOR_LINE) !=
	    ANCHOR_LINE)
		log_error(&hub->log, "audit: the anchor was not written: %s", strerror(errno));
}

/* Entries this hub wrote are gone: the catalog was tampered with, or an older copy took its place.
 */
static void note_shorter(struct hub *hub, int64_t known, int64_t found)
{
	struct hub_audit *audit = hub->audit;
	struct catalog_audit e = {.outcome = CATALOG_AUDIT_FAILED};

	log_error(&hub->log,
		  "audit: the log ended at entry %" PRId64 ", but this hub wrote entry %" PRId64
		  ": its end was cut off, or the catalog is an older copy",
		  found, known);
	if (audit->count < ANCHORS_MAX)
		audit->count++;
	strcpy(e.user_name, "(hub)");
	strcpy(e.action, "audit log shorter than known");
	snprintf(e.detail, sizeof(e.detail), "{\"known\":%" PRId64 ",\"found\":%" PRId64 "}", known,
		 found);
	if (!add(hub, &e))
		move_anchor(hub, &e);
}

/* With the lock. */
static bool add_one(struct hub *hub, struct catalog_audit *entry)
{
	struct hub_audit *audit = hub->audit;
	int64_t known = audit->count ? audit->anchors[audit->count - 1].id : 0;

	if (add(hub, entry))
		return false;
	if (!audit->count)
		audit->count = 1;
	if (entry->id > known)
		move_anchor(hub, entry);
	else
		note_shorter(hub, known, entry->id - 1);
	return true;
}

/* The log takes entries: also those it has refused. */
static void add_kept(struct hub *hub)
{
	struct catalog_audit entry;
	int number;

	while ((number = hub_pending_kept(hub->audit->pending, &entry)) >= 0 &&
	       add_one(hub, &entry))
		hub_pending_end(hub->audit->pending, number);
}

bool hub_audit_add(struct hub *hub, struct catalog_audit *entry)
{
	bool added;

	pthread_mutex_lock(&hub->audit->lock);
	added = add_one(hub, entry);
	if (added)
		add_kept(hub);
	pthread_mutex_unlock(&hub->audit->lock);
	return added;
}

int hub_audit_begin(struct hub *hub, const struct catalog_audit *entry)
{
	struct err err = ERR_INIT;
	int number = hub_pending_begin(hub->audit->pending, entry, &err);

	if (number < 0)
		log_error(&hub->log, "audit: %s of %s by %s was not noted before it began: %s",
			  entry->action, entry->object, entry->user_name, err.text);
	return number;
}

void hub_audit_end(struct hub *hub, int number)
{
	hub_pending_end(hub->audit->pending, number);
}

void hub_audit_keep(struct hub *hub, int number, enum catalog_audit_outcome outcome, int status)
{
	hub_pending_keep(hub->audit->pending, number, outcome, status);
}

int hub_audit_verify(struct hub *hub, struct catalog_audit_report *out, struct err *err)
{
	struct hub_audit *audit = hub->audit;
	struct catalog_audit_anchor anchors[ANCHORS_MAX];
	size_t n;

	pthread_mutex_lock(&audit->lock);
	n = audit->count;
	memcpy(anchors, audit->anchors, sizeof(anchors));
	pthread_mutex_unlock(&audit->lock);
	return hub_from_catalog(catalog_audit_verify(hub->catalog, anchors, n, out, err));
}
