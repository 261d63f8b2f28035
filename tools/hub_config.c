#include "tools/hub_config.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"

/* --- what can be set ------------------------------------------------------------------------ */

enum kind { TEXT, NUMBER, FLAG };
enum { LIVE = 1, SECRET = 2 };

static const struct setting {
	const char *key;
	int option; /* 0: in the file alone */
	enum kind kind;
	size_t off;
	long min, max;
	unsigned how; /* LIVE: takes effect under a running hub; SECRET: is not printed */
} setting_table[] = {
	{"data_dir", HUB_OPT_DATA_DIR, TEXT, offsetof(struct hub_settings, data_dir)},
	{"http", HUB_OPT_HTTP, TEXT, offsetof(struct hub_settings, http)},
	{"agent_listen", HUB_OPT_AGENT_LISTEN, TEXT, offsetof(struct hub_settings, agent_listen)},
	{"http_tls_certificate", 0, TEXT, offsetof(struct hub_settings, http_tls_certificate), 0, 0,
	 LIVE},
	{"http_tls_key", 0, TEXT, offsetof(struct hub_settings, http_tls_key), 0, 0, LIVE},
	{"http_max_connections", 0, NUMBER, offsetof(struct hub_settings, http_max_connections), 2,
	 10000, LIVE},
	{"http_max_connections_per_peer", 0, NUMBER,
	 offsetof(struct hub_settings, http_max_connections_per_peer), 1, 10000, LIVE},
	{"http_timeout_s", 0, NUMBER, offsetof(struct hub_settings, http_timeout_s), 1, 3600, LIVE},
	{"agent_url", HUB_OPT_AGENT_URL, TEXT, offsetof(struct hub_settings, agent_url), 0, 0,
	 LIVE},
	{"db", HUB_OPT_DB, TEXT, offsetof(struct hub_settings, db)},
	{"name", HUB_OPT_NAME, TEXT, offsetof(struct hub_settings, name)},
	{"lease_s", 0, NUMBER, offsetof(struct hub_settings, lease_s), 1, 3600},
	{"config", HUB_OPT_CONFIG, TEXT, offsetof(struct hub_settings, config)},
	{"vcenter_user", 0, TEXT, offsetof(struct hub_settings, vcenter_user)},
	{"vcenter_password", 0, TEXT, offsetof(struct hub_settings, vcenter_password), 0, 0,
	 SECRET},
	{"credentials_key", 0, TEXT, offsetof(struct hub_settings, credentials_key)},
	{"files_worker", 0, TEXT, offsetof(struct hub_settings, files_worker)},
	{"workers", HUB_OPT_WORKERS, NUMBER, offsetof(struct hub_settings, workers), 0, 64},
	{"start_timeout_s", 0, NUMBER, offsetof(struct hub_settings, start_timeout_s), 1, 1000000,
	 LIVE},
	{"disconnect_grace_s", 0, NUMBER, offsetof(struct hub_settings, disconnect_grace_s), 1,
	 1000000, LIVE},
	{"silence_timeout_s", 0, NUMBER, offsetof(struct hub_settings, silence_timeout_s), 1,
	 1000000, LIVE},
	{"stall_warning_s", 0, NUMBER, offsetof(struct hub_settings, stall_warning_s), 0, 1000000,
	 LIVE},
	{"tick_ms", 0, NUMBER, offsetof(struct hub_settings, tick_ms), 10, 60000, LIVE},
	{"progress_poll_ms", 0, NUMBER, offsetof(struct hub_settings, progress_poll_ms), 10, 600000,
	 LIVE},
	{"agent_timeout_s", 0, NUMBER, offsetof(struct hub_settings, agent_timeout_s), 1, 100000,
	 LIVE},
	{"schedule_max_running", 0, NUMBER, offsetof(struct hub_settings, schedule_max_running), 1,
	 10000, LIVE},
	{"copy_max_running", 0, NUMBER, offsetof(struct hub_settings, copy_max_running), 1, 16},
	{"copy_retry_s", 0, NUMBER, offsetof(struct hub_settings, copy_retry_s), 1, 86400, LIVE},
	{"restore_max_mounts", 0, NUMBER, offsetof(struct hub_settings, restore_max_mounts), 1, 256,
	 LIVE},
	{"restore_idle_s", 0, NUMBER, offsetof(struct hub_settings, restore_idle_s), 1, 1000000,
	 LIVE},
	{"discovery_timeout_s", 0, NUMBER, offsetof(struct hub_settings, discovery_timeout_s), 1,
	 100000, LIVE},
	{"cancel_keeps_partial", 0, FLAG, offsetof(struct hub_settings, cancel_keeps_partial), 0, 1,
	 LIVE},
	{"tunnel_authorized_keys", 0, TEXT, offsetof(struct hub_settings, tunnel_authorized_keys)},
	{"tunnel_user", 0, TEXT, offsetof(struct hub_settings, tunnel_user)},
	{"tunnel_host_key", 0, TEXT, offsetof(struct hub_settings, tunnel_host_key)},
	{"tunnel_port", 0, NUMBER, offsetof(struct hub_settings, tunnel_port), 1, 65535},
	{"pairing_code_s", 0, NUMBER, offsetof(struct hub_settings, pairing_code_s), 10, 86400},
	{"enrollment_s", 0, NUMBER, offsetof(struct hub_settings, enrollment_s), 10, 86400},
	{"session_s", 0, NUMBER, offsetof(struct hub_settings, session_s), 60, 31 * 86400},
	{"log_level", HUB_OPT_LOG_LEVEL, TEXT, offsetof(struct hub_settings, log_level), 0, 0,
	 LIVE},
	{"log_format", HUB_OPT_LOG_FORMAT, TEXT, offsetof(struct hub_settings, log_format), 0, 0,
	 LIVE},
	{"tls", HUB_OPT_TLS, TEXT, offsetof(struct hub_settings, tls), 0, 0, LIVE},
	{"tls_certificates", HUB_OPT_TLS_CERTIFICATES, TEXT,
	 offsetof(struct hub_settings, tls_certificates), 0, 0, LIVE},
	{"tls_psk", HUB_OPT_TLS_PSK, TEXT, offsetof(struct hub_settings, tls_psk), 0, 0, LIVE},
	{"tls_verify_peer", HUB_OPT_TLS_VERIFY_PEER, FLAG,
	 offsetof(struct hub_settings, tls_verify_peer), 0, 1, LIVE},
	/* nbd_server_config_check() knows the bounds of these. */
	{"nbd_max_connections", 0, NUMBER, offsetof(struct hub_settings, nbd_max_connections), 1,
	 UINT_MAX, LIVE},
	{"nbd_max_connections_per_peer", 0, NUMBER,
	 offsetof(struct hub_settings, nbd_max_connections_per_peer), 1, UINT_MAX, LIVE},
	{"nbd_max_connections_per_export", 0, NUMBER,
	 offsetof(struct hub_settings, nbd_max_connections_per_export), 1, UINT_MAX, LIVE},
	{"nbd_handshake_percent", 0, NUMBER, offsetof(struct hub_settings, nbd_handshake_percent),
	 1, UINT_MAX, LIVE},
	{"nbd_handshake_timeout_s", 0, NUMBER,
	 offsetof(struct hub_settings, nbd_handshake_timeout_s), 1, UINT_MAX / 1000, LIVE},
	{"nbd_idle_timeout_s", 0, NUMBER, offsetof(struct hub_settings, nbd_idle_timeout_s), 0,
	 UINT_MAX / 1000, LIVE},
	{"nbd_stall_timeout_s", 0, NUMBER, offsetof(struct hub_settings, nbd_stall_timeout_s), 1,
	 UINT_MAX / 1000, LIVE},
	{"nbd_max_option_bytes", 0, NUMBER, offsetof(struct hub_settings, nbd_max_option_bytes), 1,
	 UINT_MAX, LIVE},
	{"nbd_max_inflight_bytes", 0, NUMBER, offsetof(struct hub_settings, nbd_max_inflight_bytes),
	 1, UINT_MAX, LIVE},
	{"nbd_send_queue_bytes", 0, NUMBER, offsetof(struct hub_settings, nbd_send_queue_bytes), 1,
	 UINT_MAX, LIVE},
};

