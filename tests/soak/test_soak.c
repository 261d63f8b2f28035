/*
 * A server under good and bad clients for a while, and whether it is the same afterwards.
 *
 *   test_soak [SECONDS [SEED]]     default: 20 seconds; `make soak MINUTES=n` is longer
 *
 * Rounds of mixed load, and silence between them. In silence nothing may be left of the clients:
 * as many descriptors and threads as before the first of them came, and no more memory than after
 * the first round but for GROWTH_MAX; under load never more than PEAK_MAX beyond that. Good clients
 * check all they read while they work; between rounds all of every disk is read. In the end the
 * server must end by itself with 0, and every image be sound and equal to what was written, as
 * qemu-img sees it. Exit: 0, or 1 and what is wrong.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/soak/soak.h"

#define GROWTH_MAX (6 * 1024)  /* KiB, from the first silence to any later one */
#define PEAK_MAX   (32 * 1024) /* KiB, over the first silence, at any time */
#define WRITERS	   2	       /* on each writable disk */
#define READERS	   1
#define HOSTILES   10
#define THREADS	   (WRITERS * SOAK_FIXED + READERS + HOSTILES)
#define ROUND_S	   15
#define SILENCE_S  60 /* until everything of a client must be gone */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEMORY_COUNTS false /* sanitizers keep what was freed */
#else
#define MEMORY_COUNTS true
#endif

static struct soak soak;

void soak_violation(struct soak *s, const char *fmt, ...)
{
	va_list ap;

	if (!atomic_exchange(&s->failed, true)) {
		va_start(ap, fmt);
		printf("VIOLATION: ");
		vprintf(fmt, ap);
		printf("\n");
		fflush(stdout);
		va_end(ap);
	}
	atomic_store(&s->stop, true);
}

/* --- the server from outside ------------------------------------------------------------------ */

static unsigned descriptors(void)
{
	char path[64];
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", soak.server);
	dir = opendir(path);
	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n - 2; /* . and .. */
}

/* The kernel's own (io_uring's workers) come and go as it likes. */
static unsigned own_threads(void)
{
	char path[sizeof("/proc//task//comm") + 32], name[32];
	struct dirent *entry;
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", soak.server);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/task/%.16s/comm", soak.server,
			 entry->d_name);
		f = fopen(path, "r");
		n += f && fgets(name, sizeof(name), f) && strncmp(name, "iou-", 4) != 0;
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
	return n;
}

/* "VmRSS" or "VmHWM", KiB. */
static long memory(const char *field)
{
	char path[64], line[256];
	long kib = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", soak.server);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, field, strlen(field)) == 0)
			kib = strtol(line + strlen(field) + 1, NULL, 10);
	if (f)
		fclose(f);
	return kib;
}

