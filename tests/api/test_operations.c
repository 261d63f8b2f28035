/* Watching a hub and its backups from outside: events, readiness, metrics. */
#include <arpa/inet.h>
#include <ctype.h>
#include <curl/curl.h>
#include <math.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "catalog/job_log.h"
#include "hub/metrics.h"
#include "tests/support/apirig.h"

static void nap(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000L}, NULL);
}

/* --- HTTP ----------------------------------------------------------------------------------- */

#define TEXT_MAX (1U << 20)

/* One GET, its answer as it comes. */
struct get {
	char path[300];
	const char *last_event_id; /* NULL: no such header */
	const char *token;	   /* NULL: that of the rig */
	pthread_mutex_t lock;
	char *text; /* lock */
	size_t len; /* lock */
	long status;
	CURLcode code;
	char content_type[100];
	pthread_t thread;
};

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
	struct get *g = arg;

	pthread_mutex_lock(&g->lock);
	if (g->len + size * n >= TEXT_MAX)
		abort();
	memcpy(g->text + g->len, data, size * n);
	g->len += size * n;
	g->text[g->len] = '\0';
	pthread_mutex_unlock(&g->lock);
	return size * n;
}

static void *get_main(void *arg)
{
	struct get *g = arg;
	CURL *curl = curl_easy_init();
	struct curl_slist *headers = NULL;
	char url[600], header[100], bearer[APIRIG_BEARER_SIZE];
	const char *type = NULL;

	snprintf(url, sizeof(url), "http://%s%s", api_address(api), g->path);
	if (g->token)
		snprintf(bearer, sizeof(bearer), "Authorization: Bearer %s", g->token);
	else
		apirig_bearer(g->path, bearer);
	headers = curl_slist_append(NULL, bearer);
	if (g->last_event_id) {
		snprintf(header, sizeof(header), "Last-Event-ID: %s", g->last_event_id);
		headers = curl_slist_append(headers, header);
	}
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, 240L);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, g);
	g->code = curl_easy_perform(curl);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &g->status);
	curl_easy_getinfo(curl, CURLINFO_CONTENT_TYPE, &type);
	snprintf(g->content_type, sizeof(g->content_type), "%s", type ? type : "");
	curl_easy_cleanup(curl);
	curl_slist_free_all(headers);
	return NULL;
}

static void get_init(struct get *g, const char *fmt, ...)
{
	va_list ap;

	memset(g, 0, sizeof(*g));
	pthread_mutex_init(&g->lock, NULL);
	g->text = calloc(1, TEXT_MAX);
	va_start(ap, fmt);
	vsnprintf(g->path, sizeof(g->path), fmt, ap);
	va_end(ap);
}

static void get_deinit(struct get *g)
{
	pthread_mutex_destroy(&g->lock);
	free(g->text);
}

static bool get_has(struct get *g, const char *part)
{
	bool has;

	pthread_mutex_lock(&g->lock);
	has = strstr(g->text, part) != NULL;
	pthread_mutex_unlock(&g->lock);
	return has;
}

static void get_await(struct get *g, const char *part)
{
	for (int i = 0; i < 6000; i++) {
		if (get_has(g, part))
			return;
		nap();
	}
	fail_msg("\"%s\" did not come; what came:\n%s", part, g->text);
}

/* --- a backup ------------------------------------------------------------------------------- */

static void start_backup(struct hub_backup_view *view)
{
	struct err err = ERR_INIT;

	rig_must(hubrig_backup(&rig, vm.name, CATALOG_BACKUP_FULL, view, &err), &err, "start");
}

static json_t *json_of(const char *text)
{
	json_t *v = json_loads(text, JSON_DISABLE_EOF_CHECK, NULL);

	assert_non_null(v);
	return v;
}

/* --- events --------------------------------------------------------------------------------- */

/* The events in one text, "log log state progress ...", and their ids checked to ascend. */
static void names_of(const char *text, char *out, size_t size)
{
	long last = 0;

	out[0] = '\0';
	while (text) {
		if (!strncmp(text, "event: ", 7))
			snprintf(out + strlen(out), size - strlen(out), "%.*s ",
				 (int)strcspn(text + 7, "\n"), text + 7);
		if (!strncmp(text, "id: ", 4)) {
			assert_true(atol(text + 4) > last);
			last = atol(text + 4);
		}
		text = strchr(text, '\n');
		text += text != NULL;
	}
}

