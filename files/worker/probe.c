#include "files/worker/probe.h"

#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "files/worker/utf16.h"

#define ELSEWHERE "restore the whole disk and mount it in a system that knows it"

/* The first bytes of a partition; what lies beyond its end is zero. */
struct front {
	unsigned char b[72 << 10];
};

struct kind {
	const char *type;
	bool (*is)(const struct front *f, struct proto_partition *part);
	const struct fs_ops *ops; /* NULL: not readable, because: */
	const char *note;
};

static uint16_t le16(const unsigned char *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t le32(const unsigned char *p)
{
	return le16(p) | (uint32_t)le16(p + 2) << 16;
}

static void set_label(struct proto_partition *part, const unsigned char *raw, size_t len)
{
	size_t n = strnlen((const char *)raw, MIN(len, sizeof(part->label) - 1));

	if (!n)
		return;
	memcpy(part->label, raw, n);
	part->label[n] = '\0';
}

/* As FAT pads: with blanks. */
static void set_padded_label(struct proto_partition *part, const unsigned char *raw, size_t len)
{
	while (len && raw[len - 1] == ' ')
		len--;
	if (!(len == 7 && !memcmp(raw, "NO NAME", 7)))
		set_label(part, raw, len);
}

static void set_note(struct proto_partition *part, const char *note)
{
	snprintf(part->note, sizeof(part->note), "%s", note);
}

/* --- ext2, ext3, ext4 ----------------------------------------------------------------------- */

#define EXT_SUPER 1024U

enum {
	EXT_HAS_JOURNAL = 0x4, /* compatible */
	EXT_RECOVER = 0x4,     /* incompatible, all of them */
	EXT_EXTENTS = 0x40,
	EXT_64BIT = 0x80,
	EXT_FLEX_BG = 0x200,
	/* filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir,
	 * inline_data, encrypt, casefold */
	EXT_KNOWN = 0x3e7d6,
};

static bool is_ext(const struct front *f, struct proto_partition *part)
{
	const unsigned char *s = f->b + EXT_SUPER;
	uint32_t compat = le32(s + 92), incompat = le32(s + 96);

	if (le16(s + 56) != 0xef53)
		return false;
	strcpy(part->type, incompat & (EXT_EXTENTS | EXT_64BIT | EXT_FLEX_BG) ? "ext4"
			   : compat & EXT_HAS_JOURNAL			      ? "ext3"
									      : "ext2");
	set_label(part, s + 120, 16);
	if (incompat & ~(uint32_t)EXT_KNOWN) {
		part->readable = false;
		snprintf(part->note, sizeof(part->note),
			 "it uses features this reader does not know (incompatible features 0x%x); "
			 "%s",
			 incompat & ~(uint32_t)EXT_KNOWN, ELSEWHERE);
	} else if (incompat & EXT_RECOVER) {
		part->needs_recovery = true;
		set_note(part, "it was in use when the point was taken: its newest changes are "
			       "read from its journal");
	}
	return true;
}

/* --- the others ----------------------------------------------------------------------------- */

static bool is_boot_sector(const struct front *f)
{
	return f->b[510] == 0x55 && f->b[511] == 0xaa;
}

static bool is_ntfs(const struct front *f, struct proto_partition *part)
{
	(void)part;
	return is_boot_sector(f) && !memcmp(f->b + 3, "NTFS    ", 8);
}

static bool is_exfat(const struct front *f, struct proto_partition *part)
{
	(void)part;
	return is_boot_sector(f) && !memcmp(f->b + 3, "EXFAT   ", 8);
}

static bool is_fat(const struct front *f, struct proto_partition *part)
{
	const unsigned char *b = f->b;
	uint16_t sector = le16(b + 11);

	if (!is_boot_sector(f) || (b[0] != 0xeb && b[0] != 0xe9) || sector < 512 || sector > 4096 ||
	    !is_power_of_2(sector) || !is_power_of_2(b[13]) || !b[16] || b[16] > 2)
		return false;
	if (!memcmp(b + 82, "FAT32   ", 8)) {
		strcpy(part->type, "fat32");
		set_padded_label(part, b + 71, 11);
	} else if (!memcmp(b + 54, "FAT16   ", 8) || !memcmp(b + 54, "FAT12   ", 8)) {
		strcpy(part->type, b[58] == '6' ? "fat16" : "fat12");
		set_padded_label(part, b + 43, 11);
	} else {
		return false;
	}
	return true;
}

static bool is_xfs(const struct front *f, struct proto_partition *part)
{
	if (memcmp(f->b, "XFSB", 4))
		return false;
	set_label(part, f->b + 108, 12);
	return true;
}

static bool is_btrfs(const struct front *f, struct proto_partition *part)
{
	if (memcmp(f->b + 0x10040, "_BHRfS_M", 8))
		return false;
	set_label(part, f->b + 0x1012b, 128);
	return true;
}

static bool is_luks(const struct front *f, struct proto_partition *part)
{
	(void)part;
	return !memcmp(f->b, "LUKS\xba\xbe", 6);
}

static bool is_bitlocker(const struct front *f, struct proto_partition *part)
{
	(void)part;
	return !memcmp(f->b + 3, "-FVE-FS-", 8);
}

static bool is_lvm2(const struct front *f, struct proto_partition *part)
{
	unsigned i;

	(void)part;
	for (i = 0; i < 4; i++)
		if (!memcmp(f->b + i * 512, "LABELONE", 8) &&
		    !memcmp(f->b + i * 512 + 24, "LVM2 001", 8))
			return true;
	return false;
}

static bool is_md(const struct front *f, struct proto_partition *part)
{
	(void)part;
	return le32(f->b) == 0xa92b4efc || le32(f->b + 4096) == 0xa92b4efc;
}

static bool is_refs(const struct front *f, struct proto_partition *part)
{
	(void)part;
	return !memcmp(f->b + 3, "ReFS\0\0\0\0", 8);
}

static bool is_swap(const struct front *f, struct proto_partition *part)
{
	(void)part;
	return !memcmp(f->b + 4086, "SWAPSPACE2", 10);
}

/* In order: what wraps a file system comes before it. */
static const struct kind kinds[] = {
	{"luks", is_luks, NULL, "it is encrypted (LUKS); " ELSEWHERE},
	{"bitlocker", is_bitlocker, NULL, "it is encrypted (BitLocker); " ELSEWHERE},
	{"md-raid", is_md, NULL, "it is a part of a RAID of several disks; " ELSEWHERE},
	{"lvm2", is_lvm2, NULL,
	 "it holds logical volumes (LVM), which this reader does not know; " ELSEWHERE},
	{"ntfs", is_ntfs, &fs_tsk, ""},
	{"exfat", is_exfat, &fs_tsk, ""},
	{"refs", is_refs, NULL, "this reader does not know ReFS; " ELSEWHERE},
	{"xfs", is_xfs, NULL, "this reader does not know XFS; " ELSEWHERE},
	{"btrfs", is_btrfs, NULL, "this reader does not know btrfs; " ELSEWHERE},
	{"ext4", is_ext, &fs_ext, ""},
	{"fat32", is_fat, &fs_tsk, ""},
	{"swap", is_swap, NULL, "it is swap space and holds no files"},
};

/* Type and label are in @part when the answer is not NULL. */
static const struct kind *find(struct disk *disk, struct proto_partition *part)
{
	struct front f;
	size_t i, n = MIN(sizeof(f.b), part->size);

	memset(&f, 0, sizeof(f));
	if (disk_read(disk, part->off, f.b, n))
		return NULL;
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		strcpy(part->type, kinds[i].type);
		part->readable = kinds[i].ops != NULL;
		set_note(part, kinds[i].note);
		if (kinds[i].is(&f, part))
			return &kinds[i];
	}
	return NULL;
}

bool probe_known(struct disk *disk, uint64_t off, uint64_t size)
{
	struct proto_partition part = {.off = off, .size = size};

	return find(disk, &part);
}

void probe(struct disk *disk, struct proto_partition *part)
{
	if (find(disk, part))
		return;
	strcpy(part->type, "unknown");
	part->readable = false;
	set_note(part, "no file system known to this reader is on it; if there is one, " ELSEWHERE);
}

const struct fs_ops *probe_ops(const struct proto_partition *part)
{
	size_t i;

	if (!part->readable)
		return NULL;
	if (!strncmp(part->type, "ext", 3))
		return &fs_ext;
	if (!strncmp(part->type, "fat", 3))
		return &fs_tsk;
	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(part->type, kinds[i].type))
			return kinds[i].ops;
	return NULL;
}
