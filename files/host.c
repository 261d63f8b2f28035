#include "files/host.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "files/proto.h"
#include "qcow2/session.h"

#define WORKER_NAME "sendense-files"

/* A sanitizer's last words are worth more than a quiet log. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WORKER_MAY_TALK 1
#else
#define WORKER_MAY_TALK 0
#endif

struct files_host {
	pthread_t thread;
	bool threaded;
	sem_t started;
	int start_result;
	struct err *start_err; /* the starter's, until `started` */
	const struct files_opts *opts;
	int call_theirs, block_theirs; /* the worker's ends, until it has them */
	int block_fd;
	pid_t pid; /* 0: none */
	uint64_t size;
	struct qcow2_session session;
	unsigned char *buf; /* PROTO_DATA_MAX */
};

/* --- starting the worker -------------------------------------------------------------------- */

static int worker_path(char path[PATH_MAX], const char *given, struct err *err)
{
	ssize_t n;
	char *slash;

	if (given) {
		if (strlen(given) >= PATH_MAX)
			return err_set(err, -ENAMETOOLONG,
				       "the path of the file reader is too long");
		strcpy(path, given);
		return 0;
	}
	n = readlink("/proc/self/exe", path, PATH_MAX - sizeof(WORKER_NAME) - 1);
	if (n < 0)
		return err_sys(err, -errno, "cannot tell where this program lies");
	path[n] = '\0';
	slash = strrchr(path, '/');
	strcpy(slash ? slash + 1 : path, WORKER_NAME);
	return 0;
}

/* Above the two numbers they get in the worker, so that giving the one does not close the other. */
static int socket_pair(int *mine, int *theirs)
{
	int fd[2], i, r = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd))
		return -errno;
	*mine = fcntl(fd[0], F_DUPFD_CLOEXEC, 16);
	*theirs = fcntl(fd[1], F_DUPFD_CLOEXEC, 16);
	if (*mine < 0 || *theirs < 0)
		r = -errno;
	for (i = 0; i < 2; i++)
		close(fd[i]);
	return r;
}

static int spawn_actions(posix_spawn_file_actions_t *fa, const struct files_host *h)
{
	int r = posix_spawn_file_actions_addopen(fa, 0, "/dev/null", O_RDONLY, 0);

	if (!r)
		r = posix_spawn_file_actions_addopen(fa, 1, "/dev/null", O_WRONLY, 0);
	if (!r && !WORKER_MAY_TALK)
		r = posix_spawn_file_actions_adddup2(fa, 1, 2);
	if (!r)
		r = posix_spawn_file_actions_adddup2(fa, h->call_theirs, PROTO_CALL_FD);
	if (!r)
		r = posix_spawn_file_actions_adddup2(fa, h->block_theirs, PROTO_BLOCK_FD);
	if (!r)
		r = posix_spawn_file_actions_addclosefrom_np(fa, PROTO_BLOCK_FD + 1);
	return r;
}

static int spawn_worker(struct files_host *h, struct err *err)
{
	char path[PATH_MAX], *argv[] = {path, NULL}, *env[] = {NULL};
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int r = worker_path(path, h->opts->worker, err);

	if (r)
		return r;
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&fa);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
						POSIX_SPAWN_SETPGROUP);
	r = spawn_actions(&fa, h);
	if (!r)
		r = posix_spawn(&h->pid, path, &fa, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&fa);
	if (r) {
		h->pid = 0;
		return err_sys(err, -r, "cannot start '%s', which reads guest file systems", path);
	}
	close(steal_fd(&h->call_theirs));
	close(steal_fd(&h->block_theirs));
	return 0;
}

/* --- blocks --------------------------------------------------------------------------------- */

static bool recv_all(int fd, void *buf, size_t len)
{
	ssize_t n;

	do
		n = recv(fd, buf, len, MSG_WAITALL);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)len;
}

static bool send_all(int fd, const void *buf, size_t len)
{
	while (len) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		buf = (const char *)buf + n;
		len -= (size_t)n;
	}
	return true;
}