static void a_backup_is_told_from_start_to_end(void **state)
{
	struct hub_backup_view view;
	struct get g;
	char names[4096];
	const char *end;
	json_t *data;

	(void)state;
	start_backup(&view);
	get_init(&g, "/api/v1/backups/%s/events", view.job.id);
	pthread_create(&g.thread, NULL, get_main, &g);
	get_await(&g, "event: state");
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, MI), 0);
	get_await(&g, "event: progress");
	rig_finish(&rig, &vm, &view, 1);
	pthread_join(g.thread, NULL);
	assert_int_equal(g.code, CURLE_OK); /* it ended by itself */
	assert_int_equal(g.status, 200);
	assert_string_equal(g.content_type, "text/event-stream");
	names_of(g.text, names, sizeof(names));
	/* the beginning, the agent's yes, ..., the end */
	assert_true(!strncmp(names, "log log log log state ", 22));
	assert_non_null(strstr(names, "progress "));
	assert_true(!strcmp(names + strlen(names) - 4, "end "));
	end = strstr(g.text, "event: end\ndata: ");
	data = json_of(end + strlen("event: end\ndata: "));
	assert_string_equal(text_of(data, "status"), "completed");
	assert_int_equal(json_integer_value(json_object_get(data, "progress_percent")) +
				 (int)json_real_value(json_object_get(data, "progress_percent")),
			 100);
	json_decref(data);
	assert_non_null(strstr(g.text, "backup completed"));
	get_deinit(&g);
	hub_backup_view_deinit(&view);
}

static void who_comes_back_gets_what_was_missed_and_nothing_twice(void **state)
{
	struct catalog_job_line *rows;
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE], number[32], names[4096];
	struct get g;
	size_t n;

	(void)state;
	rig_full(&rig, &vm, 1, id);
	assert_int_equal(catalog_job_log_list(hub_catalog(rig.hub), id, 0, 100, &rows, &n, &err),
			 0);
	assert_true(n > 4);

	get_init(&g, "/api/v1/backups/%s/events", id);
	g.last_event_id = number;
	snprintf(number, sizeof(number), "%lld", (long long)rows[n - 3].id);
	get_main(&g);
	assert_int_equal(g.status, 200);
	names_of(g.text, names, sizeof(names));
	assert_string_equal(names, "log log state end ");
	get_deinit(&g);

	get_init(&g, "/api/v1/backups/%s/events?last_event_id=%lld", id, (long long)rows[n - 2].id);
	get_main(&g);
	names_of(g.text, names, sizeof(names));
	assert_string_equal(names, "log state end ");
	get_deinit(&g);

	get_init(&g, "/api/v1/backups/%s/events", id);
	g.last_event_id = number;
	snprintf(number, sizeof(number), "%lld", (long long)rows[n - 1].id);
	get_main(&g);
	assert_int_equal(g.status, 204); /* do not come again */
	get_deinit(&g);

	get_init(&g, "/api/v1/backups/%s/events", id);
	g.last_event_id = "yesterday";
	get_main(&g);
	assert_int_equal(g.status, 400);
	get_deinit(&g);
	get_init(&g, "/api/v1/backups/backup-none/events");
	get_main(&g);
	assert_int_equal(g.status, 404);
	get_deinit(&g);
	free(rows);
}

static void so_many_may_follow_and_no_more(void **state)
{
	struct hub_backup_view view;
	struct get g;

	(void)state;
	start_backup(&view);
	for (int i = 0; i < HUB_FOLLOWERS_MAX; i++)
		assert_true(hub_follower_enter(rig.hub));
	get_init(&g, "/api/v1/backups/%s/events", view.job.id);
	get_main(&g);
	assert_int_equal(g.status, 429);
	for (int i = 0; i < HUB_FOLLOWERS_MAX; i++)
		hub_follower_leave(rig.hub);
	get_deinit(&g);

	/* A hub that stops lets them go. */
	get_init(&g, "/api/v1/backups/%s/events", view.job.id);
	pthread_create(&g.thread, NULL, get_main, &g);
	get_await(&g, "event: state");
	assert_int_equal(hub_followers(rig.hub), 1);
	hub_interrupt(rig.hub);
	pthread_join(g.thread, NULL);
	assert_int_equal(g.status, 200);
	assert_null(strstr(g.text, "event: end"));
	get_deinit(&g);
	hub_backup_view_deinit(&view);
}

