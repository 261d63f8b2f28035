/*
 * The options a client may send, as a table: code, size of data, handler. Everything that is not in
 * it gets a polite NBD_REP_ERR_UNSUP, as the specification asks.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "nbd/handshake.h"
#include "nbd/listener.h"
#include "nbd/metactx.h"
#include "nbd/server_priv.h"
#include "nbd/tls_creds.h"

#define OPTION_ANY UINT32_MAX /* bounded by max_option_bytes */

struct option_row {
	uint32_t code;
	uint32_t min, max; /* bytes of data */
	void (*handle)(struct nbd_conn *conn);
};

/* --- EXPORT_NAME, ABORT, LIST, what replies look like ----------------------------------------- */

static void option_export_name(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;

	/* It belongs to the compact headers, and closing is its only refusal. */
	if (!conn->extended)
		hs->enter = nbd_server_find(conn->worker->server, (char *)hs->data, hs->option.len);
	if (!hs->enter)
		hs->then = NBD_HS_CLOSE;
}

void nbd_option_export_name_reply(struct nbd_conn *conn, const struct nbd_export *export)
{
	struct nbd_handshake *hs = conn->hs;
	size_t len = NBD_EXPORT_NAME_REPLY_SIZE + (hs->no_zeroes ? 0 : NBD_EXPORT_NAME_ZEROES);
	unsigned char *p = nbd_answer_add(hs, len);

	if (!p)
		return;
	memset(p, 0, len);
	store_be64(p, export->size);
	store_be16(p + 8, nbd_export_flags(export, conn));
}

static void option_abort(struct nbd_conn *conn)
{
	nbd_answer_ack(conn->hs);
	conn->hs->then = NBD_HS_CLOSE;
}

static void list_one(void *arg, const struct nbd_export *export)
{
	struct nbd_handshake *hs = arg;
	size_t name = strlen(export->name);
	size_t description = export->description ? strlen(export->description) : 0;
	unsigned char *p = nbd_answer_rep(hs, NBD_REP_SERVER, 4 + name + description);

	if (!p)
		return;
	store_be32(p, name);
	memcpy(p + 4, export->name, name);
	if (description)
		memcpy(p + 4 + name, export->description, description);
}

static void option_list(struct nbd_conn *conn)
{
	nbd_server_each(conn->worker->server, list_one, conn->hs);
	nbd_answer_ack(conn->hs);
}

static void option_structured_reply(struct nbd_conn *conn)
{
	if (conn->extended) {
		nbd_answer_error(conn->hs, NBD_REP_ERR_EXT_HEADER_REQD,
				 "extended headers were agreed on and stay");
		return;
	}
	conn->structured = true;
	nbd_answer_ack(conn->hs);
}

static void option_extended_headers(struct nbd_conn *conn)
{
	conn->structured = conn->extended = true;
	nbd_answer_ack(conn->hs);
}

/* --- STARTTLS --------------------------------------------------------------------------------- */

bool nbd_option_tls_missing(const struct nbd_conn *conn)
{
	const struct nbd_tls_creds *creds = conn->creds;

	return creds && creds->policy == NBD_TLS_REQUIRE && !conn->tls;
}

/* Whoever sits between us and the client could have said it all. */
static void forget_what_was_negotiated(struct nbd_conn *conn)
{
	conn->structured = conn->extended = false;
	conn->hs->meta_serial = 0;
	conn->hs->meta_contexts = 0;
}

static void option_starttls(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;

	if (!hs->fixed_newstyle) {
		nbd_answer_error(hs, NBD_REP_ERR_POLICY, "TLS needs fixed newstyle negotiation");
	} else if (conn->tls) {
		nbd_answer_error(hs, NBD_REP_ERR_INVALID, "TLS is on already");
	} else if (conn->in_len) {
		/* What stands behind the option came before our answer, so not by TLS: somebody
		 * wants it taken for what the client says in TLS. */
		log_warn(&conn->log, "sent more behind STARTTLS without waiting; closed");
		hs->then = NBD_HS_CLOSE;
	} else {
		forget_what_was_negotiated(conn);
		nbd_answer_ack(hs);
		hs->then = NBD_HS_TLS;
	}
}

/* --- INFO, GO --------------------------------------------------------------------------------- */

static void info_export(struct nbd_conn *conn, const struct nbd_export *export)
{
	unsigned char *p = nbd_answer_rep(conn->hs, NBD_REP_INFO, 12);

	if (!p)
		return;
	store_be16(p, NBD_INFO_EXPORT);
	store_be64(p + 2, export->size);
	store_be16(p + 10, nbd_export_flags(export, conn));
}

