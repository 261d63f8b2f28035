/*
 * zstd off the data path: an image that compresses has threads of its own, one a core, that take
 * clusters from a queue and send the result back to the image's thread. Off by default.
 */
#include <string.h>
#include <sys/sysinfo.h>
#include <zstd.h>

#include "qcow2/image.h"

bool qcow2_parse_compression(const char *text, int *level)
{
	char *end;
	long v = 1;

	*level = 0;
	if (!*text || !strcmp(text, "none"))
		return true;
	if (strncmp(text, "zstd", 4) || (text[4] && text[4] != ':'))
		return false;
	if (text[4]) {
		v = strtol(text + 5, &end, 10);
		if (end == text + 5 || *end || text[5] == '+')
			return false;
	}
	if (v < 1 || v > 19)
		return false;
	*level = v;
	return true;
}

static struct qcow2_pack *next_pack(struct qcow2_compressor *c)
{
	struct list *node = NULL;

	pthread_mutex_lock(&c->lock);
	while (!c->stop && !(node = list_pop(&c->todo)))
		pthread_cond_wait(&c->work, &c->lock);
	pthread_mutex_unlock(&c->lock);
	return node ? list_entry(node, struct qcow2_pack, node) : NULL;
}

static void *compress_main(void *arg)
{
	struct qcow2_image *img = arg;
	struct qcow2_compressor *c = &img->compressor;
	uint64_t cs = img->geom.cluster_size;
	ZSTD_CCtx *ctx = ZSTD_createCCtx();
	struct qcow2_pack *pack;

	while ((pack = next_pack(c))) {
		/* Anything that does not save a byte is better stored plain. */
		size_t n = ctx ? ZSTD_compressCCtx(ctx, pack->dst, cs - 1, pack->src, cs, c->level)
			       : 0;

		ring_post_from(img->io.ring, &pack->back, ZSTD_isError(n) ? 0 : (int)n);
	}
	ZSTD_freeCCtx(ctx);
	return NULL;
}

void qcow2_compress(struct qcow2_image *img, struct qcow2_pack *pack)
{
	struct qcow2_compressor *c = &img->compressor;

	pthread_mutex_lock(&c->lock);
	list_add_tail(&c->todo, &pack->node);
	pthread_cond_signal(&c->work);
	pthread_mutex_unlock(&c->lock);
}

int qcow2_compressor_attach(struct qcow2_image *img, struct err *err)
{
	struct qcow2_compressor *c = &img->compressor;
	unsigned want = get_nprocs();

	if (!c->level)
		return 0;
	if (img->io.ring->poke_fd < 0)
		ring_set_poke(img->io.ring, NULL);
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->work, NULL);
	list_init(&c->todo);
	c->stop = false;
	c->thread = calloc(want, sizeof(*c->thread));
	for (c->threads = 0; c->thread && c->threads < want; c->threads++)
		if (pthread_create(&c->thread[c->threads], NULL, compress_main, img))
			break;
	if (c->threads)
		return 0;
	return err_set(err, -ENOMEM, "no thread can be started to compress '%s'", img->path);
}

void qcow2_compressor_detach(struct qcow2_image *img)
{
	struct qcow2_compressor *c = &img->compressor;
	unsigned i;

	if (!c->thread)
		return;
	pthread_mutex_lock(&c->lock);
	c->stop = true;
	pthread_cond_broadcast(&c->work);
	pthread_mutex_unlock(&c->lock);
	for (i = 0; i < c->threads; i++)
		pthread_join(c->thread[i], NULL);
	free(c->thread);
	c->thread = NULL;
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->work);
}
