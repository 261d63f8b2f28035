/*
 * ext2, ext3 and ext4 by libext2fs, which reads through an io_manager of our own. Nothing is ever
 * written: the manager has no way to.
 */
#include "files/worker/fs.h"

#include <errno.h>
#include <ext2fs/ext2fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "files/worker/journal.h"

struct fs {
	ext2_filsys ext;
	struct journal *journal; /* what is newer there; NULL: nothing */
};

struct fs_file {
	ext2_file_t ext;
};

/* --- the io_manager ------------------------------------------------------------------------- */

struct window {
	struct disk *disk;
	uint64_t off, size; /* of the partition */
	const struct journal *journal;
	uint32_t block_size; /* of the file system, where there is a journal */
};

/* ext2fs_open2() passes a name alone. One thread. */
static struct window opening;

static struct struct_io_manager manager;

static errcode_t io_open(const char *name, int flags, io_channel *out)
{
	io_channel ch = calloc(1, sizeof(*ch));
	struct window *w = malloc(sizeof(*w));
	char *copy = strdup(name);

	(void)flags;
	if (!ch || !w || !copy) {
		free(ch);
		free(w);
		free(copy);
		return ENOMEM;
	}
	*w = opening;
	ch->magic = EXT2_ET_MAGIC_IO_CHANNEL;
	ch->manager = &manager;
	ch->name = copy;
	ch->private_data = w;
	ch->block_size = 1024;
	ch->refcount = 1;
	*out = ch;
	return 0;
}

static errcode_t io_close(io_channel ch)
{
	if (--ch->refcount > 0)
		return 0;
	free(ch->private_data);
	free(ch->name);
	free(ch);
	return 0;
}

static errcode_t io_set_blksize(io_channel ch, int size)
{
	ch->block_size = size;
	return 0;
}

/* Block by block: each from the journal, or from its place. */
static int read_newest(const struct window *w, uint64_t off, unsigned char *buf, uint64_t len)
{
	unsigned char magic[4];
	uint64_t at, from, n, i;
	bool escaped;
	int r = 0;

	store_be32(magic, JOURNAL_MAGIC);
	for (; !r && len; off += n, buf += n, len -= n) {
		from = off % w->block_size;
		n = MIN(len, w->block_size - from);
		if (!journal_find(w->journal, off / w->block_size, &at, &escaped)) {
			r = disk_read(w->disk, w->off + off, buf, n);
			continue;
		}
		at = at * w->block_size + from;
		r = range_inside(at, n, w->size) ? disk_read(w->disk, w->off + at, buf, n) : -EIO;
		for (i = from; escaped && i < sizeof(magic) && i < from + n; i++)
			buf[i - from] = magic[i];
	}
	return r;
}

/* A negative @count is one of bytes. */
static errcode_t io_read(io_channel ch, unsigned long long block, int count, void *buf)
{
	const struct window *w = ch->private_data;
	uint64_t len =
		count < 0 ? -(uint64_t)(int64_t)count : (uint64_t)count * (unsigned)ch->block_size;
	uint64_t off;

	if (__builtin_mul_overflow(block, (unsigned)ch->block_size, &off) ||
	    !range_inside(off, len, w->size))
		return EXT2_ET_SHORT_READ;
	return (w->journal ? read_newest(w, off, buf, len)
			   : disk_read(w->disk, w->off + off, buf, len))
		       ? EIO
		       : 0;
}

static errcode_t io_read32(io_channel ch, unsigned long block, int count, void *buf)
{
	return io_read(ch, block, count, buf);
}

static errcode_t io_write(io_channel ch, unsigned long long block, int count, const void *buf)
{
	(void)ch, (void)block, (void)count, (void)buf;
	return EROFS;
}

static errcode_t io_write32(io_channel ch, unsigned long block, int count, const void *buf)
{
	return io_write(ch, block, count, buf);
}

static errcode_t io_flush(io_channel ch)
{
	(void)ch;
	return 0;
}

static struct struct_io_manager manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER,
	.name = "sendense",
	.open = io_open,
	.close = io_close,
	.set_blksize = io_set_blksize,
	.read_blk = io_read32,
	.write_blk = io_write32,
	.flush = io_flush,
	.read_blk64 = io_read,
	.write_blk64 = io_write,
};

/* --- errors --------------------------------------------------------------------------------- */

static int ext_error(struct err *err, errcode_t e, const char *what)
{
	if (e == ENOMEM || e == EXT2_ET_NO_MEMORY)
		return err_set(err, -ENOMEM, "%s: it takes more memory than the reader may have",
			       what);
	if (e == EXT2_ET_UNSUPP_FEATURE || e == EXT2_ET_RO_UNSUPP_FEATURE)
		return err_set(err, FILES_E_UNSUPPORTED,
			       "%s: the file system uses features this reader does not know", what);
	return err_set(err, FILES_E_DAMAGED, "%s: the file system is damaged (libext2fs error %ld)",
		       what, (long)e);
}

