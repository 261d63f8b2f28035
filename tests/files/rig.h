/*
 * Disks with files on them, made by the file systems' own tools, put into qcow2 by our own writer
 * or by QEMU, and opened with the worker that was built. Run inside a scratch folder. Whatever goes
 * wrong fails the test.
 */
#ifndef TESTS_FILES_RIG_H
#define TESTS_FILES_RIG_H

#include "files/files.h"

/* The folder "tree": text, empty, 2000 names in one folder, a sparse file, nested folders, symbolic
 * links (short, long, dangling), names with blanks, UTF-8, and bytes that are neither. @plain: only
 * what every file system can hold. Its random file has @random_mib. */
void rig_make_tree(const char *tree, unsigned random_mib, bool plain);

/* Our writer: what @raw holds; with @backing (an image, its content in @backing_raw) only the
 * difference. */
void rig_write_qcow2(const char *raw, const char *image, const char *backing,
		     const char *backing_raw);

const char *rig_worker(void); /* the program's path */

struct files *rig_open(const char *image);

/* The call is expected to work. */
void rig_stat(struct files *s, const char *path, struct files_entry *out);

/* Every file, folder and link below @folder of this machine is below @path, with the same content,
 * size, and (@unix_like) mode, owner and time; and nothing else is, names of @extra (NULL-ended,
 * may be NULL) in @path itself excepted. Returns how many there were. */
unsigned rig_compare(struct files *s, const char *path, const char *folder, bool unix_like,
		     const char *const *extra);

#endif
