/*
 * sendense-agent: the reference capture agent. It serves the agent API for the VMs of an inventory
 * file, and pushes their disks over NBD into the hub that asks (docs/agent.md).
 *
 * Options, start, wait for a signal, stop in the reverse order. Signals are caught, not blocked: a
 * qemu-nbd child inherits a blocked SIGTERM and would not end by it.
 */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "tools/agent_api.h"

#define DEFAULT_LISTEN	     "127.0.0.1:9081"
#define DEFAULT_HUB_URL	     "http://127.0.0.1:8082"
#define DEFAULT_STATE_DIR    "/var/lib/sendense-agent"
#define DEFAULT_REQUEST_SIZE (1 * MIB)

struct options {
	const char *listen, *state_dir, *scratch_dir;
	struct agent_job_config job;
};

enum option_code {
	OPT_INVENTORY = 1000,
	OPT_LISTEN,
	OPT_HUB_URL,
	OPT_STATE_DIR,
	OPT_SCRATCH_DIR,
	OPT_THREADS,
	OPT_REQUEST_SIZE,
	OPT_PARALLEL_DISKS,
	OPT_KEEP_INDEXES,
	OPT_VERBOSE,
};

static const struct option long_options[] = {
	{"inventory", required_argument, NULL, OPT_INVENTORY},
	{"listen", required_argument, NULL, OPT_LISTEN},
	{"hub-url", required_argument, NULL, OPT_HUB_URL},
	{"state-dir", required_argument, NULL, OPT_STATE_DIR},
	{"scratch-dir", required_argument, NULL, OPT_SCRATCH_DIR},
	{"threads", required_argument, NULL, OPT_THREADS},
	{"request-size", required_argument, NULL, OPT_REQUEST_SIZE},
	{"parallel-disks", required_argument, NULL, OPT_PARALLEL_DISKS},
	{"keep-indexes", required_argument, NULL, OPT_KEEP_INDEXES},
	{"verbose", no_argument, NULL, OPT_VERBOSE},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{0},
};

static const char usage_text[] =
	"Usage: sendense-agent --inventory FILE [OPTION]...\n"
	"\n"
	"Capture agent: backs up the VMs of an inventory into a Sendense hub.\n"
	"\n"
	"  --inventory FILE       JSON file with the VMs and their disks (required)\n"
	"  --listen ADDR:PORT     where the hub calls this agent (" DEFAULT_LISTEN ");\n"
	"                         port 0 takes a free one\n"
	"  --hub-url URL          where this agent calls the hub (" DEFAULT_HUB_URL ")\n"
	"  --state-dir DIR        what was copied when (" DEFAULT_STATE_DIR ")\n"
	"  --scratch-dir DIR      what running VMs overwrite during their backup; their QEMU\n"
	"                         must be able to write there (.scratch in the state folder)\n"
	"  --threads N            NBD connections a disk, 1 to 16 (2)\n"
	"  --request-size SIZE    bytes a request, 64K to 32M in steps of 64K (1M)\n"
	"  --parallel-disks N     disks of one VM copied at a time, 1 to 16 (1)\n"
	"  --keep-indexes N       earlier points a disk can be compared with, 2 to 100 (3)\n"
	"  --verbose              log more\n"
	"  --help, --version\n"
	"\n"
	"Prints one line when it is ready; logs on stderr; SIGTERM stops it in order.\n";

static const struct log_scope main_log = {"agent"};

/* --- options -------------------------------------------------------------------------------- */

static int parse_number(const char *name, const char *text, uint64_t min, uint64_t max,
			uint64_t *out, struct err *err)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || errno || v < min || v > max)
		return err_set(err, -EINVAL, "%s: \"%s\" is not a number from %llu to %llu", name,
			       text, (unsigned long long)min, (unsigned long long)max);
	*out = v;
	return 0;
}

static int parse_count(const char *name, const char *text, unsigned min, unsigned max,
		       unsigned *out, struct err *err)
{
	uint64_t v;
	int rc = parse_number(name, text, min, max, &v, err);

	if (!rc)
		*out = (unsigned)v;
	return rc;
}

/* "1M", "512K" or bytes. */
static int parse_request_size(const char *text, uint32_t *out, struct err *err)
{
	char digits[16];
	size_t n = strlen(text);
	uint64_t unit = 1, v;
	int rc;

	if (n && (text[n - 1] == 'K' || text[n - 1] == 'k'))
		unit = KIB;
	else if (n && (text[n - 1] == 'M' || text[n - 1] == 'm'))
		unit = MIB;
	snprintf(digits, sizeof(digits), "%.*s", (int)(unit > 1 ? n - 1 : n), text);
	rc = parse_number("--request-size", digits, 1, AGENT_REQUEST_MAX / unit, &v, err);
	if (rc)
		return rc;
	v *= unit;
	if (v < AGENT_REQUEST_MIN || v % AGENT_BLOCK)
		return err_set(err, -EINVAL, "--request-size: \"%s\" is not a multiple of 64K",
			       text);
	*out = (uint32_t)v;
	return 0;
}

static int option_apply(struct options *o, int code, const char *arg, struct err *err)
{
	switch (code) {
	case OPT_INVENTORY:
		o->job.inventory = arg;
		return 0;
	case OPT_LISTEN:
		o->listen = arg;
		return 0;
	case OPT_HUB_URL:
		o->job.hub_url = arg;
		return 0;
	case OPT_STATE_DIR:
		o->state_dir = arg;
		return 0;
	case OPT_SCRATCH_DIR:
		o->scratch_dir = arg;
		return 0;
	case OPT_THREADS:
		return parse_count("--threads", arg, 1, AGENT_SINK_CONNECTIONS_MAX,
				   &o->job.connections, err);
	case OPT_REQUEST_SIZE:
		return parse_request_size(arg, &o->job.request_size, err);
	case OPT_PARALLEL_DISKS:
		return parse_count("--parallel-disks", arg, 1, 16, &o->job.parallel_disks, err);
	case OPT_KEEP_INDEXES:
		return parse_count("--keep-indexes", arg, 2, 100, &o->job.keep_indexes, err);
	case OPT_VERBOSE:
		log_set_level(LOG_LEVEL_DEBUG);
		return 0;
	}
	return err_set(err, -EINVAL, "try --help"); /* getopt has said what is wrong */
}

