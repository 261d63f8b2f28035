/*
 * A folder of files that call each other backing files, described by the input: sound images of any
 * cluster size, version and length, damaged ones, links, folders and pipes, with backing names of
 * every kind. Opening one of them ends with a chain inside the repository and without a cycle, or
 * with a reason; a chain of sound images reads as a model of a few lines says, also after writing.
 *
 * An input: a byte of options, the index of the name opened, then files (see take_file()).
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "kit.h"
#include "qcow2/convert.h"
#include "qcow2/header.h"
#include "qcow2/session.h"

#define FILES_MAX 12
#define DISK_MAX  MIB
#define SECTOR	  512U
#define EXTENTS	  64

/* Where files may be, below the run's folder; the repository is repo/. */
static const char *const names[] = {"repo/a",	  "repo/b",	"repo/c",   "repo/d", "repo/e",
				    "repo/sub/a", "repo/sub/b", "repo/f:g", "out",    "repo/..a",
				    "repo/sub/c", "repo/g",	"repo2/a"};

/* What a backing name may be, beside any bytes. */
static const char *const backings[] = {"a",
				       "b",
				       "c",
				       "d",
				       "e",
				       "sub/a",
				       "sub/b",
				       "../a",
				       "../out",
				       "./a",
				       "sub/../b",
				       "sub//c",
				       "../b",
				       "../",
				       "a/",
				       ".",
				       "..a",
				       "f:g",
				       "./f:g",
				       "/dev/zero",
				       "nbd:a",
				       "g/a",
				       "../../out",
				       "g/../out",
				       "json:",
				       "b/a",
				       "../../repo2/a",
				       "/proc/1/environ",
				       "../repo2/a",
				       "json:{\"driver\":\"file\",\"filename\":\"a\"}"};

/* One image as it was made. */
struct made {
	const char *name;
	char path[PATH_MAX]; /* real */
	bool sound;
	uint64_t size;
	unsigned cluster_bits, unit_bits;
	uint8_t unit[DISK_MAX / SECTOR + 32]; /* 'd'ata, 'z'ero, 0: nothing */
};

static struct made made[FILES_MAX];
static unsigned count;

/* --- the folder ----------------------------------------------------------------------------- */

static void empty_folder(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (unlink(kit_path(names[i])))
			rmdir(kit_path(names[i]));
	mkdir(kit_path("repo"), 0700);
	mkdir(kit_path("repo/sub"), 0700);
	mkdir(kit_path("repo2"), 0700);
	count = 0;
}

static const char *take_name(struct kit_input *in)
{
	return names[kit_take(in, 1) % ARRAY_SIZE(names)];
}

static void take_backing(struct kit_input *in, char *name, size_t size)
{
	uint64_t kind = kit_take(in, 1) % (ARRAY_SIZE(backings) + 3);
	const uint8_t *bytes;
	size_t len;

	name[0] = 0;
	if (kind < ARRAY_SIZE(backings)) {
		snprintf(name, size, "%s", backings[kind]);
	} else if (kind == ARRAY_SIZE(backings)) {
		bytes = kit_take_bytes(in, kit_take(in, 1), &len);
		memcpy(name, bytes, len);
		name[len] = 0;
	} else if (kind == ARRAY_SIZE(backings) + 1) { /* absolute, and inside */
		snprintf(name, size, "%s", kit_path("repo/a"));
	}
}

/* --- making images -------------------------------------------------------------------------- */

struct maker {
	struct made *m;
	struct qcow2_header h;
	unsigned char *file;
	uint64_t end; /* of what was laid out */
	unsigned l2_bits, entry_size;
};

/* What sector @sector of the guest holds in file number @k. */
static uint32_t stamp(unsigned k, uint64_t sector)
{
	return (k + 1) << 24 | sector;
}

static void fill(unsigned char *p, unsigned k, uint64_t off, uint64_t len)
{
	uint64_t i;

	for (i = 0; i < len; i += 4)
		store_be32(p + i, stamp(k, (off + i) / SECTOR));
}

static uint64_t take_cluster(struct maker *mk)
{
	uint64_t at = mk->end;

	mk->end += 1ULL << mk->h.cluster_bits;
	return at;
}

static unsigned char *entry_of(struct maker *mk, uint64_t cluster)
{
	unsigned char *l1 = mk->file + mk->h.l1_off + (cluster >> mk->l2_bits) * 8;

	if (!load_be64(l1))
		store_be64(l1, take_cluster(mk) | QCOW2_ENTRY_COPIED);
	return mk->file + (load_be64(l1) & QCOW2_ENTRY_OFFSET) +
	       (cluster & ((1ULL << mk->l2_bits) - 1)) * mk->entry_size;
}

