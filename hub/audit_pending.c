#include "hub/audit_pending.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"

#define SLOTS	  256
#define SLOT_SIZE 1024 /* a line: JSON, blanks, line feed */

struct hub_audit_pending {
	pthread_mutex_t lock;
	int fd;
	bool taken[SLOTS]; /* lock, as the next */
	bool kept[SLOTS];  /* over, and not in the log; taken as well */
};

/* --- the file -------------------------------------------------------------------------------- */

int hub_pending_open(struct hub_audit_pending **out, const char *data_dir, struct err *err)
{
	struct hub_audit_pending *pending = calloc(1, sizeof(*pending));
	char path[CATALOG_PATH_SIZE + 32];

	if (!pending)
		return err_sys(err, -ENOMEM, "audit log");
	snprintf(path, sizeof(path), "%.*s/audit-pending", CATALOG_PATH_SIZE, data_dir);
	pending->fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (pending->fd < 0) {
		err_sys(err, -errno, "opening %s", path);
		free(pending);
		return err ? err->code : -EIO;
	}
	pthread_mutex_init(&pending->lock, NULL);
	*out = pending;
	return 0;
}

void hub_pending_close(struct hub_audit_pending *pending)
{
	if (!pending)
		return;
	close(pending->fd);
	pthread_mutex_destroy(&pending->lock);
	free(pending);
}

static int put_slot(struct hub_audit_pending *pending, size_t slot, const char *text)
{
	char line[SLOT_SIZE];
	size_t n = strlen(text);

	if (n >= sizeof(line))
		return -EMSGSIZE;
	memset(line, ' ', sizeof(line));
	memcpy(line, text, n);
	line[sizeof(line) - 1] = '\n';
	if (pwrite(pending->fd, line, sizeof(line), (off_t)(slot * SLOT_SIZE)) != sizeof(line))
		return errno ? -errno : -EIO;
	return 0;
}

/* --- what was left --------------------------------------------------------------------------- */

static const char *text_in(const json_t *obj, const char *key)
{
	const char *text = json_string_value(json_object_get(obj, key));

	return text ? text : "";
}

/* What is known of how it ended; nothing unless it was kept. */
static void put_outcome(const json_t *line, struct catalog_audit *out)
{
	const bool known = catalog_audit_outcome_parse(text_in(line, "outcome"), &out->outcome);
	json_t *detail;

	if (!known)
		out->outcome = CATALOG_AUDIT_FAILED;
	detail = json_pack("{s:I,s:s,s:s}", "status",
			   json_integer_value(json_object_get(line, "status")), "began_at",
			   text_in(line, "began"), "error",
			   known ? "the audit log did not take this when it was over"
				 : "the hub ended before it was known what came of this: it may "
				   "have been done");
	json_dumpb(detail, out->detail, sizeof(out->detail) - 1, JSON_COMPACT);
	json_decref(detail);
}

/* A line that is none was being written when the machine went down: its call had not begun. */
static bool parse_line(const char *line, struct catalog_audit *out)
{
	json_t *obj = json_loadb(line, SLOT_SIZE, 0, NULL);
	bool ok = json_is_object(obj) && text_in(obj, "action")[0];

	*out = (struct catalog_audit){.id = 0};
	if (ok) {
		snprintf(out->user_name, sizeof(out->user_name), "%s", text_in(obj, "user"));
		snprintf(out->action, sizeof(out->action), "%s", text_in(obj, "action"));
		snprintf(out->object, sizeof(out->object), "%s", text_in(obj, "object"));
		snprintf(out->remote, sizeof(out->remote), "%s", text_in(obj, "remote"));
		put_outcome(obj, out);
	}
	json_decref(obj);
	return ok;
}

static bool get_slot(struct hub_audit_pending *pending, size_t slot, char line[SLOT_SIZE])
{
	return pread(pending->fd, line, SLOT_SIZE, (off_t)(slot * SLOT_SIZE)) == SLOT_SIZE;
}

