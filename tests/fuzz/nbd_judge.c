#include "nbd_judge.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "kit.h"
#include "nbd/server.h"
#include "nbd/wire.h"

#define CHUNK_ERROR_OFFSET 0x8002
#define CHUNK_IS_ERROR	   0x8000
#define SNAPSHOTS_MAX	   (24U << 20) /* bytes of data remembered for READs of one session */
#define BLOCKS		   (RIG_SIZE / RIG_BLOCK + 1)
#define CONTEXTS_MAX	   8
#define NEVER		   (-1)

/* Bytes still to be looked at. */
struct walk {
	const unsigned char *p;
	size_t left;
};

enum outcome { MUST_SUCCEED, MUST_FAIL, MAY_BOTH };

struct asked {
	uint16_t type, flags;
	uint64_t cookie, off, len;
	uint64_t header_off; /* as the header said it: extended replies repeat it */
	int index;
	enum outcome outcome;
	bool unfinished; /* it lacks payload: an error, or no answer at all */
	bool unsure;	 /* a change that may have happened, or a part of it */
	bool ambiguous;	 /* another one has the same cookie: what is said about either is unsure */
	bool answered;
	unsigned char *snapshot; /* READ: what is to come back; NULL: not known */

	/* BLOCK_STATUS: bit i for j->contexts[i] */
	unsigned wanted, told;

	/* of an answer in chunks */
	uint64_t got;
	unsigned data_chunks;
	bool failed;
};

struct judge {
	const struct rig_session *s;
	struct walk said, replies;

	/* negotiated */
	bool fixed, no_zeroes, structured, extended;
	bool opaque;	       /* TLS has begun, and nobody here can read on */
	struct rig_disk *disk; /* entered */
	struct {
		uint32_t id;
		uint32_t block, flags; /* what it says: runs of 0 and of flags */
	} contexts[CONTEXTS_MAX];      /* selected */
	unsigned context_count;
	const struct rig_disk *context_disk;

	struct asked *asked;
	unsigned count, room, first; /* all before `first` are answered */
	size_t snapshots;
	bool doubt;	     /* the server may have hung up: from here on nothing is certain */
	int changed[BLOCKS]; /* index of the last request that (may have) changed the block */
};

static const unsigned char *take(struct walk *w, size_t len)
{
	const unsigned char *p = w->p;

	if (w->left < len)
		return NULL;
	w->p += len;
	w->left -= len;
	return p;
}

/* The server has nothing more to say here. */
static bool at_end(const struct judge *j)
{
	KIT_CHECK(j->s->cut || !j->replies.left);
	return false;
}

/* So many more bytes of reply, or NULL when the client has gone away before they came. */
static const unsigned char *reply(struct judge *j, size_t len)
{
	const unsigned char *p = take(&j->replies, len);

	KIT_CHECK(p || j->s->cut || j->doubt);
	return p;
}

/* --- negotiation ------------------------------------------------------------------------------ */

static struct rig_disk *disk_called(const unsigned char *name, size_t len)
{
	unsigned i;

	for (i = 0; i < RIG_DISKS; i++)
		if (strlen(rig_disks[i].name) == len && !memcmp(rig_disks[i].name, name, len))
			return &rig_disks[i];
	return NULL;
}

/* The export that INFO, GO and the metadata contexts name first; NULL: none of ours, or malformed.
 */
static struct rig_disk *disk_named(const unsigned char *data, uint32_t len)
{
	uint32_t name = len >= 4 ? load_be32(data) : 0;

	return len >= 4 && name <= len - 4 ? disk_called(data + 4, name) : NULL;
}

/* True when INFO or GO is as the specification wants it. */
static bool info_is_sound(const unsigned char *data, uint32_t len)
{
	uint32_t name;

	if (len < 6)
		return false;
	name = load_be32(data);
	return name <= len - 6 && len - 6 - name == load_be16(data + 4 + name) * 2U;
}

