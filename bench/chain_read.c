/*
 * What a chain costs to read: the engine alone, front to back, no network.
 *
 *   chain_read build DIR MIB DEPTH    makes DIR/chain-0.qcow2 .. chain-{DEPTH-1}.qcow2 and prints
 * the last one's name: a full disk of MIB MiB and overlays that change half of it between them,
 * cluster by cluster, at random chain_read scan IMAGE...          prints "IMAGE GIB_PER_S
 * MAP_SECONDS" for each: its data read whole, and its map asked for alone, both from a cold start
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "qcow2/scan.h"
#include "qcow2/session.h"

#define CLUSTER 65536U
#define EXTENTS 4096

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int complain(const struct err *err)
{
	fprintf(stderr, "chain_read: %s\n", err->text);
	return 1;
}

/* --- build ---------------------------------------------------------------------------------- */

static void fill(unsigned char *p, size_t len)
{
	static uint64_t x = 88172645463325252ULL;
	size_t i;

	for (i = 0; i < len; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(p + i, &x, 8);
	}
}

static int write_link(struct qcow2_session *s, unsigned link, unsigned depth, uint64_t size)
{
	static unsigned char buf[1 << 20];
	uint64_t count = link ? size / CLUSTER / 2 / (depth - 1) : size / sizeof(buf), i;
	int r = 0;

	for (i = 0; !r && i < count; i++) {
		uint64_t at =
			link ? (uint64_t)random() % (size / CLUSTER) * CLUSTER : i * sizeof(buf);
		size_t len = link ? CLUSTER : sizeof(buf);

		fill(buf, len);
		r = qcow2_session_write(s, at, buf, len);
	}
	return r;
}

static int build_link(struct qcow2_session *s, const char *dir, unsigned link, unsigned depth,
		      uint64_t size, struct err *err)
{
	const struct qcow2_open_opts opts = {.writable = true, .sums = true}; /* as points have */
	struct qcow2_create_opts create = {.size = size, .cluster_size = CLUSTER};
	char path[4096], backing[64];
	int r;

	snprintf(path, sizeof(path), "%s/chain-%u.qcow2", dir, link);
	snprintf(backing, sizeof(backing), "chain-%u.qcow2", link - 1);
	if (link)
		create.backing = backing;
	if ((r = qcow2_create(path, &create, err)) || (r = qcow2_session_open(s, path, &opts, err)))
		return r;
	r = write_link(s, link, depth, size);
	if (r) {
		qcow2_session_drop(s);
		return err_sys(err, r, "cannot write '%s'", path);
	}
	r = qcow2_session_close(s, err);
	if (!r && link + 1 == depth)
		puts(path);
	return r;
}

static int build(const char *dir, uint64_t size, unsigned depth)
{
	struct qcow2_session s;
	struct err err = ERR_INIT;
	unsigned i;
	int r = qcow2_session_init(&s, 8, &err);

	for (i = 0; !r && i < depth; i++)
		r = build_link(&s, dir, i, depth, size, &err);
	qcow2_session_deinit(&s);
	return r ? complain(&err) : 0;
}

/* --- scan ----------------------------------------------------------------------------------- */

static int take_piece(void *arg, uint64_t off, const void *data, uint64_t len, int res)
{
	uint64_t *read = arg;

	(void)off;
	if (data)
		*read += len;
	return res;
}

/* Tables are read through the page cache: begin without them. */
static void forget(const char *image)
{
	char path[4096], *number = strrchr(image, '-');
	unsigned i;
	int fd;

	for (i = 0; number; i++) {
		snprintf(path, sizeof(path), "%.*s-%u.qcow2", (int)(number - image), image, i);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return;
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		close(fd);
	}
}

static int map_all(const char *path, uint64_t *size, struct err *err)
{
	static struct qcow2_extent extents[EXTENTS];
	const struct qcow2_open_opts opts = {.writable = false};
	struct qcow2_session s;
	struct qcow2_info info = {0};
	uint64_t off = 0;
	unsigned count, i;
	int r = qcow2_session_init(&s, QCOW2_BATCHES_MIN, err);

	if (!r && !(r = qcow2_session_open(&s, path, &opts, err)))
		qcow2_get_info(s.img, &info);
	while (!r && off < info.size) {
		r = qcow2_session_extents(&s, off, info.size - off, extents, EXTENTS, &count);
		for (i = 0; !r && i < count; i++)
			off += extents[i].len;
	}
	qcow2_session_drop(&s);
	qcow2_session_deinit(&s);
	*size = info.size;
	return r;
}

static int scan(const char *path)
{
	static const struct qcow2_scan_ops ops = {.piece = take_piece};
	struct err err = ERR_INIT;
	uint64_t size, read = 0;
	double start, mapped;
	int r;

	forget(path);
	start = now();
	r = map_all(path, &size, &err);
	mapped = now() - start;
	if (r)
		return complain(&err);
	forget(path);
	start = now();
	r = qcow2_scan(path, NULL, 0, size, &ops, &read, &err);
	if (r)
		return complain(&err);
	printf("%s %.3f %.4f\n", path, (double)read / GIB / (now() - start), mapped);
	return 0;
}

int main(int argc, char **argv)
{
	int i, r = 0;

	if (argc == 5 && !strcmp(argv[1], "build"))
		return build(argv[2], strtoull(argv[3], NULL, 10) * MIB, atoi(argv[4]));
	if (argc < 3 || strcmp(argv[1], "scan")) {
		fprintf(stderr,
			"usage: chain_read build DIR MIB DEPTH | chain_read scan IMAGE...\n");
		return 2;
	}
	for (i = 2; !r && i < argc; i++)
		r = scan(argv[i]);
	return r;
}
