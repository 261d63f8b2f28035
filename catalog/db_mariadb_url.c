/*
 * mariadb://USER@HOST[:PORT][,HOST[:PORT]...]/NAME[?KEY=VALUE[&KEY=VALUE...]]
 *
 * Several hosts are nodes of one cluster: the next one is taken when one does not answer.
 *
 *   socket=PATH          a unix socket instead of HOST and PORT
 *   password-file=PATH   first line is the password; else SENDENSE_DB_PASSWORD in the environment
 *   tls=off|on|verify    default: verify for another machine, off for this one
 *   tls-ca=PATH          who signed the server's certificate; default: the system's authorities
 *   tls-cert=, tls-key=  a certificate of our own, where the server asks for one
 *   timeout=SECONDS      for an answer, default 60
 *
 * USER, NAME and values may be %XX-escaped. A password in the URL is refused: URLs end up in
 * process lists, logs and error messages. For the same reason no sentence written here repeats any
 * part of a URL it did not understand.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/db_mariadb.h"

#define DEFAULT_PORT	  3306
#define DEFAULT_TIMEOUT_S 60
#define FORM		  "use mariadb://USER@HOST[:PORT]/NAME[?socket=PATH&password-file=PATH]"

static int refuse(struct err *err, const char *what)
{
	return err_set(err, -EINVAL, "database URL: %s: " FORM, what);
}

/* --- pieces ----------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Copies [p, end) with its %XX undone; false if it does not fit, or an escape is none. */
static bool unescape(const char *p, const char *end, char *dst, size_t cap)
{
	size_t n = 0;

	while (p < end && n + 1 < cap) {
		int high, low;

		if (*p != '%') {
			dst[n++] = *p++;
			continue;
		}
		if (end - p < 3)
			return false;
		high = hex_digit(p[1]);
		low = hex_digit(p[2]);
		if (high < 0 || low < 0 || !(high | low))
			return false;
		dst[n++] = (char)(high << 4 | low);
		p += 3;
	}
	dst[n] = 0;
	return p == end;
}

static bool parse_number(const char *text, unsigned int min, unsigned int max, unsigned int *out)
{
	char *end;
	unsigned long v;

	if (strspn(text, "0123456789") != strlen(text) || !*text || strlen(text) > 9)
		return false;
	v = strtoul(text, &end, 10);
	*out = (unsigned int)v;
	return v >= min && v <= max;
}

/* HOST, HOST:PORT, [V6], [V6]:PORT, or nothing. */
static int parse_host(const char *p, const char *end, struct maria_host *h, struct err *err)
{
	const bool bracket = p < end && *p == '[';
	const char *close = bracket ? memchr(p, ']', (size_t)(end - p)) : NULL;
	const char *from = bracket ? close : p, *colon;
	char port[16];

	if (bracket && !close)
		return refuse(err, "a '[' of the host is not closed");
	colon = memchr(from, ':', (size_t)(end - from));
	if (bracket && close + 1 != (colon ? colon : end))
		return refuse(err, "the host is not understood");
	if (!unescape(bracket ? p + 1 : p,
		      bracket ? close
		      : colon ? colon
			      : end,
		      h->name, sizeof(h->name)))
		return refuse(err, "the host is not understood");
	if (colon && (!unescape(colon + 1, end, port, sizeof(port)) ||
		      !parse_number(port, 1, 65535, &h->port)))
		return refuse(err, "the port is no number from 1 to 65535");
	return 0;
}

static int parse_hosts(const char *p, const char *end, struct maria_url *u, struct err *err)
{
	int r = 0;

	for (;;) {
		const char *comma = memchr(p, ',', (size_t)(end - p));
		struct maria_host *h = &u->hosts[u->host_count];

		if (u->host_count == MARIA_HOSTS)
			return refuse(err, "it names too many hosts");
		h->port = DEFAULT_PORT;
		r = parse_host(p, comma ? comma : end, h, err);
		if (!r && !*h->name && (comma || u->host_count))
			r = refuse(err, "the host is not understood");
		u->host_count++;
		if (r || !comma)
			return r;
		p = comma + 1;
	}
}

static int parse_authority(const char *p, const char *end, struct maria_url *u, struct err *err)
{
	const char *at = memrchr(p, '@', (size_t)(end - p));

	if (!at || at == p)
		return refuse(err, "it names no user");
	if (memchr(p, ':', (size_t)(at - p)))
		return refuse(err, "a password does not belong into it: put it into a file and say "
				   "password-file=, or into " MARIA_PASSWORD_ENV);
	if (!unescape(p, at, u->user, sizeof(u->user)))
		return refuse(err, "the user is not understood");
	return parse_hosts(at + 1, end, u, err);
}

/* --- options ---------------------------------------------------------------------------------- */

static bool parse_tls(const char *value, enum maria_tls *tls)
{
	static const char *const names[] = {"off", "on", "verify"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(names[i], value))
			continue;
		*tls = (enum maria_tls)i;
		return true;
	}
	return false;
}

