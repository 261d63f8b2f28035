/*
 * A raw file or block device, read by a few threads with pread(2), past the page cache where the
 * file system allows: a backup reads everything once, and what it would push out of the cache is
 * worth more.
 *
 * Files are taken only while nobody writes them. QEMU marks the images it has open with byte-range
 * locks; the same bytes are tested and held here, so that a running VM's file is refused and a VM
 * started meanwhile waits as it would for qemu-img. Other writers take no locks: they are found by
 * the file's time of change, which must be the same before and after.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "tools/agent_source.h"

/* QEMU's image locking: byte 100 + p is locked by who uses permission p, byte 200 + p by who does
 * not let others have it. */
#define QEMU_LOCK_USED	  100
#define QEMU_LOCK_DENIED  200
#define QEMU_PERM_READ	  0
#define QEMU_PERM_WRITE	  1
#define QEMU_PERM_RESIZE  3
#define QCOW2_HEADER_SIZE 32

struct file_source {
	struct agent_source base;
	char *path;
	int fd;
	int event_fd; /* readable when `done` may have something */
	struct stat at_open;
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct list todo, done; /* under lock */
	bool stopping;		/* under lock */
	pthread_t threads[AGENT_READERS];
	unsigned thread_count;
};

/* --- reading -------------------------------------------------------------------------------- */

/* O_DIRECT may be refused at any read; the flag is the file description's, for all threads. */
static bool file_leave_direct(struct file_source *f)
{
	int flags = fcntl(f->fd, F_GETFL);

	return flags >= 0 && fcntl(f->fd, F_SETFL, flags & ~O_DIRECT) == 0;
}

