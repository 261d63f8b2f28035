#include "files/files.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "files/host.h"
#include "files/proto.h"
#include "qcow2/qcow2.h"

#define CALL_TIMEOUT_MS 30000U
#define FOLDER_MAX	(16ULL << 20) /* entries nobody has */
#define LIST_PATIENCE	4U /* call timeouts that a listing may wait for its entries, in all */
#define ENTRY_MAX	(sizeof(struct proto_entry) + PROTO_NAME_MAX)

struct files {
	pthread_mutex_t lock; /* one call at a time; guards what follows */
	struct files_host *host;
	int fd;
	unsigned timeout_ms;
	atomic_bool lost;
	struct files_sandbox sandbox;
	char table[8];
	struct files_partition *partitions;
	unsigned partition_count;
};

/* A call in flight: its deadline, and where its failure is told. */
struct call {
	struct files *s;
	int64_t deadline_ms;
	struct err *err;
};

/* --- losing the worker ---------------------------------------------------------------------- */

static int lost(struct call *c, const char *why)
{
	atomic_store(&c->s->lost, true);
	kill(files_host_pid(c->s->host), SIGKILL);
	return err_set(
		c->err, FILES_E_LOST,
		"the reader of this disk's file systems %s; open the disk again, and restore "
		"the whole disk where that goes on",
		why);
}

/* The socket has ended: by what? */
static int lost_worker(struct call *c)
{
	struct timespec pause = {.tv_nsec = 1000000};
	siginfo_t info = {0};
	char why[64];
	int i;

	for (i = 0; i < 1000 && !info.si_pid; i++) {
		if (waitid(P_PID, (id_t)files_host_pid(c->s->host), &info,
			   WEXITED | WNOHANG | WNOWAIT))
			break;
		if (!info.si_pid)
			nanosleep(&pause, NULL);
	}
	if (!info.si_pid)
		return lost(c, "has hung up");
	if (info.si_code == CLD_EXITED)
		snprintf(why, sizeof(why), "has ended (status %d)", info.si_status);
	else
		snprintf(why, sizeof(why), "was ended by signal %d%s", info.si_status,
			 info.si_status == SIGSYS ? ", its sandbox" : "");
	return lost(c, why);
}

/* --- messages ------------------------------------------------------------------------------- */

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static int wait_for(struct call *c, short events)
{
	struct pollfd p = {.fd = c->s->fd, .events = events};
	int64_t left = c->deadline_ms - now_ms();
	int n;

	if (left <= 0)
		return lost(c, "has not answered in time");
	n = poll(&p, 1, (int)left);
	return n < 0 && errno != EINTR ? lost(c, "cannot be heard") : 0;
}

static int send_all(struct call *c, const void *buf, size_t len)
{
	int r = 0;

	while (len && !r) {
		ssize_t n = send(c->s->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			buf = (const char *)buf + n;
			len -= (size_t)n;
		} else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			r = wait_for(c, POLLOUT);
		} else {
			return lost_worker(c);
		}
	}
	return r;
}

static int recv_all(struct call *c, void *buf, size_t len)
{
	int r = 0;

	while (len && !r) {
		ssize_t n = recv(c->s->fd, buf, len, MSG_DONTWAIT);

		if (n > 0) {
			buf = (char *)buf + n;
			len -= (size_t)n;
		} else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			r = wait_for(c, POLLIN);
		} else {
			return lost_worker(c);
		}
	}
	return r;
}

static int liar(struct call *c)
{
	return lost(c, "gave an answer that cannot be, and was ended");
}

/* The head of the next message, which may be of @want, at most @max bytes, or DONE. */
static int recv_head(struct call *c, struct proto_head *head, enum proto_answer want, size_t max)
{
	int r = recv_all(c, head, sizeof(*head));

	if (r)
		return r;
	if (head->answer == PROTO_DONE)
		max = sizeof(struct proto_done) + PROTO_TEXT_MAX;
	else if (head->answer != want)
		return liar(c);
	return head->len > max ? liar(c) : 0;
}

/* Whatever a worker says ends up in front of people: printable, one line. */
static void clean_text(char *text, const char *raw, size_t size, size_t len)
{
	size_t i, n = MIN(size - 1, len);

	for (i = 0; i < n && raw[i]; i++)
		text[i] = raw[i] >= 0x20 && raw[i] < 0x7f ? raw[i] : '?';
	text[i] = '\0';
}

