#include "nbd/handshake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "nbd/reply.h"
#include "nbd/server_priv.h"
#include "nbd/tls.h"
#include "nbd/turns.h"

#define HANDSHAKE_FLAGS (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)

/* --- the answer ------------------------------------------------------------------------------- */

void *nbd_answer_add(struct nbd_handshake *hs, size_t len)
{
	struct nbd_answer *a = &hs->answer;

	if (a->len + len > a->cap) {
		size_t cap = MAX(a->cap * 2, a->len + len + 256);
		unsigned char *p = realloc(a->p, cap);

		if (!p) {
			a->failed = true;
			return NULL;
		}
		a->p = p;
		a->cap = cap;
	}
	a->len += len;
	return a->p + a->len - len;
}

void *nbd_answer_rep(struct nbd_handshake *hs, uint32_t type, size_t len)
{
	unsigned char *p = nbd_answer_add(hs, NBD_REP_SIZE + len);

	if (!p)
		return NULL;
	nbd_put_rep(p, hs->option.code, type, len);
	return p + NBD_REP_SIZE;
}

void nbd_answer_ack(struct nbd_handshake *hs)
{
	nbd_answer_rep(hs, NBD_REP_ACK, 0);
}

void nbd_answer_error(struct nbd_handshake *hs, uint32_t type, const char *text)
{
	void *p = nbd_answer_rep(hs, type, strlen(text));

	if (p)
		memcpy(p, text, strlen(text));
}

void nbd_handshake_sent(struct nbd_conn *conn, size_t n)
{
	struct nbd_handshake *hs = conn->hs;

	hs->answer.sent += n;
	if (!n || hs->answer.sent < hs->answer.len)
		return;
	hs->answer.sent = hs->answer.len = 0;
	if (hs->then == NBD_HS_CLOSE) {
		nbd_conn_finish(conn);
		return;
	}
	if (hs->then == NBD_HS_TLS && nbd_tls_start(conn)) {
		nbd_conn_close(conn);
		return;
	}
	if (hs->then == NBD_HS_TRANSMIT) {
		nbd_handshake_free(hs);
		conn->hs = NULL;
	} else {
		hs->then = NBD_HS_NEXT;
	}
	nbd_conn_unblock(conn, NBD_BLOCK_ANSWER);
}

/* The answer is complete: it goes out before anything else is looked at. */
static bool handshake_answer(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;

	if (hs->answer.failed || (!hs->answer.len && hs->then == NBD_HS_CLOSE)) {
		nbd_conn_close(conn);
		return false;
	}
	return hs->answer.len ? nbd_conn_block(conn, NBD_BLOCK_ANSWER) : true;
}

/* --- begin and end ---------------------------------------------------------------------------- */

int nbd_handshake_new(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = calloc(1, sizeof(*hs));

	if (!hs)
		return -ENOMEM;
	hs->deadline_ns =
		nbd_now_ns(conn->worker) + conn->worker->limits.handshake_timeout_ms * 1000000LL;
	conn->hs = hs;
	return 0;
}

void nbd_handshake_free(struct nbd_handshake *hs)
{
	if (!hs)
		return;
	if (hs->enter)
		nbd_export_unref(hs->enter);
	free(hs->data);
	free(hs->answer.p);
	free(hs);
}

/* --- reading ---------------------------------------------------------------------------------- */

/* Moves up to @want - have bytes from what was received; true when all are there. */
static bool handshake_gather(struct nbd_conn *conn, void *to, uint32_t want)
{
	struct nbd_handshake *hs = conn->hs;
	uint32_t n = MIN(conn->in_len, want - hs->have);

	if (to && n)
		memcpy((unsigned char *)to + hs->have, conn->in, n);
	conn->in += n;
	conn->in_len -= n;
	hs->have += n;
	return hs->have == want;
}

static bool handshake_start(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;
	void *greeting;

	if (!nbd_turn_take(conn))
		return false;
	nbd_turn_cost(conn->worker, NBD_TURN_BEGIN_NS);
	hs->phase = NBD_HS_FLAGS;
	greeting = nbd_answer_add(hs, NBD_GREETING_SIZE);
	if (greeting)
		nbd_put_greeting(greeting, HANDSHAKE_FLAGS);
	return handshake_answer(conn);
}

static bool handshake_flags(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;
	uint32_t flags;

	if (!handshake_gather(conn, hs->head, NBD_CLIENT_FLAGS_SIZE))
		return false;
	flags = load_be32(hs->head);
	if (flags & ~(uint32_t)HANDSHAKE_FLAGS) {
		log_debug(&conn->log, "unknown client flags 0x%x; closed", flags);
		nbd_conn_close(conn);
		return false;
	}
	hs->fixed_newstyle = flags & NBD_FLAG_FIXED_NEWSTYLE;
	hs->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
	if (!hs->fixed_newstyle && nbd_option_tls_missing(conn)) {
		log_debug(&conn->log, "cannot negotiate TLS, which is required; closed");
		nbd_conn_close(conn);
		return false;
	}
	hs->phase = NBD_HS_OPTION;
	hs->have = 0;
	return true;
}

