/*
 * GET /backups/{id}/events: a backup as it goes, as server-sent events (HTML standard, 9.2).
 *
 *   state     the status of the backup or of one of its disks is another one
 *   progress  the numbers, when they have changed, once a second at most
 *   log       a line of its story; the only event with an id, so that a client that comes back
 *             (Last-Event-ID) gets what it has missed and nothing twice
 *   end       the last one
 *
 * Everything is read from the catalog and the running job, as a poll would: nothing is queued for a
 * listener, so one that is slow costs nobody anything, and is cut off when it does not take a piece
 * in time (http.c). A backup another hub runs can be followed as well.
 *
 * A stream lasts for hours: every few seconds the token is looked at again, and one that was
 * revoked, has expired or may no more ends it, with a line that says so.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/json.h"
#include "api/routes.h"
#include "api/shapes.h"
#include "base/bytes.h"
#include "catalog/job_log.h"
#include "hub/backup.h"

#define EVENTS_LOOK_MS	    500
#define EVENTS_NAP_MS	    100 /* to notice that the hub stops */
#define EVENTS_PROGRESS_MS  1000
#define EVENTS_HEARTBEAT_MS 10000
#define EVENTS_ACCESS_MS    5000
#define EVENTS_LINES	    100 /* of the log, at a time */

struct events {
	struct hub *hub;
	struct hub_caller caller;
	const struct api_route *route;
	char id[CATALOG_ID_SIZE];
	int64_t line;	/* the last one told */
	char *told;	/* statuses as last told; NULL: never */
	char *progress; /* the same for the numbers */
	int64_t progress_ms, sent_ms, looked_ms, allowed_ms;
	bool ended;

	char *text; /* on its way out; NULL: nothing is */
	size_t text_len, text_sent;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* --- what is told ---------------------------------------------------------------------------- */

static void tell(FILE *out, const char *event, int64_t id, json_t *data)
{
	_cleanup_(freep) char *text = data ? json_dumps(data, JSON_COMPACT) : NULL;

	json_decref(data);
	if (!text)
		return;
	if (id)
		fprintf(out, "id: %lld\n", (long long)id);
	fprintf(out, "event: %s\ndata: %s\n\n", event, text);
}

/* The statuses in one text, to see whether they are others. */
static char *statuses_of(const struct hub_backup_view *view)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	fprintf(f, "%s", catalog_job_status_name(view->job.status));
	for (size_t i = 0; i < view->disk_count; i++)
		fprintf(f, ",%s", catalog_disk_status_name(view->disks[i].row.status));
	return fclose(f) ? NULL : text;
}

/* Takes @now for *@told; true when it is another. */
static bool is_news(char **told, char *now)
{
	bool news = now && (!*told || strcmp(*told, now));

	if (!news) {
		free(now);
		return false;
	}
	free(*told);
	*told = now;
	return true;
}

static bool has_ended(const struct hub_backup_view *view)
{
	return view->job.status != CATALOG_JOB_PENDING && view->job.status != CATALOG_JOB_RUNNING;
}

/* True when there are no more lines now. */
static bool tell_lines(struct events *e, FILE *out)
{
	_cleanup_(freep) struct catalog_job_line *rows = NULL;
	size_t n = 0;

	if (catalog_job_log_list(hub_catalog(e->hub), e->id, e->line, EVENTS_LINES, &rows, &n,
				 NULL))
		return false;
	for (size_t i = 0; i < n; i++) {
		tell(out, "log", rows[i].id, api_shape_line(&rows[i]));
		e->line = rows[i].id;
	}
	return n < EVENTS_LINES;
}

static void tell_numbers(struct events *e, const struct hub_backup_view *view, FILE *out)
{
	json_t *data = api_shape_progress(view);

	if (is_news(&e->told, statuses_of(view))) {
		tell(out, "state", 0, json_incref(data));
	} else if (now_ms() - e->progress_ms >= EVENTS_PROGRESS_MS &&
		   is_news(&e->progress, data ? json_dumps(data, JSON_COMPACT) : NULL)) {
		tell(out, "progress", 0, json_incref(data));
		e->progress_ms = now_ms();
	}
	json_decref(data);
}

/* The state is looked at before the lines: the line of the end is there when the end is seen. */
static void look(struct events *e, FILE *out)
{
	struct hub_backup_view view = {.disks = NULL};
	int rc = hub_backup_get(e->hub, e->id, &view, NULL);

	if (!rc) {
		bool all = tell_lines(e, out);

		tell_numbers(e, &view, out);
		e->ended = all && has_ended(&view);
		if (e->ended)
			tell(out, "end", 0, api_shape_progress(&view));
	}
	if (rc == HUB_E_NOT_FOUND) /* deleted meanwhile */
		e->ended = true;
	hub_backup_view_deinit(&view);
}

/* --- the stream ------------------------------------------------------------------------------ */

static bool is_allowed(struct events *e)
{
	if (now_ms() - e->allowed_ms < EVENTS_ACCESS_MS)
		return true;
	e->allowed_ms = now_ms();
	return api_may_go_on(e->hub, &e->caller, e->route, "backups");
}