/* What a server announces of a disk is true. */
static void check_export(const struct rig_disk *disk, const unsigned char *size_flags)
{
	uint16_t flags = load_be16(size_flags + 8);

	KIT_CHECK(disk && load_be64(size_flags) == RIG_SIZE);
	KIT_CHECK(flags & NBD_FLAG_HAS_FLAGS);
	KIT_CHECK(!(flags & NBD_FLAG_READ_ONLY) == !disk->read_only);
}

static void context_selected(struct judge *j, uint32_t id, const char *name, size_t len)
{
	static const struct {
		const char *name;
		uint32_t block, flags;
	} known[] = {{"base:allocation", RIG_BLOCK, 3}, {"sendense:received", RIG_RECEIVED, 1}};
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (strlen(known[i].name) == len && !memcmp(known[i].name, name, len))
			break;
	KIT_CHECK(i < ARRAY_SIZE(known) && j->context_count < CONTEXTS_MAX);
	j->contexts[j->context_count].id = id;
	j->contexts[j->context_count].block = known[i].block;
	j->contexts[j->context_count++].flags = known[i].flags;
}

/* One piece of information before the last reply to an option. */
static void check_rep(struct judge *j, uint32_t option, uint32_t type, const unsigned char *opt,
		      uint32_t opt_len, const unsigned char *data, uint32_t len)
{
	switch (type) {
	case NBD_REP_SERVER:
		KIT_CHECK(option == NBD_OPT_LIST && len >= 4 && load_be32(data) <= len - 4);
		KIT_CHECK(disk_called(data + 4, load_be32(data)));
		return;
	case NBD_REP_INFO:
		KIT_CHECK((option == NBD_OPT_INFO || option == NBD_OPT_GO) && len >= 2);
		if (load_be16(data) == NBD_INFO_EXPORT) {
			KIT_CHECK(len == 12);
			check_export(disk_named(opt, opt_len), data + 2);
		}
		return;
	case NBD_REP_META_CONTEXT:
		KIT_CHECK((option == NBD_OPT_LIST_META_CONTEXT ||
			   option == NBD_OPT_SET_META_CONTEXT) &&
			  len >= 4 && disk_named(opt, opt_len));
		if (option != NBD_OPT_SET_META_CONTEXT)
			return;
		context_selected(j, load_be32(data), (const char *)data + 4, len - 4);
		j->context_disk = disk_named(opt, opt_len);
		return;
	default:
		KIT_CHECK(!"a known reply");
	}
}

/* All replies to an option. True: acknowledged; *@over: nothing more is to be judged. */
static bool option_answered(struct judge *j, uint32_t option, const unsigned char *opt,
			    uint32_t opt_len, bool *over)
{
	for (;;) {
		const unsigned char *head, *data;
		uint32_t type, len;

		*over = true;
		if (!j->replies.left)
			return false;
		head = reply(j, NBD_REP_SIZE);
		if (!head)
			return false;
		KIT_CHECK(load_be64(head) == NBD_REP_MAGIC && load_be32(head + 8) == option);
		type = load_be32(head + 12);
		len = load_be32(head + 16);
		data = reply(j, len);
		if (!data)
			return false;
		*over = false;
		KIT_CHECK(type != NBD_REP_ACK || !len);
		if (type == NBD_REP_ACK || type & 0x80000000U)
			return type == NBD_REP_ACK;
		check_rep(j, option, type, opt, opt_len, data, len);
	}
}

/* What must be acknowledged, whatever else this server may refuse. */
static bool must_ack(const struct judge *j, uint32_t option, const unsigned char *data,
		     uint32_t len)
{
	bool open = j->fixed && j->s->tls != NBD_TLS_REQUIRE;

	switch (option) {
	case NBD_OPT_ABORT:
		return j->fixed && len == 0;
	case NBD_OPT_LIST:
		return open && len == 0;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return open && len <= 8192 && info_is_sound(data, len) && disk_named(data, len);
	default:
		return false;
	}
}