static void map_cluster(struct maker *mk, uint64_t cluster, bool zero)
{
	struct made *m = mk->m;
	unsigned char *entry = entry_of(mk, cluster);
	uint64_t host, len = 1ULL << mk->h.cluster_bits;

	if (m->unit[cluster])
		return;
	if (zero && mk->h.version == 3) {
		store_be64(entry, QCOW2_ENTRY_ZERO);
		m->unit[cluster] = 'z';
		return;
	}
	host = take_cluster(mk);
	fill(mk->file + host, m - made, cluster << mk->h.cluster_bits, len);
	store_be64(entry, host | QCOW2_ENTRY_COPIED);
	m->unit[cluster] = 'd';
}

static void map_subclusters(struct maker *mk, uint64_t cluster, uint32_t data, uint32_t zero)
{
	struct made *m = mk->m;
	unsigned char *entry = entry_of(mk, cluster);
	uint64_t host, len = 1ULL << mk->h.cluster_bits;
	unsigned i;

	zero &= ~data;
	if (load_be64(entry) || load_be64(entry + 8))
		return;
	host = data ? take_cluster(mk) : 0;
	if (host)
		fill(mk->file + host, m - made, cluster << mk->h.cluster_bits, len);
	store_be64(entry, host ? host | QCOW2_ENTRY_COPIED : 0);
	store_be64(entry + 8, (uint64_t)zero << 32 | data);
	for (i = 0; i < 32; i++)
		m->unit[cluster * 32 + i] = data >> i & 1 ? 'd' : zero >> i & 1 ? 'z' : 0;
}

static void take_maps(struct kit_input *in, struct maker *mk)
{
	uint64_t clusters = div_up(mk->h.size, 1ULL << mk->h.cluster_bits);
	unsigned n = kit_take(in, 1) % 32;

	while (n-- && clusters) {
		uint64_t what = kit_take(in, 2), cluster = (what >> 2) % clusters;
		uint64_t run = what & 1 ? 1 : MIN(clusters - cluster, 1 + (what >> 9));

		if (mk->entry_size == 16) {
			uint32_t data = kit_take(in, 4);

			map_subclusters(mk, cluster, data, kit_take(in, 4));
			continue;
		}
		for (; run; run--)
			map_cluster(mk, cluster++, what & 2);
	}
}

static void encode_header(struct maker *mk)
{
	KIT_CHECK(!qcow2_header_encode(&mk->h, mk->file));
	if (mk->h.version == 2) { /* the fields of version 3 become an unknown extension */
		store_be32(mk->file + QCOW2_H_VERSION, 2);
		memset(mk->file + QCOW2_H_V2_LENGTH, 0, QCOW2_H_OUR_LENGTH - QCOW2_H_V2_LENGTH);
		store_be32(mk->file + QCOW2_H_V2_LENGTH, 0x12345678);
		store_be32(mk->file + QCOW2_H_V2_LENGTH + 4,
			   QCOW2_H_OUR_LENGTH - QCOW2_H_V2_LENGTH - 8);
	}
}

static void take_header(struct kit_input *in, struct maker *mk)
{
	static const char *const formats[] = {"qcow2", "", "raw", "qcow2"};
	uint64_t shape = kit_take(in, 1), size = kit_take(in, 2);
	struct qcow2_header *h = &mk->h;

	h->version = shape & 1 ? 3 : 2 + (shape >> 1 & 1);
	h->cluster_bits = 9 + (shape >> 2 & 15) % 8;
	h->refcount_order = 4;
	if (h->version == 3 && shape >> 6 == 3 && h->cluster_bits >= 14)
		h->incompatible = QCOW2_INCOMPAT_EXTENDED_L2;
	if (h->version == 3 && shape >> 6 == 2)
		h->incompatible = QCOW2_INCOMPAT_DIRTY;
	h->size = size % (DISK_MAX / SECTOR + 1) * SECTOR;
	take_backing(in, h->backing, sizeof(h->backing));
	if (h->backing[0])
		strcpy(h->backing_format, formats[kit_take(in, 1) % ARRAY_SIZE(formats)]);
	mk->entry_size = h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2 ? 16 : 8;
	mk->l2_bits = h->cluster_bits - (mk->entry_size == 16 ? 4 : 3);
	h->l1_entries = div_up(h->size, 1ULL << (h->cluster_bits + mk->l2_bits));
	h->reftable_off = 1ULL << h->cluster_bits;
	h->reftable_clusters = 1;
	h->l1_off = 2ULL << h->cluster_bits;
	mk->end = 3ULL << h->cluster_bits; /* no disk here needs more of an L1 */
	KIT_CHECK(h->l1_entries * 8 <= 1ULL << h->cluster_bits);
}