_Static_assert(ARRAY_SIZE(setting_table) <= HUB_SETTINGS_MAX, "room to note where each is from");

static void note_source(struct hub_settings *settings, const struct setting *s)
{
	settings->from[s - setting_table] = settings->reading;
	settings->line[s - setting_table] = settings->reading_line;
}

static char *setting_text(struct hub_settings *settings, const struct setting *s)
{
	return (char *)settings + s->off;
}

static long *setting_number(struct hub_settings *settings, const struct setting *s)
{
	return (long *)((char *)settings + s->off);
}

static int set_text(struct hub_settings *settings, const struct setting *s, const char *value,
		    struct err *err)
{
	if (!value[0] || strlen(value) >= HUB_SETTINGS_TEXT)
		return err_set(err, -EINVAL, "%s is empty or too long", s->key);
	strcpy(setting_text(settings, s), value);
	note_source(settings, s);
	return 0;
}

static int set_number(struct hub_settings *settings, const struct setting *s, long value,
		      struct err *err)
{
	if (value < s->min || value > s->max)
		return err_set(err, -EINVAL, "%s must be between %ld and %ld", s->key, s->min,
			       s->max);
	*setting_number(settings, s) = value;
	note_source(settings, s);
	return 0;
}

/* "ADDRESS,tls=POLICY": cuts the policy off. */
static int cut_policy(struct hub_settings *settings, size_t i, struct err *err)
{
	char *comma = strstr(settings->nbd[i], ",tls=");

	settings->nbd_tls_said[i] = comma != NULL;
	if (!comma)
		return 0;
	*comma = '\0';
	if (nbd_tls_parse_policy(comma + strlen(",tls="), &settings->nbd_tls[i]))
		return 0;
	return err_set(err, -EINVAL,
		       "NBD address %s: tls must be off, allow or require, not \"%s\"",
		       settings->nbd[i], comma + strlen(",tls="));
}