static bool must_refuse(const struct judge *j, uint32_t option, const unsigned char *data,
			uint32_t len)
{
	if (j->s->tls == NBD_TLS_REQUIRE && option != NBD_OPT_STARTTLS && option != NBD_OPT_ABORT)
		return true;
	switch (option) {
	case NBD_OPT_STARTTLS:
		return j->s->tls == NBD_TLS_OFF || len != 0;
	case NBD_OPT_LIST:
	case NBD_OPT_STRUCTURED_REPLY:
	case NBD_OPT_EXTENDED_HEADERS:
		return len != 0;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return !info_is_sound(data, len) || !disk_named(data, len);
	case NBD_OPT_SET_META_CONTEXT:
	case NBD_OPT_LIST_META_CONTEXT:
		return !disk_named(data, len);
	default:
		return option > NBD_OPT_EXTENDED_HEADERS;
	}
}

/* True: transmission begins. */
static bool export_name(struct judge *j, const unsigned char *data, uint32_t len)
{
	struct rig_disk *disk = disk_called(data, len);
	const unsigned char *p;
	unsigned i;

	/* With extended headers, or without the TLS that is required, the option is forbidden. */
	if (!disk || j->extended || j->s->tls == NBD_TLS_REQUIRE)
		return at_end(j);
	p = reply(j, NBD_EXPORT_NAME_REPLY_SIZE + (j->no_zeroes ? 0 : NBD_EXPORT_NAME_ZEROES));
	if (!p)
		return false;
	check_export(disk, p);
	for (i = 0; !j->no_zeroes && i < NBD_EXPORT_NAME_ZEROES; i++)
		KIT_CHECK(!p[NBD_EXPORT_NAME_REPLY_SIZE + i]);
	j->disk = disk;
	return true;
}

/* True: the negotiation goes on, or has led into j->disk. */
static bool option(struct judge *j)
{
	const unsigned char *head = take(&j->said, NBD_OPTION_SIZE), *data;
	uint32_t code, len;
	bool ack, over;

	if (!head || load_be64(head) != NBD_OPTION_MAGIC)
		return at_end(j);
	code = load_be32(head + 8);
	len = load_be32(head + 12);
	data = take(&j->said, len);
	if (!data)
		return at_end(j);
	if (code == NBD_OPT_EXPORT_NAME)
		return export_name(j, data, len);
	if (code == NBD_OPT_SET_META_CONTEXT)
		j->context_count = 0;
	ack = option_answered(j, code, data, len, &over);
	if (over) {
		/* Gone without an answer: only who cannot be talked to is treated so, or who
		 * might be somebody in between. */
		KIT_CHECK(j->s->cut || !must_ack(j, code, data, len));
		return at_end(j);
	}
	KIT_CHECK(ack ? !must_refuse(j, code, data, len) : !must_ack(j, code, data, len));
	if (code == NBD_OPT_SET_META_CONTEXT && !ack)
		j->context_count = 0;
	if (!ack)
		return true;
	if (code == NBD_OPT_ABORT)
		return at_end(j);
	j->opaque = code == NBD_OPT_STARTTLS;
	if (code == NBD_OPT_STRUCTURED_REPLY || code == NBD_OPT_EXTENDED_HEADERS)
		j->structured = true;
	if (code == NBD_OPT_EXTENDED_HEADERS)
		j->extended = true;
	if (code == NBD_OPT_GO)
		j->disk = disk_named(data, len);
	return true;
}