bool hub_pending_left(struct hub_audit_pending *pending, size_t *at, struct catalog_audit *out)
{
	char line[SLOT_SIZE];

	for (; *at < SLOTS; ++*at) {
		if (!get_slot(pending, *at, line))
			return false;
		if (parse_line(line, out)) {
			++*at;
			return true;
		}
	}
	return false;
}

int hub_pending_clear(struct hub_audit_pending *pending, struct err *err)
{
	if (ftruncate(pending->fd, 0) || fsync(pending->fd))
		return err_sys(err, -errno, "emptying audit-pending");
	return 0;
}

/* --- calls ----------------------------------------------------------------------------------- */

static int take_slot(struct hub_audit_pending *pending)
{
	int slot = -1;

	pthread_mutex_lock(&pending->lock);
	for (int i = 0; slot < 0 && i < SLOTS; i++)
		if (!pending->taken[i])
			slot = i;
	if (slot >= 0)
		pending->taken[slot] = true;
	pthread_mutex_unlock(&pending->lock);
	return slot;
}

static void free_slot(struct hub_audit_pending *pending, int slot)
{
	pthread_mutex_lock(&pending->lock);
	pending->taken[slot] = pending->kept[slot] = false;
	pthread_mutex_unlock(&pending->lock);
}

static char *line_of(const struct catalog_audit *entry)
{
	char began[32] = "";
	time_t now = time(NULL);
	struct tm tm;
	json_t *obj;
	char *text;

	if (gmtime_r(&now, &tm))
		strftime(began, sizeof(began), "%FT%TZ", &tm);
	obj = json_pack("{s:s,s:s,s:s,s:s,s:s}", "began", began, "user", entry->user_name, "action",
			entry->action, "object", entry->object, "remote", entry->remote);
	text = obj ? json_dumps(obj, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
	json_decref(obj);
	return text;
}

int hub_pending_begin(struct hub_audit_pending *pending, const struct catalog_audit *entry,
		      struct err *err)
{
	_cleanup_(freep) char *text = line_of(entry);
	int slot = text ? take_slot(pending) : -1, rc;

	if (slot < 0) {
		if (text)
			err_set(err, -EBUSY, "%d changing calls run already", SLOTS);
		else
			err_set(err, -ENOMEM, "no memory");
		return -1;
	}
	rc = put_slot(pending, (size_t)slot, text);
	if (!rc && fdatasync(pending->fd))
		rc = -errno;
	if (!rc)
		return slot;
	err_sys(err, rc, "writing audit-pending");
	free_slot(pending, slot);
	return -1;
}

/* Not synced: after a power cut a call that is in the log may be told of once more. */
void hub_pending_end(struct hub_audit_pending *pending, int number)
{
	if (number < 0)
		return;
	put_slot(pending, (size_t)number, "");
	free_slot(pending, number);
}

/* Without room for the outcome the line stays as it is: nothing is known of it then. */
void hub_pending_keep(struct hub_audit_pending *pending, int number,
		      enum catalog_audit_outcome outcome, int status)
{
	_cleanup_(freep) char *text = NULL;
	char line[SLOT_SIZE];
	json_t *obj;

	if (number < 0)
		return;
	obj = get_slot(pending, (size_t)number, line) ? json_loadb(line, SLOT_SIZE, 0, NULL) : NULL;
	json_object_set_new(obj, "status", json_integer(status));
	json_object_set_new(obj, "outcome", json_string(catalog_audit_outcome_name(outcome)));
	text = obj ? json_dumps(obj, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
	json_decref(obj);
	if (text)
		put_slot(pending, (size_t)number, text);
	pthread_mutex_lock(&pending->lock);
	pending->kept[number] = true;
	pthread_mutex_unlock(&pending->lock);
}

int hub_pending_kept(struct hub_audit_pending *pending, struct catalog_audit *out)
{
	char line[SLOT_SIZE];
	int number = -1;

	pthread_mutex_lock(&pending->lock);
	for (int i = 0; number < 0 && i < SLOTS; i++)
		if (pending->kept[i])
			number = i;
	pthread_mutex_unlock(&pending->lock);
	return number >= 0 && get_slot(pending, (size_t)number, line) && parse_line(line, out)
		       ? number
		       : -1;
}
