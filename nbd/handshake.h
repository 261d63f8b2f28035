/*
 * The negotiation: greeting, client flags, options one at a time, until the client enters an export
 * or leaves. On any worker; entering happens on the worker that owns the export.
 *
 * STARTTLS puts TLS (tls.h) underneath, once its answer is out; the negotiation goes on as if
 * nothing had been said before.
 *
 * An option is read whole, handled, and answered whole before the next byte is looked at: what a
 * client can make us hold is one option of max_option_bytes and its answer.
 */
#ifndef NBD_HANDSHAKE_H
#define NBD_HANDSHAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "nbd/conn.h"
#include "nbd/wire.h"

#define NBD_OPTION_ABSURD (1U << 20) /* longer ones are not even drained: the session ends */

enum nbd_hs_phase { NBD_HS_START, NBD_HS_FLAGS, NBD_HS_OPTION, NBD_HS_DATA, NBD_HS_SKIP };

/* What follows once the answer is out. */
enum nbd_hs_then { NBD_HS_NEXT, NBD_HS_TLS, NBD_HS_TRANSMIT, NBD_HS_CLOSE };

struct nbd_answer {
	unsigned char *p; /* owned */
	size_t len, cap, sent;
	bool failed; /* no memory: the session ends */
};

struct nbd_handshake {
	enum nbd_hs_phase phase;
	enum nbd_hs_then then;
	unsigned char head[NBD_OPTION_SIZE];
	uint32_t have; /* of head, of data, or skipped */
	struct nbd_option option;
	unsigned char *data; /* option.len bytes, owned, while the option is handled */
	struct nbd_answer answer;
	bool fixed_newstyle, no_zeroes; /* the client's flags */
	uint64_t meta_serial;		/* the export contexts were selected for; 0: none */
	uint32_t meta_contexts;		/* which: NBD_META_BITs */
	struct nbd_export *enter;	/* GO, EXPORT_NAME: on the way into this one; referenced */
	uint32_t infos;			/* bit i: NBD_INFO i was asked for */
	int64_t deadline_ns;
};

/* 0 or -ENOMEM; the greeting is the first step. */
int nbd_handshake_new(struct nbd_conn *conn);
void nbd_handshake_free(struct nbd_handshake *hs); /* accepts NULL */

/* One step of the pump: false when there is nothing to do with what is there. */
bool nbd_handshake_step(struct nbd_conn *conn);

/* @n bytes of the answer are sent. */
void nbd_handshake_sent(struct nbd_conn *conn, size_t n);

/* The contexts that were selected for @export: NBD_META_BITs. */
uint32_t nbd_handshake_contexts(const struct nbd_conn *conn, const struct nbd_export *export);

/* On the owner's thread: hs->enter, answered. */
void nbd_handshake_enter(struct nbd_conn *conn);

/* --- for the options -------------------------------------------------------------------------- */

/* Room for @len more bytes of answer; NULL: out of memory, noted in the answer. */
void *nbd_answer_add(struct nbd_handshake *hs, size_t len);

/* A reply to the current option with @len bytes of data, which the caller fills in. */
void *nbd_answer_rep(struct nbd_handshake *hs, uint32_t type, size_t len);
void nbd_answer_ack(struct nbd_handshake *hs);
void nbd_answer_error(struct nbd_handshake *hs, uint32_t type, const char *text);

/* Handles hs->option with its data; the answer is in hs. */
void nbd_option_handle(struct nbd_conn *conn);

/* The same for one whose data was too long to keep. */
void nbd_option_refuse(struct nbd_conn *conn);

/* The listener requires TLS and the connection has none. */
bool nbd_option_tls_missing(const struct nbd_conn *conn);

/* The answers of those who may enter @export, or ask about it. */
void nbd_option_export_name_reply(struct nbd_conn *conn, const struct nbd_export *export);
void nbd_option_info_reply(struct nbd_conn *conn, const struct nbd_export *export);

#endif
