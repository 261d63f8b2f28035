#include "tools/agent_qmp.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "base/bytes.h"

#define QMP_ANSWER_MAX (16 * MIB) /* a line; QEMUs with hundreds of nodes stay far below */
#define QMP_TIMEOUT_MS 30000	  /* a transaction waits for the guest's requests under way */
#define QMP_JOB_MS     20	  /* how often a job is looked at */

struct agent_qmp {
	int fd;
	char *path;
	const struct agent_stop *stop;
	char *buf; /* what has come; a line is taken from its start */
	size_t len, size;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* --- bytes and lines ------------------------------------------------------------------------ */

static int qmp_wait(struct agent_qmp *q, short events, int64_t deadline)
{
	struct pollfd pfd[2] = {
		{.fd = q->fd, .events = events},
		{.fd = q->stop ? q->stop->fd : -1, .events = POLLIN},
	};
	int64_t left = deadline - now_ms();

	if (left <= 0)
		return -ETIMEDOUT;
	if (poll(pfd, 2, (int)left) < 0 && errno != EINTR)
		return -errno;
	return q->stop && agent_stop_asked(q->stop) ? -ECANCELED : 0;
}

static int qmp_send(struct agent_qmp *q, const char *text, int64_t deadline)
{
	size_t len = strlen(text);
	int rc = 0;

	while (!rc && len) {
		ssize_t n = send(q->fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n >= 0) {
			text += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN || errno == EINTR) {
			rc = qmp_wait(q, POLLOUT, deadline);
		} else {
			rc = -errno;
		}
	}
	return rc;
}

static int qmp_grow(struct agent_qmp *q)
{
	size_t size = q->size ? q->size * 2 : 64 * KIB;
	char *grown;

	if (q->len < q->size)
		return 0;
	if (size > QMP_ANSWER_MAX)
		return -EMSGSIZE;
	grown = realloc(q->buf, size);
	if (!grown)
		return -ENOMEM;
	q->buf = grown;
	q->size = size;
	return 0;
}

/* Takes the first line as JSON out of the buffer. 1: there is none yet. */
static int qmp_take_line(struct agent_qmp *q, size_t from, json_t **out)
{
	char *end = q->len > from ? memchr(q->buf + from, '\n', q->len - from) : NULL;
	size_t n;

	if (!end)
		return 1;
	n = (size_t)(end + 1 - q->buf);
	*out = json_loadb(q->buf, n, 0, NULL);
	memmove(q->buf, q->buf + n, q->len - n);
	q->len -= n;
	return *out ? 0 : -EPROTO;
}

static int qmp_line(struct agent_qmp *q, json_t **out, int64_t deadline)
{
	size_t seen = 0;
	int rc;

	while ((rc = qmp_take_line(q, seen, out)) > 0) {
		ssize_t n;

		seen = q->len;
		rc = qmp_grow(q);
		if (rc)
			return rc;
		n = recv(q->fd, q->buf + q->len, q->size - q->len, MSG_DONTWAIT);
		if (n > 0)
			q->len += (size_t)n;
		else if (n == 0)
			return -ECONNRESET;
		else if (errno != EAGAIN && errno != EINTR)
			return -errno;
		else if ((rc = qmp_wait(q, POLLIN, deadline)))
			return rc;
	}
	return rc;
}

/* --- commands ------------------------------------------------------------------------------- */

/* The next line that is no event. */
static int qmp_reply(struct agent_qmp *q, json_t **out, int64_t deadline)
{
	int rc;

	while ((rc = qmp_line(q, out, deadline)) == 0 && json_object_get(*out, "event"))
		json_decref(*out);
	return rc;
}

static int qmp_io_error(const struct agent_qmp *q, int rc, const char *command, struct err *err)
{
	if (rc == -ECANCELED)
		return err_set(err, rc, "the job was stopped");
	if (rc == -ETIMEDOUT)
		return err_set(err, rc,
			       "monitor %s does not answer to %s: is another client connected?",
			       q->path, command);
	return err_sys(err, rc, "monitor %s: %s", q->path, command);
}

static int qmp_judge(const struct agent_qmp *q, const char *command, json_t *reply, json_t **answer,
		     struct err *err)
{
	json_t *good = json_object_get(reply, "return");
	const char *desc =
		json_string_value(json_object_get(json_object_get(reply, "error"), "desc"));

