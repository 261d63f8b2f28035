#include "kit.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"

#define PATHS 8

static char folder[64];

static void remove_folder(void)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
	rmdir(folder);
}

const char *kit_folder(void)
{
	const char *tmp = getenv("TMPDIR");

	if (folder[0])
		return folder;
	snprintf(folder, sizeof(folder), "%s/sendense-fuzz-XXXXXX", tmp ? tmp : "/tmp");
	KIT_CHECK(mkdtemp(folder));
	atexit(remove_folder);
	return folder;
}

const char *kit_path(const char *name)
{
	static char paths[PATHS][128];
	static unsigned next;
	char *path = paths[next++ % PATHS];

	snprintf(path, sizeof(paths[0]), "%s/%s", kit_folder(), name);
	return path;
}

void kit_store(const char *name, const void *data, size_t size)
{
	_cleanup_(fclosep) FILE *f = fopen(kit_path(name), "wb");

	KIT_CHECK(f && fwrite(data, 1, size, f) == size);
}

void kit_fail(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
	abort();
}
