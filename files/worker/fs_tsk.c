/*
 * NTFS, FAT and exFAT by The Sleuth Kit. It was made to find what is deleted; here only what is
 * there counts. Of NTFS: files the system keeps for itself are left out, alternate streams are not
 * shown, and a file whose contents are elsewhere (a reparse point of an unknown kind: compressed
 * by the system, deduplicated, in a cloud) or encrypted is FILES_OTHER, for its bytes would read
 * as something they are not.
 */
#include "files/worker/fs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <tsk/libtsk.h>
#undef MIN /* sys/param.h has its own */
#undef MAX

#include "base/bytes.h"
#include "base/cleanup.h"
#include "files/worker/utf16.h"

#define NTFS_SYSTEM_INODES 16 /* below it: $MFT and its like, and the root */
#define REPARSE_MAX	   (16U << 10)
#define NODE_BITS	   48 /* above them: the sequence number of an MFT entry */

struct fs {
	TSK_IMG_INFO img; /* first: TSK is given its address and casts it back */
	struct disk *disk;
	uint64_t off;
	TSK_FS_INFO *tsk;
	bool ntfs;
	TSK_FS_DIR *dir; /* the folder looked into last */
	uint64_t dir_node;
};

struct fs_file {
	TSK_FS_FILE *tsk;
};

DEFINE_CLEANUP(TSK_FS_FILE *, tsk_fs_file_close)

/* --- the image ------------------------------------------------------------------------------ */

static ssize_t img_read(TSK_IMG_INFO *img, TSK_OFF_T off, char *buf, size_t len)
{
	struct fs *fs = (struct fs *)img;
	int r = -EIO;

	if (off >= 0 && off < img->size) {
		len = MIN(len, (uint64_t)(img->size - off));
		r = disk_read(fs->disk, fs->off + (uint64_t)off, buf, len);
	}
	if (!r)
		return (ssize_t)len;
	tsk_error_reset();
	tsk_error_set_errno(TSK_ERR_IMG_READ);
	tsk_error_set_errstr("the disk cannot be read");
	return -1;
}

static void img_close(TSK_IMG_INFO *img)
{
	(void)img;
}

static void img_stat(TSK_IMG_INFO *img, FILE *out)
{
	(void)img, (void)out;
}

/* --- opening -------------------------------------------------------------------------------- */

static int tsk_failed(struct err *err, const char *what)
{
	return err_set(err, FILES_E_DAMAGED, "%s: the file system is damaged (%s)", what,
		       tsk_error_get_errstr()[0] ? tsk_error_get_errstr() : "no reason given");
}

static TSK_FS_TYPE_ENUM tsk_type(const char *type)
{
	return !strcmp(type, "ntfs")	? TSK_FS_TYPE_NTFS
	       : !strcmp(type, "exfat") ? TSK_FS_TYPE_EXFAT
					: TSK_FS_TYPE_FAT_DETECT;
}

static int fs_open(struct fs **out, struct disk *disk, const struct proto_partition *part,
		   struct err *err)
{
	struct fs *fs = calloc(1, sizeof(*fs));

	if (!fs)
		return err_set(err, -ENOMEM, "no memory to open the file system");
	fs->disk = disk;
	fs->off = part->off;
	fs->img.tag = TSK_IMG_INFO_TAG;
	fs->ntfs = !strcmp(part->type, "ntfs");
	tsk_error_reset();
	if (tsk_img_open_external(fs, (TSK_OFF_T)part->size, 512, img_read, img_close, img_stat))
		fs->tsk = tsk_fs_open_img(&fs->img, 0, tsk_type(part->type));
	if (!fs->tsk) {
		free(fs);
		return tsk_failed(err, "the file system cannot be opened");
	}
	*out = fs;
	return 0;
}

/* --- nodes ---------------------------------------------------------------------------------- */

static TSK_INUM_T inum_of(uint64_t node)
{
	return node & ((1ULL << NODE_BITS) - 1);
}

/* NTFS: an entry that was given to another file has another sequence number than its old names. */
static uint64_t node_of(const struct fs *fs, const TSK_FS_NAME *name)
{
	return fs->ntfs ? name->meta_addr | (uint64_t)(name->meta_seq & 0xffff) << NODE_BITS
			: name->meta_addr;
}

static uint64_t fs_root(const struct fs *fs)
{
	return fs->tsk->root_inum;
}

static TSK_FS_FILE *get(struct fs *fs, uint64_t node, struct err *err)
{
	TSK_FS_FILE *f;

	tsk_error_reset();
	f = tsk_fs_file_open_meta(fs->tsk, NULL, inum_of(node));
	if (!f || !f->meta) {
		tsk_failed(err, "a file cannot be found");
		tsk_fs_file_close(f);
		return NULL;
	}
	if ((f->meta->flags & TSK_FS_META_FLAG_UNALLOC) ||
	    (fs->ntfs && node >> NODE_BITS && (f->meta->seq & 0xffff) != node >> NODE_BITS)) {
		err_set(err, FILES_E_DAMAGED,
			"the name is left over from a file that is not there any more");
		tsk_fs_file_close(f);
		return NULL;
	}
	return f;
}