static int add_nbd(struct hub_settings *settings, const char *value, struct err *err)
{
	int rc;

	if (settings->nbd_count == HUB_SETTINGS_NBD)
		return err_set(err, -EINVAL, "more than %d NBD addresses", HUB_SETTINGS_NBD);
	if (!value[0] || strlen(value) >= HUB_SETTINGS_TEXT)
		return err_set(err, -EINVAL, "an NBD address is empty or too long");
	strcpy(settings->nbd[settings->nbd_count], value);
	rc = cut_policy(settings, settings->nbd_count, err);
	if (rc)
		return rc;
	settings->nbd_list[settings->nbd_count] = settings->nbd[settings->nbd_count];
	settings->nbd_count++;
	return 0;
}

static int add_allow(struct hub_settings *settings, const char *value, struct err *err)
{
	size_t n = settings->tls_allow_count;

	if (n == HUB_SETTINGS_ALLOW)
		return err_set(err, -EINVAL, "more than %d names in tls_allow", HUB_SETTINGS_ALLOW);
	if (!value[0] || strlen(value) >= HUB_SETTINGS_TEXT)
		return err_set(err, -EINVAL, "a name in tls_allow is empty or too long");
	strcpy(settings->tls_allow[n], value);
	settings->tls_allow_list[n] = settings->tls_allow[n];
	settings->tls_allow_count++;
	return 0;
}

/* --- life, options -------------------------------------------------------------------------- */

struct hub_settings *hub_settings_new(void)
{
	struct hub_settings *settings = calloc(1, sizeof(*settings));

	if (settings)
		settings->reading = HUB_FROM_COMMAND_LINE;
	for (size_t i = 0; settings && i < ARRAY_SIZE(setting_table); i++)
		if (setting_table[i].kind != TEXT)
			*setting_number(settings, &setting_table[i]) = -1;
	return settings;
}

void hub_settings_free(struct hub_settings *settings)
{
	if (settings)
		explicit_bzero(settings->vcenter_password, sizeof(settings->vcenter_password));
	free(settings);
}