static int file_pread(struct file_source *f, struct agent_read *rd)
{
	uint64_t left = f->base.real_size - rd->off;
	size_t want = MIN(rd->len, left), got = 0;
	bool buffered = false;

	while (got < want) {
		/* The whole length is asked for, not what exists: O_DIRECT takes no odd ends. */
		ssize_t n =
			pread(f->fd, (char *)rd->buf + got, rd->len - got, (off_t)(rd->off + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EINVAL && !buffered) {
			buffered = true; /* one more try without */
			if (file_leave_direct(f))
				continue;
		}
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		got += (size_t)n;
	}
	if (want < rd->len)
		memset((char *)rd->buf + want, 0, rd->len - want);
	return 0;
}

static void file_finished(struct file_source *f, struct agent_read *rd)
{
	uint64_t one = 1;

	pthread_mutex_lock(&f->lock);
	list_add_tail(&f->done, &rd->node);
	pthread_mutex_unlock(&f->lock);
	/* A full eventfd counter is readable already. */
	if (write(f->event_fd, &one, sizeof(one)) < 0)
		return;
}

static struct agent_read *file_next(struct file_source *f)
{
	struct list *node = NULL;

	pthread_mutex_lock(&f->lock);
	while (!f->stopping && !(node = list_pop(&f->todo)))
		pthread_cond_wait(&f->more, &f->lock);
	pthread_mutex_unlock(&f->lock);
	return node ? list_entry(node, struct agent_read, node) : NULL;
}

static void *file_reader(void *arg)
{
	struct file_source *f = arg;
	struct agent_read *rd;

	while ((rd = file_next(f))) {
		rd->error = file_pread(f, rd);
		if (!rd->error)
			f->base.work(f->base.work_ctx, rd);
		file_finished(f, rd);
	}
	return NULL;
}

static void file_read(struct agent_source *src, struct agent_read *rd)
{
	struct file_source *f = container_of(src, struct file_source, base);

	pthread_mutex_lock(&f->lock);
	list_add_tail(&f->todo, &rd->node);
	pthread_cond_signal(&f->more);
	pthread_mutex_unlock(&f->lock);
}

static void file_reap(struct agent_source *src, struct list *out)
{
	struct file_source *f = container_of(src, struct file_source, base);

	pthread_mutex_lock(&f->lock);
	list_splice(out, &f->done);
	pthread_mutex_unlock(&f->lock);
}

static size_t file_prepare(struct agent_source *src, struct pollfd *pfd)
{
	struct file_source *f = container_of(src, struct file_source, base);

	*pfd = (struct pollfd){.fd = f->event_fd, .events = POLLIN};
	return 1;
}

static int file_dispatch(struct agent_source *src, const struct pollfd *pfd, struct err *err)
{
	struct file_source *f = container_of(src, struct file_source, base);
	uint64_t n;

	(void)err;
	if (pfd->revents && read(f->event_fd, &n, sizeof(n)) < 0)
		return 0; /* somebody was faster: nothing to fetch */
	return 0;
}

static int file_start(struct agent_source *src, struct err *err)
{
	struct file_source *f = container_of(src, struct file_source, base);

	while (f->thread_count < AGENT_READERS) {
		int rc = pthread_create(&f->threads[f->thread_count], NULL, file_reader, f);

		if (rc && f->thread_count == 0)
			return err_sys(err, -rc, "no thread to read %s", f->path);
		if (rc)
			break; /* fewer readers read too */
		f->thread_count++;
	}
	return 0;
}

/* --- map ------------------------------------------------------------------------------------ */

/* Marks data from the file's own knowledge of holes. A file system that has none calls everything
 * data; a block device does not answer at all, and is all data. */
static int file_map_data(struct file_source *f, struct agent_map *map, uint64_t end)
{
	uint64_t at = map->off;

	while (at < end) {
		off_t data = lseek(f->fd, (off_t)at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			return -errno;
		if ((uint64_t)data >= end)
			return 0;
		hole = lseek(f->fd, data, SEEK_HOLE);
		if (hole <= data)
			return hole < 0 ? -errno : -EIO;
		agent_map_mark(map, map->block, (uint64_t)data, (uint64_t)(hole - data));
		at = (uint64_t)hole;
	}
	return 0;
}

static int file_map(struct agent_source *src, struct agent_map *map, struct err *err)
{
	struct file_source *f = container_of(src, struct file_source, base);
	uint64_t end = MIN(map->off + (uint64_t)map->blocks * AGENT_BLOCK, src->real_size);
	int rc = -EINVAL;

	memset(map->block, 0, map->blocks);
	if (S_ISREG(f->at_open.st_mode))
		rc = file_map_data(f, map, end);
	if (rc == -EINVAL || rc == -EOPNOTSUPP)
		memset(map->block, 1, map->blocks);
	else if (rc)
		return err_sys(err, rc, "%s: looking for holes", f->path);
	for (uint32_t i = 0; i < map->blocks; i++)
		map->block[i] = map->block[i] ? AGENT_BLOCK_DATA : AGENT_BLOCK_ZERO;
	map->ready = true;
	return 0;
}

/* --- open, check, close --------------------------------------------------------------------- */

/* 1: somebody holds it; 0 free; -errno. */
static int lock_test(int fd, off_t byte)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	if (fcntl(fd, F_OFD_GETLK, &l) < 0)
		return -errno;
	return l.l_type != F_UNLCK;
}

static int lock_hold(int fd, off_t byte)
{
	struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	return fcntl(fd, F_OFD_SETLK, &l) < 0 ? -errno : 0;
}

/* First hold, then test, as QEMU does: of two that come at once at least one sees the other. */
static int file_lock(struct file_source *f, struct err *err)
{
	static const off_t hold[] = {QEMU_LOCK_USED + QEMU_PERM_READ,
				     QEMU_LOCK_DENIED + QEMU_PERM_WRITE,
				     QEMU_LOCK_DENIED + QEMU_PERM_RESIZE};
	static const off_t test[] = {QEMU_LOCK_DENIED + QEMU_PERM_READ,
				     QEMU_LOCK_USED + QEMU_PERM_WRITE,
				     QEMU_LOCK_USED + QEMU_PERM_RESIZE};
	int rc = 0;

	for (size_t i = 0; !rc && i < ARRAY_SIZE(hold); i++)
		rc = lock_hold(f->fd, hold[i]);
	for (size_t i = 0; !rc && i < ARRAY_SIZE(test); i++)
		rc = lock_test(f->fd, test[i]);
	if (rc == -ENOLCK || rc == -EOPNOTSUPP || rc == -EINVAL)
		return 0; /* a file system without locks: QEMU goes without them too */
	if (rc < 0)
		return err_sys(err, rc, "%s cannot be locked", f->path);
	if (rc)
		return err_set(err, -EBUSY,
			       "%s is open for writing in a running VM: stop the VM, or let it "
			       "export the disk over NBD",
			       f->path);
	return 0;
}

static int file_size(int fd, const struct stat *st, uint64_t *size)
{
	if (S_ISREG(st->st_mode)) {
		*size = (uint64_t)st->st_size;
		return 0;
	}
	if (!S_ISBLK(st->st_mode))
		return -EINVAL;
	return ioctl(fd, BLKGETSIZE64, size) < 0 ? -errno : 0;
}

static int file_open_path(const char *path, bool direct)
{
	int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	int fd = direct ? open(path, flags | O_DIRECT) : -1;

	if (fd < 0 && (!direct || errno == EINVAL))
		fd = open(path, flags);
	return fd < 0 ? -errno : fd;
}

static int file_init(struct file_source *f, const struct agent_disk *disk, struct err *err)
{
	int rc;

	f->path = strdup(disk->source);
	f->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!f->path || f->event_fd < 0)
		return err_sys(err, -ENOMEM, "%s", disk->source);
	f->fd = file_open_path(disk->source, true);
	rc = f->fd;
	if (rc >= 0)
		rc = fstat(f->fd, &f->at_open) < 0
			     ? -errno
			     : file_size(f->fd, &f->at_open, &f->base.real_size);
	if (rc < 0)
		return err_sys(err, rc, "%s cannot be opened for reading", disk->source);
	return file_lock(f, err);
}

