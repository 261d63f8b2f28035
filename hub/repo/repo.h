/*
 * A repository as the hub works with it: an opened place with folders of points.
 *
 *     {root}/{vm}/disk-{N}/full-YYYYMMDD-HHMMSS.qcow2        a point, once the catalog says so
 *                          incr-YYYYMMDD-HHMMSS.qcow2
 *                          NAME.json                         its sidecar
 *                          NAME.sums                         its checksums (qcow2/sums.h)
 *                          NAME.qcow2.part                   being written
 *     {root}/quarantine/                                     what failed backups left
 *
 * One `struct repo_ops` per type; the table of types is repo_types.c. Types whose points are files
 * in a folder share the functions of repo_dir.c. A repo is opened for one use (a backup, a look at
 * its size), used by one thread at a time, and closed.
 */
#ifndef HUB_REPO_REPO_H
#define HUB_REPO_REPO_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "catalog/backups.h"
#include "catalog/repositories.h"

struct repo;

struct repo_storage {
	int64_t total_bytes, used_bytes, available_bytes;
};

/* Where a new point goes: absolute paths. */
struct repo_point {
	char path[CATALOG_PATH_SIZE]; /* final */
	char part[CATALOG_PATH_SIZE]; /* while it is written */
};

struct repo_point_key {
	const char *vm; /* folder of the VM: its context id */
	int disk_index;
	enum catalog_backup_type mode;
	const char *stamp; /* YYYYMMDD-HHMMSS */
};

/* What becomes of an image that never became a point. */
enum repo_leftover {
	REPO_KEEP,   /* it goes to the quarantine */
	REPO_EMPTY,  /* so it does, emptied to give its space back: the repository is full */
	REPO_REMOVE, /* the .part is deleted; anything under a final name is kept */
};

struct repo_ops {
	enum catalog_repository_type type;

	/* Makes repo->root usable from @config. @create: the place may be made. Names the member
	 * of @config it does not understand. 0, -EINVAL, -errno. */
	int (*open)(struct repo *repo, const json_t *config, bool create, struct err *err);
	void (*close)(struct repo *repo);

	int (*probe)(struct repo *repo, struct err *err); /* write, read, delete */
	int (*storage)(struct repo *repo, struct repo_storage *out, struct err *err);

	/* Makes the folder and picks names free of any file, also within the same second. */
	int (*new_point)(struct repo *repo, const struct repo_point_key *key,
			 struct repo_point *out, struct err *err);
	/* Makes the folder of a new point once more: the deletion of another one, the last in it,
	 * may have taken it away before the first file was in it. */
	int (*make_folder)(struct repo *repo, const struct repo_point *point, struct err *err);
	/* .part to final name, durable; never overwrites: -EEXIST. */
	int (*commit)(struct repo *repo, const struct repo_point *point, struct err *err);
	/* Writes the sidecar of a point, durable; replaces an older one. */
	int (*put_sidecar)(struct repo *repo, const char *path, const char *text, size_t len,
			   struct err *err);
	/* Bytes the image takes in the repository. */
	int64_t (*stored_size)(struct repo *repo, const char *path);
	/* Takes whatever exists of a point (part, final, sidecar) away. Absent files are no error.
	 * *@moved_bytes is the space of what was moved or deleted. */
	int (*quarantine)(struct repo *repo, const struct repo_point *point,
			  enum repo_leftover what, int64_t *moved_bytes, struct err *err);
	/* 0: what is known of a point's file is true, be it there or not. -ENOENT: not even the
	 * first folder of its path is there, so the repository may be away. As below. */
	int (*check_there)(struct repo *repo, const char *path, struct err *err);
	/* Deletes a point's image and what lies beside it, durable; files that are absent are
	 * deleted already. -ENOENT: the repository itself is not there; -EINVAL, -ENOTDIR: not a
	 * path of its own. */
	int (*remove_point)(struct repo *repo, const char *path, struct err *err);
	/* Removes the folders a point was in, as far as they are empty. */
	int (*remove_folders)(struct repo *repo, const char *path, struct err *err);
	/* Quarantines every .part nobody has open for writing. *@count, *@bytes: what was moved. */
	int (*sweep)(struct repo *repo, unsigned *count, int64_t *bytes, struct err *err);
};

struct repo {
	const struct repo_ops *ops;
	char id[CATALOG_ID_SIZE];
	char name[CATALOG_NAME_SIZE];
	char root[CATALOG_PATH_SIZE]; /* absolute, no '/' at the end */
	int zstd_level;		      /* config.compression, for new points; 0: none */
};

#define REPO_QUARANTINE	 "quarantine"
#define REPO_PART_SUFFIX ".part"

/* The type's table, or NULL: not built into this program. */
const struct repo_ops *repo_ops_of(enum catalog_repository_type type);

/* Opens what a catalog row describes; -ENOTSUP: a type this program has not. */
int repo_open(struct repo **out, const struct catalog_repository *row, bool create,
	      struct err *err);
void repo_close(struct repo *repo); /* accepts NULL */
DEFINE_CLEANUP(struct repo *, repo_close)

/* The name of @parent as an image at @path stores it: relative, so that moving the repository keeps
 * chains whole. Both absolute and below the root; false otherwise, or when it does not fit. */
bool repo_relative(const struct repo *repo, const char *path, const char *parent, char *out,
		   size_t size);

/* True when @path is below the repository's root, by its text. */
bool repo_contains(const struct repo *repo, const char *path);

/* What lies beside an image, final or .part: "/x/full-1.qcow2" has "/x/full-1.json" and
 * "/x/full-1.sums". False when the name does not fit. */
enum repo_companion { REPO_SIDECAR, REPO_SUMS };
bool repo_companion(const char *path, enum repo_companion which, char *out, size_t size);

/* --- repo_dir.c: points as files in a folder ------------------------------------------------ */

int repo_dir_make(const char *path, struct err *err); /* mkdir -p, mode 0750, durable */
int repo_dir_probe(struct repo *repo, struct err *err);
int repo_dir_storage(struct repo *repo, struct repo_storage *out, struct err *err);
int repo_dir_new_point(struct repo *repo, const struct repo_point_key *key, struct repo_point *out,
		       struct err *err);
int repo_dir_make_folder(struct repo *repo, const struct repo_point *point, struct err *err);
int repo_dir_commit(struct repo *repo, const struct repo_point *point, struct err *err);
int repo_dir_put_sidecar(struct repo *repo, const char *path, const char *text, size_t len,
			 struct err *err);
int64_t repo_dir_stored_size(struct repo *repo, const char *path);
int repo_dir_quarantine(struct repo *repo, const struct repo_point *point, enum repo_leftover what,
			int64_t *moved_bytes, struct err *err);
int repo_dir_sweep(struct repo *repo, unsigned *count, int64_t *bytes, struct err *err);

/* --- repo_remove.c -------------------------------------------------------------------------- */

int repo_dir_check_there(struct repo *repo, const char *path, struct err *err);
int repo_dir_remove_point(struct repo *repo, const char *path, struct err *err);
int repo_dir_remove_folders(struct repo *repo, const char *path, struct err *err);

#endif