static int set_number_text(struct hub_settings *settings, const struct setting *s,
			   const char *value, struct err *err)
{
	char *end;
	long number;

	errno = 0;
	number = strtol(value, &end, 10);
	if (errno || *end || end == value)
		return err_set(err, -EINVAL, "%s takes a number, not \"%s\"", s->key, value);
	return set_number(settings, s, number, err);
}

int hub_settings_option(struct hub_settings *settings, int option, const char *value,
			struct err *err)
{
	if (option == HUB_OPT_NBD)
		return add_nbd(settings, value, err);
	if (option == HUB_OPT_TLS_ALLOW)
		return add_allow(settings, value, err);
	if (option == HUB_OPT_NEW_ADMIN_TOKEN) {
		settings->new_admin_token = true;
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(setting_table); i++) {
		const struct setting *s = &setting_table[i];

		if (s->option != option)
			continue;
		if (s->kind == TEXT)
			return set_text(settings, s, value, err);
		if (s->kind == FLAG)
			return set_number(settings, s, 1, err);
		return set_number_text(settings, s, value, err);
	}
	return err_set(err, -EINVAL, "unknown option");
}

static int take_passed(struct hub_settings *settings, const struct activation_fd *passed,
		       struct err *err)
{
	bool http = !strcmp(passed->name, "http");
	char *listener = http ? settings->http : settings->agent_listen;
	char address[16];

	snprintf(address, sizeof(address), "fd:%d", passed->fd);
	if (!strcmp(passed->name, "nbd"))
		return add_nbd(settings, address, err);
	if (!http && strcmp(passed->name, "agent"))
		return err_set(err, -EINVAL,
			       "a socket called \"%s\" was passed: its unit must have "
			       "FileDescriptorName=nbd, =http or =agent",
			       passed->name);
	if (listener[0])
		return err_set(err, -EINVAL,
			       "a socket called \"%s\" was passed, but there is one already: %s",
			       passed->name, listener);
	strcpy(listener, address);
	return 0;
}

int hub_settings_passed(struct hub_settings *settings, const struct activation *passed,
			struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < passed->count; i++)
		rc = take_passed(settings, &passed->fds[i], err);
	return rc;
}

/* --- the environment ------------------------------------------------------------------------ */

/* SENDENSE_DATA_DIR for data_dir; NULL: not set, or empty. */
static const char *env_of(const char *key)
{
	char name[80];
	int n = snprintf(name, sizeof(name), "SENDENSE_%s", key);
	const char *value;

	for (int i = 0; i < n && i < (int)sizeof(name); i++)
		if (name[i] >= 'a' && name[i] <= 'z')
			name[i] = (char)(name[i] - 'a' + 'A');
	value = getenv(name);
	return value && value[0] ? value : NULL;
}

static int env_list(struct hub_settings *settings, const char *value,
		    int (*add)(struct hub_settings *settings, const char *value, struct err *err),
		    struct err *err)
{
	char text[HUB_SETTINGS_NBD * 64], *save = NULL;
	int rc = 0;

	if (strlen(value) >= sizeof(text))
		return err_set(err, -EINVAL, "it is too long");
	strcpy(text, value);
	for (char *p = strtok_r(text, " ", &save); p && !rc; p = strtok_r(NULL, " ", &save))
		rc = add(settings, p, err);
	return rc;
}

static int env_flag(struct hub_settings *settings, const struct setting *s, const char *value,
		    struct err *err)
{
	bool yes = !strcmp(value, "true") || !strcmp(value, "1");

	if (!yes && strcmp(value, "false") && strcmp(value, "0"))
		return err_set(err, -EINVAL, "%s must be true or false, not \"%s\"", s->key, value);
	return set_number(settings, s, yes, err);
}

static int env_setting(struct hub_settings *settings, const struct setting *s, const char *value,
		       struct err *err)
{
	if (s->kind == TEXT)
		return setting_text(settings, s)[0] ? 0 : set_text(settings, s, value, err);
	if (*setting_number(settings, s) >= 0)
		return 0;
	return s->kind == FLAG ? env_flag(settings, s, value, err)
			       : set_number_text(settings, s, value, err);
}