/* More of a log than any buffer on the way holds, and a client that reads nothing. */
static void a_follower_that_does_not_read_is_dropped(void **state)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	struct hub_backup_view view;
	char request[500], bearer[APIRIG_BEARER_SIZE];
	int fd, small = 4096;

	(void)state;
	api_stop(api);
	/* Long enough to be seen before it is dropped. */
	apirig_listen((struct api_config){.io_timeout_ms = 3000});
	start_backup(&view);
	for (int i = 0; i < 12; i++)
		tmpdb_sql(
			&rig.db,
			"INSERT INTO job_log (backup_job_id, level, phase, message, created_at)"
			" WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <"
			" 990) SELECT '%s', 'info', 'copy', '%0900d', i FROM n",
			view.job.id, 0);
	apirig_bearer("/api/v1/backups", bearer);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	to.sin_port = htons((uint16_t)atoi(strrchr(api_address(api), ':') + 1));
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	snprintf(request, sizeof(request),
		 "GET /api/v1/backups/%s/events HTTP/1.1\r\nHost: x\r\n"
		 "%s\r\n\r\n",
		 view.job.id, bearer);
	assert_true(send(fd, request, strlen(request), 0) > 0);
	for (int i = 0; i < 1000 && !hub_followers(rig.hub); i++)
		nap();
	assert_int_equal(hub_followers(rig.hub), 1);
	for (int i = 0; i < 6000 && hub_followers(rig.hub); i++)
		nap();
	assert_int_equal(hub_followers(rig.hub), 0);
	close(fd);
	hub_backup_view_deinit(&view);
}

/* Whose token is revoked, or whose user is disabled, hears no more of what he followed. */
static void a_stream_ends_with_the_worth_of_its_token(void **state)
{
	struct hub_backup_view view;
	char path[200], text[2][HUB_TOKEN_SIZE], id[2][CATALOG_ID_SIZE], user[CATALOG_ID_SIZE];
	struct get g[2];
	json_t *reply;

	(void)state;
	start_backup(&view);
	reply = ask("POST", "/api/v1/users", "{\"name\":\"ann\",\"role\":\"viewer\"}", 201);
	snprintf(user, sizeof(user), "%s", text_of(reply, "id"));
	json_decref(reply);
	snprintf(path, sizeof(path), "/api/v1/users/%s/tokens", user);
	for (int i = 0; i < 2; i++) {
		reply = ask("POST", path, "{\"name\":\"x\"}", 201);
		snprintf(text[i], sizeof(text[i]), "%s", text_of(reply, "token"));
		snprintf(id[i], sizeof(id[i]), "%s", text_of(reply, "id"));
		json_decref(reply);
		get_init(&g[i], "/api/v1/backups/%s/events", view.job.id);
		g[i].token = text[i];
		pthread_create(&g[i].thread, NULL, get_main, &g[i]);
		get_await(&g[i], "event: state");
	}
	snprintf(path, sizeof(path), "/api/v1/tokens/%s", id[0]);
	just("DELETE", path, NULL, 200);
	pthread_join(g[0].thread, NULL);
	assert_int_equal(g[0].code, CURLE_OK);
	assert_true(get_has(&g[0], "this token is worth nothing any more"));
	assert_false(get_has(&g[1], "worth nothing"));
	snprintf(path, sizeof(path), "/api/v1/users/%s", user);
	just("PATCH", path, "{\"enabled\":false}", 200);
	pthread_join(g[1].thread, NULL);
	assert_int_equal(g[1].code, CURLE_OK);
	assert_true(get_has(&g[1], "this token is worth nothing any more"));
	assert_false(get_has(&g[1], "event: end"));
	assert_int_equal(hub_running_backups(rig.hub), 1);
	for (int i = 0; i < 2; i++)
		get_deinit(&g[i]);
	hub_backup_view_deinit(&view);
}

/* --- readiness ------------------------------------------------------------------------------ */

static long readiness(json_t **answer)
{
	struct get g;
	long status;

	get_init(&g, "/ready");
	get_main(&g);
	*answer = json_of(g.text);
	status = g.status;
	get_deinit(&g);
	return status;
}

