#include "files/worker/journal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "files/files.h"

/* Block types; all fields are big-endian (Linux, Documentation/filesystems/ext4/journal.rst). */
enum { DESCRIPTOR = 1, COMMIT = 2, SUPER_V1 = 3, SUPER_V2 = 4, REVOKE = 5 };

enum {
	INCOMPAT_REVOKE = 0x1,
	INCOMPAT_64BIT = 0x2,
	INCOMPAT_CSUM_V2 = 0x8,
	INCOMPAT_CSUM_V3 = 0x10,
	INCOMPAT_KNOWN = 0x1b,
};

enum { TAG_ESCAPED = 1, TAG_SAME_UUID = 2, TAG_LAST = 8 };

#define HEADER	    12U
#define ENTRIES_MAX (1U << 20)

/* One block of the file system that was committed, or one revocation; later ones count. */
struct entry {
	uint64_t block;
	uint64_t at; /* block of the file system the content lies in; 0: none yet */
	uint32_t revoked_tid;
	bool revoked, escaped, used;
};

struct journal {
	ext2_filsys fs;
	struct err *err;
	struct ext2_inode inode;
	unsigned char *buf, *data; /* a block each, while loading */
	uint32_t size, first, start, sequence, incompat, seed;
	struct entry *table; /* open addressing */
	uint32_t mask, count;
};

/* --- the table ------------------------------------------------------------------------------ */

static struct entry *slot(const struct journal *j, uint64_t block)
{
	uint64_t h = block * 0x9e3779b97f4a7c15ULL;
	uint32_t i = (uint32_t)(h >> 32) & j->mask;

	while (j->table[i].used && j->table[i].block != block)
		i = (i + 1) & j->mask;
	return &j->table[i];
}

static int grow(struct journal *j)
{
	struct entry *old = j->table;
	uint32_t n = old ? j->mask + 1 : 0, i;

	j->table = calloc(n ? 2UL * n : 1024, sizeof(*j->table));
	if (!j->table) {
		j->table = old;
		return err_set(j->err, -ENOMEM, "no memory for the journal of the file system");
	}
	j->mask = n ? 2 * n - 1 : 1023;
	for (i = 0; i < n; i++)
		if (old[i].used)
			*slot(j, old[i].block) = old[i];
	free(old);
	return 0;
}

static int damaged(struct journal *j, const char *what)
{
	return err_set(j->err, FILES_E_DAMAGED, "the journal of the file system is damaged: %s",
		       what);
}

static int get_slot(struct journal *j, uint64_t block, struct entry **out)
{
	int r = !j->table || j->count > j->mask / 2 ? grow(j) : 0;

	if (r)
		return r;
	*out = slot(j, block);
	if ((*out)->used)
		return 0;
	if (j->count == ENTRIES_MAX)
		return damaged(j, "it holds more than a journal can");
	**out = (struct entry){.block = block, .used = true};
	j->count++;
	return 0;
}

bool journal_find(const struct journal *j, uint64_t block, uint64_t *at, bool *escaped)
{
	const struct entry *e = slot(j, block);

	if (!e->used || !e->at)
		return false;
	*at = e->at;
	*escaped = e->escaped;
	return true;
}

/* --- blocks of the journal ------------------------------------------------------------------ */

static int place_of(struct journal *j, uint32_t n, uint64_t *at)
{
	blk64_t phys = 0;

	if (ext2fs_bmap2(j->fs, j->fs->super->s_journal_inum, &j->inode, NULL, 0, n, NULL, &phys) ||
	    !phys)
		return damaged(j, "a block of it is not there");
	*at = phys;
	return 0;
}

static int read_block(struct journal *j, uint32_t n, unsigned char *buf)
{
	uint64_t at;
	int r = place_of(j, n, &at);

	if (!r && io_channel_read_blk64(j->fs->io, at, 1, buf))
		r = damaged(j, "a block of it cannot be read");
	return r;
}

static uint32_t after(const struct journal *j, uint32_t n)
{
	return n + 1 < j->size ? n + 1 : j->first;
}

static bool has_sums(const struct journal *j)
{
	return j->incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3);
}

