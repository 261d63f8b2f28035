#include "hub/tunnel.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "catalog/appliances.h"
#include "hub/job.h"
#include "hub/repo/repo.h"

#define TARGETS_MAX	(HUB_LISTENERS_MAX + 1)
#define APPLIANCE_PORT	8081 /* where the appliance listens for the hub (agent contract 1.1) */
#define HOST_KEY_MAX	4096
#define DEFAULT_USER	"vma_tunnel"
#define DEFAULT_HOSTKEY "/etc/ssh/ssh_host_ed25519_key.pub"

struct target {
	char host[64]; /* as it stands in permitopen: "127.0.0.1", "[::1]" */
	int port;
};

struct hub_tunnel {
	pthread_mutex_t lock; /* one writer of the file, with the newest list; and agent_port */
	bool open;	      /* keep the file */
	char keys[CATALOG_PATH_SIZE + 32]; /* "": no file */
	char user[64];
	char host_key[CATALOG_PATH_SIZE];
	int ssh_port, agent_port;
	struct target targets[TARGETS_MAX];
	size_t target_count;
	int64_t looked_ns;
};

/* --- settings --------------------------------------------------------------------------------- */

/* Of "http://HOST:PORT/..."; 0: none. */
static int port_of_url(const char *url)
{
	CURLU *u = curl_url();
	char *text = NULL;
	int port = 0;

	if (u && !curl_url_set(u, CURLUPART_URL, url, 0) &&
	    !curl_url_get(u, CURLUPART_PORT, &text, CURLU_DEFAULT_PORT))
		port = atoi(text);
	curl_free(text);
	curl_url_cleanup(u);
	return port;
}