static int read_environment(struct hub_settings *settings, struct err *err)
{
	const char *key = NULL, *value;
	int rc = 0;

	settings->reading = HUB_FROM_ENVIRONMENT;
	for (size_t i = 0; !rc && i < ARRAY_SIZE(setting_table); i++) {
		value = env_of(key = setting_table[i].key);
		if (value)
			rc = env_setting(settings, &setting_table[i], value, err);
	}
	if (!rc && !settings->nbd_count && (value = env_of(key = "nbd")))
		rc = env_list(settings, value, add_nbd, err);
	if (!rc && !settings->tls_allow_count && (value = env_of(key = "tls_allow")))
		rc = env_list(settings, value, add_allow, err);
	return rc ? err_prefix(err, rc, "environment, setting %s", key) : 0;
}

/* --- the file ------------------------------------------------------------------------------- */

static int read_list(struct hub_settings *settings, const char *key, const json_t *value,
		     int (*add)(struct hub_settings *settings, const char *value, struct err *err),
		     struct err *err)
{
	const json_t *one;
	size_t i;
	int rc = 0;

	if (json_is_string(value))
		return add(settings, json_string_value(value), err);
	if (!json_is_array(value))
		return err_set(err, -EINVAL, "%s must be a string or a list of strings", key);
	json_array_foreach (value, i, one) {
		if (!rc && !json_is_string(one))
			rc = err_set(err, -EINVAL, "%s must be a list of strings", key);
		if (!rc)
			rc = add(settings, json_string_value(one), err);
	}
	return rc;
}

static int read_setting(struct hub_settings *settings, const struct setting *s, const json_t *value,
			struct err *err)
{
	if (s->kind == TEXT) {
		if (!json_is_string(value))
			return err_set(err, -EINVAL, "%s must be a string", s->key);
		return setting_text(settings, s)[0]
			       ? 0
			       : set_text(settings, s, json_string_value(value), err);
	}
	if (s->kind == FLAG && !json_is_boolean(value))
		return err_set(err, -EINVAL, "%s must be true or false", s->key);
	if (s->kind == NUMBER && !json_is_integer(value))
		return err_set(err, -EINVAL, "%s must be an integer", s->key);
	return *setting_number(settings, s) >= 0
		       ? 0
		       : set_number(settings, s,
				    s->kind == FLAG ? json_is_true(value)
						    : (long)json_integer_value(value),
				    err);
}

/* Which lists the command line has given. */
struct given {
	bool nbd, tls_allow;
};

static int read_key(struct hub_settings *settings, const char *key, const json_t *value,
		    const struct given *given, struct err *err)
{
	if (!strcmp(key, "nbd"))
		return given->nbd ? 0 : read_list(settings, key, value, add_nbd, err);
	if (!strcmp(key, "tls_allow"))
		return given->tls_allow ? 0 : read_list(settings, key, value, add_allow, err);
	for (size_t i = 0; i < ARRAY_SIZE(setting_table); i++)
		if (!strcmp(setting_table[i].key, key) && setting_table[i].option != HUB_OPT_CONFIG)
			return read_setting(settings, &setting_table[i], value, err);
	return err_set(err, -EINVAL, "unknown key \"%s\"", key);
}

/* jansson tells lines of bad JSON, not of keys: the first `"key"` that a ':' follows. */
static int line_of(const char *text, const char *key)
{
	char quoted[128];
	int line = 1;
	const char *found;

	snprintf(quoted, sizeof(quoted), "\"%s\"", key);
	for (found = strstr(text, quoted); found; found = strstr(found + 1, quoted))
		if (found[strlen(quoted) + strspn(found + strlen(quoted), " \t\r\n")] == ':')
			break;
	for (const char *p = text; found && p < found; p++)
		line += *p == '\n';
	return found ? line : 0;
}

