/*
 * Metadata contexts: which of them a client asks for, and how one is described on the wire.
 *
 * base:allocation is the specification's: is there data, does it read as zeroes.
 * sendense:received is ours (docs/nbd.md): what of an image that is being written has arrived for
 * good, for a client that goes on with an interrupted copy. An export may lack it.
 */
#ifndef NBD_METACTX_H
#define NBD_METACTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nbd/export.h"

/* Context ids, as clients see them. */
enum nbd_meta {
	NBD_META_ALLOCATION = 1,
	NBD_META_RECEIVED = 2,
	NBD_META_END,
};
#define NBD_META_BIT(id) (1U << (id)) /* sets of contexts are masks of these */

#define NBD_EXTENTS_MAX 8192U /* of one context in one reply */

/* Payload of BLOCK_STATUS: the effect length and the ids asked for. Longer ones repeat themselves.
 */
#define NBD_STATUS_PAYLOAD_MAX (8 + (NBD_META_END - 1) * 4)

const char *nbd_metactx_name(enum nbd_meta id);

/* Data of LIST_META_CONTEXT and SET_META_CONTEXT, looked through. Queries of other namespaces are
 * skipped. */
struct nbd_metactx_query {
	const char *name; /* of the export; points into the data */
	uint32_t name_len;
	uint32_t queries;
	uint32_t named;	  /* contexts named in full */
	uint32_t matched; /* those, and all whose namespace was named alone ("base:") */
};

/* False: malformed. */
bool nbd_metactx_parse(const void *data, size_t len, struct nbd_metactx_query *query);

/* The payload of a BLOCK_STATUS by a client that selected @selected. False: it has another length
 * than such a payload can have, or names a context twice or one that was not selected. */
bool nbd_metactx_payload(const void *data, uint64_t len, uint32_t selected, uint64_t *effect_len,
			 uint32_t *contexts);

/*
 * Turns @count extents that describe [off, off + len) into compact or extended descriptors, in
 * place: neighbours with equal flags become one, and nothing reaches past @len (which fits 32 bits
 * when they are compact). Returns their number, 0 when the extents say nothing. @extents and the
 * result share their memory: no descriptor is larger than an extent.
 */
unsigned nbd_metactx_encode(struct nbd_extent *extents, unsigned count, uint64_t len,
			    bool extended);

#endif