/* Until the socket ends, or the worker asks for what is not there: then it is not to be trusted. */
static void serve_blocks(struct files_host *h)
{
	struct proto_block_request req;
	struct proto_block_answer ans;

	while (recv_all(h->block_fd, &req, sizeof(req))) {
		if (!req.len || req.len > PROTO_DATA_MAX ||
		    !range_inside(req.off, req.len, h->size))
			break;
		ans.status = qcow2_session_read(&h->session, req.off, h->buf, req.len);
		ans.len = ans.status ? 0 : req.len;
		if (!send_all(h->block_fd, &ans, sizeof(ans)) ||
		    !send_all(h->block_fd, h->buf, ans.len))
			break;
	}
	shutdown(h->block_fd, SHUT_RDWR);
}

/* --- the thread ----------------------------------------------------------------------------- */

static int open_image(struct files_host *h, struct err *err)
{
	struct qcow2_open_opts opts = {.repository = h->opts->repository};
	struct qcow2_info info;
	int r = qcow2_session_init(&h->session, QCOW2_BATCHES_MIN, err);

	if (!r)
		r = qcow2_session_open(&h->session, h->opts->image, &opts, err);
	if (r)
		return r;
	qcow2_get_info(h->session.img, &info);
	h->size = info.size;
	return 0;
}

static void *run(void *arg)
{
	struct files_host *h = arg;
	int r = open_image(h, h->start_err);
	bool serve;

	if (!r)
		r = spawn_worker(h, h->start_err);
	serve = !r;
	h->start_result = r;
	sem_post(&h->started);
	if (serve)
		serve_blocks(h);
	/* a worker whose disk is gone has nothing left to do */
	if (h->pid)
		kill(h->pid, SIGKILL);
	qcow2_session_drop(&h->session);
	qcow2_session_deinit(&h->session);
	return NULL;
}

/* The program's signals are for its own threads. */
static int start_thread(struct files_host *h)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&h->thread, NULL, run, h);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	h->threaded = !r;
	return -r;
}

static struct files_host *host_new(void)
{
	struct files_host *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->call_theirs = h->block_theirs = h->block_fd = -1;
	sem_init(&h->started, 0, 0);
	h->buf = aligned_alloc(4096, PROTO_DATA_MAX);
	if (h->buf)
		return h;
	files_host_stop(h);
	return NULL;
}

int files_host_start(struct files_host **out, const struct files_opts *opts, int *call_fd,
		     struct err *err)
{
	struct files_host *h = host_new();
	int r;

	*call_fd = -1;
	if (!h)
		return err_set(err, -ENOMEM, "no memory to read '%s'", opts->image);
	h->opts = opts;
	h->start_err = err;
	r = socket_pair(call_fd, &h->call_theirs);
	if (!r)
		r = socket_pair(&h->block_fd, &h->block_theirs);
	if (r) {
		err_sys(err, r, "cannot make the sockets to read '%s'", opts->image);
	} else if ((r = start_thread(h))) {
		err_sys(err, r, "cannot start the thread to read '%s'", opts->image);
	} else {
		while (sem_wait(&h->started))
			;
		r = h->start_result;
	}
	if (r) {
		closep(call_fd);
		*call_fd = -1;
		files_host_stop(h);
		return r;
	}
	h->opts = NULL;
	*out = h;
	return 0;
}

void files_host_stop(struct files_host *h)
{
	if (!h)
		return;
	if (h->pid)
		kill(h->pid, SIGKILL);
	if (h->block_fd >= 0)
		shutdown(h->block_fd, SHUT_RDWR);
	if (h->threaded)
		pthread_join(h->thread, NULL);
	while (h->pid && waitpid(h->pid, NULL, 0) < 0 && errno == EINTR)
		;
	closep(&h->call_theirs);
	closep(&h->block_theirs);
	closep(&h->block_fd);
	sem_destroy(&h->started);
	free(h->buf);
	free(h);
}

uint64_t files_host_size(const struct files_host *h)
{
	return h->size;
}

pid_t files_host_pid(const struct files_host *h)
{
	return h->pid;
}
