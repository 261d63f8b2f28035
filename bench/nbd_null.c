/*
 * Serves an export with nothing behind it, to measure the protocol alone.
 *
 *   nbd_null ADDRESS [SIZE_GIB [WORKERS [CERTIFICATES [allow]]]]
 *
 * ADDRESS: unix:PATH or ADDR:PORT. With a folder of certificates TLS is required, or allowed. Until
 * SIGTERM or SIGINT.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "nbd/export_null.h"
#include "nbd/server.h"

static int fail(const struct err *err)
{
	fprintf(stderr, "nbd_null: %s\n", err->text);
	return 1;
}

int main(int argc, char **argv)
{
	struct nbd_server_config config = NBD_SERVER_CONFIG_INIT;
	struct nbd_export_config ec = {.name = "", .preferred_block = 65536};
	struct nbd_listen_config listener = {0};
	struct nbd_null null = {0};
	struct err err = ERR_INIT;
	struct nbd_server *server;
	struct nbd_export *export;
	char bound[256];
	sigset_t set;
	int sig;

	if (argc < 2 || argc > 6) {
		fprintf(stderr,
			"usage: nbd_null ADDRESS [SIZE_GIB [WORKERS [CERTIFICATES [allow]]]]\n");
		return 2;
	}
	ec.size = (argc > 2 ? strtoull(argv[2], NULL, 10) : 64) << 30;
	config.workers = argc > 3 ? strtoul(argv[3], NULL, 10) : 1;
	if (argc > 4)
		listener.tls = (struct nbd_tls_config){.policy = argc > 5 ? NBD_TLS_ALLOW
									  : NBD_TLS_REQUIRE,
						       .certificates = argv[4]};
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (nbd_server_start(&server, &config, &err) ||
	    nbd_export_add(server, &ec, &nbd_export_null_ops, &null, &export, &err) ||
	    nbd_server_listen(server, argv[1], &listener, bound, sizeof(bound), &err))
		return fail(&err);
	printf("ready on %s\n", bound);
	fflush(stdout);
	sigwait(&set, &sig);
	nbd_export_remove(export, false);
	nbd_server_stop(server);
	return 0;
}
