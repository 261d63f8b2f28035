/* The verbs of "image": image files themselves, without a hub. */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "qcow2/convert.h"
#include "qcow2/session.h"
#include "qcow2/sums.h"
#include "tools/ctl.h"
#include "tools/ctl_args.h"
#include "tools/ctl_human.h"
#include "tools/ctl_lookup.h"
#include "tools/ctl_table.h"

#define MAP_EXTENTS 1024

static const char *repository_of(const struct ctl_args *args)
{
	return ctl_option(args, "repository");
}

/* What a script may want to act upon has a number of its own. */
static int status_of(int r)
{
	switch (r) {
	case -ENOENT:
		return CTL_NOT_FOUND;
	case -EEXIST:
	case -EWOULDBLOCK: /* another process writes to it */
		return CTL_CONFLICT;
	case QCOW2_E_CORRUPT:
		return CTL_DAMAGED;
	case QCOW2_E_FORMAT:
	case QCOW2_E_UNSUPPORTED:
	case -EINVAL:  /* not a regular file */
	case -EBADMSG: /* not a sound checksum file */
		return CTL_UNUSABLE;
	case QCOW2_E_CHAIN:
		return CTL_BROKEN_CHAIN;
	default:
		return CTL_FAILED;
	}
}

/* Names in an image may be any bytes; JSON and terminals take text. */
static json_t *name_json(const char *name)
{
	char text[PATH_MAX];

	return name ? json_string(human_printable(text, sizeof(text), name)) : json_null();
}

/* --- info ----------------------------------------------------------------------------------- */

static json_t *file_json(const struct qcow2_file_info *f)
{
	return json_pack("{s:o, s:o, s:i, s:I, s:I, s:i, s:i, s:I, s:b, s:b, s:b, s:s}", "path",
			 name_json(f->path), "backing", name_json(f->backing), "version",
			 (int)f->version, "virtual_size", (json_int_t)f->size, "file_size",
			 (json_int_t)f->file_size, "cluster_size", (int)f->cluster_size,
			 "refcount_bits", (int)f->refcount_bits, "snapshots",
			 (json_int_t)f->snapshots, "dirty", (int)f->dirty, "corrupt",
			 (int)f->corrupt, "extended_l2", (int)f->extended_l2, "compression",
			 f->zstd ? "zstd" : "zlib");
}

