#include "tools/agent_track.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/xxh3.h"

#define TRACK_FILES_MAX 4096 /* far above what pruning leaves; more is not our folder */

struct track_file {
	char name[AGENT_TRACK_NAME];
	struct agent_index_id id;
	bool pending;
};

struct track_dir {
	struct track_file *files;
	size_t count;
};

static void track_dir_deinit(struct track_dir *d)
{
	free(d->files);
}

/* --- change ids ----------------------------------------------------------------------------- */

void agent_change_id_format(const uint8_t u[16], uint64_t sequence, char sep,
			    char out[AGENT_CHANGE_SIZE])
{
	snprintf(out, AGENT_CHANGE_SIZE,
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x%c%llu", u[0],
		 u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
		 u[14], u[15], sep, (unsigned long long)sequence);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int uuid_parse(const char *s, uint8_t uuid[16])
{
	size_t at = 0;

	for (int i = 0; i < 16; i++) {
		int hi, lo;

		if ((i == 4 || i == 6 || i == 8 || i == 10) && s[at++] != '-')
			return -EINVAL;
		hi = hex_digit(s[at]);
		lo = hi < 0 ? -1 : hex_digit(s[at + 1]);
		if (lo < 0)
			return -EINVAL;
		uuid[i] = (uint8_t)(hi << 4 | lo);
		at += 2;
	}
	return 0;
}

int agent_change_id_parse(const char *text, uint8_t uuid[16], uint64_t *sequence)
{
	const char *s = text + AGENT_UUID_SIZE;
	uint64_t v = 0;
	size_t n;

	if (strlen(text) < AGENT_UUID_SIZE + 1 || uuid_parse(text, uuid) ||
	    text[AGENT_UUID_SIZE - 1] != '/')
		return -EINVAL;
	n = strlen(s);
	if (n > 18 || s[0] == '0')
		return -EINVAL;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -EINVAL;
		v = v * 10 + (uint64_t)(*s - '0');
	}
	*sequence = v;
	return 0;
}

static int uuid_random(uint8_t uuid[16])
{
	if (getrandom(uuid, 16, 0) != 16)
		return -EIO;
	uuid[6] = (uuid[6] & 0x0f) | 0x40;
	uuid[8] = (uuid[8] & 0x3f) | 0x80;
	return 0;
}

/* --- the disk's directory ------------------------------------------------------------------- */

