#include "nbd_script.h"

#include <string.h>

#include "base/bytes.h"
#include "kit.h"
#include "nbd/wire.h"

#define SAID_MAX   (4U << 20)
#define READS_MAX  (6U << 20) /* bytes of data asked for by composed READs */
#define PIECES_MAX 15

/* First byte of an input. Of a negotiation: bits 0 and 1 are the client's flags, bits 2 and 3 what
 * the server does about TLS; of a transmission: as follows. */
enum {
	BEGIN_MASK = 7,	      /* how it begins: enum begin */
	BEGIN_FIXED = 1 << 3, /* on the read-only disk */
	BAD = 1 << 4,	      /* the bad bytes are errors */
	HANG_UP = 1 << 5,
	AS_IT_IS = 1 << 6,
	NO_FLAGS = 1 << 7, /* a negotiation begins without the client's flags */
};

enum begin {
	BEGIN_EXPORT_NAME,
	BEGIN_GO,
	BEGIN_STRUCTURED,
	BEGIN_META,
	BEGIN_EXTENDED,
	BEGIN_EXTENDED_META,
	BEGIN_KINDS,
};

static unsigned char said[SAID_MAX];
static size_t said_len;
static size_t reads; /* bytes */
static uint64_t cookie;
static bool extended; /* the shape of composed requests */

/* --- saying ----------------------------------------------------------------------------------- */

static unsigned char *room(size_t len)
{
	if (len > SAID_MAX - said_len)
		return NULL;
	said_len += len;
	return said + said_len - len;
}

static void say(const void *p, size_t len)
{
	unsigned char *to = room(len);

	if (to)
		memcpy(to, p, len);
}

static void say_input(struct kit_input *in, size_t max)
{
	size_t len;
	const uint8_t *p = kit_take_bytes(in, max, &len);

	say(p, len);
}

static void say_number(uint64_t v, unsigned bytes)
{
	unsigned char b[8];

	store_be64(b, v);
	say(b + 8 - bytes, bytes);
}

/* Bytes that differ from place to place, and by seed. */
static void say_fill(size_t len, unsigned char seed)
{
	static unsigned char pattern[65536 + 256];
	size_t i;

	for (i = 0; !pattern[0] && i < sizeof(pattern); i++)
		pattern[sizeof(pattern) - 1 - i] = i * 2654435761U >> 9 | 1;
	for (; len > 65536; len -= 65536)
		say(pattern + seed, 65536);
	say(pattern + seed, len);
}

/* --- options ---------------------------------------------------------------------------------- */

static void say_option(uint32_t code, uint32_t len)
{
	say_number(NBD_OPTION_MAGIC, 8);
	say_number(code, 4);
	say_number(len, 4);
}

/* The data that was said since @from is that of the option whose header ends there. */
static void end_option(size_t from)
{
	if (from >= 4 && said_len >= from)
		store_be32(said + from - 4, said_len - from);
}

static void say_name(unsigned which)
{
	static const char *const names[] = {"disk", "fixed", "", "nope", "disk0", "Disk"};
	size_t len;

	which %= ARRAY_SIZE(names) + 2;
	if (which < ARRAY_SIZE(names)) {
		len = strlen(names[which]);
		say_number(len, 4);
		say(names[which], len);
	} else {
		len = which == ARRAY_SIZE(names) ? 256 : 5000;
		say_number(len, 4);
		say_fill(len, 'a');
	}
}

static void info_command(struct kit_input *in)
{
	unsigned which = kit_take(in, 1), infos = kit_take(in, 1) % 9;
	size_t from;

	say_option(which & 0x80 ? NBD_OPT_GO : NBD_OPT_INFO, 0);
	from = said_len;
	say_name(which & 0x7f);
	say_number(infos, 2);
	while (infos--)
		say_number(kit_take(in, 1), 2);
	end_option(from);
}