/* True: j->disk was entered. */
static bool negotiation(struct judge *j)
{
	const unsigned char *greeting = reply(j, NBD_GREETING_SIZE), *flags;

	if (!greeting)
		return false;
	KIT_CHECK(load_be64(greeting) == NBD_MAGIC);
	KIT_CHECK(load_be64(greeting + 8) == NBD_OPTION_MAGIC);
	flags = take(&j->said, NBD_CLIENT_FLAGS_SIZE);
	if (!flags || load_be32(flags) & ~3U)
		return at_end(j);
	j->fixed = load_be32(flags) & NBD_FLAG_FIXED_NEWSTYLE;
	j->no_zeroes = load_be32(flags) & NBD_FLAG_NO_ZEROES;
	while (!j->disk)
		if (!option(j) || j->opaque)
			return false;
	if (!j->structured || j->context_disk != j->disk)
		j->context_count = 0;
	return true;
}

/* --- what requests should do ------------------------------------------------------------------ */

static bool changes(const struct asked *a)
{
	return a->type == NBD_CMD_WRITE || a->type == NBD_CMD_TRIM ||
	       a->type == NBD_CMD_WRITE_ZEROES;
}

static bool is_inside(const struct asked *a)
{
	return range_inside(a->off, a->len, RIG_SIZE);
}

static bool touches_bad(const struct judge *j, const struct asked *a)
{
	return j->s->manners.bad && a->off < RIG_BAD + RIG_BAD_LEN && a->off + a->len > RIG_BAD;
}

