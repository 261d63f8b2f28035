#include "files/worker/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "files/worker/probe.h"
#include "files/worker/utf16.h"

#define MBR_SECTOR	512U
#define MBR_ENTRIES	446U
#define MBR_ENTRY_SIZE	16U
#define LOGICAL_MAX	250U /* links of the chain of logical partitions that are followed */
#define GPT_HEADER_MIN	92U
#define GPT_ENTRIES_MAX (1U << 20) /* bytes of the array of entries that are read */

static uint32_t le32(const unsigned char *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static uint64_t le64(const unsigned char *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

/* In sectors of @sector bytes. What does not lie on the disk is not a partition. */
static struct proto_partition *add(struct table *t, struct disk *d, unsigned number, uint64_t first,
				   uint64_t sectors, uint32_t sector)
{
	struct proto_partition *p = &t->parts[t->count];

	if (t->count == FILES_PARTITIONS_MAX || !sectors || first > UINT64_MAX / sector ||
	    sectors > UINT64_MAX / sector ||
	    !range_inside(first * sector, sectors * sector, disk_size(d)))
		return NULL;
	memset(p, 0, sizeof(*p));
	p->number = number;
	p->off = first * sector;
	p->size = sectors * sector;
	t->count++;
	return p;
}

/* --- GPT ------------------------------------------------------------------------------------ */

static bool gpt_header(const unsigned char *h, uint32_t sector, uint64_t lba)
{
	unsigned char copy[4096];
	uint32_t size = le32(h + 12);

	if (memcmp(h, "EFI PART", 8) || size < GPT_HEADER_MIN || size > sector ||
	    le64(h + 24) != lba)
		return false;
	memcpy(copy, h, size);
	memset(copy + 16, 0, 4);
	return crc32(0, copy, size) == le32(h + 16);
}

static const unsigned char no_type[16];

static void gpt_entry(struct table *t, struct disk *d, unsigned number, const unsigned char *e,
		      uint32_t sector)
{
	uint64_t first = le64(e + 32), last = le64(e + 40);
	struct proto_partition *p;

	if (!memcmp(e, no_type, sizeof(no_type)) || last < first || last == UINT64_MAX)
		return;
	p = add(t, d, number, first, last - first + 1, sector);
	if (p)
		utf16_to_utf8(p->label, sizeof(p->label), e + 56, 36);
}

/* The table whose header is sector @lba. False: there is none, or it is damaged. */
static bool gpt(struct table *t, struct disk *d, uint64_t lba, uint32_t sector)
{
	_cleanup_(freep) unsigned char *entries = NULL;
	unsigned char h[4096];
	uint32_t count, size, i;

	if (disk_read(d, lba * sector, h, sector) || !gpt_header(h, sector, lba))
		return false;
	count = le32(h + 80);
	size = le32(h + 84);
	if (size < 128 || size > 4096 || size % 128 || !count || count > GPT_ENTRIES_MAX / size ||
	    le64(h + 72) > disk_size(d) / sector)
		return false;
	entries = malloc((size_t)count * size);
	if (!entries || disk_read(d, le64(h + 72) * sector, entries, (size_t)count * size) ||
	    crc32(0, entries, count * size) != le32(h + 88))
		return false;
	strcpy(t->kind, "gpt");
	for (i = 0; i < count; i++)
		gpt_entry(t, d, i + 1, entries + (size_t)i * size, sector);
	return true;
}

static bool gpt_front(struct table *t, struct disk *d)
{
	return gpt(t, d, 1, 512) || gpt(t, d, 1, 4096);
}

static bool gpt_back(struct table *t, struct disk *d)
{
	return disk_size(d) >= 8192 &&
	       (gpt(t, d, disk_size(d) / 512 - 1, 512) || gpt(t, d, disk_size(d) / 4096 - 1, 4096));
}

/* --- MBR ------------------------------------------------------------------------------------ */

static bool mbr_signed(const unsigned char *s)
{
	return s[510] == 0x55 && s[511] == 0xaa;
}

static bool is_extended(unsigned char type)
{
	return type == 0x05 || type == 0x0f || type == 0x85;
}

/* What Linux takes from a sector of the chain: of its two first entries, what is no link is a
 * logical partition, relative to the sector; it has its number even where it does not lie on the
 * disk. */
static void logical_here(struct table *t, struct disk *d, uint64_t sector, const unsigned char *e,
			 unsigned *number)
{
	unsigned i;

	for (i = 0; i < 2; i++, e += MBR_ENTRY_SIZE)
		if (!is_extended(e[4]) && le32(e + 12))
			add(t, d, (*number)++, sector + le32(e + 8), le32(e + 12), MBR_SECTOR);
}

/* The chain's next link, relative to the extended partition. */
static bool next_link(const unsigned char *e, uint64_t *link)
{
	unsigned i;

	for (i = 0; i < 2; i++, e += MBR_ENTRY_SIZE)
		if (is_extended(e[4]) && le32(e + 12)) {
			*link = le32(e + 8);
			return true;
		}
	return false;
}

static bool among(const uint64_t *links, unsigned n, uint64_t link)
{
	while (n--)
		if (links[n] == link)
			return true;
	return false;
}

/* The chain need not be in the order of the disk: a partition made in a gap is its last. */
static void logical(struct table *t, struct disk *d, uint64_t base, uint64_t sectors,
		    unsigned *number)
{
	uint64_t seen[LOGICAL_MAX], link = 0;
	unsigned char s[MBR_SECTOR];
	unsigned n;

	for (n = 0; n < LOGICAL_MAX && link < sectors && !among(seen, n, link); n++) {
		seen[n] = link;
		if (disk_read(d, (base + link) * MBR_SECTOR, s, sizeof(s)) || !mbr_signed(s))
			return;
		logical_here(t, d, base + link, s + MBR_ENTRIES, number);
		if (!next_link(s + MBR_ENTRIES, &link))
			return;
	}
}

static bool mbr(struct table *t, struct disk *d, const unsigned char *s)
{
	const unsigned char *e = s + MBR_ENTRIES;
	unsigned i, number = 5;

	if (!mbr_signed(s))
		return false;
	for (i = 0; i < 4; i++)
		if (e[i * MBR_ENTRY_SIZE] & 0x7f)
			return false;
	for (i = 0; i < 4; i++, e += MBR_ENTRY_SIZE)
		if (e[4] && !is_extended(e[4]))
			add(t, d, i + 1, le32(e + 8), le32(e + 12), MBR_SECTOR);
	for (i = 0, e = s + MBR_ENTRIES; i < 4; i++, e += MBR_ENTRY_SIZE)
		if (is_extended(e[4]))
			logical(t, d, le32(e + 8), le32(e + 12), &number);
	strcpy(t->kind, "mbr");
	return t->count;
}

static bool is_protective(const unsigned char *s)
{
	return mbr_signed(s) && s[MBR_ENTRIES + 4] == 0xee;
}

/* --- the disk ------------------------------------------------------------------------------- */

static bool holds_known(const struct table *t, struct disk *d)
{
	unsigned i;

	for (i = 0; i < t->count; i++)
		if (probe_known(d, t->parts[i].off, t->parts[i].size))
			return true;
	return false;
}

/* A file system over the whole disk may leave what was a table before it, and a table what was a
 * file system: then the table is right if something is in its partitions. */
int table_read(struct disk *d, struct table *t)
{
	unsigned char s[MBR_SECTOR];
	int r;

	memset(t, 0, sizeof(*t));
	if (disk_size(d) >= sizeof(s)) {
		r = disk_read(d, 0, s, sizeof(s));
		if (r)
			return r;
		if (gpt_front(t, d) || (is_protective(s) && gpt_back(t, d)))
			return 0;
		if (mbr(t, d, s) && (!probe_known(d, 0, disk_size(d)) || holds_known(t, d)))
			return 0;
	}
	strcpy(t->kind, "none");
	t->count = 0;
	add(t, d, 1, 0, disk_size(d), 1);
	return 0;
}