static void meta_command(struct kit_input *in)
{
	static const char *const queries[] = {
		"base:allocation",   "base:",	  "",		"base:allocatio",
		"sendense:received", "sendense:", "qemu:dirty", ":"};
	unsigned which = kit_take(in, 1), count = kit_take(in, 1) % 5;
	size_t from;

	say_option(which & 0x80 ? NBD_OPT_SET_META_CONTEXT : NBD_OPT_LIST_META_CONTEXT, 0);
	from = said_len;
	say_name(which & 0x7f);
	say_number(count, 4);
	while (count--) {
		const char *query = queries[kit_take(in, 1) % ARRAY_SIZE(queries)];

		say_number(strlen(query), 4);
		say(query, strlen(query));
	}
	end_option(from);
}

/* The code and the data are the input's, the length is true. */
static void option_command(struct kit_input *in)
{
	uint32_t code = kit_take(in, 1);
	size_t from;

	say_option(code, 0);
	from = said_len;
	say_input(in, kit_take(in, 1));
	end_option(from);
}

static void lying_option_command(struct kit_input *in)
{
	uint32_t code = kit_take(in, 1);

	say_option(code, kit_take(in, 4));
	say_input(in, kit_take(in, 1));
}

static void long_option_command(struct kit_input *in)
{
	uint32_t code = kit_take(in, 1), len = kit_take(in, 2) * 32;

	say_option(code, len);
	say_fill(len, code);
}

/* --- requests --------------------------------------------------------------------------------- */

static void say_request(uint16_t flags, uint16_t type, uint64_t off, uint64_t len)
{
	say_number(extended ? NBD_EXT_REQUEST_MAGIC : NBD_REQUEST_MAGIC, 4);
	say_number(flags, 2);
	say_number(type, 2);
	say_number(++cookie * 0x100000001ULL, 8);
	say_number(off, 8);
	say_number(len, extended ? 8 : 4);
}

/* What a WRITE of the shape in use cannot do without. */
static uint16_t own_flags(uint16_t type)
{
	return extended && type == NBD_CMD_WRITE ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;
}

/* A request that is about the disk, or reaches a little beyond, and all of its payload. */
static void request_command(struct kit_input *in)
{
	uint16_t type = kit_take(in, 1) % 10, flags = kit_take(in, 1) ^ own_flags(type);
	uint64_t off = kit_take(in, 3) % (RIG_SIZE + 600);
	unsigned shift = kit_take(in, 1) % 8;
	uint32_t len = kit_take(in, 2) << shift;

	if (type == NBD_CMD_READ) {
		if (reads + len > READS_MAX)
			len &= 0xff;
		reads += len;
	}
	if (type == NBD_CMD_WRITE && len > SAID_MAX / 2 - MIN(said_len, SAID_MAX / 2))
		len &= 0xff;
	say_request(flags, type, off, len);
	if (type == NBD_CMD_WRITE)
		say_fill(len, cookie);
}

/* One whose numbers are all the input's; its payload is not longer than 64 KiB. */
static void exact_command(struct kit_input *in)
{
	uint16_t flags = kit_take(in, 2), type = kit_take(in, 2);
	uint64_t off = kit_take(in, 8), len = kit_take(in, extended ? 8 : 4);

	if (type == NBD_CMD_READ)
		reads += MIN(len, RIG_SIZE);
	if (reads > READS_MAX)
		return;
	say_request(flags, type, off, len);
	if (type == NBD_CMD_WRITE || (extended && flags & NBD_CMD_FLAG_PAYLOAD_LEN))
		say_fill(MIN(len, 65536), cookie);
}

/* A BLOCK_STATUS that says in its payload what it is about. */
static void status_command(struct kit_input *in)
{
	uint16_t flags = NBD_CMD_FLAG_PAYLOAD_LEN | kit_take(in, 1);
	uint64_t off = kit_take(in, 3) % RIG_SIZE;
	unsigned ids = kit_take(in, 1) % 5;
	uint64_t len = kit_take(in, 3);

	say_request(flags, NBD_CMD_BLOCK_STATUS, off, 8 + 4 * ids);
	say_number(len, 8);
	while (ids--)
		say_number(kit_take(in, 1), 4);
}