static enum outcome flags_outcome(const struct judge *j, const struct asked *a)
{
	static const uint16_t own[] = {
		[NBD_CMD_READ] = NBD_CMD_FLAG_DF,
		[NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
		[NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_REQ_ONE,
	};
	uint16_t payload = j->extended ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;
	uint16_t extra = a->flags & ~(NBD_CMD_FLAG_FUA | own[a->type] | payload);

	if (j->extended && a->type == NBD_CMD_WRITE && !(a->flags & payload))
		return MUST_FAIL;
	if (a->flags & payload && a->type != NBD_CMD_WRITE && a->type != NBD_CMD_BLOCK_STATUS)
		return MUST_FAIL;
	if (extra & ~0x1f || (a->flags & NBD_CMD_FLAG_DF && !j->structured))
		return MUST_FAIL;
	return extra ? MAY_BOTH : MUST_SUCCEED;
}

static enum outcome range_outcome(const struct judge *j, const struct asked *a)
{
	if (a->type == NBD_CMD_FLUSH)
		return a->off || a->len ? MAY_BOTH : MUST_SUCCEED;
	if (!is_inside(a))
		return MUST_FAIL;
	if ((a->type == NBD_CMD_READ || a->type == NBD_CMD_WRITE) && a->len > NBD_MAX_PAYLOAD)
		return MUST_FAIL;
	if (!a->len)
		return MAY_BOTH;
	if (a->type != NBD_CMD_CACHE && a->type != NBD_CMD_BLOCK_STATUS && touches_bad(j, a))
		return MUST_FAIL;
	return MUST_SUCCEED;
}

static enum outcome request_outcome(const struct judge *j, const struct asked *a)
{
	enum outcome flags, range;

	if (a->type > NBD_CMD_BLOCK_STATUS)
		return MUST_FAIL;
	if (changes(a) && j->disk->read_only)
		return MUST_FAIL;
	if (a->type == NBD_CMD_BLOCK_STATUS && !j->context_count)
		return MUST_FAIL;
	flags = flags_outcome(j, a);
	range = range_outcome(j, a);
	if (flags == MUST_FAIL || range == MUST_FAIL)
		return MUST_FAIL;
	return flags == MAY_BOTH || range == MAY_BOTH ? MAY_BOTH : MUST_SUCCEED;
}

static void mark_changed(struct judge *j, uint64_t off, uint64_t len, int index)
{
	uint64_t i;

	if (!len || off >= RIG_SIZE)
		return;
	len = MIN(len, RIG_SIZE - off);
	for (i = off / RIG_BLOCK; i <= (off + len - 1) / RIG_BLOCK; i++)
		j->changed[i] = MAX(j->changed[i], index);
}

/* @payload: of a WRITE, NULL when it is not all there. */
static void apply(struct judge *j, struct asked *a, const unsigned char *payload)
{
	if (!changes(a) || j->disk->read_only || !is_inside(a))
		return;
	/* A refused change changes nothing, unless it was refused in the middle of it. */
	if (a->outcome == MUST_FAIL && !touches_bad(j, a))
		return;
	a->unsure = a->outcome != MUST_SUCCEED || a->unfinished || j->s->cut || j->doubt;
	mark_changed(j, a->off, a->len, a->unsure ? INT32_MAX : a->index);
	if (a->unsure)
		return;
	if (a->type == NBD_CMD_WRITE)
		memcpy(j->disk->model + a->off, payload, a->len);
	else
		memset(j->disk->model + a->off, 0, a->len);
}

static void remember_read(struct judge *j, struct asked *a)
{
	if (a->type != NBD_CMD_READ || a->outcome == MUST_FAIL || !a->len ||
	    j->snapshots + a->len > SNAPSHOTS_MAX)
		return;
	a->snapshot = malloc(a->len);
	KIT_CHECK(a->snapshot);
	memcpy(a->snapshot, j->disk->model + a->off, a->len);
	j->snapshots += a->len;
}

static struct asked *new_asked(struct judge *j)
{
	if (j->count == j->room) {
		j->room = j->room ? j->room * 2 : 64;
		j->asked = realloc(j->asked, j->room * sizeof(*j->asked));
		KIT_CHECK(j->asked);
	}
	memset(&j->asked[j->count], 0, sizeof(*j->asked));
	j->asked[j->count].index = j->count;
	return &j->asked[j->count++];
}

/* Index of a selected context; the number of them: it is none. */
static unsigned context_with(const struct judge *j, uint32_t id)
{
	unsigned i;

	for (i = 0; i < j->context_count; i++)
		if (j->contexts[i].id == id)
			break;
	return i;
}

/* A payload that says what a BLOCK_STATUS is about; false: it says nothing sensible. */
static bool narrow(const struct judge *j, struct asked *a, const unsigned char *payload,
		   uint64_t len)
{
	unsigned i, k;

	if (len < 12 || len % 4)
		return false;
	for (a->wanted = 0, i = 8; i < len; i += 4) {
		k = context_with(j, load_be32(payload + i));
		if (k == j->context_count || a->wanted & 1U << k)
			return false;
		a->wanted |= 1U << k;
	}
	a->len = load_be64(payload);
	return true;
}

/* Reads the header; the number of bytes that follow it. */
static uint64_t asked_decode(const struct judge *j, struct asked *a, const unsigned char *head)
{
	a->flags = load_be16(head + 4);
	a->type = load_be16(head + 6);
	a->cookie = load_be64(head + 8);
	a->off = a->header_off = load_be64(head + 16);
	a->len = j->extended ? load_be64(head + 24) : load_be32(head + 24);
	if (j->extended)
		return a->flags & NBD_CMD_FLAG_PAYLOAD_LEN ? a->len : 0;
	return a->type == NBD_CMD_WRITE ? a->len : 0;
}

/* One request of the client's; false: the server reads none after it. */
static bool request(struct judge *j)
{
	const unsigned char *head, *payload;
	struct asked *a;
	uint64_t len;

	head = take(&j->said, j->extended ? NBD_EXT_REQUEST_SIZE : NBD_REQUEST_SIZE);
	if (!head)
		return false;
	if (load_be32(head) != (j->extended ? NBD_EXT_REQUEST_MAGIC : NBD_REQUEST_MAGIC)) {
		j->doubt = true;
		return false;
	}
	if (load_be16(head + 6) == NBD_CMD_DISC)
		return false;
	a = new_asked(j);
	len = asked_decode(j, a, head);
	if (j->extended && len > NBD_MAX_PAYLOAD) {
		a->outcome = MUST_FAIL;
		j->doubt = true;
		return false;
	}
	payload = take(&j->said, len);
	a->unfinished = !payload;
	a->outcome = MUST_FAIL;
	a->wanted = (1U << j->context_count) - 1;
	if (!j->extended || a->type != NBD_CMD_BLOCK_STATUS || !len ||
	    (payload && narrow(j, a, payload, len)))
		a->outcome = request_outcome(j, a);
	apply(j, a, payload);
	remember_read(j, a);
	/* A simple reply that has begun cannot turn into an error. */
	if (a->type == NBD_CMD_READ && !j->structured && is_inside(a) && touches_bad(j, a))
		j->doubt = true;
	return !a->unfinished;
}

/* --- what came back --------------------------------------------------------------------------- */

static struct asked *asked_with(struct judge *j, uint64_t cookie)
{
	unsigned i;

	while (j->first < j->count && j->asked[j->first].answered)
		j->first++;
	for (i = j->first; i < j->count; i++)
		if (!j->asked[i].answered && j->asked[i].cookie == cookie)
			return &j->asked[i];
	return NULL;
}

static int by_cookie(const void *a, const void *b)
{
	const struct asked *x = *(struct asked *const *)a, *y = *(struct asked *const *)b;

	return x->cookie < y->cookie ? -1 : x->cookie > y->cookie;
}

static void find_ambiguous(struct judge *j)
{
	struct asked **sorted = malloc((j->count + 1) * sizeof(struct asked *));
	unsigned i;

	KIT_CHECK(sorted);
	for (i = 0; i < j->count; i++)
		sorted[i] = &j->asked[i];
	qsort(sorted, j->count, sizeof(*sorted), by_cookie);
	for (i = 1; i < j->count; i++)
		if (sorted[i]->cookie == sorted[i - 1]->cookie)
			sorted[i]->ambiguous = sorted[i - 1]->ambiguous = true;
	free(sorted);
}

static void check_error(uint32_t error)
{
	static const uint32_t known[] = {NBD_EPERM,  NBD_EIO,	    NBD_ENOMEM,	 NBD_EINVAL,
					 NBD_ENOSPC, NBD_EOVERFLOW, NBD_ENOTSUP, NBD_ESHUTDOWN};
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i] == error)
			return;
	KIT_CHECK(!"an error the specification knows");
}

