#include "nbd/metactx.h"

#include <string.h>

#include "base/bytes.h"
#include "nbd/wire.h"

static const char *const names[NBD_META_END] = {
	[NBD_META_ALLOCATION] = "base:allocation",
	[NBD_META_RECEIVED] = "sendense:received",
};

const char *nbd_metactx_name(enum nbd_meta id)
{
	return names[id];
}

/* Cuts a length-prefixed string off [*p, *p + *len); false: it is not all there. */
static bool take_string(const unsigned char **p, size_t *len, const char **s, uint32_t *s_len)
{
	if (*len < 4)
		return false;
	*s_len = load_be32(*p);
	if (*s_len > *len - 4)
		return false;
	*s = (const char *)*p + 4;
	*p += 4 + *s_len;
	*len -= 4 + *s_len;
	return true;
}

static void query_look(struct nbd_metactx_query *query, const char *s, uint32_t len)
{
	unsigned id;

	for (id = 1; id < NBD_META_END; id++) {
		const char *name = names[id];
		size_t full = strlen(name), space = strchr(name, ':') + 1 - name;

		if (len == full && memcmp(s, name, full) == 0)
			query->named |= NBD_META_BIT(id);
		else if (len == space && memcmp(s, name, space) == 0)
			query->matched |= NBD_META_BIT(id);
	}
	query->matched |= query->named;
}

bool nbd_metactx_parse(const void *data, size_t len, struct nbd_metactx_query *query)
{
	const unsigned char *p = data;
	const char *s;
	uint32_t s_len, i;

	memset(query, 0, sizeof(*query));
	if (!take_string(&p, &len, &query->name, &query->name_len) || len < 4)
		return false;
	query->queries = load_be32(p);
	p += 4;
	len -= 4;
	for (i = 0; i < query->queries; i++) {
		if (!take_string(&p, &len, &s, &s_len))
			return false;
		query_look(query, s, s_len);
	}
	return len == 0;
}

bool nbd_metactx_payload(const void *data, uint64_t len, uint32_t selected, uint64_t *effect_len,
			 uint32_t *contexts)
{
	const unsigned char *p = data;
	uint64_t pos;

	if (len <= 8 || len > NBD_STATUS_PAYLOAD_MAX || len % 4)
		return false;
	*effect_len = load_be64(p);
	*contexts = 0;
	for (pos = 8; pos < len; pos += 4) {
		uint32_t id = load_be32(p + pos);

		if (id >= NBD_META_END || !(selected & ~*contexts & NBD_META_BIT(id)))
			return false;
		*contexts |= NBD_META_BIT(id);
	}
	return true;
}

unsigned nbd_metactx_encode(struct nbd_extent *extents, unsigned count, uint64_t len, bool extended)
{
	unsigned char *out = (unsigned char *)extents;
	uint32_t run_flags = 0;
	uint64_t run = 0;
	unsigned i, n = 0;

	_Static_assert(sizeof(struct nbd_extent) >= NBD_EXT_DESCRIPTOR_SIZE, "encoded in place");
	for (i = 0; i < count && len; i++) {
		/* Read before anything is written: at most i descriptors are out by now. */
		uint64_t part = MIN(extents[i].len, len);
		uint32_t flags = extents[i].flags;

		if (!part)
			continue;
		len -= part;
		if (run && flags != run_flags) {
			out += nbd_put_descriptor(out, extended, run, run_flags);
			n++;
			run = 0;
		}
		run += part;
		run_flags = flags;
	}
	if (!run)
		return n;
	nbd_put_descriptor(out, extended, run, run_flags);
	return n + 1;
}
