#include "tools/agent_index.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/xxh3.h"

#define INDEX_MAGIC  "SDNSIDX1"
#define INDEX_HEADER 4096u
#define INDEX_FIELDS 112u /* what the header's own checksum covers */
#define INDEX_CHUNK  (1 * MIB)

static struct agent_hash hash_of(const void *data, size_t len)
{
	XXH128_canonical_t canon;
	struct agent_hash h;

	XXH128_canonicalFromHash(&canon, XXH3_128bits(data, len));
	memcpy(h.bytes, canon.digest, sizeof(h.bytes));
	return h;
}

struct agent_hash agent_index_hash(uint64_t seed, const void *data, size_t len)
{
	XXH128_canonical_t canon;
	struct agent_hash h = {0};

	if (bytes_all_zero(data, len))
		return h;
	XXH128_canonicalFromHash(&canon, XXH3_128bits_withSeed(data, len, seed));
	memcpy(h.bytes, canon.digest, sizeof(h.bytes));
	/* A block that is not zero must not look like one, however unlikely. */
	if (bytes_all_zero(h.bytes, sizeof(h.bytes)))
		h.bytes[15] = 1;
	return h;
}

static uint64_t index_blocks(const struct agent_index_id *id)
{
	return id->kind == AGENT_INDEX_HASH ? div_up(id->disk_size, AGENT_BLOCK) : 0;
}

/* --- positional I/O ------------------------------------------------------------------------- */

