/*
 * Metadata contexts: which of them a client asks for, and how one is described on the wire. There
 * is one, base:allocation.
 */
#ifndef NBD_METACTX_H
#define NBD_METACTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nbd/export.h"

#define NBD_META_ALLOCATION	 1U /* context id */
#define NBD_META_ALLOCATION_NAME "base:allocation"
#define NBD_EXTENTS_MAX		 8192U /* in one reply */

/* Data of LIST_META_CONTEXT and SET_META_CONTEXT, looked through. */
struct nbd_metactx_query {
	const char *name; /* of the export; points into the data */
	uint32_t name_len;
	uint32_t queries;
	bool allocation; /* base:allocation was named */
	bool wildcard;	 /* "base:" was */
};

/* False: malformed. */
bool nbd_metactx_parse(const void *data, size_t len, struct nbd_metactx_query *query);

/*
 * Turns @count extents that describe [off, off + len) into compact or extended descriptors, in
 * place: neighbours with equal flags become one, and nothing reaches past @len (which fits 32 bits
 * when they are compact). Returns their number, 0 when the extents say nothing. @extents and the
 * result share their memory: no descriptor is larger than an extent.
 */
unsigned nbd_metactx_encode(struct nbd_extent *extents, unsigned count, uint64_t len,
			    bool extended);

#endif