static bool user_valid(const char *user)
{
	return strspn(user, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") ==
	       strlen(user);
}

static int take_settings(struct hub_tunnel *t, const struct hub *hub,
			 const struct hub_config *config, struct err *err)
{
	const char *keys = config->tunnel_keys ?: "", *user = config->tunnel_user ?: "";
	const char *host_key = config->tunnel_host_key ?: "";

	if (!user_valid(user) || !CATALOG_TEXT(t->user, user[0] ? user : DEFAULT_USER))
		return err_set(err, HUB_E_INVALID, "tunnel_user \"%.40s\" is no user's name", user);
	if (!CATALOG_TEXT(t->host_key, host_key[0] ? host_key : DEFAULT_HOSTKEY))
		return err_set(err, HUB_E_INVALID, "tunnel_host_key is too long");
	if (!keys[0])
		snprintf(t->keys, sizeof(t->keys), "%s/tunnel/authorized_keys", hub->data_dir);
	else if (strcmp(keys, "off") && (keys[0] != '/' || !CATALOG_TEXT(t->keys, keys)))
		return err_set(err, HUB_E_INVALID,
			       "tunnel_authorized_keys must be \"off\" or an absolute path");
	t->ssh_port = (int)config->tunnel_port;
	t->agent_port = port_of_url(config->agent_url);
	return 0;
}

int hub_tunnel_init(struct hub *hub, const struct hub_config *config, struct err *err)
{
	struct hub_tunnel *t = calloc(1, sizeof(*t));

	if (!t)
		return err_sys(err, -ENOMEM, "tunnel");
	pthread_mutex_init(&t->lock, NULL);
	hub->tunnel = t;
	return take_settings(t, hub, config, err);
}

void hub_tunnel_free(struct hub *hub)
{
	if (!hub->tunnel)
		return;
	pthread_mutex_destroy(&hub->tunnel->lock);
	free(hub->tunnel);
	hub->tunnel = NULL;
}

/* --- what may be reached ---------------------------------------------------------------------- */

static bool add_target(struct hub_tunnel *t, const char *address, size_t len)
{
	const char *colon = memrchr(address, ':', len);
	size_t host = colon ? (size_t)(colon - address) : 0;
	struct target *to = &t->targets[t->target_count];
	int port = colon ? atoi(colon + 1) : 0;

	if (!host || host >= sizeof(to->host) || port < 1 || port > 65535 ||
	    strspn(address, "0123456789abcdefABCDEF.:[]") < len || t->target_count == TARGETS_MAX)
		return false;
	memcpy(to->host, address, host);
	to->host[host] = '\0';
	/* Who listens everywhere listens on loopback. */
	if (!strcmp(to->host, "0.0.0.0") || !strcmp(to->host, "[::]"))
		strcpy(to->host, "127.0.0.1");
	to->port = port;
	t->target_count++;
	return true;
}

static void add_targets(struct hub *hub, const char *addresses)
{
	for (const char *p = addresses; *p;) {
		size_t len = strcspn(p, ",");

		if (strncmp(p, "unix:", 5) != 0 && !add_target(hub->tunnel, p, len))
			log_warn(&hub->log, "no tunnel can lead to %.*s", (int)len, p);
		p += len + (p[len] == ',');
	}
}

/* --- the file --------------------------------------------------------------------------------- */

/* All that can be a name of the target: sshd compares texts. */
static void print_target(FILE *out, const struct target *to)
{
	fprintf(out, ",permitopen=\"%s:%d\"", to->host, to->port);
	if (!strcmp(to->host, "127.0.0.1"))
		fprintf(out, ",permitopen=\"localhost:%d\"", to->port);
}

static void print_line(FILE *out, const struct hub_tunnel *t, const struct ssh_key *key,
		       const char *id)
{
	/* "restrict" leaves commands alone: whatever is asked for, this one runs, and declines. */
	fputs("restrict,port-forwarding,command=\"/usr/sbin/nologin\"", out);
	for (size_t i = 0; i < t->target_count; i++)
		print_target(out, &t->targets[i]);
	fprintf(out, ",permitlisten=\"%d\" %s %s\n", t->agent_port, key->text, id);
}

/* A key that does not read as one, whatever the catalog says, is not let in. */
static void print_enrollment(struct hub *hub, FILE *out, const struct catalog_enrollment *row)
{
	struct err err = ERR_INIT;
	struct ssh_key key;

	if (ssh_key_parse(row->public_key, &key, &err))
		log_error(&hub->log, "enrollment %s: %s", row->id, err.text);
	else
		print_line(out, hub->tunnel, &key, row->id);
}

static int make_text(struct hub *hub, char **text, size_t *len, struct err *err)
{
	const enum catalog_enrollment_status approved = CATALOG_ENROLLMENT_APPROVED;
	_cleanup_(freep) struct catalog_enrollment *rows = NULL;
	size_t n = 0;
	FILE *out;
	int rc =
		hub_from_catalog(catalog_enrollments_list(hub->catalog, &approved, &rows, &n, err));

	if (rc)
		return rc;
	out = open_memstream(text, len);
	if (!out)
		return err_sys(err, -ENOMEM, "tunnel");
	fputs("# Written by sendense-hub from its catalog; what is changed here is lost.\n", out);
	/* Without a target or a port, "may forward anywhere" would be what a line says. */
	for (size_t i = 0; i < n && hub->tunnel->target_count && hub->tunnel->agent_port; i++)
		print_enrollment(hub, out, &rows[i]);
	return fclose(out) ? err_sys(err, -ENOMEM, "tunnel") : 0;
}

/* Is that what the file says, and nobody else may write it? A pipe in its place is not waited for:
 * the watch-dog would. */
static bool is_current(const char *path, const char *text, size_t len)
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	_cleanup_(freep) char *now = NULL;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || (st.st_mode & 0777) != 0600 ||
	    st.st_size != (off_t)len)
		return false;
	now = malloc(len + 1);
	return now && pread(fd, now, len + 1, 0) == (ssize_t)len && !memcmp(now, text, len);
}

static int write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		text += n;
		len -= (size_t)n;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

static int replace(const char *path, const char *text, size_t len, struct err *err)
{
	char tmp[CATALOG_PATH_SIZE + 64];
	int fd, rc;

	snprintf(tmp, sizeof(tmp), "%s.new", path);
	if (unlink(tmp) < 0 && errno != ENOENT)
		return err_sys(err, -errno, "removing %s", tmp);
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, -errno, "creating %s", tmp);
	rc = fchmod(fd, 0600) < 0 ? -errno : write_all(fd, text, len);
	close(fd);
	if (!rc && rename(tmp, path) < 0)
		rc = -errno;
	if (!rc)
		rc = file_sync_dir_of(path);
	if (rc)
		unlink(tmp);
	return rc ? err_sys(err, rc, "writing %s", path) : 0;
}

static int make_folder(const char *path, struct err *err)
{
	char dir[CATALOG_PATH_SIZE + 32];

	snprintf(dir, sizeof(dir), "%s", path);
	*strrchr(dir, '/') = '\0';
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_sys(err, -errno, "making %s", dir);
	return 0;
}