/* Header, refcount table, L1, the most tables and the most data there can be. */
static size_t most_bytes(const struct maker *mk)
{
	uint64_t clusters = div_up(mk->h.size, 1ULL << mk->h.cluster_bits);

	return (3 + mk->h.l1_entries + clusters) << mk->h.cluster_bits;
}

static void make_image(struct kit_input *in, const char *name, bool damage)
{
	struct maker mk = {.m = &made[count]};
	struct made *m = mk.m;

	memset(m, 0, sizeof(*m));
	m->name = name;
	take_header(in, &mk);
	if (strlen(mk.h.backing) > 60) /* must fit the smallest cluster */
		mk.h.backing[60] = 0;
	mk.file = calloc(1, most_bytes(&mk));
	KIT_CHECK(mk.file);
	m->size = mk.h.size;
	m->cluster_bits = mk.h.cluster_bits;
	m->unit_bits = mk.h.cluster_bits - (mk.entry_size == 16 ? 5 : 0);
	encode_header(&mk);
	take_maps(in, &mk);
	if (damage) {
		uint64_t at = kit_take(in, 2) % mk.end, n = 1 + kit_take(in, 1) % 8;

		while (n-- && at < mk.end)
			mk.file[at++] = kit_take(in, 1);
	}
	kit_store(name, mk.file, mk.end, 0);
	free(mk.file);
	m->sound = !damage && realpath(kit_path(name), m->path);
	count++;
}

static void remove_file(const char *name)
{
	unsigned i;

	if (unlink(kit_path(name)))
		rmdir(kit_path(name));
	for (i = 0; i < count; i++)
		made[i].sound &= made[i].name != name;
}

/* One file of any kind; what was under its name is replaced. */
static void take_file(struct kit_input *in)
{
	uint64_t kind = kit_take(in, 1);
	const char *name = take_name(in);
	const uint8_t *bytes;
	size_t len;

	remove_file(name);
	if (kind < 160) {
		make_image(in, name, false);
	} else if (kind < 200) {
		make_image(in, name, true);
	} else if (kind < 230) {
		char to[256];

		take_backing(in, to, sizeof(to));
		if (symlink(to, kit_path(name))) {
			/* an empty target, or the folder is still there */
		}
	} else if (kind < 245) {
		bytes = kit_take_bytes(in, kit_take(in, 2), &len);
		kit_store(name, bytes, len, 0);
	} else if (kind < 250) {
		mkdir(kit_path(name), 0700);
	} else {
		mkfifo(kit_path(name), 0600);
	}
}

/* --- the chain as it opened ----------------------------------------------------------------- */

struct stack {
	const struct made *layer[FILES_MAX];
	unsigned depth;
	bool known; /* all of it was made sound */
};

static const struct made *find_made(const char *path)
{
	unsigned i;

	for (i = 0; i < count; i++)
		if (made[i].sound && !strcmp(made[i].path, path))
			return &made[i];
	return NULL;
}

/* Every link is a regular file in the repository, and each is there once. */
static void check_links(const char *root, const struct qcow2_file_info *files, unsigned n,
			struct stack *stack)
{
	char real_root[PATH_MAX], path[2 * PATH_MAX], real[FILES_MAX][PATH_MAX];
	unsigned i, k;

	KIT_CHECK(n >= 1 && n <= FILES_MAX && realpath(root, real_root));
	stack->depth = n;
	stack->known = true;
	for (i = 0; i < n; i++) {
		struct stat st;

		snprintf(path, sizeof(path), "%s/%s", real_root, files[i].path);
		KIT_CHECK(realpath(path, real[i]));
		KIT_CHECK(!strncmp(real[i], real_root, strlen(real_root)) &&
			  real[i][strlen(real_root)] == '/');
		KIT_CHECK(!lstat(real[i], &st) && S_ISREG(st.st_mode));
		for (k = 0; k < i; k++)
			KIT_CHECK(strcmp(real[i], real[k]));
		stack->layer[i] = find_made(real[i]);
		stack->known &= stack->layer[i] != NULL;
	}
}

