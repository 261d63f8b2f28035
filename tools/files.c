/*
 * sendense-files: reads the file systems of one disk for a hub, in a sandbox. The hub starts it
 * (files/files.h); it is of no use by hand.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "files/proto.h"
#include "files/worker/worker.h"

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		puts("sendense-files " SENDENSE_VERSION);
		return 0;
	}
	if (argc != 1 || fcntl(PROTO_CALL_FD, F_GETFD) < 0 || fcntl(PROTO_BLOCK_FD, F_GETFD) < 0) {
		fputs("sendense-files: started by sendense-hub to read files inside backups; see "
		      "docs/files.md\n",
		      stderr);
		return 2;
	}
	worker_run();
	return 1;
}
