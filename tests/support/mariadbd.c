#include "tests/support/mariadbd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_TIMEOUT_MS 180000
#define POLL_MS		 20

static void die(const struct mariadbd *s, const char *what)
{
	char cmd[400];

	fprintf(stderr, "MariaDB in %s: %s\n", s->dir, what);
	snprintf(cmd, sizeof(cmd), "tail -n 20 '%s/log' >&2", s->dir);
	if (system(cmd))
		fprintf(stderr, "no log\n");
	abort();
}

/* Below the ports that the kernel hands out by itself, so that nobody gets it before the server
 * takes it; others of us begin to look elsewhere. */
#define FIRST_PORT 31000
#define PORTS	   1700

static unsigned int choose_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	unsigned int at = (unsigned int)getpid() * 7, port, i;

	for (i = 0; i < PORTS; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		bool taken;

		port = FIRST_PORT + (at + i) % PORTS;
		a.sin_port = htons((uint16_t)port);
		taken = fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a));
		close(fd);
		if (!taken)
			return port;
	}
	abort();
}

void mariadbd_init(struct mariadbd *s, int tcp)
{
	const char *tmp = getenv("TMPDIR");

	memset(s, 0, sizeof(*s));
	snprintf(s->dir, sizeof(s->dir), "%s/sendense-mariadb-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(s->dir))
		abort();
	snprintf(s->sock, sizeof(s->sock), "%s/sock", s->dir);
	if (tcp)
		s->port = choose_port();
}

/* In the child. */
static void run_server(const struct mariadbd *s)
{
	char script[PATH_MAX], log[300], port[32], template[PATH_MAX];
	const char *argv[20] = {script, s->dir, "--innodb-flush-method=nosync", "--debug-no-sync"};
	const char *build = getenv("BUILD");
	int n = 4;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!realpath("tools/private-mariadb.sh", script)) {
		fprintf(stderr, "run this test from the repository's root folder\n");
		_exit(127);
	}
	if (s->port) {
		snprintf(port, sizeof(port), "--port=%u", s->port);
		argv[n++] = "--skip-networking=0";
		argv[n++] = "--bind-address=127.0.0.1";
		argv[n++] = port;
	}
	for (int i = 0; s->options[i]; i++)
		argv[n++] = s->options[i];
	snprintf(template, sizeof(template), "%s/tests/mariadb-data", build ? build : "build");
	setenv("MARIADB_TEMPLATE", template, 1);
	snprintf(log, sizeof(log), "%s/log", s->dir);
	if (!freopen("/dev/null", "r", stdin) || !freopen(log, "a", stdout) || dup2(1, 2) < 0)
		_exit(127);
	execv(script, (char *const *)argv);
	_exit(127);
}

static MYSQL *try_connect(const struct mariadbd *s, const char *database)
{
	MYSQL *h = mysql_init(NULL);

	mysql_optionsv(h, MYSQL_SET_CHARSET_NAME, "utf8mb4");
	if (mysql_real_connect(h, "localhost", "root", "", database, 0, s->sock,
			       CLIENT_MULTI_STATEMENTS | CLIENT_FOUND_ROWS))
		return h;
	mysql_close(h);
	return NULL;
}

static bool gone(struct mariadbd *s)
{
	return waitpid(s->pid, NULL, WNOHANG) == s->pid;
}

void mariadbd_start(struct mariadbd *s)
{
	const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
	MYSQL *h = NULL;

	fflush(NULL);
	s->pid = fork();
	if (s->pid < 0)
		abort();
	if (s->pid == 0)
		run_server(s);
	for (int ms = 0; !(h = try_connect(s, NULL)); ms += POLL_MS) {
		if (gone(s))
			die(s, "it ended at once");
		if (ms > START_TIMEOUT_MS)
			die(s, "it does not answer");
		nanosleep(&pause, NULL);
	}
	mysql_close(h);
}

static void end(struct mariadbd *s, int sig)
{
	if (!s->pid)
		return;
	kill(s->pid, sig);
	while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
		;
	s->pid = 0;
}

void mariadbd_kill(struct mariadbd *s)
{
	end(s, SIGKILL);
}

void mariadbd_deinit(struct mariadbd *s)
{
	char cmd[300];

	end(s, SIGKILL);
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", s->dir);
	if (system(cmd))
		abort();
}

MYSQL *mariadbd_connect(const struct mariadbd *s, const char *database)
{
	MYSQL *h = try_connect(s, database);

	if (!h)
		die(s, "cannot connect");
	if (mysql_query(h, "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ANSI_QUOTES,PIPES_AS_CONCAT,"
			   "NO_BACKSLASH_ESCAPES', SESSION collation_connection = "
			   "utf8mb4_nopad_bin"))
		die(s, mysql_error(h));
	return h;
}
