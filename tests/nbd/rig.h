/*
 * A server with one export in memory, listening on a unix socket of its own, for one test.
 */
#ifndef TESTS_NBD_RIG_H
#define TESTS_NBD_RIG_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/log.h"
#include "nbd/server.h"
#include "tests/support/memexport.h"
#include "tests/support/nbdpeer.h"

#define RIG_SIZE (48ULL << 20)
#define RIG_NAME "disk"

struct rig {
	struct nbd_server *server;
	struct nbd_export *export; /* NULL: removed by the test */
	struct memexport mem;
	char dir[128];
	char address[160];
};

static inline void rig_ok(int r, const struct err *err)
{
	if (r)
		fail_msg("%d: %s", r, err->text);
}

static inline struct nbd_export *rig_add(struct rig *rig, struct memexport *mem, const char *name)
{
	struct nbd_export_config config = {
		.name = name,
		.size = mem->size,
		.preferred_block = 65536,
	};
	struct err err = ERR_INIT;
	struct nbd_export *export;

	rig_ok(nbd_export_add(rig->server, &config, &memexport_ops, mem, &export, &err), &err);
	return export;
}

static inline struct rig *rig_start(struct nbd_server_config config)
{
	struct rig *rig = calloc(1, sizeof(*rig));
	const char *tmp = getenv("TMPDIR");
	struct err err = ERR_INIT;

	assert_non_null(rig);
	log_set_level(LOG_LEVEL_ERROR);
	snprintf(rig->dir, sizeof(rig->dir), "%s/nbd.XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(rig->dir));
	snprintf(rig->address, sizeof(rig->address), "unix:%s/s", rig->dir);
	rig_ok(nbd_server_start(&rig->server, &config, &err), &err);
	rig_ok(nbd_server_listen(rig->server, rig->address, NULL, NULL, 0, &err), &err);
	memexport_init(&rig->mem, RIG_SIZE);
	rig->export = rig_add(rig, &rig->mem, RIG_NAME);
	return rig;
}

static inline void rig_stop(struct rig *rig)
{
	if (rig->export)
		nbd_export_remove(rig->export, false);
	nbd_server_stop(rig->server);
	memexport_deinit(&rig->mem);
	assert_int_equal(rmdir(rig->dir), 0); /* the socket file is gone, too */
	free(rig);
}

/* Other limits from now on; who is connected keeps the end of its negotiation. */
static inline void rig_change_limits(struct rig *rig, struct nbd_server_config limits)
{
	struct err err = ERR_INIT;
	struct nbd_change *c;

	rig_ok(nbd_server_prepare(rig->server, &limits, NULL, NULL, 0, &c, &err), &err);
	nbd_server_apply(rig->server, c);
}

/* cmocka setup and teardown of a test: two workers, few batches. */
static inline int rig_setup(void **state)
{
	*state = rig_start((struct nbd_server_config){.workers = 2, .batch_count = 2});
	return 0;
}

static inline int rig_teardown(void **state)
{
	rig_stop(*state);
	return 0;
}

/* Waits until @value, read through @get, is @wanted; fails after PEER_TIMEOUT_S. */
#define rig_await(condition)                                                                       \
	do {                                                                                       \
		int _tries = PEER_TIMEOUT_S * 1000;                                                \
		while (!(condition) && --_tries)                                                   \
			usleep(1000);                                                              \
		if (!_tries)                                                                       \
			fail_msg("did not happen: %s", #condition);                                \
	} while (0)

static inline struct nbd_export_stats rig_stats(const struct rig *rig)
{
	struct nbd_export_stats stats;

	nbd_export_get_stats(rig->export, &stats);
	return stats;
}

/* Bytes that differ from place to place. */
static inline void rig_pattern(unsigned char *p, size_t len, uint64_t seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		p[i] = ((seed + i) * 2654435761U) >> 13;
}

#endif
