/*
 * Replays inputs through a fuzz target without a fuzzer: the ordinary test run covers every input
 * that ever mattered. Arguments are files, or folders of files; at least one input must be found.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "kit.h"

#define INPUT_MAX (16U << 20)

/* For targets that bring their own mutations. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
	(void)data;
	(void)max_size;
	return size;
}

static int replay_file(const char *path)
{
	_cleanup_(fclosep) FILE *f = fopen(path, "rb");
	_cleanup_(freep) uint8_t *data = malloc(INPUT_MAX);
	size_t n;

	if (!f || !data) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return -1;
	}
	n = fread(data, 1, INPUT_MAX, f);
	LLVMFuzzerTestOneInput(data, n);
	return 0;
}

static int replay_folder(const char *path, unsigned *count)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	char name[4096];
	int r = dir ? 0 : -1;

	while (!r && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		r = replay_file(name);
		++*count;
	}
	if (dir)
		closedir(dir);
	return r;
}

int main(int argc, char **argv)
{
	unsigned count = 0;
	struct stat st;
	int i;

	for (i = 1; i < argc; i++) {
		int r;

		if (stat(argv[i], &st)) {
			fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
			return 1;
		}
		if (S_ISDIR(st.st_mode)) {
			r = replay_folder(argv[i], &count);
		} else {
			r = replay_file(argv[i]);
			count++;
		}
		if (r)
			return 1;
	}
	printf("%u inputs replayed\n", count);
	return count ? 0 : 1;
}