static int info_print(const struct qcow2_file_info *files, unsigned count, struct err *err)
{
	static const char *const columns[] = {"FILE",	 ">DISK", ">FILE SIZE", ">CLUSTER",
					      "VERSION", "STATE", "BACKING",	NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	char text[HUMAN_MAX];
	unsigned i;

	for (i = 0; i < count; i++) {
		const struct qcow2_file_info *f = &files[i];

		ctl_table_add(table, f->path);
		ctl_table_add(table, human_bytes(text, f->size));
		ctl_table_add(table, human_bytes(text, f->file_size));
		ctl_table_add(table, human_bytes(text, f->cluster_size));
		ctl_table_addf(table, "%u", f->version);
		ctl_table_add(table, f->corrupt ? "corrupt" : f->dirty ? "being written" : "clean");
		ctl_table_add(table, f->backing);
	}
	return ctl_table_print(table, stdout, err);
}

static int image_info(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	struct qcow2_file_info *files;
	unsigned count, i;
	int r = qcow2_describe(args->argv[0], repository_of(args), &files, &count, err);

	if (r)
		return status_of(r);
	if (ctl->json) {
		json_t *chain = json_array();

		for (i = 0; i < count; i++)
			json_array_append_new(chain, file_json(&files[i]));
		chain = json_pack("{s:o}", "chain", chain);
		ctl_print_json(chain);
		json_decref(chain);
	} else {
		r = info_print(files, count, err);
	}
	qcow2_describe_free(files, count);
	return r;
}

/* --- map ------------------------------------------------------------------------------------ */

static const char *extent_kind(uint32_t flags)
{
	if (flags & QCOW2_EXTENT_HOLE)
		return "hole";
	return flags & QCOW2_EXTENT_ZERO ? "zero" : "data";
}

struct map {
	bool json;
	json_t *rows;
	struct ctl_table *table;
	uint64_t start, len; /* the extent being joined */
	uint32_t flags;
};

static void map_emit(struct map *m)
{
	if (!m->len)
		return;
	if (m->json) {
		json_array_append_new(m->rows,
				      json_pack("{s:I, s:I, s:s}", "start", (json_int_t)m->start,
						"length", (json_int_t)m->len, "kind",
						extent_kind(m->flags)));
		return;
	}
	ctl_table_addf(m->table, "%llu", (unsigned long long)m->start);
	ctl_table_addf(m->table, "%llu", (unsigned long long)m->len);
	ctl_table_add(m->table, extent_kind(m->flags));
}

static void map_add(struct map *m, const struct qcow2_extent *extent)
{
	if (m->len && m->flags == extent->flags) {
		m->len += extent->len;
		return;
	}
	map_emit(m);
	m->start += m->len;
	m->len = extent->len;
	m->flags = extent->flags;
}

static int map_walk(struct qcow2_session *s, struct map *m)
{
	struct qcow2_extent extent[MAP_EXTENTS];
	struct qcow2_info info;
	uint64_t off = 0;
	unsigned count, i;

	qcow2_get_info(s->img, &info);
	while (off < info.size) {
		int r = qcow2_session_extents(s, off, MIN(info.size - off, 4 * GIB), extent,
					      MAP_EXTENTS, &count);

		if (r)
			return r;
		for (i = 0; i < count; i++) {
			map_add(m, &extent[i]);
			off += extent[i].len;
		}
	}
	map_emit(m);
	return 0;
}

static int map_run(struct map *m, const struct ctl_args *args, struct err *err)
{
	struct qcow2_open_opts opts = {.repository = repository_of(args)};
	struct qcow2_session session;
	int r = qcow2_session_init(&session, QCOW2_BATCHES_MIN, err);

	if (!r)
		r = qcow2_session_open(&session, args->argv[0], &opts, err);
	if (!r && (r = map_walk(&session, m)))
		err_sys(err, r, "cannot read the map of '%s'", args->argv[0]);
	qcow2_session_drop(&session);
	qcow2_session_deinit(&session);
	return r ? status_of(r) : CTL_OK;
}

static int image_map(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {">START", ">LENGTH", "KIND", NULL};
	struct map m = {.json = ctl->json};
	int r;

	if (m.json)
		m.rows = json_array();
	else
		m.table = ctl_table_new(columns);
	r = map_run(&m, args, err);
	if (!r && m.json)
		ctl_print_json(m.rows);
	else if (!r)
		r = ctl_table_print(m.table, stdout, err);
	json_decref(m.rows);
	ctl_table_free(m.table);
	return r;
}

/* --- check ---------------------------------------------------------------------------------- */

static void check_print(const struct qcow2_check_result *c, bool repaired)
{
	uint64_t problems = c->leaks + c->refcount_errors + c->copied_errors;

	if (c->snapshots)
		printf("%llu internal snapshots\n", (unsigned long long)c->snapshots);
	printf("%llu of %llu clusters hold data, %llu zero, %llu compressed\n",
	       (unsigned long long)c->data_clusters, (unsigned long long)c->total_clusters,
	       (unsigned long long)c->zero_clusters, (unsigned long long)c->compressed_clusters);
	if (c->dirty)
		puts("the image was not closed cleanly; its refcounts are rebuilt when it is "
		     "repaired");
	if (c->corrupt)
		puts("the image is marked corrupt: whoever wrote to it found damage");
	printf("%llu damaged references, %llu leaked clusters, %llu wrong refcounts, %llu wrong "
	       "COPIED flags\n",
	       (unsigned long long)c->corruptions, (unsigned long long)c->leaks,
	       (unsigned long long)c->refcount_errors, (unsigned long long)c->copied_errors);
	if (repaired)
		printf("%llu of %llu repaired\n", (unsigned long long)c->fixed,
		       (unsigned long long)problems);
}

static void check_print_json(const struct qcow2_check_result *c)
{
	json_t *row = json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b}",
		"corruptions", (json_int_t)c->corruptions, "leaks", (json_int_t)c->leaks,
		"refcount_errors", (json_int_t)c->refcount_errors, "copied_errors",
		(json_int_t)c->copied_errors, "fixed", (json_int_t)c->fixed, "data_clusters",
		(json_int_t)c->data_clusters, "zero_clusters", (json_int_t)c->zero_clusters,
		"compressed_clusters", (json_int_t)c->compressed_clusters, "total_clusters",
		(json_int_t)c->total_clusters, "file_size", (json_int_t)c->file_size, "end_of_use",
		(json_int_t)c->end_of_use, "snapshots", (json_int_t)c->snapshots, "dirty",
		(int)c->dirty, "marked_corrupt", (int)c->corrupt);

	ctl_print_json(row);
	json_decref(row);
}

