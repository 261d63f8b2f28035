#include "tests/support/imgloop.h"

#include <stdio.h>
#include <stdlib.h>

void imgloop_start(struct qcow2_session *loop, unsigned batches)
{
	struct err err = ERR_INIT;

	if (qcow2_session_init(loop, batches, &err)) {
		fprintf(stderr, "imgloop: %s\n", err.text);
		abort();
	}
}

void imgloop_stop(struct qcow2_session *loop)
{
	qcow2_session_deinit(loop);
}

int imgloop_open(struct qcow2_session *loop, const char *path, const struct qcow2_open_opts *opts)
{
	struct err err = ERR_INIT;
	int r = qcow2_session_open(loop, path, opts, &err);

	if (r)
		printf("# open: %s\n", err.text);
	return r;
}

int imgloop_close(struct qcow2_session *loop)
{
	struct err err = ERR_INIT;

	return qcow2_session_close(loop, &err);
}

int imgloop_received(struct qcow2_session *loop, uint64_t off, uint64_t len,
		     struct qcow2_extent *extents, unsigned max, unsigned *count)
{
	*count = qcow2_received(loop->img, off, len, extents, max);
	return imgloop_flush(loop);
}