static void answered(struct asked *a, bool ok)
{
	a->answered = true;
	if (a->ambiguous)
		return;
	KIT_CHECK(!ok || (a->outcome != MUST_FAIL && !a->unfinished));
	KIT_CHECK(ok || a->outcome != MUST_SUCCEED || a->unfinished);
}

/* @data NULL: zeroes. */
static void check_data(const struct judge *j, const struct asked *a, uint64_t at,
		       const unsigned char *data, uint32_t len)
{
	uint64_t i;

	if (!a->snapshot)
		return;
	/* What changed later may have been read already, or not yet: then it proves nothing. */
	for (i = (a->off + at) / RIG_BLOCK; i <= (a->off + at + len - 1) / RIG_BLOCK; i++)
		if (j->changed[i] > a->index)
			return;
	if (data)
		KIT_CHECK(!memcmp(a->snapshot + at, data, len));
	for (i = 0; !data && i < len; i++)
		KIT_CHECK(!a->snapshot[at + i]);
}

static bool simple(struct judge *j)
{
	const unsigned char *head = reply(j, NBD_SIMPLE_SIZE), *data;
	struct asked *a;
	uint32_t error;

	if (!head)
		return false;
	error = load_be32(head + 4);
	a = asked_with(j, load_be64(head + 8));
	KIT_CHECK(a);
	if (a->ambiguous && !j->structured) {
		/* Whether data follows is anybody's guess. */
		j->doubt = true;
		return false;
	}
	if (error)
		check_error(error);
	if (!error && a->type == NBD_CMD_READ && !a->ambiguous) {
		KIT_CHECK(!j->structured);
		data = reply(j, a->len);
		if (!data)
			return false;
		if (a->len)
			check_data(j, a, 0, data, a->len);
	}
	answered(a, !error);
	return true;
}