/* Behind the head of a DONE. Returns its code: 0, -errno or FILES_E_*. */
static int recv_done(struct call *c, const struct proto_head *head, struct proto_done *done)
{
	char buf[sizeof(*done) + PROTO_TEXT_MAX], text[PROTO_TEXT_MAX + 1];
	int r;

	if (head->len < sizeof(*done))
		return liar(c);
	r = recv_all(c, buf, head->len);
	if (r)
		return r;
	memcpy(done, buf, sizeof(*done));
	if (!done->code)
		return 0;
	if (done->code < -4095 || done->code > FILES_E_DAMAGED)
		return liar(c);
	clean_text(text, buf + sizeof(*done), sizeof(text), head->len - sizeof(*done));
	return err_set(c->err, done->code, "%s", text[0] ? text : "the disk cannot be read");
}

static int recv_end(struct call *c, struct proto_done *done)
{
	struct proto_head head;
	int r = recv_head(c, &head, PROTO_DONE, 0);

	return r ? r : recv_done(c, &head, done);
}

static bool is_lost(const struct files *s)
{
	return atomic_load(&s->lost);
}

/* Takes the lock: call_end() gives it back, whatever this returns. */
static int call_begin(struct call *c, struct files *s, struct err *err)
{
	pthread_mutex_lock(&s->lock);
	*c = (struct call){.s = s, .deadline_ms = now_ms() + s->timeout_ms, .err = err};
	return is_lost(s) ? err_set(err, FILES_E_LOST,
				    "the reader of this disk's file systems is gone; open the disk "
				    "again")
			  : 0;
}

static void call_end(struct call *c)
{
	pthread_mutex_unlock(&c->s->lock);
}

/* --- paths ---------------------------------------------------------------------------------- */

/* A path taken apart: the partition (NULL: "/"), and the raw bytes of the rest, "" its root. */
struct path {
	const struct files_partition *partition;
	unsigned index;
	char rest[FILES_PATH_SIZE];
	size_t len;
};

static int bad_path(struct err *err, const char *why)
{
	return err_set(err, FILES_E_PATH,
		       "this is not a path: %s; give it as \"/partition-1/folder/file\"", why);
}

/* The next component of *@at, its end in *@at. */
static int component(const char **at, char raw[FILES_PATH_SIZE], size_t *len, struct err *err)
{
	const char *end = strchrnul(*at, '/');

	memcpy(raw, *at, (size_t)(end - *at));
	raw[end - *at] = '\0';
	*at = end;
	*len = files_name_raw(raw, raw);
	if (!*len)
		return bad_path(err, "a component is empty");
	if (*len > PROTO_NAME_MAX)
		return bad_path(err, "a component is longer than names can be");
	if (!strcmp(raw, ".") || !strcmp(raw, ".."))
		return bad_path(err, "\".\" and \"..\" are no names");
	return 0;
}

static int find_partition(const struct files *s, const char *name, struct path *p, struct err *err)
{
	char expect[32];

	for (p->index = 0; p->index < s->partition_count; p->index++) {
		p->partition = &s->partitions[p->index];
		snprintf(expect, sizeof(expect), "partition-%u", p->partition->number);
		if (!strcmp(name, expect))
			return 0;
	}
	return err_set(err, FILES_E_NOT_FOUND, "this disk has no such partition");
}

static int parse_path(const struct files *s, const char *path, struct path *p, struct err *err)
{
	char raw[FILES_PATH_SIZE];
	const char *at = path;
	size_t len;
	int r;

	p->partition = NULL;
	p->len = 0;
	p->rest[0] = '\0';
	if (*at != '/')
		return bad_path(err, "it does not begin with \"/\"");
	if (strlen(path) >= FILES_PATH_SIZE)
		return bad_path(err, "it is too long");
	while (*at && at[1]) {
		at++;
		r = component(&at, raw, &len, err);
		if (!r && !p->partition) {
			r = find_partition(s, raw, p, err);
		} else if (!r) {
			if (p->len)
				p->rest[p->len++] = '/';
			memcpy(p->rest + p->len, raw, len + 1);
			p->len += len;
		}
		if (r)
			return r;
	}
	if (p->partition && !p->partition->readable)
		return err_set(err, FILES_E_UNSUPPORTED, "partition %u cannot be read here: %s",
			       p->partition->number, p->partition->note);
	return 0;
}

/* --- requests ------------------------------------------------------------------------------- */

static int request(struct call *c, enum proto_op op, const struct path *p, uint64_t off,
		   uint64_t len)
{
	struct proto_request req = {.op = op, .off = off, .len = len};
	int r;

	if (p) {
		req.partition = p->index;
		req.path_len = (uint32_t)p->len;
	}
	r = send_all(c, &req, sizeof(req));
	return r || !p ? r : send_all(c, p->rest, p->len);
}

