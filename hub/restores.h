/*
 * File-level restore (missions M75 to M84, K25): a disk of a completed backup is opened, and its
 * files are listed and read.
 *
 * A mount is a session of files/ that this hub holds: a sandboxed process reads the guest's file
 * systems through the chain of images, nothing is mounted in the kernel, and the backup is never
 * written. Its row in the catalog (catalog/restores.h) keeps the point from being deleted. A disk
 * is mounted once; who mounts it again gets the same mount, and it goes with the last of them.
 *
 * Whoever asks a mount for something refreshes its clock; one that nobody has asked for
 * restore_idle_ms goes. Mounts of a hub that died are swept by the next one that starts.
 *
 * Paths are those of files/files.h: "/partition-1/etc/fstab"; "/" lists the partitions.
 */
#ifndef HUB_RESTORES_H
#define HUB_RESTORES_H

#include "catalog/restores.h"
#include "files/files.h"
#include "hub/hub.h"

/* A mount as it stands. */
struct hub_mount {
	struct catalog_mount row;
	bool here;		  /* this hub holds it; else what follows is empty */
	int64_t expires_at_us;	  /* unless somebody asks it for something before */
	char table[8];		  /* "gpt", "mbr", "none" */
	char filesystem_type[24]; /* of the largest partition that can be read; else "unknown" */
	struct files_partition *partitions;
	unsigned partition_count;
};

void hub_mount_deinit(struct hub_mount *mount); /* accepts a zeroed one */
void hub_mounts_free(struct hub_mount *rows, size_t n);

/*
 * Mounts a disk, or counts one more who uses it. HUB_E_NOT_FOUND; HUB_E_STATE: the backup is not
 * completed, or another hub has the disk mounted; HUB_E_LIMIT: restore_max_mounts are mounted;
 * HUB_E_STOPPING; -errno: the images cannot be opened.
 */
int hub_restore_mount(struct hub *hub, const char *backup_id, int disk_index, struct hub_mount *out,
		      struct err *err);

/* One user less; the last one's takes the mount away, whatever is being read from it. As
 * hub_restore_hold(). */
int hub_restore_unmount(struct hub *hub, const char *mount_id, struct err *err);

/* All hubs' mounts, oldest first. */
int hub_restore_mounts(struct hub *hub, struct hub_mount **rows, size_t *n, struct err *err);

struct hub_restore_state {
	unsigned mounted, max_mounts; /* of this hub */
	int64_t idle_s, interval_s;   /* a mount's idle time; how often it is looked for */
	int64_t cleaned;	      /* mounts that were idle for too long, since the start */
	int64_t last_look_at_us;      /* 0: not yet */
};

void hub_restore_state(struct hub *hub, struct hub_restore_state *out);

/* --- reading -------------------------------------------------------------------------------- */

struct hub_restore; /* a mount that is held: it may end, but stays in memory */

/* HUB_E_NOT_FOUND; HUB_E_STATE: another hub's, the sentence names it. Let go by
 * hub_restore_release(). */
int hub_restore_hold(struct hub *hub, const char *mount_id, struct hub_restore **out,
		     struct err *err);
void hub_restore_release(struct hub_restore *restore); /* accepts NULL */
DEFINE_CLEANUP(struct hub_restore *, hub_restore_release)

/* A number that is this disk's of this backup and of no other. */
int64_t hub_restore_disk_id(const struct hub_restore *restore);

/*
 * As their namesakes of files/files.h. HUB_E_NOT_FOUND: no such path, or the mount is gone;
 * HUB_E_INVALID: not a path, or not the kind of thing that is asked for; HUB_E_STATE: a file system
 * that cannot be read, damage; HUB_E_STOPPING; -errno. A mount whose reader was lost is gone.
 */
int hub_restore_stat(struct hub_restore *restore, const char *path, struct files_entry *out,
		     struct err *err);
int hub_restore_list(struct hub_restore *restore, const char *path, struct files_list *list,
		     struct err *err);
int hub_restore_readlink(struct hub_restore *restore, const char *path, char *target, size_t size,
			 struct err *err);
/* Bytes read, or < 0: -errno, and -EIO for the conditions above. */
int64_t hub_restore_read(struct hub_restore *restore, const char *path, uint64_t off, void *buf,
			 size_t len, struct err *err);

/* --- a folder with all that is below it (restore_walk.c) ------------------------------------- */

struct hub_walk;

struct hub_walk_entry {
	const char *path; /* whole */
	const char *name; /* below the folder the walk began with, "a/b" */
	struct files_entry entry;
};

#define HUB_WALK_DEPTH	 256
#define HUB_WALK_ENTRIES 20000000

/* @path must be a folder. @restore must outlive the walk. */
int hub_walk_open(struct hub_restore *restore, const char *path, struct hub_walk **out,
		  struct err *err);
void hub_walk_close(struct hub_walk *walk); /* accepts NULL */
DEFINE_CLEANUP(struct hub_walk *, hub_walk_close)

/* The next one, folders before what is in them; links are told and not followed. *@out is good
 * until the next call; NULL: there are no more. As hub_restore_list(); HUB_E_STATE: folders within
 * folders without end. */
int hub_walk_next(struct hub_walk *walk, const struct hub_walk_entry **out, struct err *err);

/* --- a folder as an archive (restore_archive.c) ---------------------------------------------- */

struct hub_archive;
enum hub_archive_format { HUB_ARCHIVE_ZIP, HUB_ARCHIVE_TAR_GZ };

#define HUB_ARCHIVES_MAX 16 /* of a hub, at once: each takes a few MiB and a processor */

/*
 * A folder as the bytes of an archive, made while they are read, in bounded memory. HUB_E_LIMIT.
 * Files, folders and links are in it, under the folder's name; what is none of these is left out.
 * In a zip, where a "\" may part folders, one in a name is U+EF5C (files/files.h).
 * @restore must outlive it.
 */
int hub_archive_open(struct hub_restore *restore, const char *path, enum hub_archive_format format,
		     struct hub_archive **out, struct err *err);
void hub_archive_close(struct hub_archive *archive); /* accepts NULL */
DEFINE_CLEANUP(struct hub_archive *, hub_archive_close)

/* Bytes, 0: that was all; < 0: it cannot be brought to its end. */
int64_t hub_archive_read(struct hub_archive *archive, void *buf, size_t len, struct err *err);

#endif