static int file_check(struct agent_source *src, struct err *err)
{
	struct file_source *f = container_of(src, struct file_source, base);
	struct stat now;

	if (!S_ISREG(f->at_open.st_mode))
		return 0;
	if (fstat(f->fd, &now) < 0)
		return err_sys(err, -errno, "%s", f->path);
	if (now.st_size != f->at_open.st_size || now.st_mtim.tv_sec != f->at_open.st_mtim.tv_sec ||
	    now.st_mtim.tv_nsec != f->at_open.st_mtim.tv_nsec)
		return err_set(err, -ESTALE,
			       "%s was written to while it was read: stop the VM, or let it export "
			       "the disk over NBD",
			       f->path);
	return 0;
}

static void file_close(struct agent_source *src)
{
	struct file_source *f = container_of(src, struct file_source, base);

	pthread_mutex_lock(&f->lock);
	f->stopping = true;
	pthread_cond_broadcast(&f->more);
	pthread_mutex_unlock(&f->lock);
	while (f->thread_count)
		pthread_join(f->threads[--f->thread_count], NULL);
	pthread_cond_destroy(&f->more);
	pthread_mutex_destroy(&f->lock);
	if (f->fd >= 0)
		close(f->fd);
	if (f->event_fd >= 0)
		close(f->event_fd);
	free(f->path);
	free(f);
}

static const struct agent_source_ops file_ops = {
	.map = file_map,
	.read = file_read,
	.prepare = file_prepare,
	.dispatch = file_dispatch,
	.reap = file_reap,
	.start = file_start,
	.check = file_check,
	.close = file_close,
};

int agent_source_open_file(struct agent_source **out, const struct agent_disk *disk,
			   const struct agent_source_config *config, struct err *err)
{
	struct file_source *f = calloc(1, sizeof(*f));
	int rc;

	(void)config;
	if (!f)
		return err_sys(err, -ENOMEM, "%s", disk->source);
	f->base.ops = &file_ops;
	f->fd = -1;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->more, NULL);
	list_init(&f->todo);
	list_init(&f->done);
	rc = file_init(f, disk, err);
	if (rc) {
		file_close(&f->base);
		return rc;
	}
	*out = &f->base;
	return 0;
}

/* --- size only ------------------------------------------------------------------------------ */

/* Of a qcow2 file the size is in its header; asking a qemu-nbd would need the VM stopped. */
static int qcow2_size(int fd, uint64_t *size)
{
	uint8_t h[QCOW2_HEADER_SIZE];
	ssize_t n = pread(fd, h, sizeof(h), 0);

	if (n < 0)
		return -errno;
	if (n != sizeof(h) || memcmp(h, "QFI\xfb", 4) != 0 || load_be32(h + 4) < 2 ||
	    load_be32(h + 4) > 3)
		return -EINVAL;
	*size = load_be64(h + 24);
	return 0;
}

int agent_source_probe_file(const struct agent_disk *disk, uint64_t *size, struct err *err)
{
	_cleanup_(closep) int fd = file_open_path(disk->source, false);
	struct stat st;
	int rc = fd;

	if (rc >= 0)
		rc = fstat(fd, &st) < 0 ? -errno : 0;
	if (!rc)
		rc = disk->format == AGENT_FORMAT_QCOW2 ? qcow2_size(fd, size)
							: file_size(fd, &st, size);
	if (rc == -EINVAL)
		return err_set(err, rc, "%s is no %s", disk->source,
			       disk->format == AGENT_FORMAT_QCOW2 ? "qcow2 file"
								  : "file or block device");
	if (rc < 0)
		return err_sys(err, rc, "%s cannot be read", disk->source);
	if (*size == 0 || *size > AGENT_DISK_BYTES)
		return err_set(err, -EINVAL, "%s is empty or larger than this agent can copy",
			       disk->source);
	*size = align_up(*size, AGENT_SECTOR);
	return 0;
}