/* `lock` held. */
static int sync_locked(struct hub *hub, struct err *err)
{
	_cleanup_(freep) char *text = NULL;
	struct hub_tunnel *t = hub->tunnel;
	size_t len = 0;
	int rc = make_text(hub, &text, &len, err);

	t->looked_ns = hub_now_ns();
	if (rc || is_current(t->keys, text, len))
		return rc;
	rc = make_folder(t->keys, err);
	return rc ? rc : replace(t->keys, text, len, err);
}

int hub_tunnel_sync(struct hub *hub, struct err *err)
{
	struct hub_tunnel *t = hub->tunnel;
	int rc = 0;

	pthread_mutex_lock(&t->lock);
	if (t->open)
		rc = sync_locked(hub, err);
	pthread_mutex_unlock(&t->lock);
	return rc;
}

void hub_tunnel_tick(struct hub *hub)
{
	struct hub_tunnel *t = hub->tunnel;
	struct err err = ERR_INIT;
	int rc = 0;

	pthread_mutex_lock(&t->lock);
	if (t->open && hub_now_ns() - t->looked_ns >= HUB_TUNNEL_PERIOD_S * 1000000000LL)
		rc = sync_locked(hub, &err);
	pthread_mutex_unlock(&t->lock);
	if (rc)
		log_error(&hub->log, "the tunnel's keys: %s", err.text);
}

void hub_tunnel_open(struct hub *hub, const char *agents_at)
{
	struct hub_tunnel *t = hub->tunnel;
	struct err err = ERR_INIT;

	pthread_mutex_lock(&t->lock);
	add_targets(hub, agents_at ?: "");
	add_targets(hub, hub->nbd_addresses);
	t->open = t->keys[0] != '\0';
	if (t->open && !(t->target_count && t->agent_port))
		log_warn(&hub->log,
			 "%s stays empty, whoever is approved: no tunnel can lead to where this "
			 "hub listens (agent_listen, nbd) or calls the agent (agent_url)",
			 t->keys);
	if (t->open && sync_locked(hub, &err))
		log_error(&hub->log, "the tunnel's keys: %s", err.text);
	pthread_mutex_unlock(&t->lock);
}

void hub_tunnel_agent_url(struct hub *hub, const char *url)
{
	pthread_mutex_lock(&hub->tunnel->lock);
	hub->tunnel->agent_port = port_of_url(url);
	hub->tunnel->looked_ns = 0;
	pthread_mutex_unlock(&hub->tunnel->lock);
}

/* --- what appliances are told ----------------------------------------------------------------- */

static void read_host_key(const char *path, char out[SSH_FINGERPRINT_SIZE])
{
	_cleanup_(closep) int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	char line[HOST_KEY_MAX];
	ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);

	line[MAX(n, 0)] = '\0';
	if (n <= 0 || !ssh_fingerprint(line, out))
		out[0] = '\0';
}

/* Two listeners may have one port on different addresses: the appliance has one loopback. */
static bool port_is_first(const struct hub_tunnel *t, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (t->targets[k].port == t->targets[i].port)
			return false;
	return true;
}

static void print_options(FILE *out, const struct hub_tunnel *t)
{
	fprintf(out,
		"-p %d -N -o Compression=no -o ServerAliveInterval=15 -o ServerAliveCountMax=3 -o "
		"ExitOnForwardFailure=yes",
		t->ssh_port);
	for (size_t i = 0; i < t->target_count; i++)
		if (port_is_first(t, i))
			fprintf(out, " -L 127.0.0.1:%d:%s:%d", t->targets[i].port,
				t->targets[i].host, t->targets[i].port);
	fprintf(out, " -R 127.0.0.1:%d:127.0.0.1:%d", t->agent_port, APPLIANCE_PORT);
}

void hub_tunnel_describe(struct hub *hub, struct hub_tunnel_info *out)
{
	struct hub_tunnel *t = hub->tunnel;
	FILE *f = fmemopen(out->options, sizeof(out->options), "w");

	out->options[0] = '\0';
	pthread_mutex_lock(&t->lock);
	if (f) {
		print_options(f, t);
		fclose(f);
	}
	pthread_mutex_unlock(&t->lock);
	strcpy(out->user, t->user);
	read_host_key(t->host_key, out->host_key_hash);
}