static char *load_text(const char *path, struct err *err)
{
	_cleanup_(fclosep) FILE *f = fopen(path, "re");
	char *text = calloc(1, HUB_SETTINGS_FILE + 1);
	size_t n;

	if (!text || !f) {
		err_sys(err, -errno, "configuration file %s", path);
		free(text);
		return NULL;
	}
	n = fread(text, 1, HUB_SETTINGS_FILE + 1, f);
	if (ferror(f) || n > HUB_SETTINGS_FILE) {
		err_set(err, -EINVAL, "configuration file %s %s", path,
			ferror(f) ? "cannot be read" : "is larger than 64 KiB");
		free(text);
		return NULL;
	}
	text[n] = '\0';
	return text;
}

static int read_document(struct hub_settings *settings, const char *text, const json_t *doc,
			 struct err *err)
{
	const struct given given = {settings->nbd_count > 0, settings->tls_allow_count > 0};
	const char *key;
	json_t *value;
	int rc = 0;

	json_object_foreach ((json_t *)doc, key, value) {
		if (rc)
			break;
		settings->reading_line = line_of(text, key);
		rc = read_key(settings, key, value, &given, err);
	}
	return rc ? err_prefix(err, rc, "configuration file %s line %d", settings->config,
			       settings->reading_line)
		  : 0;
}

static int read_file(struct hub_settings *settings, struct err *err)
{
	_cleanup_(freep) char *text = load_text(settings->config, err);
	json_error_t jerr;
	json_t *doc;
	int rc;

	if (!text)
		return -EINVAL;
	doc = json_loads(text, JSON_REJECT_DUPLICATES, &jerr);
	settings->reading = HUB_FROM_FILE;
	if (json_is_object(doc))
		rc = read_document(settings, text, doc, err);
	else
		rc = err_set(err, -EINVAL, "configuration file %s line %d: %s", settings->config,
			     doc ? 1 : jerr.line, doc ? "not a JSON object" : jerr.text);
	json_decref(doc);
	return rc;
}

/* --- defaults ------------------------------------------------------------------------------- */

static void default_text(char *text, const char *value)
{
	if (!text[0])
		strcpy(text, value);
}

static void apply(unsigned *to, long value, long factor)
{
	if (value >= 0)
		*to = (unsigned)(value * factor);
}

static void apply_nbd(const struct hub_settings *s, struct nbd_server_config *nbd)
{
	apply(&nbd->workers, s->workers, 1);
	apply(&nbd->max_connections, s->nbd_max_connections, 1);
	apply(&nbd->max_connections_per_peer, s->nbd_max_connections_per_peer, 1);
	apply(&nbd->max_connections_per_export, s->nbd_max_connections_per_export, 1);
	apply(&nbd->handshake_percent, s->nbd_handshake_percent, 1);
	apply(&nbd->handshake_timeout_ms, s->nbd_handshake_timeout_s, 1000);
	apply(&nbd->idle_timeout_ms, s->nbd_idle_timeout_s, 1000);
	apply(&nbd->stall_timeout_ms, s->nbd_stall_timeout_s, 1000);
	apply(&nbd->max_option_bytes, s->nbd_max_option_bytes, 1);
	apply(&nbd->max_inflight_bytes, s->nbd_max_inflight_bytes, 1);
	apply(&nbd->send_queue_bytes, s->nbd_send_queue_bytes, 1);
}

static int check_nbd(const struct hub_settings *settings, struct err *err)
{
	struct nbd_server_config nbd = NBD_SERVER_CONFIG_INIT;

	apply_nbd(settings, &nbd);
	return nbd_server_config_check(&nbd, err);
}

/* Every listener's policy is known from here on. */
static int settle_tls(struct hub_settings *s, struct err *err)
{
	bool credentials = s->tls_certificates[0] || s->tls_psk[0] || s->tls_verify_peer > 0 ||
			   s->tls_allow_count;
	enum nbd_tls_policy policy = NBD_TLS_OFF;
	bool any = false;

	if (s->tls[0] && !nbd_tls_parse_policy(s->tls, &policy))
		return err_set(err, -EINVAL, "tls must be off, allow or require, not \"%s\"",
			       s->tls);
	for (size_t i = 0; i < s->nbd_count; i++) {
		if (!s->nbd_tls_said[i])
			s->nbd_tls[i] = policy;
		any |= s->nbd_tls[i] != NBD_TLS_OFF;
	}
	if (credentials && !any)
		return err_set(err, -EINVAL,
			       "there are settings for TLS, but no NBD listener does it: say tls "
			       "allow or require");
	return 0;
}