/* Of an extent list, whatever its shape: one more. */
static void check_extent(const struct judge *j, const struct asked *a, unsigned context,
			 uint64_t *off, uint64_t run, uint64_t flags)
{
	uint64_t block = j->contexts[context].block, end = *off + run;

	KIT_CHECK(run && range_inside(*off - a->off, run, a->len));
	for (; *off < end; *off = (*off / block + 1) * block)
		KIT_CHECK(flags == (*off / block % 2 ? j->contexts[context].flags : 0));
	*off = end;
}

static void check_status(const struct judge *j, struct asked *a, const unsigned char *p,
			 uint64_t len)
{
	unsigned head = j->extended ? 8 : 4, each = j->extended ? 16 : 8, k;
	uint64_t off = a->off, n = len > head ? (len - head) / each : 0, i;

	KIT_CHECK(a->type == NBD_CMD_BLOCK_STATUS && n && len == head + n * each);
	k = context_with(j, load_be32(p));
	KIT_CHECK(k < j->context_count && !(a->told & 1U << k));
	a->told |= 1U << k;
	KIT_CHECK(!j->extended || load_be32(p + 4) == n);
	KIT_CHECK(!(a->flags & NBD_CMD_FLAG_REQ_ONE) || n == 1);
	for (i = 0, p += head; i < n; i++, p += each)
		check_extent(j, a, k, &off, j->extended ? load_be64(p) : load_be32(p),
			     j->extended ? load_be64(p + 8) : load_be32(p + 4));
}

static void check_chunk_error(const unsigned char *p, uint64_t len)
{
	KIT_CHECK(len >= 6 && load_be16(p + 4) <= len - 6);
	check_error(load_be32(p));
}

/* The payload of a chunk that is about @a. */
static void chunk_payload(struct judge *j, struct asked *a, uint16_t type, const unsigned char *p,
			  uint64_t len)
{
	uint64_t at;

	if (type == NBD_REPLY_TYPE_NONE) {
		KIT_CHECK(!len);
	} else if (type == NBD_REPLY_TYPE_OFFSET_DATA || type == NBD_REPLY_TYPE_OFFSET_HOLE) {
		bool hole = type == NBD_REPLY_TYPE_OFFSET_HOLE;
		uint32_t n = hole ? len == 12 ? load_be32(p + 8) : 0 : len > 8 ? len - 8 : 0;

		KIT_CHECK(a->type == NBD_CMD_READ && n);
		at = load_be64(p) - a->off;
		KIT_CHECK(range_inside(at, n, a->len));
		a->got += n;
		a->data_chunks++;
		/* A chunk whose data could not be read is complete all the same. */
		if (a->outcome == MUST_SUCCEED)
			check_data(j, a, at, hole ? NULL : p + 8, n);
	} else if (type == NBD_REPLY_TYPE_BLOCK_STATUS || type == NBD_REPLY_TYPE_BLOCK_STATUS_EXT) {
		KIT_CHECK(j->extended == (type == NBD_REPLY_TYPE_BLOCK_STATUS_EXT));
		check_status(j, a, p, len);
	} else {
		KIT_CHECK(type == NBD_REPLY_TYPE_ERROR || type == CHUNK_ERROR_OFFSET);
		check_chunk_error(p, len);
		a->failed = true;
	}
}