static uint32_t model_word(const struct stack *stack, uint64_t off)
{
	unsigned k;

	for (k = 0; k < stack->depth; k++) {
		const struct made *m = stack->layer[k];

		if (off >= m->size)
			return 0;
		switch (m->unit[off >> m->unit_bits]) {
		case 'd':
			return stamp(m - made, off / SECTOR);
		case 'z':
			return 0;
		}
	}
	return 0;
}

/* The whole disk; @from..@to was overwritten with 0xa5. */
static void check_content(struct qcow2_session *s, const struct stack *stack, uint64_t from,
			  uint64_t to)
{
	_cleanup_(freep) unsigned char *buf = aligned_alloc(FILE_ALIGN, DISK_MAX);
	uint64_t off, size = stack->layer[0]->size;

	KIT_CHECK(buf && !qcow2_session_read(s, 0, buf, size));
	for (off = 0; off < size; off += 4)
		KIT_CHECK(load_be32(buf + off) ==
			  (off >= from && off < to ? 0xa5a5a5a5U : model_word(stack, off)));
}

static void map_all(struct qcow2_session *s, uint64_t size)
{
	struct qcow2_extent extent[EXTENTS];
	uint64_t off = 0;
	unsigned n, i;

	while (off < size) {
		if (qcow2_session_extents(s, off, size - off, extent, EXTENTS, &n))
			return;
		KIT_CHECK(n);
		for (i = 0; i < n; i++)
			off += extent[i].len;
	}
	KIT_CHECK(off == size);
}

static void read_it(const char *path, const char *repository, const struct stack *stack)
{
	struct qcow2_open_opts opts = {.repository = repository};
	struct qcow2_session *s = kit_session();
	struct qcow2_info info;

	KIT_CHECK(!qcow2_session_open(s, path, &opts, NULL));
	qcow2_get_info(s->img, &info);
	KIT_CHECK(info.depth == stack->depth);
	map_all(s, MIN(info.size, DISK_MAX));
	if (stack->known) {
		check_content(s, stack, 0, 0);
	} else {
		unsigned char buf[4096];

		qcow2_session_read(s, 0, buf, MIN(info.size, sizeof(buf)));
	}
	qcow2_session_drop(s);
}

static void write_it(const char *path, const char *repository, const struct stack *stack,
		     unsigned where)
{
	struct qcow2_open_opts opts = {
		.repository = repository, .writable = true, .suppress_unchanged = where & 1};
	struct qcow2_session *s = kit_session();
	uint64_t size = stack->layer[0]->size, from, to;
	unsigned char data[6000];
	struct err err = ERR_INIT;
	int r = qcow2_session_open(s, path, &opts, &err);

	KIT_CHECK(!r || err.text[0]);
	if (r || !size) {
		qcow2_session_drop(s);
		return;
	}
	from = align_down(where * 1531ULL % size, 4);
	to = MIN(size, from + sizeof(data));
	memset(data, 0xa5, sizeof(data));
	KIT_CHECK(!qcow2_session_write(s, from, data, to - from));
	check_content(s, stack, from, to);
	KIT_CHECK(!qcow2_session_close(s, NULL));
	opts.writable = false;
	KIT_CHECK(!qcow2_session_open(s, path, &opts, NULL));
	check_content(s, stack, from, to);
	qcow2_session_drop(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kit_input in = {data, data + size};
	char path[128], repo[128], root[PATH_MAX];
	struct stack stack = {.known = false};
	struct qcow2_file_info *files;
	struct err err = ERR_INIT;
	unsigned options, i, n;
	const char *repository;

	empty_folder();
	options = kit_take(&in, 1);
	snprintf(repo, sizeof(repo), "%s", kit_path("repo"));
	snprintf(path, sizeof(path), "%s", kit_path(take_name(&in)));
	repository = options & 1 ? repo : NULL;
	for (i = 0; i < FILES_MAX && in.p < in.end; i++)
		take_file(&in);
	if (qcow2_describe(path, repository, &files, &n, &err)) {
		KIT_CHECK(err.text[0]);
		return 0;
	}
	if (repository) {
		strcpy(root, repo);
	} else { /* the folder of the image itself, links followed */
		KIT_CHECK(realpath(path, root));
		*strrchr(root, '/') = 0;
	}
	check_links(root, files, n, &stack);
	qcow2_describe_free(files, n);
	read_it(path, repository, &stack);
	if (stack.known && options & 2)
		write_it(path, repository, &stack, options >> 2);
	return 0;
}