static bool check_of(const json_t *answer, const char *kind)
{
	const json_t *one;
	size_t i;

	json_array_foreach (json_object_get(answer, "checks"), i, one) {
		if (!strcmp(text_of(one, "kind"), kind))
			return json_is_true(json_object_get(one, "ok"));
	}
	fail_msg("no check of %s", kind);
	return false;
}

static void ready_says_what_is_missing(void **state)
{
	json_t *answer;

	(void)state;
	assert_int_equal(readiness(&answer), 200);
	assert_true(json_is_true(json_object_get(answer, "ready")));
	assert_true(check_of(answer, "catalog") && check_of(answer, "nbd") &&
		    check_of(answer, "repository"));
	json_decref(answer);

	assert_int_equal(scratch_run("mv '%s/repo' '%s/away'", rig.dir, rig.dir), 0);
	assert_int_equal(readiness(&answer), 503);
	assert_true(check_of(answer, "catalog"));
	assert_false(check_of(answer, "repository"));
	json_decref(answer);
	assert_int_equal(scratch_run("mv '%s/away' '%s/repo'", rig.dir, rig.dir), 0);
	assert_int_equal(readiness(&answer), 200);
	json_decref(answer);

	hub_interrupt(rig.hub); /* no NBD client comes in any more */
	assert_int_equal(readiness(&answer), 503);
	assert_false(check_of(answer, "nbd"));
	json_decref(answer);
}

/* --- metrics -------------------------------------------------------------------------------- */

/* Prometheus' text format 0.0.4, read as strictly as its own parser and lint do. */

#define SERIES_MAX 1000

struct series {
	char name[100], labels[200];
	double value;
};

struct scrape {
	struct series series[SERIES_MAX];
	size_t n;
	char family[100], type[20]; /* the one whose samples come now */
	char seen[SERIES_MAX][100]; /* families so far */
	size_t seen_n;
};

static bool is_name(const char *s, size_t n)
{
	if (!n || isdigit((unsigned char)s[0]))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)s[i]) && s[i] != '_' && s[i] != ':')
			return false;
	return true;
}

/* "# HELP name text" and "# TYPE name type", in this order, once a family, before its samples. */
static void read_head(struct scrape *s, const char *line, const char *next)
{
	char name[100], type[20];
	int n = 0;

	if (sscanf(line, "# HELP %99s %n", name, &n) == 1 && n && line[n]) {
		assert_true(is_name(name, strlen(name)));
		for (size_t i = 0; i < s->seen_n; i++)
			assert_string_not_equal(s->seen[i], name);
		strcpy(s->seen[s->seen_n++], name);
		strcpy(s->family, name);
		s->type[0] = '\0';
		assert_true(next && !strncmp(next, "# TYPE ", 7));
		return;
	}
	assert_int_equal(sscanf(line, "# TYPE %99s %19s%n", name, type, &n), 2);
	assert_int_equal(line[n], '\0');
	assert_string_equal(name, s->family);
	assert_string_equal(s->type, "");
	assert_true(!strcmp(type, "counter") || !strcmp(type, "gauge") ||
		    !strcmp(type, "histogram"));
	strcpy(s->type, type);
	/* what promtool's lint asks for */
	if (!strcmp(type, "counter"))
		assert_string_equal(name + strlen(name) - 6, "_total");
	else
		assert_null(strstr(name, "_total"));
}

/* {a="b",c="d"}: the rest of the line behind it. */
static const char *read_labels(const char *p)
{
	do {
		size_t n = strcspn(++p, "=");

		assert_true(is_name(p, n));
		p += n + 1;
		assert_int_equal(*p++, '"');
		for (; *p != '"'; p++) {
			assert_true(*p && *p != '\n');
			if (*p == '\\')
				assert_non_null(strchr("\\\"n", *++p));
		}
		p++;
	} while (*p == ',');
	assert_int_equal(*p, '}');
	return p + 1;
}

static void check_family(const struct scrape *s, const char *name)
{
	static const char *const suffixes[] = {"_bucket", "_sum", "_count"};
	size_t n = strlen(s->family);
	bool fits = false;

	if (strcmp(s->type, "histogram")) {
		assert_string_equal(name, s->family);
		return;
	}
	for (size_t i = 0; i < 3; i++)
		fits |= !strncmp(name, s->family, n) && !strcmp(name + n, suffixes[i]);
	assert_true(fits);
}