/* Descriptors and revocations end in their checksum; it counts as zero in itself. */
static bool tail_matches(struct journal *j, unsigned char *buf)
{
	unsigned char *tail = buf + j->fs->blocksize - 4;
	uint32_t stored = load_be32(tail), sum;

	if (!has_sums(j))
		return true;
	store_be32(tail, 0);
	sum = ext2fs_crc32c_le(j->seed, buf, j->fs->blocksize);
	store_be32(tail, stored);
	return sum == stored;
}

/* A commit's is in its header. */
static bool commit_matches(struct journal *j, unsigned char *buf)
{
	uint32_t stored = load_be32(buf + 16), sum;

	if (!has_sums(j))
		return true;
	store_be32(buf + 16, 0);
	sum = ext2fs_crc32c_le(j->seed, buf, j->fs->blocksize);
	store_be32(buf + 16, stored);
	return sum == stored;
}

/* --- a descriptor's tags -------------------------------------------------------------------- */

struct tag {
	uint64_t block;
	uint32_t flags, sum;
};

static uint32_t tag_size(const struct journal *j)
{
	if (j->incompat & INCOMPAT_CSUM_V3)
		return 16;
	return 8 + (j->incompat & INCOMPAT_CSUM_V2 ? 2 : 0) +
	       (j->incompat & INCOMPAT_64BIT ? 4 : 0);
}

static struct tag parse_tag(const struct journal *j, const unsigned char *p)
{
	struct tag t = {.block = load_be32(p)};

	if (j->incompat & INCOMPAT_CSUM_V3) {
		t.flags = load_be32(p + 4);
		t.sum = load_be32(p + 12);
	} else {
		t.sum = load_be16(p + 4);
		t.flags = load_be16(p + 6);
	}
	if (j->incompat & INCOMPAT_64BIT)
		t.block |= (uint64_t)load_be32(p + 8) << 32;
	return t;
}

static int check_data(struct journal *j, const struct tag *t, uint32_t n, uint32_t tid)
{
	unsigned char seq[4];
	uint32_t sum;
	int r;

	if (!has_sums(j))
		return 0;
	r = read_block(j, n, j->data);
	if (r)
		return r;
	store_be32(seq, tid);
	sum = ext2fs_crc32c_le(j->seed, seq, sizeof(seq));
	sum = ext2fs_crc32c_le(sum, j->data, j->fs->blocksize);
	if (!(j->incompat & INCOMPAT_CSUM_V3))
		sum &= 0xffff;
	return sum == t->sum ? 0 : damaged(j, "the checksum of a block in it is wrong");
}

static int take(struct journal *j, const struct tag *t, uint32_t n, uint32_t tid)
{
	struct entry *e;
	uint64_t at;
	int r;

	if (t->block >= ext2fs_blocks_count(j->fs->super))
		return damaged(j, "it holds a block from outside the file system");
	if ((r = check_data(j, t, n, tid)) || (r = place_of(j, n, &at)) ||
	    (r = get_slot(j, t->block, &e)))
		return r;
	if (e->revoked && (int32_t)(e->revoked_tid - tid) >= 0)
		return 0;
	e->at = at;
	e->escaped = t->flags & TAG_ESCAPED;
	return 0;
}

/* The tags of the descriptor in j->buf; the blocks they are about follow it from *@n on, which is
 * moved behind them. With @use they are taken, else only counted. */
static int walk_tags(struct journal *j, uint32_t *n, uint32_t tid, bool use)
{
	uint32_t end = j->fs->blocksize - (has_sums(j) ? 4 : 0), at = HEADER, size = tag_size(j);
	struct tag t = {0};
	int r = 0;

	while (!r && !(t.flags & TAG_LAST) && at + size <= end) {
		t = parse_tag(j, j->buf + at);
		at += size + (t.flags & TAG_SAME_UUID ? 0 : 16);
		if (use)
			r = take(j, &t, *n, tid);
		*n = after(j, *n);
	}
	return r;
}

static int take_revocations(struct journal *j, uint32_t tid)
{
	uint32_t used = load_be32(j->buf + HEADER), size = j->incompat & INCOMPAT_64BIT ? 8 : 4, at;
	struct entry *e;
	int r = 0;

	if (used > j->fs->blocksize - (has_sums(j) ? 4 : 0))
		return damaged(j, "a list in it is too long");
	for (at = HEADER + 4; !r && at + size <= used; at += size) {
		r = get_slot(j, size == 8 ? load_be64(j->buf + at) : load_be32(j->buf + at), &e);
		if (!r) {
			e->revoked = true;
			e->revoked_tid = tid;
		}
	}
	return r;
}