static int read_all(int fd, void *buf, size_t len, uint64_t off)
{
	for (size_t got = 0; got < len;) {
		ssize_t n = pread(fd, (char *)buf + got, len - got, (off_t)(off + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		got += (size_t)n;
	}
	return 0;
}

static int write_all(int fd, const void *buf, size_t len, uint64_t off)
{
	for (size_t put = 0; put < len;) {
		ssize_t n = pwrite(fd, (const char *)buf + put, len - put, (off_t)(off + put));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		put += (size_t)n;
	}
	return 0;
}

/* --- header --------------------------------------------------------------------------------- */

static void header_encode(uint8_t h[INDEX_HEADER], const struct agent_index_id *id,
			  const struct agent_hash *body)
{
	struct agent_hash sum;

	memset(h, 0, INDEX_HEADER);
	memcpy(h, INDEX_MAGIC, 8);
	store_be32(h + 8, INDEX_HEADER);
	store_be32(h + 12, id->kind);
	store_be32(h + 16, AGENT_BLOCK);
	store_be64(h + 24, id->disk_size);
	store_be64(h + 32, index_blocks(id));
	store_be64(h + 40, id->sequence);
	store_be64(h + 48, id->generation);
	store_be64(h + 56, id->seed);
	memcpy(h + 64, id->uuid, 16);
	memcpy(h + 80, id->bitmap.bytes, 16);
	memcpy(h + 96, body->bytes, 16);
	sum = hash_of(h, INDEX_FIELDS);
	memcpy(h + INDEX_FIELDS, sum.bytes, 16);
}

/* The checksum says the bytes are ours; the rest says this version of us wrote them. */
static int header_decode(const uint8_t h[INDEX_HEADER], struct agent_index_id *id,
			 struct agent_hash *body)
{
	struct agent_hash sum = hash_of(h, INDEX_FIELDS);

	if (memcmp(h, INDEX_MAGIC, 8) != 0 || memcmp(h + INDEX_FIELDS, sum.bytes, 16) != 0)
		return AGENT_INDEX_E_DAMAGED;
	id->kind = load_be32(h + 12);
	id->disk_size = load_be64(h + 24);
	id->sequence = load_be64(h + 40);
	id->generation = load_be64(h + 48);
	id->seed = load_be64(h + 56);
	memcpy(id->uuid, h + 64, 16);
	memcpy(id->bitmap.bytes, h + 80, 16);
	memcpy(body->bytes, h + 96, 16);
	if (load_be32(h + 8) != INDEX_HEADER || load_be32(h + 16) != AGENT_BLOCK ||
	    (id->kind != AGENT_INDEX_HASH && id->kind != AGENT_INDEX_BITMAP) ||
	    id->disk_size > INT64_MAX || load_be64(h + 32) != index_blocks(id))
		return AGENT_INDEX_E_DAMAGED;
	return 0;
}

static int header_read(int fd, struct agent_index_id *id, struct agent_hash *body)
{
	uint8_t header[INDEX_HEADER];
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size < (off_t)INDEX_HEADER)
		return AGENT_INDEX_E_DAMAGED;
	rc = read_all(fd, header, sizeof(header), 0);
	if (!rc)
		rc = header_decode(header, id, body);
	if (rc)
		return rc;
	if ((uint64_t)st.st_size != INDEX_HEADER + index_blocks(id) * sizeof(struct agent_hash))
		return AGENT_INDEX_E_DAMAGED;
	return 0;
}

static int index_open_fd(int dir_fd, const char *name)
{
	/* A FIFO or a link in this folder is nobody's index. */
	int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

int agent_index_peek(int dir_fd, const char *name, struct agent_index_id *out)
{
	_cleanup_(closep) int fd = index_open_fd(dir_fd, name);
	struct agent_hash body;

	return fd < 0 ? fd : header_read(fd, out, &body);
}

/* --- body ----------------------------------------------------------------------------------- */

static int body_sum(int fd, uint64_t len, struct agent_hash *out)
{
	_cleanup_(freep) char *buf = malloc(INDEX_CHUNK);
	XXH3_state_t *state = XXH3_createState();
	XXH128_canonical_t canon;
	int rc = buf && state ? 0 : -ENOMEM;

	if (!rc)
		XXH3_128bits_reset(state);
	for (uint64_t at = 0; !rc && at < len;) {
		size_t n = MIN(len - at, INDEX_CHUNK);

		rc = read_all(fd, buf, n, INDEX_HEADER + at);
		if (!rc)
			XXH3_128bits_update(state, buf, n);
		at += n;
	}
	if (!rc) {
		XXH128_canonicalFromHash(&canon, XXH3_128bits_digest(state));
		memcpy(out->bytes, canon.digest, sizeof(out->bytes));
	}
	XXH3_freeState(state);
	return rc;
}

int agent_index_open(struct agent_index *ix, int dir_fd, const char *name, struct err *err)
{
	struct agent_index new = {.dir_fd = dir_fd, .fd = index_open_fd(dir_fd, name)};
	struct agent_hash stored, found;
	int rc = new.fd < 0 ? new.fd : header_read(new.fd, &new.id, &stored);

	if (!rc) {
		new.blocks = index_blocks(&new.id);
		rc = body_sum(new.fd, new.blocks * sizeof(struct agent_hash), &found);
	}
	if (!rc && memcmp(&stored, &found, sizeof(found)) != 0)
		rc = AGENT_INDEX_E_DAMAGED;
	if (!rc) {
		*ix = new;
		return 0;
	}
	if (new.fd >= 0)
		close(new.fd);
	if (rc > 0)
		return err_set(err, rc, "index %s is damaged", name);
	return err_sys(err, rc, "index %s cannot be read", name);
}

int agent_index_get(const struct agent_index *ix, uint64_t first, uint32_t n,
		    struct agent_hash *out)
{
	assert(range_inside(first, n, ix->blocks));
	return read_all(ix->fd, out, n * sizeof(*out), INDEX_HEADER + first * sizeof(*out));
}

int agent_index_put(struct agent_index *ix, uint64_t first, uint32_t n, const struct agent_hash *in)
{
	assert(range_inside(first, n, ix->blocks));
	return write_all(ix->fd, in, n * sizeof(*in), INDEX_HEADER + first * sizeof(*in));
}

/* --- create, seal --------------------------------------------------------------------------- */

static int index_open_tmp(struct agent_index *ix)
{
	unsigned nonce = 0;

	ix->fd = openat(ix->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (ix->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
		return -errno;
	if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce))
		return -EIO;
	snprintf(ix->tmp_name, sizeof(ix->tmp_name), "new-%08x.tmp", nonce);
	ix->fd = openat(ix->dir_fd, ix->tmp_name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	return ix->fd < 0 ? -errno : 0;
}

int agent_index_create(struct agent_index *ix, int dir_fd, const struct agent_index_id *id,
		       struct err *err)
{
	struct agent_index new = {.dir_fd = dir_fd, .fd = -1, .id = *id};
	uint64_t size;
	int rc;

	new.blocks = index_blocks(id);
	size = INDEX_HEADER + new.blocks * sizeof(struct agent_hash);
	rc = index_open_tmp(&new);
	/* Sparse: the holes of a disk cost nothing in its index. */
	if (!rc && ftruncate(new.fd, (off_t)size) < 0)
		rc = -errno;
	if (rc) {
		agent_index_close(&new);
		return err_sys(err, rc, "index cannot be created in the state folder");
	}
	*ix = new;
	return 0;
}

/* A nameless file gets a passing name first, because linkat() does not replace. */
static int index_give_name(struct agent_index *ix, const char *name)
{
	char path[64];

	if (!ix->tmp_name[0]) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", ix->fd);
		snprintf(ix->tmp_name, sizeof(ix->tmp_name), "seal-%llu.tmp",
			 (unsigned long long)ix->id.generation);
		if (unlinkat(ix->dir_fd, ix->tmp_name, 0) < 0 && errno != ENOENT)
			return -errno;
		if (linkat(AT_FDCWD, path, ix->dir_fd, ix->tmp_name, AT_SYMLINK_FOLLOW) < 0)
			return -errno;
	}
	if (renameat(ix->dir_fd, ix->tmp_name, ix->dir_fd, name) < 0)
		return -errno;
	ix->tmp_name[0] = '\0';
	return fsync(ix->dir_fd) < 0 ? -errno : 0;
}

int agent_index_seal(struct agent_index *ix, const char *name, struct err *err)
{
	uint8_t header[INDEX_HEADER];
	struct agent_hash body;
	int rc = body_sum(ix->fd, ix->blocks * sizeof(struct agent_hash), &body);

	if (!rc) {
		header_encode(header, &ix->id, &body);
		rc = write_all(ix->fd, header, sizeof(header), 0);
	}
	if (!rc && fsync(ix->fd) < 0)
		rc = -errno;
	if (!rc)
		rc = index_give_name(ix, name);
	return rc ? err_sys(err, rc, "index %s cannot be written", name) : 0;
}

void agent_index_close(struct agent_index *ix)
{
	if (ix->tmp_name[0])
		unlinkat(ix->dir_fd, ix->tmp_name, 0);
	if (ix->fd >= 0)
		close(ix->fd);
	*ix = AGENT_INDEX_INIT;
}