/* The same small request many times over. */
static void many_command(struct kit_input *in)
{
	unsigned times = kit_take(in, 1) * 2;
	uint16_t type = kit_take(in, 1) % 8, flags = kit_take(in, 1) ^ own_flags(type);
	uint64_t off = kit_take(in, 3) % RIG_SIZE;
	uint32_t len = kit_take(in, 1) * 8;

	while (times--) {
		say_request(flags, type, off, len);
		if (type == NBD_CMD_WRITE)
			say_fill(len, cookie);
		off = (off + len * 3) % RIG_SIZE;
	}
}

/* Composed requests have the other shape from here on: right after EXTENDED_HEADERS, wrong without.
 */
static void shape_command(struct kit_input *in)
{
	(void)in;
	extended = !extended;
}

static void raw_command(struct kit_input *in)
{
	say_input(in, kit_take(in, 1) + 1);
}

/* --- the whole -------------------------------------------------------------------------------- */

static void begin_transmission(unsigned begin, const char *name)
{
	static const char *const contexts[] = {"base:allocation", "sendense:received"};
	unsigned i;
	size_t from;

	say_number(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES, 4);
	if (begin == BEGIN_EXPORT_NAME) {
		say_option(NBD_OPT_EXPORT_NAME, strlen(name));
		say(name, strlen(name));
		return;
	}
	extended = begin >= BEGIN_EXTENDED;
	if (begin >= BEGIN_STRUCTURED)
		say_option(extended ? NBD_OPT_EXTENDED_HEADERS : NBD_OPT_STRUCTURED_REPLY, 0);
	if (begin == BEGIN_META || begin == BEGIN_EXTENDED_META) {
		say_option(NBD_OPT_SET_META_CONTEXT, 0);
		from = said_len;
		say_number(strlen(name), 4);
		say(name, strlen(name));
		say_number(ARRAY_SIZE(contexts), 4);
		for (i = 0; i < ARRAY_SIZE(contexts); i++) {
			say_number(strlen(contexts[i]), 4);
			say(contexts[i], strlen(contexts[i]));
		}
		end_option(from);
	}
	say_option(NBD_OPT_GO, 0);
	from = said_len;
	say_number(strlen(name), 4);
	say(name, strlen(name));
	say_number(0, 2);
	end_option(from);
}

static void take_manners(struct rig_manners *m, unsigned how, unsigned byte)
{
	static const unsigned bites[] = {0, 5, 100, 512, 4095, 4096, 30000, 65536};
	static const unsigned delays[] = {0, 1, 5, 50};

	*m = (struct rig_manners){
		.bite = bites[byte & 7],
		.eagain_every = byte >> 3 & 7,
		.delay = delays[byte >> 6],
		.bad = how & BAD,
	};
	/* One that always says "later" is never done. */
	if (m->eagain_every == 1)
		m->eagain_every = 2;
}

void script_compose(struct rig_session *session, const uint8_t *data, size_t size,
		    bool transmission)
{
	static void (*const commands[])(struct kit_input *) = {
		raw_command,	info_command,	      meta_command,	   request_command,
		option_command, lying_option_command, long_option_command, exact_command,
		many_command,	shape_command,	      status_command,
	};
	struct kit_input in = {data, data + size};
	unsigned how = kit_take(&in, 1), pieces;

	memset(session, 0, sizeof(*session));
	said_len = reads = cookie = 0;
	extended = false;
	take_manners(&session->manners, how, kit_take(&in, 1));
	session->hang_up = how & HANG_UP;
	pieces = kit_take(&in, 1) & PIECES_MAX;
	session->pieces = kit_take_bytes(&in, pieces, &session->pieces_len);
	if (transmission)
		begin_transmission((how & BEGIN_MASK) % BEGIN_KINDS,
				   how & BEGIN_FIXED ? "fixed" : "disk");
	else if (!(how & (NO_FLAGS | AS_IT_IS)))
		say_number(how & 3, 4);
	if (!transmission)
		session->tls = (how >> 2 & 3) % 3;
	if (how & AS_IT_IS)
		say_input(&in, size);
	while (in.p < in.end)
		commands[kit_take(&in, 1) % ARRAY_SIZE(commands)](&in);
	session->said = said;
	session->said_len = said_len;
}