/* --- entries -------------------------------------------------------------------------------- */

static const struct files_entry root_entry = {.name = "/", .kind = FILES_DIR, .mode = 0755};

static void partition_entry(struct files_entry *e, const struct files_partition *p)
{
	*e = (struct files_entry){.kind = FILES_DIR, .mode = 0755, .size = p->size};
	snprintf(e->name, sizeof(e->name), "partition-%u", p->number);
}

static bool name_is_sane(const char *raw, size_t len)
{
	return len && len <= PROTO_NAME_MAX && !memchr(raw, '/', len) && !memchr(raw, '\0', len) &&
	       !(len == 1 && raw[0] == '.') && !(len == 2 && raw[0] == '.' && raw[1] == '.');
}

/* Behind the head of an ENTRY. @e->name is left alone when the worker named none: a root. */
static int recv_entry(struct call *c, uint32_t len, struct files_entry *e)
{
	char buf[ENTRY_MAX];
	struct proto_entry pe;
	int r;

	if (len < sizeof(pe))
		return liar(c);
	r = recv_all(c, buf, len);
	if (r)
		return r;
	memcpy(&pe, buf, sizeof(pe));
	len -= sizeof(pe);
	if (pe.kind > FILES_OTHER || pe.mtime_ns > 999999999 || pe.size > INT64_MAX ||
	    (len && !name_is_sane(buf + sizeof(pe), len)))
		return liar(c);
	if (len)
		files_name_show(e->name, sizeof(e->name), buf + sizeof(pe), len);
	e->kind = pe.kind;
	e->size = pe.size;
	e->mtime = pe.mtime;
	e->mtime_ns = pe.mtime_ns;
	e->mode = pe.mode & 07777;
	e->uid = pe.uid;
	e->gid = pe.gid;
	e->id = pe.id;
	return 0;
}

static int stat_there(struct call *c, const struct path *p, struct files_entry *out)
{
	struct proto_done done;
	struct proto_head head;
	int r = request(c, PROTO_STAT, p, 0, 0);

	if (!r)
		r = recv_head(c, &head, PROTO_ENTRY, ENTRY_MAX);
	if (!r && head.answer == PROTO_DONE) {
		r = recv_done(c, &head, &done);
		return r ? r : liar(c);
	}
	if (!r)
		r = recv_entry(c, head.len, out);
	if (!r && p->len && head.len == sizeof(struct proto_entry))
		r = liar(c);
	return r ? r : recv_end(c, &done);
}

int files_stat(struct files *s, const char *path, struct files_entry *out, struct err *err)
{
	struct path p;
	struct call c;
	int r = parse_path(s, path, &p, err);

	if (r)
		return r;
	if (!p.partition) {
		*out = root_entry;
		return 0;
	}
	partition_entry(out, p.partition);
	r = call_begin(&c, s, err);
	if (!r)
		r = stat_there(&c, &p, out);
	call_end(&c);
	return r;
}

/* --- folders -------------------------------------------------------------------------------- */

static int list_partitions(const struct files *s, struct files_list *list)
{
	uint64_t i, end = s->partition_count;
	struct files_entry e;
	int r = 0;

	if (list->max && list->skip < end)
		end = MIN(end, list->skip + MIN(list->max, end));
	for (i = list->skip; !r && i < end; i++) {
		partition_entry(&e, &s->partitions[i]);
		r = list->each(list->arg, &e);
	}
	list->seen = MIN(end, s->partition_count);
	list->more = list->seen < s->partition_count;
	return r;
}

/* The next ENTRY, or the head of DONE. As long as entries come the worker does not hang; but what
 * is waited for them is taken off *@left_ms, for it is not to dole them out for ever. */
static int recv_listed(struct call *c, int64_t *left_ms, struct proto_head *head,
		       struct files_entry *e)
{
	int64_t start = now_ms();
	int r;

	c->deadline_ms = start + MIN((int64_t)c->s->timeout_ms, *left_ms);
	e->name[0] = '\0';
	r = recv_head(c, head, PROTO_ENTRY, ENTRY_MAX);
	if (!r && head->answer == PROTO_ENTRY)
		r = recv_entry(c, head->len, e);
	*left_ms -= now_ms() - start;
	return r;
}

