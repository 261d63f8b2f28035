/*
 * One line about what an export and its server have done, for people.
 */
#ifndef TOOLS_NBD_SUMMARY_H
#define TOOLS_NBD_SUMMARY_H

#include <stddef.h>

#include "nbd/server.h"

/* Writes at most @size bytes with the final NUL; returns @text. Commands and limits nobody met are
 * left out. */
const char *nbd_summary(char *text, size_t size, const struct nbd_export_stats *export,
			const struct nbd_server_stats *server);

#endif
