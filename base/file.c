/*
 * The seam's one real implementation: a regular file, data past the page cache where the request is
 * aligned for it, through a second, buffered descriptor where it is not (a guest may read 512 bytes
 * from the middle of a cluster). The two views stay coherent because the kernel writes back and
 * drops cached pages around direct I/O, and because nobody above overlaps a read with a write of
 * the same range.
 */
#include "base/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/list.h"

struct file_posix {
	struct file file;
	int fd;	       /* buffered */
	int fd_direct; /* -1: the file system refuses O_DIRECT */
};

static struct file_posix *to_posix(struct file *file)
{
	return container_of(file, struct file_posix, file);
}

static int file_fd_for(const struct file_posix *f, const void *buf, size_t len, uint64_t off)
{
	bool aligned = is_aligned((uintptr_t)buf, FILE_ALIGN) && is_aligned(len, FILE_ALIGN) &&
		       is_aligned(off, FILE_ALIGN);

	return aligned && f->fd_direct >= 0 ? f->fd_direct : f->fd;
}

/* --- asynchronous --------------------------------------------------------------------------- */

/* What is left of a transfer. */
static void file_prep_transfer(struct file_posix *f, struct file_op *op, struct io_uring_sqe *sqe)
{
	unsigned char *buf = (unsigned char *)op->buf + op->moved;
	size_t len = op->len - op->moved;
	uint64_t off = op->off + op->moved;
	int fd = op->cached ? f->fd : file_fd_for(f, buf, len, off);

	if (op->kind == FILE_OP_READ)
		io_uring_prep_read(sqe, fd, buf, len, off);
	else
		io_uring_prep_write(sqe, fd, buf, len, off);
}

static void file_posix_prep(struct file_posix *f, struct file_op *op)
{
	struct io_uring_sqe *sqe = ring_get_sqe(f->file.ring);

	switch (op->kind) {
	case FILE_OP_READ:
	case FILE_OP_WRITE:
		file_prep_transfer(f, op, sqe);
		break;
	case FILE_OP_DATASYNC:
		io_uring_prep_fsync(sqe, f->fd, IORING_FSYNC_DATASYNC);
		break;
	case FILE_OP_ALLOCATE:
		io_uring_prep_fallocate(sqe, f->fd, 0, op->off, op->len);
		break;
	case FILE_OP_PUNCH:
		io_uring_prep_fallocate(sqe, f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					op->off, op->len);
		break;
	}
	ring_arm(f->file.ring, sqe, &op->ring);
}

/* True when the transfer has to go on; otherwise *@res is the operation's result. */
static bool file_transfer_goes_on(struct file_op *op, int *res)
{
	if (*res == -EINTR || *res == -EAGAIN)
		return true;
	if (*res < 0)
		return false;
	op->moved += *res;
	if (op->moved == op->len || (*res == 0 && op->kind == FILE_OP_READ)) {
		*res = op->moved;
		return false;
	}
	if (*res == 0) { /* a write that moves nothing would never end */
		*res = -EIO;
		return false;
	}
	return true;
}

/* File systems without fallocate() get a hole instead of space; it reads as zeroes all the same. */
static int file_extend(struct file_posix *f, uint64_t size)
{
	struct stat st;

	if (fstat(f->fd, &st))
		return -errno;
	return (uint64_t)st.st_size < size && ftruncate(f->fd, size) ? -errno : 0;
}

static void file_posix_done(struct ring_op *ring_op, int res)
{
	struct file_op *op = container_of(ring_op, struct file_op, ring);
	bool transfer = op->kind == FILE_OP_READ || op->kind == FILE_OP_WRITE;

	if (transfer && file_transfer_goes_on(op, &res)) {
		file_posix_prep(to_posix(op->file), op);
		return;
	}
	if (op->kind == FILE_OP_ALLOCATE && res == -EOPNOTSUPP)
		res = file_extend(to_posix(op->file), op->off + op->len);
	op->done(op, res);
}

static void file_posix_submit(struct file *file, struct file_op *op)
{
	assert(file->ring);
	op->ring.done = file_posix_done;
	file_posix_prep(to_posix(file), op);
}

/* --- blocking ------------------------------------------------------------------------------- */