static int image_check(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	bool repair = ctl_option(args, "repair");
	struct qcow2_check_result c;
	uint64_t left;
	int r = qcow2_check(args->argv[0], repair, &c, err);

	if (r)
		return status_of(r);
	if (ctl->json)
		check_print_json(&c);
	else
		check_print(&c, repair);
	left = c.leaks + c.refcount_errors + c.copied_errors - c.fixed;
	if (c.corruptions)
		return err_set(
			err, CTL_DAMAGED,
			"'%s' is damaged: data behind the damaged references is lost%s; take "
			"another point",
			args->argv[0], repair ? ", nothing was repaired" : "");
	if (left || ((c.dirty || c.corrupt) && !repair))
		return err_set(err, CTL_REPAIRABLE,
			       "'%s' needs repair, no data is lost: run again with --repair",
			       args->argv[0]);
	return CTL_OK;
}

/* --- verify --------------------------------------------------------------------------------- */

struct verify {
	bool json;
	json_t *ranges;
};

static void verify_differs(void *arg, uint64_t off, uint64_t len, int res)
{
	struct verify *v = arg;

	if (v->json)
		json_array_append_new(v->ranges,
				      json_pack("{s:I, s:I, s:s}", "start", (json_int_t)off,
						"length", (json_int_t)len, "problem",
						res ? strerror(-res) : "content differs"));
	else
		printf("guest bytes %llu..%llu: %s\n", (unsigned long long)off,
		       (unsigned long long)(off + len - 1),
		       res ? strerror(-res) : "not what was stored");
}

static int image_verify(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const struct qcow2_verify_ops ops = {.differs = verify_differs};
	struct verify v = {.json = ctl->json, .ranges = json_array()};
	uint64_t differing;
	int r = qcow2_verify(args->argv[0], repository_of(args), &ops, &v, &differing, err);

	if (!r && v.json) {
		json_t *row = json_pack("{s:I, s:O}", "differing_clusters", (json_int_t)differing,
					"ranges", v.ranges);

		ctl_print_json(row);
		json_decref(row);
	}
	json_decref(v.ranges);
	if (r)
		return status_of(r);
	if (differing)
		return err_set(err, CTL_DAMAGED, "%llu clusters of '%s' are not what was stored",
			       (unsigned long long)differing, args->argv[0]);
	if (!v.json)
		printf("every cluster of %s is what was stored\n", args->argv[0]);
	return CTL_OK;
}

/* --- convert -------------------------------------------------------------------------------- */

static bool convert_progress(void *arg, uint64_t done, uint64_t total)
{
	(void)arg;
	fprintf(stderr, "\r%3.0f %%", total ? 100.0 * done / total : 100.0);
	return true;
}

static int convert_options(const struct ctl_args *args, struct qcow2_convert_opts *opts,
			   struct err *err)
{
	const char *format = ctl_option(args, "format"), *compress = ctl_option(args, "compress");
	unsigned long cluster_size = 0;
	int r = ctl_option_number(args, "cluster-size", QCOW2_CLUSTER_MAX, &cluster_size, err);

