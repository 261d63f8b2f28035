#include "qcow2/refs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

void qcow2_refs_deinit(struct qcow2_refs *refs)
{
	uint64_t i;

	for (i = 0; i < refs->chunks; i++)
		free(refs->chunk[i]);
	free(refs->chunk);
	*refs = QCOW2_REFS_INIT;
}

static int refs_grow(struct qcow2_refs *refs, uint64_t chunks)
{
	uint16_t **grown;

	if (chunks <= refs->chunks)
		return 0;
	chunks = MAX(chunks, refs->chunks * 2);
	grown = realloc(refs->chunk, chunks * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	memset(grown + refs->chunks, 0, (chunks - refs->chunks) * sizeof(*grown));
	refs->chunk = grown;
	refs->chunks = chunks;
	return 0;
}

int qcow2_refs_clear(struct qcow2_refs *refs, uint64_t clusters)
{
	uint64_t i, chunks = div_up(clusters, QCOW2_REFS_CHUNK);
	int r = refs_grow(refs, chunks);

	for (i = 0; !r && i < chunks; i++) {
		free(refs->chunk[i]);
		refs->chunk[i] = calloc(QCOW2_REFS_CHUNK, sizeof(**refs->chunk));
		if (!refs->chunk[i])
			r = -ENOMEM;
	}
	return r;
}

uint16_t qcow2_refs_get(const struct qcow2_refs *refs, uint64_t cluster)
{
	uint64_t i = cluster / QCOW2_REFS_CHUNK;

	if (i >= refs->chunks || !refs->chunk[i])
		return 1;
	return refs->chunk[i][cluster % QCOW2_REFS_CHUNK];
}

int qcow2_refs_add(struct qcow2_refs *refs, uint64_t cluster, int delta)
{
	uint64_t i = cluster / QCOW2_REFS_CHUNK, k;
	uint16_t *counter;
	int r = refs_grow(refs, i + 1);

	if (r)
		return r;
	if (!refs->chunk[i]) {
		refs->chunk[i] = malloc(QCOW2_REFS_CHUNK * sizeof(**refs->chunk));
		if (!refs->chunk[i])
			return -ENOMEM;
		for (k = 0; k < QCOW2_REFS_CHUNK; k++)
			refs->chunk[i][k] = 1;
	}
	counter = &refs->chunk[i][cluster % QCOW2_REFS_CHUNK];
	if (*counter + delta < 0 || *counter + delta > UINT16_MAX)
		return -EOVERFLOW;
	*counter += delta;
	return 0;
}

void qcow2_refs_compact(struct qcow2_refs *refs, uint64_t clusters)
{
	uint64_t i, k;

	for (i = 0; i < refs->chunks; i++) {
		uint64_t n = clusters > i * QCOW2_REFS_CHUNK ? clusters - i * QCOW2_REFS_CHUNK : 0;

		if (!refs->chunk[i])
			continue;
		n = MIN(n, QCOW2_REFS_CHUNK);
		/* Clusters beyond the end will be handed out later, with one reference each. */
		for (k = n; k < QCOW2_REFS_CHUNK; k++)
			refs->chunk[i][k] = 1;
		for (k = 0; k < n && refs->chunk[i][k] == 1; k++)
			;
		if (k == n) {
			free(refs->chunk[i]);
			refs->chunk[i] = NULL;
		}
	}
}