static ssize_t file_posix_pread(struct file *file, void *buf, size_t len, uint64_t off)
{
	struct file_posix *f = to_posix(file);
	size_t got = 0;

	while (got < len) {
		unsigned char *p = (unsigned char *)buf + got;
		ssize_t n = pread(file_fd_for(f, p, len - got, off + got), p, len - got, off + got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		got += n;
	}
	return got;
}

static int file_posix_pwrite(struct file *file, const void *buf, size_t len, uint64_t off)
{
	struct file_posix *f = to_posix(file);
	const unsigned char *p = buf;

	while (len) {
		ssize_t n = pwrite(file_fd_for(f, p, len, off), p, len, off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		off += n;
		len -= n;
	}
	return 0;
}

static int file_posix_datasync(struct file *file)
{
	return fdatasync(to_posix(file)->fd) ? -errno : 0;
}

static int file_posix_truncate(struct file *file, uint64_t size)
{
	return ftruncate(to_posix(file)->fd, size) ? -errno : 0;
}

static int file_posix_punch(struct file *file, uint64_t off, uint64_t len)
{
	return fallocate(to_posix(file)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len)
		       ? -errno
		       : 0;
}

static int64_t file_posix_size(struct file *file)
{
	struct stat st;

	return fstat(to_posix(file)->fd, &st) ? -errno : st.st_size;
}

static void file_posix_close(struct file *file)
{
	struct file_posix *f = to_posix(file);

	if (f->fd_direct >= 0)
		close(f->fd_direct);
	close(f->fd);
	free(f);
}

static const struct file_ops file_posix_ops = {
	.submit = file_posix_submit,
	.pread = file_posix_pread,
	.pwrite = file_posix_pwrite,
	.datasync = file_posix_datasync,
	.truncate = file_posix_truncate,
	.punch = file_posix_punch,
	.size = file_posix_size,
	.close = file_posix_close,
};

/* --- opening -------------------------------------------------------------------------------- */

#define LOCK_WAIT_MS 3000
#define LOCK_TRY_MS  10

static int file_try_lock(int fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (!fcntl(fd, F_OFD_SETLK, &lock))
		return 0;
	/* NFS without a lock daemon, for one: better to work than to refuse. */
	return errno == EAGAIN || errno == EACCES ? -EWOULDBLOCK : 0;
}

static int file_lock(int fd, bool patient)
{
	const struct timespec pause = {.tv_nsec = LOCK_TRY_MS * 1000000L};
	unsigned waited;
	int r = file_try_lock(fd);

	for (waited = 0; r && patient && waited < LOCK_WAIT_MS; waited += LOCK_TRY_MS) {
		nanosleep(&pause, NULL);
		r = file_try_lock(fd);
	}
	return r;
}

/* Takes @fd over, also on failure. */
static int file_adopt(struct file **out, int fd, const char *path, unsigned flags, struct err *err)
{
	_cleanup_(closep) int owned = fd;
	char self[64];
	struct file_posix *f;
	struct stat st;

	if (fstat(fd, &st))
		return err_sys(err, -errno, "cannot examine '%s'", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "'%s' is not a regular file", path);
	if ((flags & FILE_RDWR) && file_lock(fd, flags & FILE_PATIENT))
		return err_set(err, -EWOULDBLOCK,
			       "'%s' is in use by another process; close that one first", path);
	f = calloc(1, sizeof(*f));
	if (!f)
		return err_set(err, -ENOMEM, "no memory to open '%s'", path);
	f->file.ops = &file_posix_ops;
	f->fd = steal_fd(&owned);
	f->fd_direct = -1;
	if (!(flags & FILE_BUFFERED)) {
		/* Reopened through /proc, so that both descriptors are surely the same file. */
		snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
		f->fd_direct =
			open(self, O_CLOEXEC | O_DIRECT | (flags & FILE_RDWR ? O_RDWR : O_RDONLY));
	}
	*out = &f->file;
	return 0;
}

/* O_NONBLOCK: a FIFO in place of an image must not hang us; it means nothing on regular files. */
static int file_open_flags(unsigned flags)
{
	return O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (flags & FILE_RDWR ? O_RDWR : O_RDONLY) |
	       (flags & FILE_CREATE ? O_CREAT | O_EXCL : 0);
}

/* A long chain takes two descriptors a link: who meets that limit must hear which it is. */
static int file_refused(int error, const char *path, unsigned flags, struct err *err)
{
	struct rlimit files = {0};

	if (error != EMFILE)
		return err_sys(err, -error, "cannot %s '%s'",
			       flags & FILE_CREATE ? "create" : "open", path);
	getrlimit(RLIMIT_NOFILE, &files);
	return err_set(
		err, -EMFILE,
		"cannot open '%s': this process may have %llu files open and has them; raise "
		"the limit (ulimit -n, or LimitNOFILE= of its service)",
		path, (unsigned long long)files.rlim_cur);
}

int file_open(struct file **out, const char *path, unsigned flags, struct err *err)
{
	int fd = open(path, file_open_flags(flags), 0600);

	if (fd < 0)
		return file_refused(errno, path, flags, err);
	return file_adopt(out, fd, path, flags, err);
}

int file_open_beneath(struct file **out, int dirfd, const char *path, unsigned flags,
		      struct err *err)
{
	struct open_how how = {
		.flags = file_open_flags(flags),
		.mode = flags & FILE_CREATE ? 0600 : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	int fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));

	if (fd < 0 && errno == EXDEV)
		return err_set(err, -EXDEV, "'%s' leaves the repository; refused", path);
	if (fd < 0)
		return file_refused(errno, path, flags, err);
	return file_adopt(out, fd, path, flags, err);
}

/* Unlocks in words: a request of io_uring may hold on to the open file until its ring is entered
 * again, and the lock lives as long as that. */
void file_close(struct file *file)
{
	if (!file)
		return;
	file_unlock(file);
	file->ops->close(file);
}

void file_unlock(struct file *file)
{
	struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	if (file->ops == &file_posix_ops)
		fcntl(to_posix(file)->fd, F_OFD_SETLK, &lock);
}

int file_identity(struct file *file, uint64_t *dev, uint64_t *ino)
{
	struct stat st;

	if (file->ops != &file_posix_ops)
		return -EOPNOTSUPP;
	if (fstat(to_posix(file)->fd, &st))
		return -errno;
	*dev = st.st_dev;
	*ino = st.st_ino;
	return 0;
}

int file_sync_dir_of(const char *path)
{
	_cleanup_(freep) char *copy = strdup(path);
	_cleanup_(closep) int fd = -1;

	if (!copy)
		return -ENOMEM;
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fsync(fd) ? -errno : 0;
}
