#include "qcow2/refs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static uint16_t none[QCOW2_REFS_CHUNK]; /* never written */

static void refs_drop(struct qcow2_refs *refs, uint64_t i)
{
	if (refs->chunk[i] != none)
		free(refs->chunk[i]);
	refs->chunk[i] = NULL;
}

/* A chunk of its own for what is now implied. 0 or -ENOMEM. */
static int refs_own(struct qcow2_refs *refs, uint64_t i)
{
	uint16_t *own, k, value = refs->chunk[i] ? 0 : 1;

	if (refs->chunk[i] && refs->chunk[i] != none)
		return 0;
	own = malloc(sizeof(none));
	if (!own)
		return -ENOMEM;
	for (k = 0; k < QCOW2_REFS_CHUNK; k++)
		own[k] = value;
	refs->chunk[i] = own;
	return 0;
}

void qcow2_refs_deinit(struct qcow2_refs *refs)
{
	uint64_t i;

	for (i = 0; i < refs->chunks; i++)
		refs_drop(refs, i);
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
	refs->chunk = grown;
	for (; refs->chunks < chunks; refs->chunks++)
		grown[refs->chunks] = refs->counting ? none : NULL;
	return 0;
}

int qcow2_refs_clear(struct qcow2_refs *refs, uint64_t clusters)
{
	uint64_t i, chunks = div_up(clusters, QCOW2_REFS_CHUNK);

	refs->counting = true;
	for (i = 0; i < refs->chunks; i++) {
		refs_drop(refs, i);
		refs->chunk[i] = none;
	}
	return refs_grow(refs, chunks);
}

bool qcow2_refs_none(const struct qcow2_refs *refs, uint64_t cluster)
{
	uint64_t i = cluster / QCOW2_REFS_CHUNK;

	return i < refs->chunks ? refs->chunk[i] == none : refs->counting;
}

uint16_t qcow2_refs_get(const struct qcow2_refs *refs, uint64_t cluster)
{
	uint64_t i = cluster / QCOW2_REFS_CHUNK;

	if (i >= refs->chunks)
		return refs->counting ? 0 : 1;
	if (!refs->chunk[i])
		return 1;
	return refs->chunk[i][cluster % QCOW2_REFS_CHUNK];
}

int qcow2_refs_add(struct qcow2_refs *refs, uint64_t cluster, int delta)
{
	uint64_t i = cluster / QCOW2_REFS_CHUNK;
	uint16_t *counter;
	int r = refs_grow(refs, i + 1);

	if (!r)
		r = refs_own(refs, i);
	if (r)
		return r;
	counter = &refs->chunk[i][cluster % QCOW2_REFS_CHUNK];
	if (*counter + delta < 0 || *counter + delta > UINT16_MAX)
		return -EOVERFLOW;
	*counter += delta;
	return 0;
}

int qcow2_refs_compact(struct qcow2_refs *refs, uint64_t clusters)
{
	uint64_t i, k;

	refs->counting = false;
	for (i = 0; i < refs->chunks; i++) {
		uint64_t n = clusters > i * QCOW2_REFS_CHUNK ? clusters - i * QCOW2_REFS_CHUNK : 0;

		n = MIN(n, QCOW2_REFS_CHUNK);
		if (!n)
			refs_drop(refs, i);
		if (!refs->chunk[i] || (refs->chunk[i] == none && n == QCOW2_REFS_CHUNK))
			continue;
		if (refs_own(refs, i))
			return -ENOMEM;
		/* Clusters beyond the end will be handed out later, with one reference each. */
		for (k = n; k < QCOW2_REFS_CHUNK; k++)
			refs->chunk[i][k] = 1;
		for (k = 0; k < n && refs->chunk[i][k] == 1; k++)
			;
		if (k == n)
			refs_drop(refs, i);
	}
	return 0;
}