	if (!good)
		return err_set(err, AGENT_QMP_E_REFUSED, "QEMU at %s refuses %s: %.300s", q->path,
			       command, desc ? desc : "no reason given");
	if (answer)
		*answer = json_incref(good);
	return 0;
}

int agent_qmp_call(struct agent_qmp *q, const char *command, json_t *args, json_t **answer,
		   struct err *err)
{
	json_t *request = json_pack("{s:s,s:o*}", "execute", command, "arguments", args);
	_cleanup_(freep) char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	int64_t deadline = now_ms() + QMP_TIMEOUT_MS;
	json_t *reply = NULL;
	int rc = -ENOMEM;

	json_decref(request);
	if (text) {
		rc = qmp_send(q, text, deadline);
		if (!rc)
			rc = qmp_send(q, "\n", deadline);
		if (!rc)
			rc = qmp_reply(q, &reply, deadline);
	}
	rc = rc ? qmp_io_error(q, rc, command, err) : qmp_judge(q, command, reply, answer, err);
	json_decref(reply);
	return rc;
}

/* --- jobs ----------------------------------------------------------------------------------- */

/* 1: it runs. 0: it has ended; *@text is its error, borrowed from @jobs, or NULL. */
static int job_runs(const json_t *jobs, const char *id, bool *there, const char **text)
{
	size_t i;
	json_t *job;

	*there = false;
	*text = NULL;
	json_array_foreach (jobs, i, job) {
		const char *name = json_string_value(json_object_get(job, "id"));
		const char *status = json_string_value(json_object_get(job, "status"));

		if (!name || !status || strcmp(name, id) != 0)
			continue;
		*there = true;
		*text = json_string_value(json_object_get(job, "error"));
		return strcmp(status, "concluded") != 0;
	}
	return 0;
}

static int job_conclude(struct agent_qmp *q, const char *id, bool there, const char *text,
			struct err *err)
{
	int rc = 0;

	if (there)
		rc = agent_qmp_call(q, "job-dismiss", json_pack("{s:s}", "id", id), NULL, err);
	if (!rc && text)
		rc = err_set(err, AGENT_QMP_E_REFUSED, "QEMU at %s: %s: %.300s", q->path, id, text);
	return rc;
}

int agent_qmp_wait_job(struct agent_qmp *q, const char *id, struct err *err)
{
	int64_t deadline = now_ms() + QMP_TIMEOUT_MS;

	for (;;) {
		json_t *jobs = NULL;
		const char *text;
		bool there;
		int rc = agent_qmp_call(q, "query-jobs", NULL, &jobs, err);

		if (!rc && !job_runs(jobs, id, &there, &text)) {
			rc = job_conclude(q, id, there, text, err);
			json_decref(jobs);
			return rc;
		}
		json_decref(jobs);
		if (!rc && now_ms() > deadline)
			rc = err_set(err, -ETIMEDOUT, "QEMU at %s: job %s does not end", q->path,
				     id);
		if (rc)
			return rc;
		poll(NULL, 0, QMP_JOB_MS);
	}
}

/* --- open, close ---------------------------------------------------------------------------- */

static int qmp_connect(struct agent_qmp *q)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	if (strlen(q->path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	strcpy(sa.sun_path, q->path);
	q->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (q->fd < 0 || connect(q->fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;
	return 0;
}

static int qmp_greet(struct agent_qmp *q, struct err *err)
{
	json_t *hello = NULL;
	int rc = qmp_reply(q, &hello, now_ms() + QMP_TIMEOUT_MS);

	if (!rc && !json_object_get(hello, "QMP"))
		rc = -EPROTO;
	json_decref(hello);
	if (rc)
		return qmp_io_error(q, rc, "a greeting", err);
	return agent_qmp_call(q, "qmp_capabilities", NULL, NULL, err);
}

int agent_qmp_open(struct agent_qmp **out, const char *path, const struct agent_stop *stop,
		   struct err *err)
{
	_cleanup_(agent_qmp_closep) struct agent_qmp *q = calloc(1, sizeof(*q));
	int rc;

	if (!q)
		return err_sys(err, -ENOMEM, "monitor %s", path);
	q->fd = -1;
	q->stop = stop;
	q->path = strdup(path);
	rc = q->path ? qmp_connect(q) : -ENOMEM;
	if (rc)
		return err_sys(err, rc, "monitor %s cannot be reached (is the VM running?)", path);
	rc = qmp_greet(q, err);
	if (rc)
		return rc;
	*out = steal(&q);
	return 0;
}

void agent_qmp_close(struct agent_qmp *q)
{
	if (!q)
		return;
	if (q->fd >= 0)
		close(q->fd);
	free(q->buf);
	free(q->path);
	free(q);
}