static bool handshake_option(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;

	if (!handshake_gather(conn, hs->head, NBD_OPTION_SIZE))
		return false;
	hs->have = 0;
	if (!nbd_get_option(hs->head, &hs->option) || hs->option.len > NBD_OPTION_ABSURD) {
		log_debug(&conn->log, "talks nonsense; closed");
		nbd_conn_close(conn);
		return false;
	}
	if (hs->option.len > conn->worker->limits.max_option_bytes) {
		nbd_limit_met(conn->worker, NBD_LIMIT_OPTION, &conn->log,
			      "sends an option that is too long; refused");
		hs->phase = NBD_HS_SKIP;
		return true;
	}
	hs->data = malloc(hs->option.len + 1);
	if (!hs->data) {
		nbd_conn_close(conn);
		return false;
	}
	hs->phase = NBD_HS_DATA;
	return true;
}

/* Ready for the next option; this one's answer is in hs. */
static bool handshake_handled(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;

	free(hs->data);
	hs->data = NULL;
	hs->have = 0;
	hs->phase = NBD_HS_OPTION;
	conn->useful = true;
	return handshake_answer(conn);
}

static bool handshake_data(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;

	if (!handshake_gather(conn, hs->data, hs->option.len))
		return false;
	nbd_option_handle(conn);
	if (hs->enter && hs->enter->worker != conn->worker) {
		/* The answer is the owner's to give: only there is known what is true of the
		 * export. */
		conn->move_to = hs->enter->worker;
		return false;
	}
	if (hs->enter) {
		nbd_handshake_enter(conn);
		return !conn->dead && !conn->block;
	}
	return handshake_handled(conn);
}

static bool handshake_skip(struct nbd_conn *conn)
{
	if (!handshake_gather(conn, NULL, conn->hs->option.len))
		return false;
	nbd_option_refuse(conn);
	return handshake_handled(conn);
}

bool nbd_handshake_step(struct nbd_conn *conn)
{
	static bool (*const steps[])(struct nbd_conn *) = {
		[NBD_HS_START] = handshake_start,   [NBD_HS_FLAGS] = handshake_flags,
		[NBD_HS_OPTION] = handshake_option, [NBD_HS_DATA] = handshake_data,
		[NBD_HS_SKIP] = handshake_skip,
	};

	return steps[conn->hs->phase](conn);
}

/* --- entering --------------------------------------------------------------------------------- */

static bool export_full(struct nbd_export *export)
{
	unsigned max = export->worker->limits.max_connections_per_export;

	if (export->conn_count < max)
		return false;
	nbd_limit_count(export->worker, NBD_LIMIT_EXPORT);
	if (nbd_notice_due(&export->full, nbd_now_ns(export->worker)))
		log_warn(&export->log, "%u connections are open; further ones are refused", max);
	return true;
}

static void enter_refuse(struct nbd_handshake *hs, uint32_t type, const char *text)
{
	if (hs->option.code == NBD_OPT_EXPORT_NAME)
		hs->then = NBD_HS_CLOSE; /* this option cannot be refused in words */
	else
		nbd_answer_error(hs, type, text);
}

uint32_t nbd_handshake_contexts(const struct nbd_conn *conn, const struct nbd_export *export)
{
	return conn->hs->meta_serial == export->serial ? conn->hs->meta_contexts : 0;
}

static void enter_accept(struct nbd_conn *conn, struct nbd_export *export)
{
	struct nbd_handshake *hs = conn->hs;

	if (hs->option.code == NBD_OPT_EXPORT_NAME)
		nbd_option_export_name_reply(conn, export);
	else
		nbd_option_info_reply(conn, export);
	hs->then = NBD_HS_TRANSMIT;
	conn->contexts = nbd_handshake_contexts(conn, export);
	nbd_conn_join(conn, nbd_export_ref(export));
}

void nbd_handshake_enter(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;
	struct nbd_export *export = hs->enter;

	hs->enter = NULL;
	if (atomic_load(&conn->worker->server->stopping))
		enter_refuse(hs, NBD_REP_ERR_SHUTDOWN, "the server is being shut down");
	else if (export->state != NBD_EXPORT_LIVE)
		enter_refuse(hs, NBD_REP_ERR_UNKNOWN, "there is no such export any more");
	else if (export_full(export))
		enter_refuse(hs, NBD_REP_ERR_POLICY, "too many connections to this export");
	else
		enter_accept(conn, export);
	nbd_export_unref(export);
	handshake_handled(conn);
}