/* Who stops listing early still hears the worker out: the next call begins on a clean socket. */
static int list_there(struct call *c, const struct path *p, struct files_list *list)
{
	struct files_entry *e = malloc(sizeof(*e));
	uint64_t reported = 0, limit = list->max ? list->max : FOLDER_MAX;
	int64_t left_ms = (int64_t)LIST_PATIENCE * c->s->timeout_ms;
	struct proto_done done;
	struct proto_head head;
	int stop = 0, r;

	if (!e)
		return err_set(c->err, -ENOMEM, "no memory to list a folder");
	r = request(c, PROTO_LIST, p, list->skip, list->max);
	while (!r && !(r = recv_listed(c, &left_ms, &head, e)) && head.answer == PROTO_ENTRY) {
		if (!e->name[0] || ++reported > limit)
			r = liar(c);
		if (!r && !stop)
			stop = list->each(list->arg, e);
	}
	free(e);
	if (!r)
		r = recv_done(c, &head, &done);
	if (!r && (done.seen < reported || done.seen - reported > list->skip))
		r = liar(c);
	if (r)
		return r;
	list->seen = done.seen;
	list->more = done.more;
	list->unusable = done.unusable;
	return stop;
}

int files_list(struct files *s, const char *path, struct files_list *list, struct err *err)
{
	struct path p;
	struct call c;
	int r = parse_path(s, path, &p, err);

	list->seen = list->unusable = 0;
	list->more = false;
	if (r)
		return r;
	if (!p.partition)
		return list_partitions(s, list);
	r = call_begin(&c, s, err);
	if (!r)
		r = list_there(&c, &p, list);
	call_end(&c);
	return r;
}

/* --- contents ------------------------------------------------------------------------------- */

/* DATA messages into @buf until DONE; *@got bytes of at most @len. */
static int recv_data(struct call *c, char *buf, size_t len, size_t *got)
{
	struct proto_done done;
	struct proto_head head;
	int r;

	*got = 0;
	while (!(r = recv_head(c, &head, PROTO_DATA, len - *got)) && head.answer == PROTO_DATA) {
		r = head.len ? recv_all(c, buf + *got, head.len) : liar(c);
		if (r)
			return r;
		*got += head.len;
	}
	return r ? r : recv_done(c, &head, &done);
}

int files_readlink(struct files *s, const char *path, char *target, size_t size, struct err *err)
{
	char raw[PROTO_LINK_MAX];
	struct path p;
	struct call c;
	size_t len = 0;
	int r = parse_path(s, path, &p, err);

	if (r)
		return r;
	if (!p.partition)
		return err_set(err, FILES_E_KIND, "\"/\" is no symbolic link");
	r = call_begin(&c, s, err);
	if (!r)
		r = request(&c, PROTO_READLINK, &p, 0, 0);
	if (!r)
		r = recv_data(&c, raw, sizeof(raw), &len);
	if (!r && memchr(raw, '\0', len))
		r = liar(&c);
	call_end(&c);
	if (r)
		return r;
	if (!len)
		return err_set(err, FILES_E_DAMAGED, "the symbolic link is empty");
	if (!files_name_show(target, size, raw, len))
		return err_set(err, -ENAMETOOLONG, "the target of the symbolic link is too long");
	return 0;
}

/* One request's worth. */
static int read_piece(struct files *s, const struct path *p, uint64_t off, char *buf, size_t len,
		      size_t *got, struct err *err)
{
	struct call c;
	int r = call_begin(&c, s, err);

	if (!r)
		r = request(&c, PROTO_READ, p, off, len);
	if (!r)
		r = recv_data(&c, buf, len, got);
	call_end(&c);
	return r;
}

int64_t files_read(struct files *s, const char *path, uint64_t off, void *buf, size_t len,
		   struct err *err)
{
	size_t done = 0, got = 0, want;
	struct path p;
	int r = parse_path(s, path, &p, err);

	if (!r && !p.partition)
		r = err_set(err, FILES_E_KIND, "\"/\" is a folder");
	if (!r && off > INT64_MAX - PROTO_READ_MAX)
		return 0;
	for (; !r && done < len; done += got) {
		want = MIN(len - done, (size_t)PROTO_READ_MAX);
		r = read_piece(s, &p, off + done, (char *)buf + done, want, &got, err);
		if (!r && got < want) {
			done += got;
			break;
		}
	}
	return r > 0 ? -EIO : r ? r : (int64_t)done;
}

/* --- opening -------------------------------------------------------------------------------- */

static bool terminated(const char *text, size_t size)
{
	return memchr(text, '\0', size);
}