static bool is_running(void)
{
	siginfo_t info = {.si_pid = 0};

	return waitid(P_PID, soak.server, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && !info.si_pid;
}

/* --- start ------------------------------------------------------------------------------------ */

static bool run(const char *fmt, ...)
{
	char command[1024];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	status = system(command);
	if (status)
		soak_violation(&soak, "'%s' ended with %d", command, WEXITSTATUS(status));
	return !status;
}

static bool make_model(struct soak_disk *disk)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s.raw", soak.dir, disk->name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, disk->size))
		return false;
	disk->model = mmap(NULL, disk->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return disk->model != MAP_FAILED;
}

/* The base has data, text, zeroes and holes; the overlay starts as what the base holds. */
static bool make_disks(void)
{
	struct soak_disk *base = &soak.disks[SOAK_FIXED];
	uint64_t i, random = 99;

	memcpy(soak.disks, soak_disks, sizeof(soak.disks));
	for (i = 0; i < SOAK_DISKS; i++)
		if (!make_model(&soak.disks[i]))
			return false;
	for (i = 0; i + 8 <= base->size / 2; i += 8) {
		uint64_t v = i < base->size / 4 ? soak_random(&random) : 0x6f62206f676e6162;

		memcpy(base->model + i, &v, 8);
	}
	for (i = 0; i < SOAK_FIXED; i++)
		if (strcmp(soak.disks[i].name, "overlay") == 0)
			memcpy(soak.disks[i].model, base->model, base->size);
	return run("qemu-img convert -f raw -O qcow2 %s/base.raw %s/base.qcow2", soak.dir,
		   soak.dir);
}

static bool start_server(const char *program)
{
	int out[2];
	char line[32];
	ssize_t n;

	if (pipe2(out, O_CLOEXEC))
		return false;
	soak.server = fork();
	if (soak.server == 0) {
		dup2(out[1], STDOUT_FILENO);
		execl(program, program, "--serve", soak.dir, NULL);
		_exit(127);
	}
	close(out[1]);
	n = soak.server > 0 ? read(out[0], line, sizeof(line) - 1) : -1;
	close(out[0]);
	line[n > 0 ? n : 0] = '\0';
	soak.port = strtoul(line, NULL, 10);
	if (!soak.port)
		soak_violation(&soak, "the server does not start");
	return soak.port;
}

/* --- rounds ----------------------------------------------------------------------------------- */

static void start_threads(pthread_t *threads, struct soak_thread *args, unsigned round,
			  uint64_t seed)
{
	unsigned i, n = 0, d;

	for (i = 0; i < THREADS; i++)
		args[i] = (struct soak_thread){.soak = &soak,
					       .seed = (seed * 1000 + round) * 1000 + i + 1};
	for (d = 0; d < SOAK_FIXED; d++)
		for (i = 0; i < WRITERS; i++, n++) {
			/* Parts meet in the middle of clusters. */
			uint64_t part = (soak.disks[d].size - SOAK_SCRATCH) / WRITERS;

			args[n].disk = d;
			args[n].start = i * part;
			args[n].end = (i + 1) * part;
			pthread_create(&threads[n], NULL, soak_writer, &args[n]);
		}
	for (i = 0; i < READERS; i++, n++) {
		args[n].disk = SOAK_FIXED;
		args[n].end = soak.disks[SOAK_FIXED].size;
		pthread_create(&threads[n], NULL, soak_reader, &args[n]);
	}
	for (i = 0; i < HOSTILES; i++, n++)
		pthread_create(&threads[n], NULL, soak_hostile, &args[n]);
}

static void run_round(unsigned round, unsigned ms, uint64_t seed)
{
	struct soak_thread args[THREADS];
	pthread_t threads[THREADS];
	unsigned i;

	start_threads(threads, args, round, seed);
	for (; ms >= 50 && !atomic_load(&soak.stop); ms -= 50) {
		usleep(50000);
		if (!is_running())
			soak_violation(&soak, "the server ended by itself");
	}
	atomic_store(&soak.stop, true);
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	if (!atomic_load(&soak.failed))
		atomic_store(&soak.stop, false);
}

/* Waits until nothing of the clients is left. */
static void await_silence(unsigned fds, unsigned threads)
{
	unsigned tries = SILENCE_S * 20;

	/* One of the kernel's has our name until it has run for the first time. */
	while ((descriptors() != fds || own_threads() != threads) && --tries)
		usleep(50000);
	if (!tries && descriptors() != fds)
		soak_violation(&soak, "%u descriptors are open that were not at the beginning (%u)",
			       descriptors() - fds, fds);
	if (!tries && own_threads() != threads)
		soak_violation(&soak, "%u threads instead of %u", own_threads(), threads);
}

static void check_memory(long first, long now)
{
	long peak = memory("VmHWM");

	if (!MEMORY_COUNTS || !first)
		return;
	if (now - first > GROWTH_MAX)
		soak_violation(&soak,
			       "memory grows: %ld KiB in silence, %ld KiB after the first "
			       "round",
			       now, first);
	if (peak - first > PEAK_MAX)
		soak_violation(&soak, "memory is not bounded: %ld KiB at most, %ld KiB in silence",
			       peak, first);
}

static void report(unsigned round, unsigned rounds)
{
	unsigned long long c[SOAK_COUNTS];
	unsigned i;

	for (i = 0; i < SOAK_COUNTS; i++)
		c[i] = atomic_load(&soak.counts[i]);
	printf("round %u of %u: %llu MiB written, %llu zeroed, %llu read, %llu requests, %llu + "
	       "%llu refused connections, %llu hostile sessions; resident %ld KiB, at most %ld; "
	       "%u descriptors\n",
	       round, rounds, c[SOAK_WRITTEN] >> 20, c[SOAK_ZEROED] >> 20, c[SOAK_READ] >> 20,
	       c[SOAK_OPERATIONS], c[SOAK_CONNECTS], c[SOAK_REFUSED], c[SOAK_HOSTILE],
	       memory("VmRSS"), memory("VmHWM"), descriptors());
	fflush(stdout);
}

static void run_rounds(unsigned seconds, uint64_t seed)
{
	unsigned rounds = MAX(4U, seconds / ROUND_S), round, i;
	unsigned fds = descriptors(), threads = own_threads();
	long first = 0;

	for (round = 1; round <= rounds && !atomic_load(&soak.failed); round++) {
		run_round(round, seconds * 1000 / rounds, seed);
		for (i = 0; i < SOAK_DISKS && !atomic_load(&soak.failed); i++)
			soak_verify(&soak, i);
		if (atomic_load(&soak.failed))
			return;
		await_silence(fds, threads);
		check_memory(first, memory("VmRSS"));
		if (!first)
			first = memory("VmRSS");
		report(round, rounds);
	}
	/* A test that loads nothing proves nothing. */
	for (i = 0; i < SOAK_COUNTS; i++)
		if (i != SOAK_REFUSED && !atomic_load(&soak.counts[i]))
			soak_violation(&soak, "nothing of kind %u has happened", i);
}

/* --- the end ---------------------------------------------------------------------------------- */

static void stop_server(void)
{
	unsigned tries = SILENCE_S * 20;
	int status = 0;
	pid_t pid;

	kill(soak.server, SIGTERM);
	while (!(pid = waitpid(soak.server, &status, WNOHANG)) && --tries)
		usleep(50000);
	if (!pid) {
		soak_violation(&soak, "the server does not end in %d s", SILENCE_S);
		kill(soak.server, SIGKILL);
		waitpid(soak.server, &status, 0);
	} else if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		soak_violation(&soak, "the server ended with %s %d",
			       WIFEXITED(status) ? "status" : "signal",
			       WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
	}
}

static void judge_images(void)
{
	unsigned i;

	for (i = 0; i < SOAK_DISKS && !atomic_load(&soak.failed); i++) {
		const char *name = soak.disks[i].name;

		munmap(soak.disks[i].model, soak.disks[i].size);
		if (run("qemu-img check -q %s/%s.qcow2", soak.dir, name))
			run("qemu-img compare -q -f raw -F qcow2 %s/%s.raw %s/%s.qcow2", soak.dir,
			    name, soak.dir, name);
	}
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

int main(int argc, char **argv)
{
	const char *tmp = getenv("TMPDIR");
	unsigned seconds = argc > 1 ? strtoul(argv[1], NULL, 10) : 20;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);

	if (argc == 3 && strcmp(argv[1], "--serve") == 0)
		return soak_serve(argv[2]);
	if (!seconds || seconds > 86400)
		return fprintf(stderr, "usage: test_soak [SECONDS [SEED]]\n"), 2;
	signal(SIGPIPE, SIG_IGN);
	printf("%u s, seed %llu\n", seconds, (unsigned long long)seed);
	snprintf(soak.dir, sizeof(soak.dir), "%s/soak.XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(soak.dir))
		return perror(soak.dir), 1;
	if (snprintf(soak.socket, sizeof(soak.socket), "%s/socket", soak.dir) >=
	    (int)sizeof(soak.socket))
		return fprintf(stderr, "%s: too long for a socket\n", soak.dir), 1;
	if (!make_disks())
		soak_violation(&soak, "the disks cannot be made in %s", soak.dir);
	else if (start_server(argv[0]))
		run_rounds(seconds, seed);
	if (soak.server > 0)
		stop_server();
	judge_images();
	nftw(soak.dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	puts(atomic_load(&soak.failed) ? "FAILED" : "all well");
	return atomic_load(&soak.failed) ? 1 : 0;
}