static int set_option(const char *key, const char *value, struct maria_url *u, bool *tls_given,
		      struct err *err)
{
	const struct {
		const char *key;
		char *dst;
		size_t cap;
	} texts[] = {
		{"socket", u->socket, sizeof(u->socket)},
		{"password-file", u->password_file, sizeof(u->password_file)},
		{"tls-ca", u->tls_ca, sizeof(u->tls_ca)},
		{"tls-cert", u->tls_cert, sizeof(u->tls_cert)},
		{"tls-key", u->tls_key, sizeof(u->tls_key)},
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		if (strcmp(texts[i].key, key))
			continue;
		if (!*value || strlen(value) >= texts[i].cap)
			return refuse(err, "a path is empty or too long");
		strcpy(texts[i].dst, value);
		return 0;
	}
	if (!strcmp(key, "tls")) {
		*tls_given = true;
		return parse_tls(value, &u->tls) ? 0 : refuse(err, "tls= takes off, on or verify");
	}
	if (!strcmp(key, "timeout"))
		return parse_number(value, 1, 86400, &u->timeout_s)
			       ? 0
			       : refuse(err, "timeout= takes seconds, 1 to 86400");
	return refuse(err, "an option is none of socket, password-file, tls, tls-ca, tls-cert, "
			   "tls-key, timeout");
}

static int parse_options(const char *p, struct maria_url *u, bool *tls_given, struct err *err)
{
	int r = 0;

	while (!r && *p) {
		const char *end = strchrnul(p, '&'), *eq = memchr(p, '=', (size_t)(end - p));
		char key[32], value[512];

		if (!eq || !unescape(p, eq, key, sizeof(key)) ||
		    !unescape(eq + 1, end, value, sizeof(value)))
			return refuse(err, "an option is not understood");
		r = set_option(key, value, u, tls_given, err);
		p = *end ? end + 1 : end;
	}
	return r;
}

/* --- all of it -------------------------------------------------------------------------------- */

static bool is_this_machine(const struct maria_url *u)
{
	for (unsigned int i = 0; !*u->socket && i < u->host_count; i++) {
		const char *name = u->hosts[i].name;

		if (strcmp(name, "localhost") && strncmp(name, "127.", 4) && strcmp(name, "::1"))
			return false;
	}
	return true;
}

static void show(struct maria_url *u)
{
	char hosts[320] = "";
	size_t used = 0;

	for (unsigned int i = 0; i < u->host_count && used < sizeof(hosts); i++)
		used += (size_t)snprintf(hosts + used, sizeof(hosts) - used, "%s%s:%u",
					 i ? "," : "", u->hosts[i].name, u->hosts[i].port);
	if (*u->socket)
		snprintf(u->shown, sizeof(u->shown), "mariadb://%.64s@localhost/%s (socket %s)",
			 u->user, u->name, u->socket);
	else
		snprintf(u->shown, sizeof(u->shown), "mariadb://%.64s@%s/%s", u->user, hosts,
			 u->name);
}

static int finish(struct maria_url *u, bool tls_given, struct err *err)
{
	if (!*u->name)
		return refuse(err, "it names no database");
	if (!*u->hosts[0].name && !*u->socket)
		return refuse(err, "it names no host");
	if (*u->socket) {
		strcpy(u->hosts[0].name, "localhost");
		u->host_count = 1;
	}
	if (!tls_given)
		u->tls = is_this_machine(u) ? MARIA_TLS_OFF : MARIA_TLS_VERIFY;
	if (u->tls == MARIA_TLS_OFF && (*u->tls_ca || *u->tls_cert || *u->tls_key))
		return refuse(err, "it has certificates and no tls=on or tls=verify");
	show(u);
	return 0;
}

int maria_url_parse(const char *rest, struct maria_url *out, struct err *err)
{
	struct maria_url u = {.timeout_s = DEFAULT_TIMEOUT_S};
	const char *slash, *question;
	bool tls_given = false;
	int r;

	if (strncmp(rest, "//", 2))
		return refuse(err, "\"//\" is missing");
	question = strchrnul(rest, '?');
	slash = memchr(rest + 2, '/', (size_t)(question - rest - 2));
	if (!slash)
		return refuse(err, "it names no database");
	r = parse_authority(rest + 2, slash, &u, err);
	if (!r && !unescape(slash + 1, question, u.name, sizeof(u.name)))
		r = refuse(err, "the database's name is not understood");
	if (!r && *question)
		r = parse_options(question + 1, &u, &tls_given, err);
	if (!r)
		r = finish(&u, tls_given, err);
	if (!r && out)
		*out = u;
	return r;
}

/* --- the password ----------------------------------------------------------------------------- */

static int read_password(const char *path, char password[MARIA_PASSWORD_SIZE], struct err *err)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, -errno, "cannot read the database password file %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "database password file %s is not a regular file",
			       path);
	if (st.st_mode & 0007)
		return err_set(err, -EACCES,
			       "database password file %s can be read by everybody: chmod 600 it",
			       path);
	n = read(fd, password, MARIA_PASSWORD_SIZE);
	if (n < 0)
		return err_sys(err, -errno, "cannot read the database password file %s", path);
	if (n == MARIA_PASSWORD_SIZE)
		return err_set(err, -EINVAL, "database password file %s is too long for a password",
			       path);
	password[n] = 0;
	password[strcspn(password, "\r\n")] = 0;
	return 0;
}

int maria_password(const struct maria_url *url, char password[MARIA_PASSWORD_SIZE], struct err *err)
{
	const char *env = getenv(MARIA_PASSWORD_ENV);

	password[0] = 0;
	if (*url->password_file)
		return read_password(url->password_file, password, err);
	if (env && strlen(env) >= MARIA_PASSWORD_SIZE)
		return err_set(err, -EINVAL, MARIA_PASSWORD_ENV " is too long for a password");
	if (env)
		strcpy(password, env);
	return 0;
}