static int settle_log(struct hub_settings *s, struct err *err)
{
	enum log_level level;
	enum log_format format;

	default_text(s->log_level, "info");
	default_text(s->log_format, "auto");
	if (!log_parse_level(s->log_level, &level))
		return err_set(err, -EINVAL,
			       "log_level must be error, warn, info or debug, not \"%s\"",
			       s->log_level);
	if (!log_parse_format(s->log_format, &format))
		return err_set(err, -EINVAL,
			       "log_format must be auto, text, json or journal, not \"%s\"",
			       s->log_format);
	return 0;
}

int hub_settings_read(struct hub_settings *settings, struct err *err)
{
	int rc = read_environment(settings, err);

	if (!rc && settings->config[0])
		rc = read_file(settings, err);
	settings->reading = HUB_FROM_DEFAULT;
	if (!rc)
		rc = settle_log(settings, err);
	if (rc)
		return rc;
	default_text(settings->data_dir, "/var/lib/sendense");
	default_text(settings->http, "127.0.0.1:8080");
	default_text(settings->agent_listen, "127.0.0.1:8082");
	default_text(settings->agent_url, "http://127.0.0.1:9081");
	if (!settings->nbd_count) {
		rc = add_nbd(settings, "127.0.0.1:10809", err);
		if (!rc)
			rc = add_nbd(settings, "127.0.0.1:10100", err);
	}
	if (!rc)
		rc = settle_tls(settings, err);
	return rc ? rc : check_nbd(settings, err);
}

static const char *given_text(const char *text)
{
	return text[0] ? text : NULL;
}

void hub_settings_apply(const struct hub_settings *settings, struct hub_config *config)
{
	*config = HUB_CONFIG_INIT;
	config->data_dir = settings->data_dir;
	config->db_url = settings->db;
	config->name = settings->name;
	config->agent_url = settings->agent_url;
	config->new_admin_token = settings->new_admin_token;
	config->nbd_listen = settings->nbd_list;
	config->nbd_listen_count = settings->nbd_count;
	config->nbd_listen_tls = settings->nbd_tls;
	config->nbd_tls = (struct nbd_tls_config){
		.certificates = given_text(settings->tls_certificates),
		.psk = given_text(settings->tls_psk),
		.verify_peer = settings->tls_verify_peer > 0,
		.allow = settings->tls_allow_list,
		.allow_count = settings->tls_allow_count,
	};
	apply_nbd(settings, &config->nbd);
	config->vcenter_user = settings->vcenter_user;
	config->vcenter_password = settings->vcenter_password;
	config->cancel_keeps_partial = settings->cancel_keeps_partial > 0;
	config->credentials_key = settings->credentials_key;
	config->files_worker = settings->files_worker;
	config->tunnel_keys = settings->tunnel_authorized_keys;
	config->tunnel_user = settings->tunnel_user;
	config->tunnel_host_key = settings->tunnel_host_key;
	apply(&config->tunnel_port, settings->tunnel_port, 1);
	apply(&config->pairing_code_s, settings->pairing_code_s, 1);
	apply(&config->enrollment_s, settings->enrollment_s, 1);
	apply(&config->session_s, settings->session_s, 1);
	apply(&config->start_timeout_ms, settings->start_timeout_s, 1000);
	apply(&config->disconnect_grace_ms, settings->disconnect_grace_s, 1000);
	apply(&config->silence_timeout_ms, settings->silence_timeout_s, 1000);
	apply(&config->stall_warning_ms, settings->stall_warning_s, 1000);
	apply(&config->lease_ms, settings->lease_s, 1000);
	apply(&config->schedule_max_running, settings->schedule_max_running, 1);
	apply(&config->copy_max_running, settings->copy_max_running, 1);
	apply(&config->copy_retry_ms, settings->copy_retry_s, 1000);
	apply(&config->restore_max_mounts, settings->restore_max_mounts, 1);
	apply(&config->restore_idle_ms, settings->restore_idle_s, 1000);
	apply(&config->tick_ms, settings->tick_ms, 1);
	apply(&config->progress_poll_ms, settings->progress_poll_ms, 1);
	apply(&config->agent_timeout_ms, settings->agent_timeout_s, 1000);
	apply(&config->discovery_timeout_ms, settings->discovery_timeout_s, 1000);
}