/* --- opening -------------------------------------------------------------------------------- */

static int open_once(struct fs *fs, struct disk *disk, const struct proto_partition *part,
		     uint32_t block_size, struct err *err)
{
	errcode_t e;

	opening = (struct window){disk, part->off, part->size, fs->journal, block_size};
	e = ext2fs_open2("partition", NULL, EXT2_FLAG_64BITS, 0, 0, &manager, &fs->ext);
	if (!e)
		return 0;
	fs->ext = NULL;
	return ext_error(err, e, "the file system cannot be opened");
}

/* Who was running has its newest changes in the journal: the file system is opened a second time,
 * as it reads with them. */
static int open_with_journal(struct fs *fs, struct disk *disk, const struct proto_partition *part,
			     struct err *err)
{
	uint32_t block_size;
	int r = open_once(fs, disk, part, 0, err);

	if (r || !ext2fs_has_feature_journal_needs_recovery(fs->ext->super))
		return r;
	block_size = fs->ext->blocksize;
	r = journal_load(&fs->journal, fs->ext, err);
	if (r || !fs->journal)
		return r;
	ext2fs_close(fs->ext);
	return open_once(fs, disk, part, block_size, err);
}

static int ext_open(struct fs **out, struct disk *disk, const struct proto_partition *part,
		    struct err *err)
{
	struct fs *fs = calloc(1, sizeof(*fs));
	int r;

	if (!fs)
		return err_set(err, -ENOMEM, "no memory to open the file system");
	r = open_with_journal(fs, disk, part, err);
	if (!r) {
		*out = fs;
		return 0;
	}
	if (fs->ext)
		ext2fs_close(fs->ext);
	journal_free(fs->journal);
	free(fs);
	return r;
}

static uint64_t ext_root(const struct fs *fs)
{
	(void)fs;
	return EXT2_ROOT_INO;
}

/* --- inodes --------------------------------------------------------------------------------- */

static int get_inode(struct fs *fs, uint64_t node, struct ext2_inode_large *inode, struct err *err)
{
	errcode_t e;

	if (!node || node > fs->ext->super->s_inodes_count)
		return err_set(err, FILES_E_DAMAGED, "a name leads to an inode that is not there");
	memset(inode, 0, sizeof(*inode));
	e = ext2fs_read_inode_full(fs->ext, (ext2_ino_t)node, (struct ext2_inode *)inode,
				   sizeof(*inode));
	return e ? ext_error(err, e, "an inode cannot be read") : 0;
}

static bool is_encrypted(const struct ext2_inode_large *inode)
{
	return inode->i_flags & EXT4_ENCRYPT_FL;
}

static uint32_t kind_of(const struct ext2_inode_large *inode)
{
	if (LINUX_S_ISDIR(inode->i_mode))
		return FILES_DIR;
	if (is_encrypted(inode))
		return FILES_OTHER;
	if (LINUX_S_ISREG(inode->i_mode))
		return FILES_FILE;
	return LINUX_S_ISLNK(inode->i_mode) ? FILES_SYMLINK : FILES_OTHER;
}

/* Two bits of the seconds and the nanoseconds are in a field of their own, where inodes have room.
 */
static void set_mtime(struct proto_entry *out, const struct ext2_inode_large *inode)
{
	uint32_t extra = inode->i_extra_isize >= 12 ? inode->i_mtime_extra : 0;

	out->mtime = (int32_t)inode->i_mtime + ((int64_t)(extra & 3) << 32);
	out->mtime_ns = MIN(extra >> 2, 999999999U);
}

static int ext_stat(struct fs *fs, uint64_t node, struct proto_entry *out, struct err *err)
{
	struct ext2_inode_large inode;
	int r = get_inode(fs, node, &inode, err);

	if (r)
		return r;
	out->kind = kind_of(&inode);
	out->size = MIN(EXT2_I_SIZE(&inode), (uint64_t)INT64_MAX);
	out->mode = inode.i_mode & 07777;
	out->uid = inode_uid(inode);
	out->gid = inode_gid(inode);
	out->id = node;
	set_mtime(out, &inode);
	return 0;
}

/* --- folders -------------------------------------------------------------------------------- */

struct walk {
	fs_each each;
	void *arg;
	int stop;
};

