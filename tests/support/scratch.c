#include "tests/support/scratch.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char scratch_dir[256];

int scratch_setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	(void)state;
	snprintf(scratch_dir, sizeof(scratch_dir), "%s/sendense-test-XXXXXX", tmp ? tmp : "/tmp");
	return mkdtemp(scratch_dir) && !chdir(scratch_dir) ? 0 : -1;
}

int scratch_teardown(void **state)
{
	char cmd[300];

	(void)state;
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", scratch_dir);
	return chdir("/") || system(cmd) ? -1 : 0;
}

static char *capture(int *status, const char *fmt, va_list ap)
{
	char cmd[2048], full[2100], *out = calloc(1, 1 << 16);
	FILE *pipe;

	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	snprintf(full, sizeof(full), "{ %s; } 2>&1", cmd);
	pipe = popen(full, "r");
	if (!pipe || !out)
		abort();
	if (!fread(out, 1, (1 << 16) - 1, pipe))
		out[0] = 0;
	*status = pclose(pipe);
	*status = WIFEXITED(*status) ? WEXITSTATUS(*status) : 255;
	if (*status)
		printf("# '%s' exited %d:\n%s\n", cmd, *status, out);
	return out;
}

int scratch_run(const char *fmt, ...)
{
	va_list ap;
	int status;

	va_start(ap, fmt);
	free(capture(&status, fmt, ap));
	va_end(ap);
	return status;
}

char *scratch_output(const char *fmt, ...)
{
	va_list ap;
	int status;
	char *out;

	va_start(ap, fmt);
	out = capture(&status, fmt, ap);
	va_end(ap);
	return out;
}
