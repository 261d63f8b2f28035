/*
 * The files inside a backup: a read-only look into the file systems of a point's disk, without a
 * mount, without root, and without a byte written to the backup.
 *
 * What guests leave on a disk is hostile input for a large parser. None of it is parsed in this
 * process: a session starts the program `sendense-files`, which locks itself into a sandbox
 * (files/worker/sandbox.h) and from then on has two sockets and nothing else. On one it asks for
 * blocks of the disk; a thread of this process reads them through the qcow2 chain after checking
 * each range. On the other it answers the calls below; each answer is checked again. A worker that
 * crashes, hangs or lies costs its own session: the call fails with FILES_E_LOST, and so does
 * every later one, until the caller closes the session and perhaps opens a new one.
 *
 *     files_open -> files_partitions, files_stat, files_list, files_readlink, files_read ...
 *                -> files_close
 *
 * Threads: calls of one session may come from any thread; they are run one after the other.
 * files_open() and files_close() are ordinary functions: one thread each, and nobody may be in a
 * call while the session is closed. All calls block, for call_timeout_ms at most, a listing for
 * four times that, files_read() for that in every 16 MiB. Opening and closing also wait for the
 * storage.
 *
 * Paths. "/" holds one folder per partition, "/partition-N"; N counts as Linux does (GPT: the
 * entry, MBR: 1-4 primary, 5- logical). A disk without a partition table is one partition,
 * "/partition-1". A path is absolute, "/" separated, without "." or ".." or empty components (one
 * trailing "/" is allowed). Symbolic links are never followed: a path that leads through one does
 * not exist.
 *
 * Names. A guest's names are bytes. Here they are always valid UTF-8: a byte that is no part of
 * valid UTF-8, or a control character, or part of one of the characters used for this, is shown as
 * the character U+EF00 plus that byte. The mapping loses nothing: paths are given back the same
 * way, and files_name_raw() gives the bytes.
 */
#ifndef FILES_FILES_H
#define FILES_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct files;

/* Named conditions (positive results). The err text says what and which. */
enum {
	FILES_E_NOT_FOUND = 1,	 /* no such path, or it leads through something that is no folder */
	FILES_E_PATH = 2,	 /* not a path as above */
	FILES_E_KIND = 3,	 /* not the kind of thing the call is for: a folder to read, ... */
	FILES_E_UNSUPPORTED = 4, /* a file system, or a feature of it, that cannot be read here */
	FILES_E_DAMAGED = 5,	 /* what is on the disk makes no sense, or cannot be read */
	FILES_E_LOST = 6,	 /* the worker is gone; close the session */
};

#define FILES_PARTITIONS_MAX 256
#define FILES_NAME_SIZE	     3073  /* a name as shown, with its NUL */
#define FILES_PATH_SIZE	     4096  /* a path, with its NUL */
#define FILES_LINK_SIZE	     12289 /* a link's target as shown, with its NUL */

struct files_opts {
	const char *image;	/* the point's qcow2 file */
	const char *repository; /* folder its whole chain must stay in; NULL: the image's own */
	const char *worker;	/* the program; NULL: "sendense-files" beside the running program */
	unsigned call_timeout_ms; /* 0: 30 s; what is longer is a hung worker */
};

/* Opens the image, starts the worker, reads the partition table. 0, -errno, FILES_E_*: what is
 * wrong with the image is FILES_E_DAMAGED or FILES_E_UNSUPPORTED. */
int files_open(struct files **out, const struct files_opts *opts, struct err *err);

/* Ends the worker, waits for it. Accepts NULL. */
void files_close(struct files *s);

/* False once a call has failed with FILES_E_LOST. Any thread. */
bool files_alive(const struct files *s);

/* What holds the worker: for the log and the state of a mount. */
struct files_sandbox {
	int pid;
	bool landlock; /* the kernel has it; seccomp and no_new_privs always hold */
	bool own_uid;  /* it runs as nobody: the hub is root */
};

