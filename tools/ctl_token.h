/*
 * The token sendense-ctl shows to the hub: of --token-file, else of SENDENSE_TOKEN, else of the
 * file a hub on this machine keeps its first administrator's in, if that can be read and the hub
 * asked is on this machine: nobody else's hub is shown it unasked. Never of the command line, which
 * everybody on the machine can see.
 */
#ifndef TOOLS_CTL_TOKEN_H
#define TOOLS_CTL_TOKEN_H

#include <stdbool.h>

#include "base/err.h"

#define CTL_TOKEN_FILE "/var/lib/sendense/admin-token"
#define CTL_TOKEN_MAX  256

/* True when the hub at this URL is on a loopback address. */
bool ctl_token_is_local(const char *hub_url);

/* @file: what --token-file says; NULL: it was not given. "" in @token: there is none, and the hub
 * will say what it thinks of that. CTL_USAGE: the file cannot be read, or what it holds is no
 * token. */
int ctl_token_find(const char *file, const char *hub_url, char token[CTL_TOKEN_MAX],
		   struct err *err);

#endif