static bool chunk(struct judge *j)
{
	const unsigned char *head = reply(j, nbd_chunk_size(j->extended)), *p;
	uint16_t flags, type;
	struct asked *a;
	uint64_t len;

	if (!head)
		return false;
	flags = load_be16(head + 4);
	type = load_be16(head + 6);
	len = j->extended ? load_be64(head + 24) : load_be32(head + 16);
	a = asked_with(j, load_be64(head + 8));
	KIT_CHECK(j->structured && a && !(flags & ~NBD_REPLY_FLAG_DONE));
	p = reply(j, len);
	if (!p)
		return false;
	if (a->ambiguous) {
		a->answered = flags & NBD_REPLY_FLAG_DONE;
		return true;
	}
	KIT_CHECK(!j->extended || load_be64(head + 16) == a->header_off);
	chunk_payload(j, a, type, p, len);
	KIT_CHECK(type != NBD_REPLY_TYPE_NONE || flags & NBD_REPLY_FLAG_DONE);
	KIT_CHECK(!(a->flags & NBD_CMD_FLAG_DF) || a->data_chunks <= 1);
	if (!(flags & NBD_REPLY_FLAG_DONE))
		return true;
	KIT_CHECK(a->failed || a->type != NBD_CMD_READ || a->got == a->len);
	KIT_CHECK(a->failed || a->type != NBD_CMD_BLOCK_STATUS || a->told == a->wanted);
	answered(a, !a->failed);
	return true;
}

static bool one_reply(struct judge *j)
{
	uint32_t magic;

	if (j->replies.left < 4) {
		KIT_CHECK(!j->replies.left || j->s->cut || j->doubt);
		return false;
	}
	magic = load_be32(j->replies.p);
	if (magic == NBD_SIMPLE_MAGIC && !j->extended)
		return simple(j);
	KIT_CHECK(magic == (j->extended ? NBD_EXT_CHUNK_MAGIC : NBD_CHUNK_MAGIC));
	return chunk(j);
}

static void transmission(struct judge *j)
{
	unsigned i;

	while (request(j))
		;
	find_ambiguous(j);
	while (one_reply(j))
		;
	for (i = 0; i < j->count; i++) {
		const struct asked *a = &j->asked[i];

		KIT_CHECK(a->answered || a->unfinished || j->s->cut || j->doubt);
	}
}

/* --- the disks -------------------------------------------------------------------------------- */

static void check_block(struct rig_disk *disk, unsigned i)
{
	size_t off = i * RIG_BLOCK, len = MIN(RIG_BLOCK, RIG_SIZE - off);

	KIT_CHECK(!memcmp(disk->data + off, disk->model + off, len));
	memcpy(disk->data + off, disk->start + off, len);
	memcpy(disk->model + off, disk->start + off, len);
}

/* Byte for byte but for what may be anything; and as they were before, afterwards. */
static void check_disks(const struct judge *j)
{
	unsigned i;

	for (i = 0; i < j->count; i++) {
		const struct asked *a = &j->asked[i];

		if (a->unsure)
			memcpy(j->disk->model + a->off, j->disk->data + a->off, a->len);
	}
	for (i = 0; i < BLOCKS; i++)
		if (j->changed[i] != NEVER)
			check_block(j->disk, i);
	for (i = 0; i < RIG_DISKS; i++) {
		struct rig_disk *disk = &rig_disks[i];

		/* Who goes away early does not see where the negotiation has led. */
		if (j->s->cut && !j->disk && !disk->read_only && j->s->tls != NBD_TLS_REQUIRE)
			memcpy(disk->data, disk->start, RIG_SIZE);
		KIT_CHECK(!memcmp(disk->data, disk->start, RIG_SIZE));
	}
}

void judge_session(const struct rig_session *session)
{
	struct judge j = {
		.s = session,
		.said = {session->said, session->said_len},
		.replies = {session->replies, session->replies_len},
	};
	unsigned i;

	for (i = 0; i < BLOCKS; i++)
		j.changed[i] = NEVER;
	if (negotiation(&j))
		transmission(&j);
	check_disks(&j);
	for (i = 0; i < j.count; i++)
		free(j.asked[i].snapshot);
	free(j.asked);
}