static void info_text(struct nbd_conn *conn, enum nbd_info info, const char *text)
{
	unsigned char *p = nbd_answer_rep(conn->hs, NBD_REP_INFO, 2 + strlen(text));

	if (!p)
		return;
	store_be16(p, info);
	memcpy(p + 2, text, strlen(text));
}

static void info_block_size(struct nbd_conn *conn, const struct nbd_export *export)
{
	unsigned char *p = nbd_answer_rep(conn->hs, NBD_REP_INFO, 14);

	if (!p)
		return;
	store_be16(p, NBD_INFO_BLOCK_SIZE);
	store_be32(p + 2, 1);
	store_be32(p + 6, export->preferred_block);
	store_be32(p + 10, NBD_MAX_PAYLOAD);
}

void nbd_option_info_reply(struct nbd_conn *conn, const struct nbd_export *export)
{
	uint32_t infos = conn->hs->infos;

	info_export(conn, export);
	if (infos & 1U << NBD_INFO_NAME)
		info_text(conn, NBD_INFO_NAME, export->name);
	if ((infos & 1U << NBD_INFO_DESCRIPTION) && export->description)
		info_text(conn, NBD_INFO_DESCRIPTION, export->description);
	if (infos & 1U << NBD_INFO_BLOCK_SIZE)
		info_block_size(conn, export);
	nbd_answer_ack(conn->hs);
}

/* Name and information requests; false: the lengths do not add up. */
static bool info_parse(struct nbd_handshake *hs, const char **name, uint32_t *name_len)
{
	const unsigned char *p = hs->data;
	uint32_t len = hs->option.len, count, i;

	*name_len = load_be32(p);
	if (*name_len > len - 6)
		return false;
	*name = (const char *)p + 4;
	p += 4 + *name_len;
	count = load_be16(p);
	if (len - 6 - *name_len != count * 2)
		return false;
	hs->infos = 0;
	for (i = 0; i < count; i++) {
		uint16_t info = load_be16(p + 2 + i * 2);

		if (info < 32)
			hs->infos |= 1U << info;
	}
	return true;
}

/* The export an option names, referenced; NULL: the refusal is in the answer. */
static struct nbd_export *option_find(struct nbd_conn *conn, const char *name, uint32_t len)
{
	struct nbd_export *export = NULL;

	if (len > NBD_STRING_MAX)
		nbd_answer_error(conn->hs, NBD_REP_ERR_INVALID, "the export name is too long");
	else if (!(export = nbd_server_find(conn->worker->server, name, len)))
		nbd_answer_error(conn->hs, NBD_REP_ERR_UNKNOWN, "there is no export of this name");
	return export;
}

static struct nbd_export *option_info_target(struct nbd_conn *conn)
{
	const char *name;
	uint32_t len;

	if (!info_parse(conn->hs, &name, &len)) {
		nbd_answer_error(conn->hs, NBD_REP_ERR_INVALID, "the lengths do not add up");
		return NULL;
	}
	return option_find(conn, name, len);
}

static void option_info(struct nbd_conn *conn)
{
	struct nbd_export *export = option_info_target(conn);

	if (!export)
		return;
	nbd_option_info_reply(conn, export);
	nbd_export_unref(export);
}

static void option_go(struct nbd_conn *conn)
{
	conn->hs->enter = option_info_target(conn);
}

/* --- metadata contexts ------------------------------------------------------------------------ */

/* Names the contexts of a set, with their ids or, where ids mean nothing, with 0. */
static void answer_contexts(struct nbd_handshake *hs, uint32_t contexts, bool ids)
{
	unsigned id;

	for (id = 1; id < NBD_META_END; id++) {
		const char *name = nbd_metactx_name(id);
		unsigned char *p;

		if (!(contexts & NBD_META_BIT(id)))
			continue;
		p = nbd_answer_rep(hs, NBD_REP_META_CONTEXT, 4 + strlen(name));
		if (!p)
			return;
		store_be32(p, ids ? id : 0);
		memcpy(p + 4, name, strlen(name));
	}
}

/* Parses, finds the export (referenced); NULL: the refusal is in the answer. */
static struct nbd_export *metactx_target(struct nbd_conn *conn, struct nbd_metactx_query *query)
{
	struct nbd_handshake *hs = conn->hs;

	if (!nbd_metactx_parse(hs->data, hs->option.len, query)) {
		nbd_answer_error(hs, NBD_REP_ERR_INVALID, "the lengths do not add up");
		return NULL;
	}
	return option_find(conn, query->name, query->name_len);
}

static void option_list_meta_context(struct nbd_conn *conn)
{
	struct nbd_metactx_query query;
	struct nbd_export *export = metactx_target(conn, &query);

	if (!export)
		return;
	answer_contexts(conn->hs,
			nbd_export_contexts(export) & (query.queries ? query.matched : UINT32_MAX),
			false);
	nbd_answer_ack(conn->hs);
	nbd_export_unref(export);
}

