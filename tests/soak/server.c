/* The server of the soak test: real images in a server of two workers, and an export that comes and
 * goes all the time. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "nbd/export_null.h"
#include "nbd/export_qcow2.h"
#include "nbd/server.h"
#include "qcow2/qcow2.h"
#include "tests/soak/soak.h"

const struct soak_disk soak_disks[SOAK_DISKS] = {
	{.name = "full", .size = 40 * MIB + 1536},
	{.name = "overlay", .size = 32 * MIB},
	{.name = "packed", .size = 24 * MIB + 512},
	[SOAK_FIXED] = {.name = "base", .size = 32 * MIB, .read_only = true},
};

struct serving {
	struct nbd_server *server;
	struct qcow2_image *images[SOAK_DISKS];
	struct nbd_export *exports[SOAK_DISKS];
	pthread_t guest;
	atomic_bool stop;
};

/* "overlay" lies over "base" and suppresses what is equal; "packed" is compressed. */
static int image_open(const char *dir, unsigned i, struct qcow2_image **out, struct err *err)
{
	const struct soak_disk *disk = &soak_disks[i];
	bool packed = strcmp(disk->name, "packed") == 0;
	bool overlay = strcmp(disk->name, "overlay") == 0;
	const struct qcow2_create_opts create = {
		.size = disk->size, .backing = overlay ? "base.qcow2" : NULL, .zstd = packed};
	const struct qcow2_open_opts opts = {
		.writable = !disk->read_only,
		.suppress_unchanged = overlay,
		.sums = !disk->read_only,
		.zstd_level = packed ? 1 : 0,
	};
	char path[256];
	int r;

	snprintf(path, sizeof(path), "%s/%s.qcow2", dir, disk->name);
	r = disk->read_only ? 0 : qcow2_create(path, &create, err);
	return r ? r : qcow2_open(out, path, &opts, err);
}

static int disk_add(struct serving *s, const char *dir, unsigned i, struct err *err)
{
	struct nbd_export_config config = {
		.name = soak_disks[i].name,
		.size = soak_disks[i].size,
		.read_only = soak_disks[i].read_only,
	};
	int r = image_open(dir, i, &s->images[i], err);

	return r ? r
		 : nbd_export_add(s->server, &config, &nbd_export_qcow2_ops, s->images[i],
				  &s->exports[i], err);
}

static void *guest_comes_and_goes(void *arg)
{
	const struct nbd_export_config config = {.name = SOAK_GUEST, .size = 64 * MIB};
	struct serving *s = arg;
	struct nbd_export *export;
	struct nbd_null null;
	unsigned i;

	for (i = 0; !atomic_load(&s->stop); i++) {
		if (nbd_export_add(s->server, &config, &nbd_export_null_ops, &null, &export, NULL))
			abort();
		usleep(20000 + i * 7919 % 100000);
		nbd_export_remove(export, i % 3 == 0);
	}
	return NULL;
}

/* TLS is allowed over TCP: a listener's settings, for as long as @path lives. */
static struct nbd_listen_config tls_allowed(const char *dir, char *path, size_t size)
{
	FILE *f;

	snprintf(path, size, "%s/keys.psk", dir);
	f = fopen(path, "w");
	if (!f || fchmod(fileno(f), 0600) || fputs("good:" SOAK_PSK "\n", f) < 0 || fclose(f))
		abort();
	return (struct nbd_listen_config){.tls = {.policy = NBD_TLS_ALLOW, .psk = path}};
}

static int start(struct serving *s, const char *dir, struct err *err)
{
	const struct nbd_server_config config = {
		.workers = 2,
		.batch_count = 6,
		.max_connections = 160, /* fewer than floods bring */
		.max_connections_per_export = 64,
		.handshake_timeout_ms = SOAK_HANDSHAKE,
		.stall_timeout_ms = 60000, /* a good one may be held up by the machine */
	};
	char address[256], bound[64], keys[256];
	const struct nbd_listen_config tls = tls_allowed(dir, keys, sizeof(keys));
	unsigned i;
	int r = nbd_server_start(&s->server, &config, err);

	for (i = 0; !r && i < SOAK_DISKS; i++)
		r = disk_add(s, dir, i, err);
	snprintf(address, sizeof(address), "unix:%s/socket", dir);
	if (!r)
		r = nbd_server_listen(s->server, address, NULL, NULL, 0, err);
	if (!r)
		r = nbd_server_listen(s->server, "127.0.0.1:0", &tls, bound, sizeof(bound), err);
	if (r)
		return r;
	pthread_create(&s->guest, NULL, guest_comes_and_goes, s);
	printf("%s\n", strchr(bound, ':') + 1);
	fflush(stdout);
	return 0;
}

/* As the programs do it: exports first, then images, then the server. */
static int stop(struct serving *s, struct err *err)
{
	unsigned i;
	int r = 0;

	atomic_store(&s->stop, true);
	pthread_join(s->guest, NULL);
	for (i = 0; i < SOAK_DISKS && !r; i++) {
		r = nbd_export_remove(s->exports[i], false);
		if (r)
			return err_sys(err, r, "'%s' could not be written", soak_disks[i].name);
		if (!soak_disks[i].read_only)
			r = qcow2_finalize(s->images[i], err);
		qcow2_close(s->images[i]);
	}
	nbd_server_stop(s->server);
	return r;
}

int soak_serve(const char *dir)
{
	struct serving s = {0};
	struct err err = ERR_INIT;
	sigset_t signals;
	int r, sig;

	/* What clients do is none of the log's business, what fails is. */
	log_set_level(LOG_LEVEL_ERROR);
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	r = start(&s, dir, &err);
	if (!r) {
		while (sigwait(&signals, &sig))
			;
		r = stop(&s, &err);
	}
	if (r)
		fprintf(stderr, "soak server: %s\n", err.text);
	return r ? 1 : 0;
}