static void read_sample(struct scrape *s, const char *line)
{
	struct series *one = &s->series[s->n++];
	size_t n = strcspn(line, "{ ");
	const char *p = line + n;
	char *end;

	assert_true(s->n < SERIES_MAX && is_name(line, n) && n < sizeof(one->name));
	snprintf(one->name, sizeof(one->name), "%.*s", (int)n, line);
	check_family(s, one->name);
	assert_true(s->type[0]);
	if (*p == '{')
		p = read_labels(p);
	snprintf(one->labels, sizeof(one->labels), "%.*s", (int)(p - line - (long)n), line + n);
	for (size_t i = 0; i + 1 < s->n; i++)
		assert_false(!strcmp(s->series[i].name, one->name) &&
			     !strcmp(s->series[i].labels, one->labels));
	assert_int_equal(*p, ' ');
	one->value = strtod(p + 1, &end);
	assert_true(end > p + 1 && !*end && isfinite(one->value));
	if (strcmp(s->type, "gauge"))
		assert_true(one->value >= 0);
}

static double value_of(const struct scrape *s, const char *name, const char *labels)
{
	for (size_t i = 0; i < s->n; i++)
		if (!strcmp(s->series[i].name, name) && !strcmp(s->series[i].labels, labels))
			return s->series[i].value;
	fail_msg("no %s%s", name, labels);
	return 0;
}

/* Buckets grow, the last is the count. @labels: those besides le, with a comma behind. */
static void check_histogram(const struct scrape *s, const char *family, const char *labels)
{
	char name[120], first[120], rest[120] = "";
	double last = 0, bound = -1;

	snprintf(name, sizeof(name), "%s_bucket", family);
	snprintf(first, sizeof(first), "{%sle=\"", labels);
	if (labels[0])
		snprintf(rest, sizeof(rest), "{%.*s}", (int)strlen(labels) - 1, labels);
	for (size_t i = 0; i < s->n; i++) {
		double le;

		if (strcmp(s->series[i].name, name) ||
		    strncmp(s->series[i].labels, first, strlen(first)))
			continue;
		le = strtod(s->series[i].labels + strlen(first), NULL);
		assert_true(le > bound && s->series[i].value >= last);
		bound = le;
		last = s->series[i].value;
	}
	assert_true(isinf(bound));
	snprintf(name, sizeof(name), "%s_count", family);
	assert_true(last == value_of(s, name, rest));
	snprintf(name, sizeof(name), "%s_sum", family);
	value_of(s, name, rest);
}

static void scrape(struct scrape *s)
{
	struct get g;
	char *line, *next;

	memset(s, 0, sizeof(*s));
	get_init(&g, "/metrics");
	get_main(&g);
	assert_int_equal(g.status, 200);
	assert_string_equal(g.content_type, "text/plain; version=0.0.4; charset=utf-8");
	assert_int_equal(g.text[g.len - 1], '\n');
	for (line = g.text; line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (line[0] == '#')
			read_head(s, line, next);
		else
			read_sample(s, line);
	}
	check_histogram(s, "sendense_backup_duration_seconds", "");
	for (unsigned i = 0; i < NBD_STATS_COMMANDS; i++) {
		char labels[60];

		snprintf(labels, sizeof(labels), "command=\"%s\",", nbd_stats_command(i));
		check_histogram(s, "sendense_nbd_request_duration_seconds", labels);
	}
	get_deinit(&g);
}