/* --- passes --------------------------------------------------------------------------------- */

enum pass { SCAN, REVOCATIONS, CONTENTS };

/* From the first transaction to @end; SCAN finds the end, which is behind the last commit. */
static int walk(struct journal *j, enum pass pass, uint32_t *end)
{
	uint32_t n = j->start, tid = j->sequence, steps = 0;
	int r = 0;

	while (!r && (pass == SCAN || tid != *end) && steps++ < j->size) {
		r = read_block(j, n, j->buf);
		if (r || load_be32(j->buf) != JOURNAL_MAGIC || load_be32(j->buf + 8) != tid)
			break;
		n = after(j, n);
		switch (load_be32(j->buf + 4)) {
		case DESCRIPTOR:
			if (!tail_matches(j, j->buf))
				goto over;
			r = walk_tags(j, &n, tid, pass == CONTENTS);
			break;
		case COMMIT:
			if (!commit_matches(j, j->buf))
				goto over;
			tid++;
			break;
		case REVOKE:
			if (!tail_matches(j, j->buf))
				goto over;
			if (pass == REVOCATIONS)
				r = take_revocations(j, tid);
			break;
		default:
			goto over;
		}
	}
over:
	if (pass == SCAN)
		*end = tid;
	return r;
}

static int read_super(struct journal *j)
{
	const unsigned char *s = j->buf;
	uint32_t type;
	int r = read_block(j, 0, j->buf);

	if (r)
		return r;
	type = load_be32(s + 4);
	if (load_be32(s) != JOURNAL_MAGIC || (type != SUPER_V1 && type != SUPER_V2))
		return damaged(j, "it does not begin like one");
	j->size = load_be32(s + 16);
	j->first = load_be32(s + 20);
	j->sequence = load_be32(s + 24);
	j->start = load_be32(s + 28);
	j->incompat = type == SUPER_V2 ? load_be32(s + 40) : 0;
	if (load_be32(s + 12) != j->fs->blocksize || !j->first || j->first >= j->size ||
	    j->start >= j->size || j->size > EXT2_I_SIZE(&j->inode) / j->fs->blocksize)
		return damaged(j, "its sizes make no sense");
	if (j->incompat & ~(uint32_t)INCOMPAT_KNOWN)
		return err_set(j->err, FILES_E_UNSUPPORTED,
			       "the journal of the file system uses features this reader does not "
			       "know (0x%x)",
			       j->incompat & ~(uint32_t)INCOMPAT_KNOWN);
	j->seed = ext2fs_crc32c_le(~0U, s + 48, 16);
	return 0;
}

static int load_all(struct journal *j)
{
	uint32_t end;
	int r;

	if (!j->fs->super->s_journal_inum)
		return err_set(j->err, FILES_E_UNSUPPORTED,
			       "the journal of the file system lies on another disk");
	if (ext2fs_read_inode(j->fs, j->fs->super->s_journal_inum, &j->inode))
		return damaged(j, "its inode cannot be read");
	r = read_super(j);
	if (r || !j->start)
		return r;
	if ((r = walk(j, SCAN, &end)) || (r = walk(j, REVOCATIONS, &end)))
		return r;
	return walk(j, CONTENTS, &end);
}

int journal_load(struct journal **out, ext2_filsys fs, struct err *err)
{
	struct journal *j = calloc(1, sizeof(*j));
	int r;

	*out = NULL;
	if (!j || !(j->buf = malloc(fs->blocksize)) || !(j->data = malloc(fs->blocksize))) {
		journal_free(j);
		return err_set(err, -ENOMEM, "no memory for the journal of the file system");
	}
	j->fs = fs;
	j->err = err;
	r = load_all(j);
	if (r || !j->count) {
		journal_free(j);
		return r;
	}
	j->fs = NULL;
	j->err = NULL;
	*out = j;
	return 0;
}

void journal_free(struct journal *j)
{
	if (!j)
		return;
	free(j->table);
	free(j->buf);
	free(j->data);
	free(j);
}