void hub_settings_apply_log(const struct hub_settings *settings)
{
	enum log_level level = LOG_LEVEL_INFO;
	enum log_format format = LOG_FORMAT_AUTO;

	log_parse_level(settings->log_level, &level);
	log_parse_format(settings->log_format, &format);
	log_set_level(level);
	log_set_format(format);
}

/* --- looking at them ------------------------------------------------------------------------ */

static bool same_setting(const struct hub_settings *a, const struct hub_settings *b,
			 const struct setting *s)
{
	if (s->kind == TEXT)
		return !strcmp((const char *)a + s->off, (const char *)b + s->off);
	return *(const long *)((const char *)a + s->off) ==
	       *(const long *)((const char *)b + s->off);
}

static bool same_addresses(const struct hub_settings *a, const struct hub_settings *b)
{
	bool same = a->nbd_count == b->nbd_count;

	for (size_t i = 0; same && i < a->nbd_count; i++)
		same = !strcmp(a->nbd[i], b->nbd[i]);
	return same;
}

static bool same_policies(const struct hub_settings *a, const struct hub_settings *b)
{
	bool same = true;

	for (size_t i = 0; same && i < a->nbd_count && i < b->nbd_count; i++)
		same = a->nbd_tls_said[i] == b->nbd_tls_said[i] &&
		       (!a->nbd_tls_said[i] || a->nbd_tls[i] == b->nbd_tls[i]);
	return same;
}

static bool same_allowed(const struct hub_settings *a, const struct hub_settings *b)
{
	bool same = a->tls_allow_count == b->tls_allow_count;

	for (size_t i = 0; same && i < a->tls_allow_count; i++)
		same = !strcmp(a->tls_allow[i], b->tls_allow[i]);
	return same;
}

void hub_settings_compare(const struct hub_settings *before, const struct hub_settings *now,
			  void (*changed)(const char *key, bool live))
{
	for (size_t i = 0; i < ARRAY_SIZE(setting_table); i++)
		if (!same_setting(before, now, &setting_table[i]))
			changed(setting_table[i].key, setting_table[i].how & LIVE);
	if (!same_addresses(before, now))
		changed("nbd", false);
	else if (!same_policies(before, now))
		changed("nbd (tls)", true);
	if (!same_allowed(before, now))
		changed("tls_allow", true);
}

/* "start_timeout_s = 60 (file line 3)" of everything that is set. */
void hub_settings_print(const struct hub_settings *settings, FILE *out)
{
	static const char *const sources[] = {"default", "command line", "environment", "file"};

	for (size_t i = 0; i < ARRAY_SIZE(setting_table); i++) {
		const struct setting *s = &setting_table[i];
		const char *text = (const char *)settings + s->off;
		long number = s->kind == TEXT ? 0 : *(const long *)text;

		if (s->kind == TEXT ? !text[0] : number < 0)
			continue;
		fprintf(out, "%s = ", s->key);
		if (s->kind == TEXT)
			fprintf(out, "%s", s->how & SECRET ? "(not shown)" : text);
		else if (s->kind == FLAG)
			fprintf(out, "%s", number ? "true" : "false");
		else
			fprintf(out, "%ld", number);
		fprintf(out, " (%s", sources[settings->from[i]]);
		if (settings->from[i] == HUB_FROM_FILE)
			fprintf(out, " line %d", settings->line[i]);
		fprintf(out, ")\n");
	}
	for (size_t i = 0; i < settings->nbd_count; i++)
		fprintf(out, "nbd = %s\n", settings->nbd[i]);
}