/* --- reparse points ------------------------------------------------------------------------- */

enum {
	TAG_MOUNT_POINT = (int)0xa0000003, /* a junction */
	TAG_SYMLINK = (int)0xa000000c,
	TAG_WSL_SYMLINK = (int)0xa000001d,
};

static const TSK_FS_ATTR *reparse_point(const struct fs *fs, TSK_FS_FILE *f)
{
	return fs->ntfs ? tsk_fs_file_attr_get_type(f, TSK_FS_ATTR_TYPE_NTFS_REPARSE, 0, 0) : NULL;
}

static uint16_t le16(const unsigned char *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static int tag_of(const unsigned char *b)
{
	return (int)(le16(b) | (uint32_t)le16(b + 2) << 16);
}

/* A path buffer at @at holds the name as people see it; back slashes become slashes. */
static size_t printed_name(const unsigned char *b, size_t len, size_t at, char *out, size_t size)
{
	size_t from, n, i;

	if (len < at)
		return 0;
	from = at + le16(b + 12);
	n = le16(b + 14);
	if (!n) { /* only the kernel's name is there */
		from = at + le16(b + 8);
		n = le16(b + 10);
	}
	if (!range_inside(from, n, len))
		return 0;
	n = utf16_to_utf8(out, size, b + from, n / 2);
	for (i = 0; i < n; i++)
		if (out[i] == '\\')
			out[i] = '/';
	return n;
}

/* The target of what is a link; 0: it is none, or makes no sense. */
static size_t link_target(const TSK_FS_ATTR *attr, char *out, size_t size)
{
	_cleanup_(freep) unsigned char *b = malloc(REPARSE_MAX);
	size_t len = attr->size > 0 ? MIN((uint64_t)attr->size, REPARSE_MAX) : 0, n;

	if (!b || len < 16 ||
	    tsk_fs_attr_read(attr, 0, (char *)b, len, TSK_FS_FILE_READ_FLAG_NONE) != (ssize_t)len)
		return 0;
	switch (tag_of(b)) {
	case TAG_SYMLINK:
		return printed_name(b, len, 20, out, size);
	case TAG_MOUNT_POINT:
		return printed_name(b, len, 16, out, size);
	case TAG_WSL_SYMLINK:
		n = MIN(len - 12, size - 1);
		memcpy(out, b + 12, n);
		return strnlen(out, n);
	default:
		return 0;
	}
}

/* --- attributes ----------------------------------------------------------------------------- */

static bool is_encrypted(const struct fs *fs, TSK_FS_FILE *f)
{
	const TSK_FS_ATTR *data = fs->ntfs ? tsk_fs_file_attr_get(f) : NULL;

	return data && (data->flags & TSK_FS_ATTR_ENC);
}

static uint32_t kind_of(struct fs *fs, TSK_FS_FILE *f, uint64_t *size)
{
	const TSK_FS_ATTR *reparse = reparse_point(fs, f);
	char target[PROTO_LINK_MAX];
	size_t n = reparse ? link_target(reparse, target, sizeof(target)) : 0;

	if (n) {
		*size = n;
		return FILES_SYMLINK;
	}
	if (f->meta->type == TSK_FS_META_TYPE_DIR)
		return FILES_DIR;
	if (f->meta->type != TSK_FS_META_TYPE_REG || reparse || is_encrypted(fs, f))
		return FILES_OTHER;
	return FILES_FILE;
}

static int fs_stat(struct fs *fs, uint64_t node, struct proto_entry *out, struct err *err)
{
	_cleanup_(tsk_fs_file_closep) TSK_FS_FILE *f = get(fs, node, err);

	if (!f)
		return err->code;
	out->size = f->meta->size > 0 ? (uint64_t)f->meta->size : 0;
	out->kind = kind_of(fs, f, &out->size);
	out->mode = out->kind == FILES_DIR ? 0755 : out->kind == FILES_SYMLINK ? 0777 : 0644;
	out->mtime = f->meta->mtime;
	out->mtime_ns = MIN(f->meta->mtime_nano, 999999999U);
	out->id = inum_of(node);
	return 0;
}

static int fs_readlink(struct fs *fs, uint64_t node, char *buf, size_t *len, struct err *err)
{
	_cleanup_(tsk_fs_file_closep) TSK_FS_FILE *f = get(fs, node, err);
	const TSK_FS_ATTR *reparse = f ? reparse_point(fs, f) : NULL;

	if (!f)
		return err->code;
	*len = reparse ? link_target(reparse, buf, *len) : 0;
	return *len ? 0 : err_set(err, FILES_E_DAMAGED, "the link's target makes no sense");
}

/* --- folders -------------------------------------------------------------------------------- */

/* Folders are read whole: the last one is kept, for who looks up a name often looks up the next. */
static int open_dir(struct fs *fs, uint64_t node, struct err *err)
{
	if (fs->dir && fs->dir_node == node)
		return 0;
	tsk_fs_dir_close(fs->dir);
	tsk_error_reset();
	fs->dir = tsk_fs_dir_open_meta(fs->tsk, inum_of(node));
	fs->dir_node = node;
	return fs->dir ? 0 : tsk_failed(err, "a folder cannot be read");
}

/* The label of a FAT volume, and what exFAT keeps for itself, are entries of the root: TSK gives
 * them names. */
static bool is_special(const TSK_FS_NAME *name)
{
	static const char mark[] = " (Volume Label Entry)";
	static const char *const names[] = {"$ALLOC_BITMAP", "$UPCASE_TABLE",
					    "$VOLUME_GUID",  "$EMPTY_VOLUME_LABEL",
					    "$TEX_FAT",	     "$ACCESS_CONTROL_TABLE"};
	size_t len = strlen(name->name), i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(name->name, names[i]))
			return true;
	return len >= sizeof(mark) - 1 && !strcmp(name->name + len - (sizeof(mark) - 1), mark);
}

