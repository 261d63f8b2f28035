/*
 * What fuzz targets share. A target is one file fuzz_NAME.c with LLVMFuzzerTestOneInput(); its
 * committed inputs lie in corpus/fuzz_NAME/. `make test` replays them (main.c), `make fuzz`
 * searches from them (run.sh).
 */
#ifndef FUZZ_KIT_H
#define FUZZ_KIT_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A folder under $TMPDIR, the same for the whole run, removed at its end with the plain files in
 * it. A target that crashes leaves it to whoever made $TMPDIR. */
const char *kit_folder(void);

/* "FOLDER/NAME" in one of a few static buffers, which are used in turn. */
const char *kit_path(const char *name);

/* Makes FOLDER/NAME hold exactly these bytes. */
void kit_store(const char *name, const void *data, size_t size);

/* Says what is wrong and aborts: a finding. */
#define KIT_CHECK(condition)                                                                       \
	do {                                                                                       \
		if (!(condition))                                                                  \
			kit_fail(__FILE__, __LINE__, #condition);                                  \
	} while (0)
_Noreturn void kit_fail(const char *file, int line, const char *what);

#endif