static int recv_partition(struct call *c, uint32_t len)
{
	struct files *s = c->s;
	struct files_partition *p = &s->partitions[s->partition_count];
	struct proto_partition pp;
	int r;

	if (len != sizeof(pp) || s->partition_count == FILES_PARTITIONS_MAX)
		return liar(c);
	r = recv_all(c, &pp, sizeof(pp));
	if (r)
		return r;
	if (!terminated(pp.type, sizeof(pp.type)) || !terminated(pp.label, sizeof(pp.label)) ||
	    !terminated(pp.note, sizeof(pp.note)) ||
	    !range_inside(pp.off, pp.size, files_host_size(s->host)))
		return liar(c);
	*p = (struct files_partition){.number = pp.number,
				      .off = pp.off,
				      .size = pp.size,
				      .readable = pp.readable,
				      .needs_recovery = pp.needs_recovery};
	clean_text(p->type, pp.type, sizeof(p->type), sizeof(pp.type));
	clean_text(p->note, pp.note, sizeof(p->note), sizeof(pp.note));
	if (!files_name_show(p->label, sizeof(p->label), pp.label, strlen(pp.label)))
		p->label[0] = '\0';
	s->partition_count++;
	return 0;
}

static int recv_hello(struct call *c)
{
	struct files *s = c->s;
	struct proto_done done;
	struct proto_head head;
	struct proto_hello hello;
	int r = recv_head(c, &head, PROTO_HELLO, sizeof(hello));

	if (!r && head.answer == PROTO_DONE) {
		r = recv_done(c, &head, &done);
		return r ? r : liar(c);
	}
	if (!r)
		r = head.len == sizeof(hello) ? recv_all(c, &hello, sizeof(hello)) : liar(c);
	if (r)
		return r;
	clean_text(s->table, hello.table, sizeof(s->table), sizeof(hello.table));
	s->sandbox = (struct files_sandbox){.pid = files_host_pid(s->host),
					    .landlock = hello.landlock,
					    .own_uid = hello.own_uid};
	return 0;
}

static int get_partitions(struct files *s, struct err *err)
{
	struct proto_done done;
	struct proto_head head;
	struct call c;
	int r = call_begin(&c, s, err);

	if (!r)
		r = request(&c, PROTO_OPEN, NULL, 0, files_host_size(s->host));
	if (!r)
		r = recv_hello(&c);
	while (!r && !(r = recv_head(&c, &head, PROTO_PARTITION, sizeof(struct proto_partition))) &&
	       head.answer == PROTO_PARTITION)
		r = recv_partition(&c, head.len);
	if (!r)
		r = recv_done(&c, &head, &done);
	call_end(&c);
	return r;
}

/* QCOW2_E_* as this module says it. */
static int image_error(int r, struct err *err)
{
	if (r <= 0)
		return r;
	r = r == QCOW2_E_UNSUPPORTED ? FILES_E_UNSUPPORTED : FILES_E_DAMAGED;
	return err_prefix(err, r, "the backup's image");
}

int files_open(struct files **out, const struct files_opts *opts, struct err *err)
{
	struct err own = ERR_INIT;
	struct files *s = calloc(1, sizeof(*s));
	int r;

	if (!err)
		err = &own;
	if (!s)
		return err_set(err, -ENOMEM, "no memory to read '%s'", opts->image);
	pthread_mutex_init(&s->lock, NULL);
	s->fd = -1;
	s->timeout_ms = opts->call_timeout_ms ? opts->call_timeout_ms : CALL_TIMEOUT_MS;
	s->partitions = calloc(FILES_PARTITIONS_MAX, sizeof(*s->partitions));
	if (!s->partitions)
		r = err_set(err, -ENOMEM, "no memory to read '%s'", opts->image);
	else
		r = image_error(files_host_start(&s->host, opts, &s->fd, err), err);
	if (!r)
		r = get_partitions(s, err);
	if (r) {
		files_close(s);
		return r;
	}
	*out = s;
	return 0;
}

void files_close(struct files *s)
{
	if (!s)
		return;
	files_host_stop(s->host);
	closep(&s->fd);
	pthread_mutex_destroy(&s->lock);
	free(s->partitions);
	free(s);
}

bool files_alive(const struct files *s)
{
	return !is_lost(s);
}

void files_sandbox(const struct files *s, struct files_sandbox *out)
{
	*out = s->sandbox;
}

const struct files_partition *files_partitions(const struct files *s, unsigned *count)
{
	*count = s->partition_count;
	return s->partitions;
}

const char *files_table(const struct files *s)
{
	return s->table;
}