static bool is_there(const struct fs *fs, const TSK_FS_NAME *name)
{
	if (!name->name || (name->flags & TSK_FS_NAME_FLAG_UNALLOC) || !strcmp(name->name, ".") ||
	    !strcmp(name->name, "..") || name->type == TSK_FS_NAME_TYPE_VIRT ||
	    name->type == TSK_FS_NAME_TYPE_VIRT_DIR || name->meta_addr >= fs->tsk->last_inum)
		return false;
	if (fs->ntfs)
		return name->meta_addr >= NTFS_SYSTEM_INODES;
	return name->par_addr != fs->tsk->root_inum || !is_special(name);
}

static int fs_list(struct fs *fs, uint64_t dir, fs_each each, void *arg, struct err *err)
{
	int r = open_dir(fs, dir, err);
	size_t i;

	for (i = 0; !r && i < tsk_fs_dir_getsize(fs->dir); i++) {
		const TSK_FS_NAME *name = tsk_fs_dir_get_name(fs->dir, i);

		if (name && is_there(fs, name))
			r = each(arg, name->name, strlen(name->name), node_of(fs, name));
	}
	return r;
}

/* Case counts first, and not where nothing else is left: as these file systems have it. */
static int fs_lookup(struct fs *fs, uint64_t dir, const char *name, size_t len, uint64_t *node,
		     struct err *err)
{
	const TSK_FS_NAME *n, *alike = NULL;
	int r = open_dir(fs, dir, err);
	size_t i;

	for (i = 0; !r && i < tsk_fs_dir_getsize(fs->dir); i++) {
		n = tsk_fs_dir_get_name(fs->dir, i);
		if (!n || !is_there(fs, n) || strlen(n->name) != len)
			continue;
		if (!memcmp(n->name, name, len)) {
			*node = node_of(fs, n);
			return 0;
		}
		if (!strncasecmp(n->name, name, len))
			alike = n;
	}
	if (r)
		return r;
	if (!alike)
		return err_set(err, FILES_E_NOT_FOUND, "there is no such file or folder");
	*node = node_of(fs, alike);
	return 0;
}

/* --- contents ------------------------------------------------------------------------------- */

/* A part of the file's map was not found. TSK would give zeroes for it. */
static bool is_incomplete(TSK_FS_FILE *f)
{
	const TSK_FS_ATTR *data = tsk_fs_file_attr_get(f);
	const TSK_FS_ATTR_RUN *run =
		data && !(data->flags & TSK_FS_ATTR_RES) ? data->nrd.run : NULL;

	for (; run; run = run->next)
		if (run->flags & TSK_FS_ATTR_RUN_FLAG_FILLER)
			return true;
	return false;
}

static int fs_open_file(struct fs *fs, uint64_t node, struct fs_file **out, struct err *err)
{
	struct fs_file *f = calloc(1, sizeof(*f));

	if (!f)
		return err_set(err, -ENOMEM, "no memory to open the file");
	f->tsk = get(fs, node, err);
	if (!f->tsk) {
		free(f);
		return err->code;
	}
	if (is_incomplete(f->tsk)) {
		tsk_fs_file_close(f->tsk);
		free(f);
		return err_set(err, FILES_E_DAMAGED,
			       "a part of the file's map is lost: the file system is damaged");
	}
	*out = f;
	return 0;
}

static void fs_close_file(struct fs *fs, struct fs_file *f)
{
	(void)fs;
	tsk_fs_file_close(f->tsk);
	free(f);
}

static int fs_read(struct fs *fs, struct fs_file *f, uint64_t off, void *buf, size_t len,
		   struct err *err)
{
	(void)fs;
	while (len) {
		ssize_t n;

		tsk_error_reset();
		n = tsk_fs_file_read(f->tsk, (TSK_OFF_T)off, buf, len, TSK_FS_FILE_READ_FLAG_NONE);
		if (n <= 0)
			return tsk_failed(err, "the file cannot be read");
		off += (uint64_t)n;
		buf = (char *)buf + n;
		len -= (size_t)n;
	}
	return 0;
}

const struct fs_ops fs_tsk = {
	.open = fs_open,
	.root = fs_root,
	.lookup = fs_lookup,
	.stat = fs_stat,
	.list = fs_list,
	.readlink = fs_readlink,
	.open_file = fs_open_file,
	.read = fs_read,
	.close_file = fs_close_file,
};
