/*
 * The journal of ext3 and ext4 (jbd2): what a machine that was running had committed to it and not
 * yet written to its place. Nothing is written here either: the blocks are looked up and read from
 * where they lie in the journal.
 */
#ifndef FILES_WORKER_JOURNAL_H
#define FILES_WORKER_JOURNAL_H

#include <ext2fs/ext2fs.h>
#include <stdbool.h>

#include "base/err.h"

struct journal;

/*
 * All committed transactions of @fs's journal. *@out is NULL when there are none. FILES_E_DAMAGED:
 * a checksum is wrong, a block is outside; FILES_E_UNSUPPORTED: it lies on another disk, or uses
 * features unknown here. Then nothing of it is used.
 */
int journal_load(struct journal **out, ext2_filsys fs, struct err *err);
void journal_free(struct journal *j); /* accepts NULL */

/* True: the newest content of @block is in block *@at of the file system; *@escaped: its first four
 * bytes, which are JOURNAL_MAGIC in truth, are zeroes there. */
bool journal_find(const struct journal *j, uint64_t block, uint64_t *at, bool *escaped);

#define JOURNAL_MAGIC 0xc03b3998U

#endif
