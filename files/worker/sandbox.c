#include "files/worker/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"

#define NOBODY	    65534
#define MEMORY_MAX  (1ULL << 30)
#define CPU_SECONDS 3600
#define FILES_MAX   5 /* what it has already */

/* A sanitizer maps terabytes, and makes calls of its own when it has found something. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* --- limits --------------------------------------------------------------------------------- */

static int limit(int resource, rlim_t value)
{
	struct rlimit rl = {value, value};

	return setrlimit(resource, &rl) ? -errno : 0;
}

static int set_limits(void)
{
	int r = SANITIZED ? 0 : limit(RLIMIT_AS, MEMORY_MAX);

	if (!r)
		r = limit(RLIMIT_CPU, CPU_SECONDS);
	if (!r)
		r = limit(RLIMIT_NOFILE, FILES_MAX);
	if (!r)
		r = limit(RLIMIT_CORE, 0);
	if (!r)
		r = limit(RLIMIT_MEMLOCK, 0);
	return r ? r : limit(RLIMIT_FSIZE, 0);
}

/* --- memory --------------------------------------------------------------------------------- */

/* A hub is kept from the kernel's OOM killer, and what it starts would be too: where memory ends,
 * this one goes first. Without /proc it stays as it is. */
static void offer_to_oom_killer(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return;
	n = write(fd, "1000", 4);
	(void)n;
	close(fd);
}

/* --- who it is ------------------------------------------------------------------------------ */

static int drop_root(struct sandbox_state *state)
{
	if (geteuid())
		return 0;
	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY))
		return -errno;
	state->own_uid = true;
	return 0;
}

/* --- Landlock: nothing of the file system, no TCP ------------------------------------------- */

/* As the newest kernel we know of takes it; the header may be older. */
struct ruleset {
	uint64_t fs, net, scoped;
};

static size_t ruleset_for(int abi, struct ruleset *rs)
{
	rs->fs = abi >= 5 ? 0xffff : abi >= 3 ? 0x7fff : abi >= 2 ? 0x3fff : 0x1fff;
	rs->net = abi >= 4 ? 3 : 0;
	rs->scoped = abi >= 6 ? 3 : 0;
	return abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
}

static bool landlock(void)
{
	struct ruleset rs;
	int abi =
		(int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	int fd, r;

	if (abi < 1)
		return false;
	fd = (int)syscall(SYS_landlock_create_ruleset, &rs, ruleset_for(abi, &rs), 0);
	if (fd < 0)
		return false;
	r = (int)syscall(SYS_landlock_restrict_self, fd, 0);
	close(fd);
	return !r;
}

/* --- seccomp -------------------------------------------------------------------------------- */

static const int allowed[] = {
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(readv),
	SCMP_SYS(writev),
	SCMP_SYS(close),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(brk),
	SCMP_SYS(madvise),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(futex),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(time),
	SCMP_SYS(getpid),
	SCMP_SYS(gettid),
	SCMP_SYS(getrandom),
	SCMP_SYS(sched_yield),
	SCMP_SYS(restart_syscall),
};

/* What libraries try in passing, and can do without. */
static const int refused[] = {
	SCMP_SYS(open),	    SCMP_SYS(openat), SCMP_SYS(stat),	    SCMP_SYS(lstat),
	SCMP_SYS(fstat),    SCMP_SYS(lseek),  SCMP_SYS(newfstatat), SCMP_SYS(access),
	SCMP_SYS(readlink), SCMP_SYS(ioctl),  SCMP_SYS(fcntl),	    SCMP_SYS(getuid),
	SCMP_SYS(geteuid),  SCMP_SYS(uname),  SCMP_SYS(prlimit64),  SCMP_SYS(sysinfo),
};

static int add_rules(scmp_filter_ctx ctx)
{
	int r = 0;
	size_t i;

	for (i = 0; !r && i < ARRAY_SIZE(allowed); i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
	for (i = 0; !r && i < ARRAY_SIZE(refused); i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), refused[i], 0);
	/* memory that can be run is not to be had */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	/* abort(): its own process alone */
	return r ? r
		 : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
				    SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
}

static int filter_calls(void)
{
	scmp_filter_ctx ctx =
		seccomp_init(SANITIZED ? SCMP_ACT_ERRNO(EPERM) : SCMP_ACT_KILL_PROCESS);
	int r;

	if (!ctx)
		return -ENOMEM;
	r = add_rules(ctx);
	if (!r)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r;
}

int sandbox_enter(struct sandbox_state *state, struct err *err)
{
	int r;

	*state = (struct sandbox_state){0};
	signal(SIGPIPE, SIG_IGN);
	offer_to_oom_killer();
	r = drop_root(state);
	if (r)
		return err_sys(err, r, "the reader of file systems cannot stop being root");
	/* dies with the thread that started it; a change of the uid forgets that */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || prctl(PR_SET_DUMPABLE, 0) ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return err_sys(err, -errno, "the reader of file systems cannot lock itself in");
	state->landlock = landlock(); /* takes a descriptor for a moment */
	r = set_limits();
	if (r)
		return err_sys(err, r, "the reader of file systems cannot limit itself");
	r = filter_calls();
	if (r)
		return err_sys(
			err, r,
			"the reader of file systems needs seccomp, and the kernel refuses it");
	return 0;
}