/* Looks, when it is time; what is to be sent is in e->text then. False: no memory. */
static bool gather(struct events *e)
{
	FILE *out;

	if (e->looked_ms && now_ms() - e->looked_ms < EVENTS_LOOK_MS)
		return true;
	out = open_memstream(&e->text, &e->text_len);
	if (!out)
		return false;
	if (!e->looked_ms)
		fputs("retry: 2000\n\n", out);
	if (is_allowed(e)) {
		look(e, out);
	} else {
		fputs(": this token is worth nothing any more\n\n", out);
		e->ended = true;
	}
	e->looked_ms = now_ms();
	if (!ftell(out) && e->looked_ms - e->sent_ms >= EVENTS_HEARTBEAT_MS)
		fputs(": still here\n\n", out);
	e->text_sent = 0;
	if (fclose(out))
		return false;
	if (!e->text_len)
		free(steal(&e->text));
	return true;
}

static ssize_t send_some(struct events *e, char *buf, size_t size)
{
	size_t n = MIN(size, e->text_len - e->text_sent);

	memcpy(buf, e->text + e->text_sent, n);
	e->text_sent += n;
	e->sent_ms = now_ms();
	if (e->text_sent == e->text_len)
		free(steal(&e->text));
	return (ssize_t)n;
}

static ssize_t events_read(void *arg, char *buf, size_t size)
{
	struct events *e = arg;

	while (!e->text) {
		if (e->ended || hub_is_stopping(e->hub))
			return 0;
		if (!gather(e))
			return -1;
		if (!e->text)
			nanosleep(&(struct timespec){.tv_nsec = EVENTS_NAP_MS * 1000000L}, NULL);
	}
	return send_some(e, buf, size);
}

static void events_end(void *arg)
{
	struct events *e = arg;

	hub_follower_leave(e->hub);
	free(e->told);
	free(e->progress);
	free(e->text);
	free(e);
}

/* --- the request ----------------------------------------------------------------------------- */

/* The header is what browsers send when they come back; the parameter is for those who cannot. */
static int take_last_line(const struct api_request *req, int64_t *line, struct err *err)
{
	const char *text = api_request_header(req, "Last-Event-ID");
	char *end;

	if (!text || !text[0])
		return api_query_int(req, "last_event_id", 0, INT64_MAX, line, err);
	errno = 0;
	*line = strtoll(text, &end, 10);
	if (*end || errno || *line < 0)
		return err_set(err, HUB_E_INVALID, "Last-Event-ID \"%.40s\" is no line of a log",
			       text);
	return 0;
}

/* Somebody who came back after the end: 204 tells a browser not to come again. */
static bool is_all_told(struct hub *hub, const struct catalog_backup *job, int64_t line)
{
	_cleanup_(freep) struct catalog_job_line *rows = NULL;
	size_t n = 0;

	if (!line || job->status == CATALOG_JOB_PENDING || job->status == CATALOG_JOB_RUNNING)
		return false;
	return !catalog_job_log_list(hub_catalog(hub), job->id, line, 1, &rows, &n, NULL) && !n;
}

static int open_stream(struct api_request *req, const char *id, int64_t line, struct err *err)
{
	struct events *e = calloc(1, sizeof(*e));

	if (!e)
		return err_sys(err, -ENOMEM, "events");
	if (!hub_follower_enter(req->hub)) {
		free(e);
		return err_set(err, API_STATUS(429),
			       "%d clients follow backups already: try again later, or ask for "
			       "/progress now and then",
			       HUB_FOLLOWERS_MAX);
	}
	e->hub = req->hub;
	e->line = line;
	e->caller = req->user;
	e->route = req->route;
	e->sent_ms = e->allowed_ms = now_ms();
	CATALOG_TEXT(e->id, id);
	return api_reply_stream(
		req, "text/event-stream",
		(struct api_stream){.read = events_read, .end = events_end, .arg = e});
}

static int get_events(struct api_request *req, struct err *err)
{
	struct catalog_backup job;
	int64_t line = 0;
	int rc = take_last_line(req, &line, err);

	if (!rc)
		rc = hub_from_catalog(
			catalog_backup_get(hub_catalog(req->hub), req->args[0], &job, err));
	if (rc)
		return rc;
	if (!is_all_told(req->hub, &job, line))
		return open_stream(req, job.id, line, err);
	req->status = 204;
	return api_reply_text(req, "text/event-stream", strdup(""), err);
}

static const struct api_route event_routes[] = {
	API_ROUTE(GET, "/api/v1/backups/{backup_id}/events", get_events, VIEWER,
		  "Follow a backup by server-sent events",
		  .query = API_PARAMS({"last_event_id", API_JSON_INT,
				       "as the header Last-Event-ID, which goes first"}),
		  .content_type = "text/event-stream",
		  .details =
			  "Events: state, progress (once a second at most), log (with an id) and "
			  "end. A client that comes back after the end is answered 204."),
};
const struct api_noun api_events_noun =
	API_NOUN("Events", "A backup as it goes, told without asking.", event_routes);
