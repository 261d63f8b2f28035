/*
 * What fuzz targets share. A target is one file fuzz_NAME.c with LLVMFuzzerTestOneInput(); its
 * committed inputs lie in corpus/fuzz_NAME/. `make test` replays them (main.c), `make fuzz`
 * searches from them (run.sh).
 */
#ifndef FUZZ_KIT_H
#define FUZZ_KIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Says what is wrong and aborts: a finding. */
#define KIT_CHECK(condition)                                                                       \
	do {                                                                                       \
		if (!(condition))                                                                  \
			kit_fail(__FILE__, __LINE__, #condition);                                  \
	} while (0)
_Noreturn void kit_fail(const char *file, int line, const char *what);

/* --- files ---------------------------------------------------------------------------------- */

/* A folder under $TMPDIR, the same for the whole run, removed at its end with all that is in it. A
 * target that crashes leaves it to whoever made $TMPDIR. */
const char *kit_folder(void);

/* "FOLDER/NAME" in one of eight static buffers, which are used in turn. */
const char *kit_path(const char *name);

/* Makes FOLDER/NAME hold exactly these bytes, then up to @file_size (if more) nothing but a hole.
 */
void kit_store(const char *name, const void *data, size_t size, uint64_t file_size);

/* --- inputs that describe something --------------------------------------------------------- */

struct kit_input {
	const uint8_t *p, *end;
};

/* The next bytes as a number; zeroes behind the end. */
uint64_t kit_take(struct kit_input *in, unsigned bytes);

/* Up to @max of the next bytes; *@len is how many there were. */
const uint8_t *kit_take_bytes(struct kit_input *in, size_t max, size_t *len);

/* --- images --------------------------------------------------------------------------------- */

struct qcow2_session;

/* A session for the whole run. */
struct qcow2_session *kit_session(void);

/* What a reader sees of a disk: its size, and both ends of it. */
#define KIT_VIEW_PIECE 65536U
#define KIT_VIEW_BYTES (16 * KIT_VIEW_PIECE) /* of each end */

struct kit_view {
	bool opened;
	uint64_t size;
	uint64_t tail_off; /* where tail begins */
	unsigned char *head, *tail;
	uint32_t head_bad, tail_bad; /* bit i: piece i is an I/O error */
};

/* Opens @path for reading and looks. What cannot be opened is an empty view. */
void kit_look(struct kit_view *view, const char *path, const char *repository);
void kit_view_free(struct kit_view *view);

/* Notes in @view that somebody wrote @len bytes @value there. */
void kit_view_write(struct kit_view *view, uint64_t off, uint64_t len, unsigned char value);

/* Fails unless all that was readable in @before is the same in @after. */
void kit_view_compare(const struct kit_view *before, const struct kit_view *after);

#endif