static int walk_entry(ext2_ino_t dir, int entry, struct ext2_dir_entry *de, int offset,
		      int blocksize, char *buf, void *arg)
{
	struct walk *w = arg;
	size_t len = (size_t)ext2fs_dirent_name_len(de);

	(void)dir, (void)entry, (void)offset, (void)blocksize, (void)buf;
	if (!de->inode || (len == 1 && de->name[0] == '.') ||
	    (len == 2 && de->name[0] == '.' && de->name[1] == '.'))
		return 0;
	w->stop = w->each(w->arg, de->name, len, de->inode);
	return w->stop ? DIRENT_ABORT : 0;
}

/* In a folder whose names are encrypted nothing can be found. */
static int readable_dir(struct fs *fs, uint64_t dir, struct err *err)
{
	struct ext2_inode_large inode;
	int r = get_inode(fs, dir, &inode, err);

	if (!r && is_encrypted(&inode))
		r = err_set(err, FILES_E_UNSUPPORTED, "this folder is encrypted");
	return r;
}

static int ext_list(struct fs *fs, uint64_t dir, fs_each each, void *arg, struct err *err)
{
	struct walk w = {.each = each, .arg = arg};
	errcode_t e;
	int r = readable_dir(fs, dir, err);

	if (r)
		return r;
	e = ext2fs_dir_iterate2(fs->ext, (ext2_ino_t)dir, 0, NULL, walk_entry, &w);
	return w.stop ? w.stop : e ? ext_error(err, e, "a folder cannot be read") : 0;
}

static int ext_lookup(struct fs *fs, uint64_t dir, const char *name, size_t len, uint64_t *node,
		      struct err *err)
{
	ext2_ino_t ino;
	errcode_t e;
	int r = readable_dir(fs, dir, err);

	if (r)
		return r;
	e = ext2fs_lookup(fs->ext, (ext2_ino_t)dir, name, (int)len, NULL, &ino);
	if (e == EXT2_ET_FILE_NOT_FOUND)
		return err_set(err, FILES_E_NOT_FOUND, "there is no such file or folder");
	if (e)
		return ext_error(err, e, "a folder cannot be read");
	*node = ino;
	return 0;
}

/* --- contents ------------------------------------------------------------------------------- */

static int ext_open_file(struct fs *fs, uint64_t node, struct fs_file **out, struct err *err)
{
	struct fs_file *f = calloc(1, sizeof(*f));
	errcode_t e;

	if (!f)
		return err_set(err, -ENOMEM, "no memory to open the file");
	e = ext2fs_file_open(fs->ext, (ext2_ino_t)node, 0, &f->ext);
	if (e) {
		free(f);
		return ext_error(err, e, "the file cannot be opened");
	}
	*out = f;
	return 0;
}

static void ext_close_file(struct fs *fs, struct fs_file *f)
{
	(void)fs;
	ext2fs_file_close(f->ext);
	free(f);
}

static int ext_read(struct fs *fs, struct fs_file *f, uint64_t off, void *buf, size_t len,
		    struct err *err)
{
	unsigned got = 0;
	errcode_t e = ext2fs_file_llseek(f->ext, off, EXT2_SEEK_SET, NULL);

	(void)fs;
	for (; !e && len; buf = (char *)buf + got, len -= got) {
		e = ext2fs_file_read(f->ext, buf, (unsigned)len, &got);
		if (!e && !got)
			e = EXT2_ET_SHORT_READ;
	}
	return e ? ext_error(err, e, "the file cannot be read") : 0;
}

static int ext_readlink(struct fs *fs, uint64_t node, char *buf, size_t *len, struct err *err)
{
	struct ext2_inode_large inode;
	struct fs_file *f;
	int r = get_inode(fs, node, &inode, err);

	if (r)
		return r;
	if (!EXT2_I_SIZE(&inode) || EXT2_I_SIZE(&inode) > *len)
		return err_set(err, FILES_E_DAMAGED, "the symbolic link's length makes no sense");
	*len = EXT2_I_SIZE(&inode);
	if (ext2fs_is_fast_symlink((struct ext2_inode *)&inode)) {
		if (*len > sizeof(inode.i_block))
			return err_set(err, FILES_E_DAMAGED,
				       "the symbolic link's length makes no sense");
		memcpy(buf, inode.i_block, *len);
		return 0;
	}
	r = ext_open_file(fs, node, &f, err);
	if (!r) {
		r = ext_read(fs, f, 0, buf, *len, err);
		ext_close_file(fs, f);
	}
	return r;
}

const struct fs_ops fs_ext = {
	.open = ext_open,
	.root = ext_root,
	.lookup = ext_lookup,
	.stat = ext_stat,
	.list = ext_list,
	.readlink = ext_readlink,
	.open_file = ext_open_file,
	.read = ext_read,
	.close_file = ext_close_file,
};