static void option_set_meta_context(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;
	struct nbd_metactx_query query;
	struct nbd_export *export;

	if (!conn->structured) {
		nbd_answer_error(hs, NBD_REP_ERR_INVALID, "negotiate structured replies first");
		return;
	}
	export = metactx_target(conn, &query);
	if (!export)
		return;
	hs->meta_serial = export->serial;
	hs->meta_contexts = nbd_export_contexts(export) & query.named;
	answer_contexts(hs, hs->meta_contexts, true);
	nbd_answer_ack(hs);
	nbd_export_unref(export);
}

/* --- the table -------------------------------------------------------------------------------- */

static const struct option_row option_rows[] = {
	{NBD_OPT_EXPORT_NAME, 0, NBD_STRING_MAX, option_export_name},
	{NBD_OPT_ABORT, 0, OPTION_ANY, option_abort},
	{NBD_OPT_LIST, 0, 0, option_list},
	{NBD_OPT_STARTTLS, 0, 0, option_starttls},
	{NBD_OPT_INFO, 6, OPTION_ANY, option_info},
	{NBD_OPT_GO, 6, OPTION_ANY, option_go},
	{NBD_OPT_STRUCTURED_REPLY, 0, 0, option_structured_reply},
	{NBD_OPT_LIST_META_CONTEXT, 8, OPTION_ANY, option_list_meta_context},
	{NBD_OPT_SET_META_CONTEXT, 8, OPTION_ANY, option_set_meta_context},
	{NBD_OPT_EXTENDED_HEADERS, 0, 0, option_extended_headers},
};

static const struct option_row *option_find_row(uint32_t code)
{
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(option_rows); i++)
		if (option_rows[i].code == code)
			return &option_rows[i];
	return NULL;
}

/* A SET_META_CONTEXT replaces what was selected before even when it fails. */
static const struct option_row *option_begin(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;

	if (hs->option.code == NBD_OPT_STARTTLS && !conn->creds)
		return NULL;
	if (hs->option.code == NBD_OPT_SET_META_CONTEXT)
		hs->meta_serial = 0;
	return option_find_row(hs->option.code);
}

/* Without the TLS that is required, this is all there is to say. */
static bool option_awaits_tls(const struct nbd_conn *conn)
{
	uint32_t code = conn->hs->option.code;

	return nbd_option_tls_missing(conn) && code != NBD_OPT_STARTTLS && code != NBD_OPT_ABORT;
}

/* Of those who come too late, one wish is heard. */
static bool option_too_late(const struct nbd_conn *conn)
{
	return atomic_load(&conn->worker->server->stopping) &&
	       conn->hs->option.code != NBD_OPT_ABORT;
}

/* A refusal in words, or the only one there is for EXPORT_NAME. */
static void option_refuse(struct nbd_handshake *hs, uint32_t type, const char *text)
{
	if (hs->option.code == NBD_OPT_EXPORT_NAME)
		hs->then = NBD_HS_CLOSE;
	else
		nbd_answer_error(hs, type, text);
}

void nbd_option_handle(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;
	const struct option_row *row = option_begin(conn);

	if (option_too_late(conn))
		option_refuse(hs, NBD_REP_ERR_SHUTDOWN, "the server is being shut down");
	else if (option_awaits_tls(conn))
		option_refuse(hs, NBD_REP_ERR_TLS_REQD, "TLS is required: STARTTLS comes first");
	else if (!row)
		option_refuse(hs, NBD_REP_ERR_UNSUP, "this server does not know the option");
	else if (hs->option.len < row->min || hs->option.len > row->max)
		option_refuse(hs, NBD_REP_ERR_INVALID, "the option has a wrong length");
	else
		row->handle(conn);
}

void nbd_option_refuse(struct nbd_conn *conn)
{
	struct nbd_handshake *hs = conn->hs;
	const struct option_row *row = option_begin(conn);

	if (option_too_late(conn))
		option_refuse(hs, NBD_REP_ERR_SHUTDOWN, "the server is being shut down");
	else if (option_awaits_tls(conn))
		option_refuse(hs, NBD_REP_ERR_TLS_REQD, "TLS is required: STARTTLS comes first");
	else if (!row)
		option_refuse(hs, NBD_REP_ERR_UNSUP, "this server does not know the option");
	else if (row->code == NBD_OPT_ABORT)
		row->handle(conn); /* whatever comes with it is ignored */
	else if (hs->option.len > row->max)
		option_refuse(hs, NBD_REP_ERR_INVALID, "the option has a wrong length");
	else
		option_refuse(hs, NBD_REP_ERR_TOO_BIG, "the option is too long");
}