void files_sandbox(const struct files *s, struct files_sandbox *out);

/* --- partitions ----------------------------------------------------------------------------- */

struct files_partition {
	unsigned number;     /* N of "/partition-N" */
	uint64_t off, size;  /* bytes on the disk */
	char type[24];	     /* "ext4", "ntfs", "fat32", "exfat", "xfs", "lvm2", ...; "unknown" */
	char label[129];     /* of the file system, else the partition's; UTF-8; may be empty */
	bool readable;	     /* this reader knows the type; it can still turn out to be damaged */
	bool needs_recovery; /* it was in use: its newest changes are read from its journal */
	char note[200];	     /* why it is not readable and what to do, or what to know; or empty */
};

/* All there are: *@count of them in an array that lives as long as the session. No call to the
 * worker. */
const struct files_partition *files_partitions(const struct files *s, unsigned *count);

/* "gpt", "mbr", "none". */
const char *files_table(const struct files *s);

/* --- files ---------------------------------------------------------------------------------- */

enum files_kind {
	FILES_FILE,
	FILES_DIR,
	FILES_SYMLINK,
	FILES_OTHER, /* device, pipe, socket, or contents that cannot be given out; see note */
};

struct files_entry {
	char name[FILES_NAME_SIZE]; /* the last component; "/" for the root */
	enum files_kind kind;
	uint64_t size;	   /* bytes; of a link: of its target */
	int64_t mtime;	   /* seconds since 1970, UTC; FAT keeps local time, taken as UTC */
	uint32_t mtime_ns; /* below 10^9 */
	uint32_t mode;	   /* permission bits, 07777; where the file system has none: 0755, 0644 */
	uint32_t uid, gid; /* 0 where the file system has none */
	uint64_t id;	   /* inode, MFT entry: equal for names of the same file on a partition */
};

/* 0, -errno, FILES_E_*. Does not follow a link. */
int files_stat(struct files *s, const char *path, struct files_entry *out, struct err *err);

struct files_list {
	uint64_t skip; /* entries to pass over */
	uint64_t max;  /* entries to report; 0: all */
	/* Every entry, in the file system's own order, which is the same each time; "." and ".."
	 * are none. It must not call the session. Not 0 ends the listing, which then returns it. */
	int (*each)(void *arg, const struct files_entry *entry);
	void *arg;
	/* set by files_list() */
	uint64_t seen;	   /* passed over and reported */
	bool more;	   /* there are entries behind the last reported one */
	uint64_t unusable; /* names that cannot be ("a/b", no name at all): left out */
};

/* 0, -errno, FILES_E_*, or what each() returned. Names may be reported before an error. */
int files_list(struct files *s, const char *path, struct files_list *list, struct err *err);

/* The target of a symbolic link, shown like a name, "/" included. 0, -errno, FILES_E_*. */
int files_readlink(struct files *s, const char *path, char *target, size_t size, struct err *err);

/*
 * Reads up to @len bytes of a regular file at @off. Returns their number, less than @len only at
 * the end of the file (0: at or behind it), or -errno; a FILES_E_* condition is -EIO with err->code
 * set to it. Holes read as zeroes. Best in pieces of FILES_READ_BEST or multiples: the worker
 * remembers where the file was.
 */
int64_t files_read(struct files *s, const char *path, uint64_t off, void *buf, size_t len,
		   struct err *err);

#define FILES_READ_BEST (1U << 20)

/* --- names ---------------------------------------------------------------------------------- */

/* The bytes behind a shown name or target; NUL-terminated, never longer than @name. Returns their
 * number. @raw has room for strlen(@name) + 1; it may be @name itself. */
size_t files_name_raw(char *raw, const char *name);

/* The other way: @len bytes (no NUL among them) as shown. Returns the length, or 0: @size is too
 * small. Needs 3 * @len + 1 bytes at most. */
size_t files_name_show(char *shown, size_t size, const void *raw, size_t len);

#endif