	if (r)
		return r;
	opts->raw = format && !strcmp(format, "raw");
	opts->sums = !ctl_option(args, "no-sums");
	opts->cluster_size = cluster_size;
	if (format && !opts->raw && strcmp(format, "qcow2"))
		return err_set(err, CTL_USAGE, "--format takes qcow2 or raw, not \"%s\"", format);
	if (cluster_size && opts->raw)
		return err_set(err, CTL_USAGE, "a raw file has no --cluster-size");
	if (cluster_size && (cluster_size < QCOW2_CLUSTER_MIN || !is_power_of_2(cluster_size)))
		return err_set(err, CTL_USAGE,
			       "--cluster-size takes a power of two from %u to %u, not %lu",
			       QCOW2_CLUSTER_MIN, QCOW2_CLUSTER_MAX, cluster_size);
	if (compress && opts->raw)
		return err_set(err, CTL_USAGE, "a raw file takes no --compress");
	if (compress && !qcow2_parse_compression(compress, &opts->zstd_level))
		return err_set(err, CTL_USAGE,
			       "--compress takes none or zstd[:LEVEL], level 1 to 19, not \"%s\"",
			       compress);
	return 0;
}

static int image_convert(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	bool tty = isatty(STDERR_FILENO) && !ctl->json;
	struct qcow2_convert_opts opts = {.progress = tty ? convert_progress : NULL};
	int r = convert_options(args, &opts, err);

	if (r)
		return r;
	r = qcow2_convert(args->argv[0], repository_of(args), args->argv[1], &opts, err);
	if (tty)
		fputc('\n', stderr);
	return r ? status_of(r) : CTL_OK;
}

#define REPOSITORY_OPTION                                                                          \
	{                                                                                          \
		"repository", "DIR", "folder the chain may not leave (the image's own)", false     \
	}

const struct ctl_verb ctl_image_verbs[] = {
	{
		.noun = "image",
		.name = "info",
		.operands = "IMAGE",
		.min_args = 1,
		.max_args = 1,
		.summary = "show an image file and the chain behind it",
		.example = "sendense-ctl image info incr-20251005-120000.qcow2",
		.options = {REPOSITORY_OPTION},
		.run = image_info,
	},
	{
		.noun = "image",
		.name = "map",
		.operands = "IMAGE",
		.min_args = 1,
		.max_args = 1,
		.summary = "list which guest bytes hold data, zeroes, or nothing",
		.example = "sendense-ctl --json image map full-20251005-120000.qcow2",
		.options = {REPOSITORY_OPTION},
		.run = image_map,
	},
	{
		.noun = "image",
		.name = "check",
		.operands = "IMAGE",
		.min_args = 1,
		.max_args = 1,
		.summary = "compare an image's tables with its refcounts, and repair",
		.detail =
			"Exit status 6: references are damaged, data is lost, and nothing is "
			"repaired. 7: only repairs are needed. What internal snapshots and bitmaps "
			"use is counted too. The chain behind the image is not looked at.",
		.example = "sendense-ctl image check --repair full-20251005-120000.qcow2",
		.options = {{"repair", NULL, "rebuild refcounts, give leaked clusters back",
			     false}},
		.run = image_check,
	},
	{
		.noun = "image",
		.name = "verify",
		.operands = "IMAGE",
		.min_args = 1,
		.max_args = 1,
		.summary = "read a point whole and compare it with its checksums",
		.detail = "Exit status 6: some clusters are not what was stored; the guest ranges "
			  "are listed. 4: the image has no checksum file. 8: it is unsound.",
		.example = "sendense-ctl image verify incr-20251005-120000.qcow2",
		.options = {REPOSITORY_OPTION},
		.run = image_verify,
	},
	{
		.noun = "image",
		.name = "convert",
		.operands = "IMAGE OUTPUT",
		.min_args = 2,
		.max_args = 2,
		.summary = "copy a point, its chain merged, into one file of its own",
		.example = "sendense-ctl image convert incr-20251005-120000.qcow2 web1.raw "
			   "--format raw",
		.options = {{"format", "qcow2|raw", "of the output (qcow2)", false},
			    {"cluster-size", "BYTES", "of a qcow2 output (by disk size)", false},
			    {"compress", "none|zstd[:LEVEL]", "a qcow2 output (none)", false},
			    {"no-sums", NULL, "write no checksum file", false},
			    REPOSITORY_OPTION},
		.run = image_convert,
	},
	{0},
};
