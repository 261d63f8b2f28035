#include "base/descriptors.h"

#include <sys/resource.h>

void descriptors_raise(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur == files.rlim_max)
		return;
	files.rlim_cur = files.rlim_max;
	/* Without it there is room for fewer connections, and the server says for how many. */
	setrlimit(RLIMIT_NOFILE, &files);
}