static void the_metrics_are_what_prometheus_reads_and_what_happened(void **state)
{
	static struct scrape before, after;
	struct hub_cancel_request cancel = {.reason = NULL};
	struct hub_backup_view view;
	struct catalog_repository odd = {.name = "a \"b\" \\c", .enabled = true};
	struct err err = ERR_INIT;
	char id[CATALOG_ID_SIZE];
	bool already;

	(void)state;
	snprintf(odd.config, sizeof(odd.config), "{\"path\":\"%s/odd\"}", rig.dir);
	rig_must(hub_repository_create(rig.hub, &odd, &err), &err, "repository");
	scrape(&before);
	rig_full(&rig, &vm, 1, id);
	start_backup(&view);
	assert_int_equal(rig_send(&rig, &vm, &view.disks[0], 0, MI / 4), 0);
	/* A request counts as in flight until its reply has left, which the client may be told
	 * before. */
	for (int i = 0; i < 3000; i++) {
		scrape(&after);
		if (value_of(&after, "sendense_nbd_requests_in_flight", "") == 0)
			break;
		nanosleep(&(struct timespec){.tv_nsec = 20 * 1000000L}, NULL);
	}
	assert_true(value_of(&after, "sendense_backups_running_here", "") == 1);
	assert_true(value_of(&after, "sendense_backups", "{status=\"running\"}") == 1);
	assert_true(value_of(&after, "sendense_backups", "{status=\"completed\"}") == 1);
	assert_true(value_of(&after, "sendense_backups_ended_total", "{outcome=\"completed\"}") ==
		    1);
	assert_true(value_of(&after, "sendense_backup_duration_seconds_count", "") == 1);
	assert_true(value_of(&after, "sendense_backup_stored_bytes_total", "") > MI / 2);
	assert_true(value_of(&after, "sendense_nbd_requests_total", "{command=\"write\"}") > 10);
	assert_true(value_of(&after, "sendense_nbd_bytes_total", "{command=\"write\"}") ==
		    value_of(&after, "sendense_backup_received_bytes_total", ""));
	/* Every request that was taken up has been answered, in some time. */
	assert_true(value_of(&after, "sendense_nbd_request_duration_seconds_count",
			     "{command=\"write\"}") ==
		    value_of(&after, "sendense_nbd_requests_total", "{command=\"write\"}"));
	assert_true(value_of(&after, "sendense_nbd_request_duration_seconds_sum",
			     "{command=\"write\"}") > 0);
	assert_true(value_of(&after, "sendense_nbd_requests_in_flight", "") == 0);
	assert_true(value_of(&after, "sendense_nbd_buffers", "{worker=\"0\",pool=\"reads\"}") >=
		    value_of(&after, "sendense_nbd_buffers_free", "{worker=\"0\",pool=\"reads\"}"));
	assert_true(value_of(&after, "sendense_nbd_buffers_free", "{worker=\"0\",pool=\"slots\"}") >
		    0);
	assert_true(value_of(&after, "sendense_nbd_buffer_waiters",
			     "{worker=\"0\",pool=\"batches\"}") == 0);
	assert_true(value_of(&after, "sendense_repository_available_bytes",
			     "{repository=\"a \\\"b\\\" \\\\c\"}") > 0);
	assert_true(value_of(&after, "sendense_repository_backups", "{repository=\"local1\"}") ==
		    2);
	assert_true(value_of(&after, "sendense_catalog_connections_open", "") >= 1);
	assert_true(value_of(&after, "sendense_open_descriptors", "") > 3);
	for (size_t i = 0; i < before.n; i++)
		if (strstr(before.series[i].name, "_total"))
			assert_true(value_of(&after, before.series[i].name,
					     before.series[i].labels) >= before.series[i].value);

	/* What a backup moved stays counted when it is gone. */
	before = after;
	assert_int_equal(hub_backup_cancel(rig.hub, view.job.id, &cancel, &already, &err), 0);
	scrape(&after);
	assert_true(value_of(&after, "sendense_backups_ended_total", "{outcome=\"cancelled\"}") ==
		    1);
	assert_true(value_of(&after, "sendense_backups_running_here", "") == 0);
	assert_true(value_of(&after, "sendense_backup_received_bytes_total", "") ==
		    value_of(&before, "sendense_backup_received_bytes_total", ""));
	hub_backup_view_deinit(&view);
}

#define T(name) cmocka_unit_test_setup_teardown(name, apirig_setup_vm, apirig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_backup_is_told_from_start_to_end),
		T(who_comes_back_gets_what_was_missed_and_nothing_twice),
		T(so_many_may_follow_and_no_more),
		T(a_follower_that_does_not_read_is_dropped),
		T(a_stream_ends_with_the_worth_of_its_token),
		T(ready_says_what_is_missing),
		T(the_metrics_are_what_prometheus_reads_and_what_happened),
	};

	return tmpdb_run_tests("api/operations", tests, NULL, NULL);
}