/* 1: help or version was asked and printed. */
static int options_parse(struct options *o, int argc, char **argv, struct err *err)
{
	int code, rc;

	*o = (struct options){
		.listen = DEFAULT_LISTEN,
		.state_dir = DEFAULT_STATE_DIR,
		.job = {.hub_url = DEFAULT_HUB_URL,
			.connections = 2,
			.request_size = DEFAULT_REQUEST_SIZE,
			.parallel_disks = 1,
			.keep_indexes = 3,
			.state_fd = -1},
	};
	while ((code = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		if (code == 'h' || code == 'V') {
			fputs(code == 'h' ? usage_text : "sendense-agent " SENDENSE_VERSION "\n",
			      stdout);
			return 1;
		}
		rc = option_apply(o, code, optarg, err);
		if (rc)
			return rc;
	}
	if (optind < argc)
		return err_set(err, -EINVAL, "\"%s\" is no option; try --help", argv[optind]);
	if (!o->job.inventory)
		return err_set(err, -EINVAL, "--inventory FILE is missing; try --help");
	return 0;
}

/* --- start, stop ---------------------------------------------------------------------------- */

static int signal_pipe[2] = {-1, -1};

static void on_signal(int sig)
{
	char byte = (char)sig;
	int saved = errno;

	/* A full pipe says the same already. */
	if (write(signal_pipe[1], &byte, 1) < 0)
		errno = saved;
	errno = saved;
}

static int catch_signals(struct err *err)
{
	struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	struct sigaction ignore = {.sa_handler = SIG_IGN};

	if (pipe2(signal_pipe, O_CLOEXEC) < 0 || fcntl(signal_pipe[1], F_SETFL, O_NONBLOCK) < 0)
		return err_sys(err, -errno, "signal pipe");
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	return 0;
}

static void wait_for_signal(void)
{
	struct pollfd pfd = {.fd = signal_pipe[0], .events = POLLIN};

	while (poll(&pfd, 1, -1) < 0 && errno == EINTR)
		continue;
}

/* Two agents on one state folder would give one change id to two states. */
static int open_state_dir(const char *path, int *out, struct err *err)
{
	int fd;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_sys(err, -errno, "state folder %s cannot be made", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, -errno, "state folder %s cannot be opened", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int rc = -errno;

		close(fd);
		if (rc == -EWOULDBLOCK)
			return err_set(err, rc, "state folder %s is in use by another agent", path);
		return err_sys(err, rc, "state folder %s cannot be locked", path);
	}
	*out = fd;
	return 0;
}

/* QEMU works in a folder of its own: it gets the whole path. */
static int open_scratch_dir(const struct options *o, char **out, struct err *err)
{
	char path[PATH_MAX];

	if (o->scratch_dir)
		snprintf(path, sizeof(path), "%s", o->scratch_dir);
	else
		snprintf(path, sizeof(path), "%s/.scratch", o->state_dir);
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_sys(err, -errno, "scratch folder %s cannot be made", path);
	*out = realpath(path, NULL);
	return *out ? 0 : err_sys(err, -errno, "scratch folder %s", path);
}

static int check_inventory(const char *file, struct err *err)
{
	_cleanup_(agent_inventory_freep) struct agent_inventory *inv = NULL;
	int rc = agent_inventory_load(&inv, file, err);

	if (!rc)
		log_info(&main_log, "inventory %s: %zu VMs", file, agent_inventory_count(inv));
	return rc;
}

static int serve(const struct options *o, struct err *err)
{
	_cleanup_(agent_jobs_freep) struct agent_jobs *jobs = NULL;
	struct agent_api *api = NULL;
	int rc = agent_jobs_new(&jobs, &o->job, err);

	if (!rc)
		rc = agent_jobs_recover(jobs, err);
	if (!rc)
		rc = agent_api_start(&api, o->listen, o->job.inventory, jobs, err);
	if (rc)
		return rc;
	printf("sendense-agent ready on http://%s\n", agent_api_address(api));
	fflush(stdout);
	wait_for_signal();
	log_info(&main_log, "stopping");
	agent_api_stop(api);
	return 0;
}

static int run(struct options *o, struct err *err)
{
	_cleanup_(closep) int state_fd = -1;
	_cleanup_(freep) char *scratch = NULL;
	int rc = catch_signals(err);

	if (!rc)
		rc = check_inventory(o->job.inventory, err);
	if (!rc)
		rc = open_state_dir(o->state_dir, &state_fd, err);
	if (!rc)
		rc = open_scratch_dir(o, &scratch, err);
	if (rc)
		return rc;
	o->job.scratch = scratch;
	o->job.state_fd = state_fd;
	return serve(o, err);
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	struct options options;
	int rc = options_parse(&options, argc, argv, &err);

	if (rc > 0)
		return 0;
	if (!rc) {
		curl_global_init(CURL_GLOBAL_DEFAULT);
		rc = run(&options, &err);
		curl_global_cleanup();
	}
	if (rc)
		fprintf(stderr, "sendense-agent: %s\n", err.text);
	return rc ? 1 : 0;
}