/* Any id becomes one harmless path component; different ids stay different. */
static void encode_id(const char *id, char out[AGENT_TRACK_NAME * 3])
{
	static const char plain[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	size_t n = 0;

	for (; *id && n + 4 < AGENT_TRACK_NAME * 3; id++) {
		if (strchr(plain, *id))
			out[n++] = *id;
		else
			n += (size_t)snprintf(out + n, 4, "%%%02X", (unsigned char)*id);
	}
	out[n] = '\0';
}

static int open_subdir(int parent, const char *name)
{
	int fd;

	if (mkdirat(parent, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int open_disk_dir(const struct agent_track_want *want)
{
	char vm[AGENT_TRACK_NAME * 3], disk[32];
	_cleanup_(closep) int vm_fd = -1;

	encode_id(want->vm_id, vm);
	snprintf(disk, sizeof(disk), "disk-%lld", (long long)want->disk_key);
	vm_fd = open_subdir(want->state_fd, vm);
	return vm_fd < 0 ? vm_fd : open_subdir(vm_fd, disk);
}

static bool has_suffix(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);

	return n >= m && strcmp(s + n - m, suffix) == 0;
}

/* What a crash left unsealed goes; what is no sound index is not ours to judge, and stays. */
static int dir_entry(struct track_dir *d, int dir_fd, const char *name)
{
	struct track_file *f;

	if (has_suffix(name, ".tmp"))
		return unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
	if ((!has_suffix(name, ".idx") && !has_suffix(name, ".pending")) ||
	    strlen(name) >= AGENT_TRACK_NAME)
		return 0;
	if (d->count == TRACK_FILES_MAX)
		return -EMFILE;
	f = reallocarray(d->files, d->count + 1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	d->files = f;
	f += d->count;
	strcpy(f->name, name);
	f->pending = has_suffix(name, ".pending");
	if (agent_index_peek(dir_fd, name, &f->id) == 0)
		d->count++;
	return 0;
}

static int dir_scan(struct track_dir *d, int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!dir) {
		rc = -errno;
		if (fd >= 0)
			close(fd);
		return rc;
	}
	while (!rc && (errno = 0, de = readdir(dir)))
		rc = dir_entry(d, dir_fd, de->d_name);
	if (!rc && errno)
		rc = -errno;
	closedir(dir);
	return rc;
}

/* --- the decision --------------------------------------------------------------------------- */

static struct agent_hash bitmap_identity(const struct agent_track_want *want)
{
	struct agent_hash h = {0};
	char text[4400];
	XXH128_canonical_t canon;
	int n;

	if (!want->bitmap)
		return h;
	n = snprintf(text, sizeof(text), "%s%c%s", want->bitmap, '\n', want->source);
	XXH128_canonicalFromHash(&canon, XXH3_128bits(text, MIN((size_t)n, sizeof(text) - 1)));
	memcpy(h.bytes, canon.digest, sizeof(h.bytes));
	return h;
}

static uint32_t wanted_kind(const struct agent_track_want *want)
{
	return want->bitmap ? AGENT_INDEX_BITMAP : AGENT_INDEX_HASH;
}

static struct track_file *find_point(struct track_dir *d, const uint8_t uuid[16], uint64_t sequence)
{
	for (size_t i = 0; i < d->count; i++)
		if (memcmp(d->files[i].id.uuid, uuid, 16) == 0 &&
		    d->files[i].id.sequence == sequence)
			return &d->files[i];
	return NULL;
}

static struct track_file *no_base(struct agent_track *t, const char *why)
{
	snprintf(t->reason, sizeof(t->reason), "full copy: %s", why);
	return NULL;
}

/* The point the hub names, if this agent can tell what changed since; else why not. */
static struct track_file *choose_base(struct agent_track *t, struct track_dir *d,
				      const struct agent_track_want *want)
{
	struct agent_hash bitmap = bitmap_identity(want);
	struct track_file *f;
	uint64_t sequence;
	uint8_t uuid[16];

	if (!want->hub_change_id)
		return no_base(t, "the hub could not be asked for the last change id");
	if (!want->hub_change_id[0])
		return no_base(t, "the hub has no earlier point to build on");
	if (agent_change_id_parse(want->hub_change_id, uuid, &sequence))
		return no_base(t, "the hub's change id is not one of this agent's");
	f = find_point(d, uuid, sequence);
	if (!f)
		return no_base(t, "this agent does not know the hub's change id (any more)");
	if (f->id.disk_size != want->disk_size)
		return no_base(t, "the disk's size has changed");
	if (f->id.kind != wanted_kind(want) || memcmp(&f->id.bitmap, &bitmap, sizeof(bitmap)) != 0)
		return no_base(t, "the disk's source or way of change tracking has changed");
	if (want->bitmap && !want->bitmap_served)
		return no_base(t, "no dirty bitmap has recorded since that point");
	return f;
}

/* A damaged index is said in the reason and costs a full copy, never the backup. */
static int open_base(struct agent_track *t, struct track_file *f, struct err *err)
{
	struct err why = ERR_INIT;
	int rc = agent_index_open(&t->base, t->dir_fd, f->name, &why);

	if (rc == AGENT_INDEX_E_DAMAGED || rc == -ENOENT || rc == -EIO) {
		no_base(t, why.text);
		return 0;
	}
	if (rc) {
		if (err)
			*err = why;
		return rc;
	}
	t->incremental = true;
	strcpy(t->base_name, f->name);
	snprintf(t->reason, sizeof(t->reason), "incremental since sequence %llu, by %s",
		 (unsigned long long)f->id.sequence,
		 t->base.id.kind == AGENT_INDEX_BITMAP ? "dirty bitmap" : "block hashes");
	return 0;
}

/* The hub names a pending point: the answer to its complete was yes, and got lost. */
static int promote_base(struct agent_track *t, struct err *err)
{
	char name[AGENT_TRACK_NAME];

	if (!t->incremental || !has_suffix(t->base_name, ".pending"))
		return 0;
	snprintf(name, sizeof(name), "%.*s.idx", (int)(strlen(t->base_name) - strlen(".pending")),
		 t->base_name);
	if (renameat(t->dir_fd, t->base_name, t->dir_fd, name) < 0)
		return err_sys(err, -errno, "index %s cannot be renamed", t->base_name);
	strcpy(t->base_name, name);
	return 0;
}

static int next_identity(const struct agent_track *t, const struct track_dir *d,
			 const struct agent_track_want *want, struct agent_index_id *id)
{
	*id = (struct agent_index_id){
		.kind = wanted_kind(want),
		.disk_size = want->disk_size,
		.bitmap = bitmap_identity(want),
		.sequence = 1,
		.generation = 1,
	};
	if (t->incremental) {
		memcpy(id->uuid, t->base.id.uuid, 16);
		id->seed = t->base.id.seed;
	} else if (uuid_random(id->uuid) || getrandom(&id->seed, 8, 0) != 8) {
		return -EIO;
	}
	for (size_t i = 0; i < d->count; i++) {
		const struct agent_index_id *other = &d->files[i].id;

		id->generation = MAX(id->generation, other->generation + 1);
		if (memcmp(other->uuid, id->uuid, 16) == 0)
			id->sequence = MAX(id->sequence, other->sequence + 1);
	}
	return 0;
}

static int make_next(struct agent_track *t, const struct agent_index_id *id, struct err *err)
{
	char stem[AGENT_CHANGE_SIZE];

	agent_change_id_format(id->uuid, id->sequence, '/', t->change_id);
	agent_change_id_format(id->uuid, id->sequence, '-', stem);
	snprintf(t->next_name, sizeof(t->next_name), "%s.idx", stem);
	snprintf(t->pending_name, sizeof(t->pending_name), "%s.pending", stem);
	return agent_index_create(&t->next, t->dir_fd, id, err);
}

int agent_track_begin(struct agent_track *t, const struct agent_track_want *want, struct err *err)
{
	_cleanup_(track_dir_deinit) struct track_dir dir = {0};
	struct agent_index_id id;
	struct track_file *base;
	int rc;

	*t = AGENT_TRACK_INIT;
	t->dir_fd = open_disk_dir(want);
	rc = t->dir_fd < 0 ? t->dir_fd : dir_scan(&dir, t->dir_fd);
	if (rc) {
		agent_track_end(t);
		return err_sys(err, rc, "state folder of disk %lld of VM \"%s\"",
			       (long long)want->disk_key, want->vm_id);
	}
	base = choose_base(t, &dir, want);
	rc = base ? open_base(t, base, err) : 0;
	if (!rc)
		rc = promote_base(t, err);
	if (!rc && next_identity(t, &dir, want, &id))
		rc = err_set(err, -EIO, "the system gives no random numbers");
	if (!rc)
		rc = make_next(t, &id, err);
	if (rc)
		agent_track_end(t);
	return rc;
}

/* --- seal, commit --------------------------------------------------------------------------- */

static bool is_ours(const struct agent_track *t, const struct track_file *f)
{
	return strcmp(f->name, t->base_name) == 0 || strcmp(f->name, t->next_name) == 0 ||
	       strcmp(f->name, t->pending_name) == 0;
}

static int drop_pending(struct agent_track *t)
{
	_cleanup_(track_dir_deinit) struct track_dir dir = {0};
	int rc = dir_scan(&dir, t->dir_fd);

	for (size_t i = 0; !rc && i < dir.count; i++)
		if (dir.files[i].pending && !is_ours(t, &dir.files[i]) &&
		    unlinkat(t->dir_fd, dir.files[i].name, 0) < 0)
			rc = -errno;
	return rc;
}

int agent_track_seal(struct agent_track *t, struct err *err)
{
	int rc = drop_pending(t);

	if (rc)
		return err_sys(err, rc, "old indexes in the state folder");
	rc = agent_index_seal(&t->next, t->pending_name, err);
	t->sealed = !rc;
	return rc;
}

static int newest_first(const void *a, const void *b)
{
	const struct track_file *x = a, *y = b;

	return x->id.generation < y->id.generation   ? 1
	       : x->id.generation > y->id.generation ? -1
						     : 0;
}

static int prune(struct agent_track *t, unsigned keep)
{
	_cleanup_(track_dir_deinit) struct track_dir dir = {0};
	int rc = dir_scan(&dir, t->dir_fd);
	size_t kept = t->incremental ? 2 : 1;

	if (!rc && dir.count)
		qsort(dir.files, dir.count, sizeof(*dir.files), newest_first);
	for (size_t i = 0; !rc && i < dir.count; i++) {
		if (is_ours(t, &dir.files[i]) || kept++ < keep)
			continue;
		if (unlinkat(t->dir_fd, dir.files[i].name, 0) < 0)
			rc = -errno;
	}
	return rc;
}

int agent_track_commit(struct agent_track *t, unsigned keep, struct err *err)
{
	int rc = 0;

	if (renameat(t->dir_fd, t->pending_name, t->dir_fd, t->next_name) < 0 ||
	    fsync(t->dir_fd) < 0)
		rc = -errno;
	if (!rc)
		rc = prune(t, keep);
	t->sealed = false;
	return rc ? err_sys(err, rc, "index %s", t->next_name) : 0;
}

void agent_track_refused(struct agent_track *t)
{
	/* When this fails the next seal tries again. */
	if (t->sealed)
		unlinkat(t->dir_fd, t->pending_name, 0);
	t->sealed = false;
}

bool agent_track_has(const struct agent_track *t, const char *point)
{
	static const char *const suffixes[] = {".idx", ".pending"};
	char name[AGENT_TRACK_NAME];
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		snprintf(name, sizeof(name), "%.70s%s", point, suffixes[i]);
		if (!strchr(point, '/') && fstatat(t->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			return true;
	}
	return false;
}

void agent_track_end(struct agent_track *t)
{
	agent_index_close(&t->base);
	agent_index_close(&t->next);
	if (t->dir_fd >= 0)
		close(t->dir_fd);
	t->dir_fd = -1;
}
