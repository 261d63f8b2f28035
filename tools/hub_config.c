#include "tools/hub_config.h"

#include <errno.h>
#include <jansson.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* --- what can be set ------------------------------------------------------------------------ */

enum kind { TEXT, NUMBER };

static const struct setting {
	const char *key;
	int option; /* 0: in the file alone */
	enum kind kind;
	size_t off;
	long min, max;
} setting_table[] = {
	{"data_dir", HUB_OPT_DATA_DIR, TEXT, offsetof(struct hub_settings, data_dir)},
	{"http", HUB_OPT_HTTP, TEXT, offsetof(struct hub_settings, http)},
	{"agent_url", HUB_OPT_AGENT_URL, TEXT, offsetof(struct hub_settings, agent_url)},
	{"db", HUB_OPT_DB, TEXT, offsetof(struct hub_settings, db)},
	{"config", HUB_OPT_CONFIG, TEXT, offsetof(struct hub_settings, config)},
	{"vcenter_user", 0, TEXT, offsetof(struct hub_settings, vcenter_user)},
	{"vcenter_password", 0, TEXT, offsetof(struct hub_settings, vcenter_password)},
	{"workers", HUB_OPT_WORKERS, NUMBER, offsetof(struct hub_settings, workers), 0, 1024},
	{"start_timeout_s", 0, NUMBER, offsetof(struct hub_settings, start_timeout_s), 1, 1000000},
	{"disconnect_grace_s", 0, NUMBER, offsetof(struct hub_settings, disconnect_grace_s), 1,
	 1000000},
	{"silence_timeout_s", 0, NUMBER, offsetof(struct hub_settings, silence_timeout_s), 1,
	 1000000},
	{"tick_ms", 0, NUMBER, offsetof(struct hub_settings, tick_ms), 10, 60000},
	{"progress_poll_ms", 0, NUMBER, offsetof(struct hub_settings, progress_poll_ms), 10,
	 600000},
	{"agent_timeout_s", 0, NUMBER, offsetof(struct hub_settings, agent_timeout_s), 1, 100000},
	{"discovery_timeout_s", 0, NUMBER, offsetof(struct hub_settings, discovery_timeout_s), 1,
	 100000},
};

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
	return 0;
}

static int set_number(struct hub_settings *settings, const struct setting *s, long value,
		      struct err *err)
{
	if (value < s->min || value > s->max)
		return err_set(err, -EINVAL, "%s must be between %ld and %ld", s->key, s->min,
			       s->max);
	*setting_number(settings, s) = value;
	return 0;
}

static int add_nbd(struct hub_settings *settings, const char *value, struct err *err)
{
	if (settings->nbd_count == HUB_SETTINGS_NBD)
		return err_set(err, -EINVAL, "more than %d NBD addresses", HUB_SETTINGS_NBD);
	if (!value[0] || strlen(value) >= HUB_SETTINGS_TEXT)
		return err_set(err, -EINVAL, "an NBD address is empty or too long");
	strcpy(settings->nbd[settings->nbd_count], value);
	settings->nbd_list[settings->nbd_count] = settings->nbd[settings->nbd_count];
	settings->nbd_count++;
	return 0;
}

/* --- life, options -------------------------------------------------------------------------- */

struct hub_settings *hub_settings_new(void)
{
	struct hub_settings *settings = calloc(1, sizeof(*settings));

	for (size_t i = 0; settings && i < ARRAY_SIZE(setting_table); i++)
		if (setting_table[i].kind == NUMBER)
			*setting_number(settings, &setting_table[i]) = -1;
	return settings;
}

void hub_settings_free(struct hub_settings *settings)
{
	if (settings)
		explicit_bzero(settings->vcenter_password, sizeof(settings->vcenter_password));
	free(settings);
}

int hub_settings_option(struct hub_settings *settings, int option, const char *value,
			struct err *err)
{
	char *end;
	long number;

	if (option == HUB_OPT_NBD)
		return add_nbd(settings, value, err);
	for (size_t i = 0; i < ARRAY_SIZE(setting_table); i++) {
		const struct setting *s = &setting_table[i];

		if (s->option != option)
			continue;
		if (s->kind == TEXT)
			return set_text(settings, s, value, err);
		errno = 0;
		number = strtol(value, &end, 10);
		if (errno || *end || end == value)
			return err_set(err, -EINVAL, "%s takes a number, not \"%s\"", s->key,
				       value);
		return set_number(settings, s, number, err);
	}
	return err_set(err, -EINVAL, "unknown option");
}

/* --- the file ------------------------------------------------------------------------------- */

static int read_nbd(struct hub_settings *settings, const json_t *value, struct err *err)
{
	const json_t *one;
	size_t i;
	int rc = 0;

	if (json_is_string(value))
		return add_nbd(settings, json_string_value(value), err);
	if (!json_is_array(value))
		return err_set(err, -EINVAL, "nbd must be an address or a list of addresses");
	json_array_foreach (value, i, one) {
		if (!rc && !json_is_string(one))
			rc = err_set(err, -EINVAL, "nbd must be a list of addresses");
		if (!rc)
			rc = add_nbd(settings, json_string_value(one), err);
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
	if (!json_is_integer(value))
		return err_set(err, -EINVAL, "%s must be an integer", s->key);
	return *setting_number(settings, s) >= 0
		       ? 0
		       : set_number(settings, s, (long)json_integer_value(value), err);
}

static int read_key(struct hub_settings *settings, const char *key, const json_t *value,
		    bool nbd_given, struct err *err)
{
	if (!strcmp(key, "nbd"))
		return nbd_given ? 0 : read_nbd(settings, value, err);
	for (size_t i = 0; i < ARRAY_SIZE(setting_table); i++)
		if (!strcmp(setting_table[i].key, key) && setting_table[i].option != HUB_OPT_CONFIG)
			return read_setting(settings, &setting_table[i], value, err);
	return err_set(err, -EINVAL, "unknown key \"%s\"", key);
}

static int read_file(struct hub_settings *settings, struct err *err)
{
	bool nbd_given = settings->nbd_count > 0;
	json_error_t jerr;
	json_t *doc = json_load_file(settings->config, JSON_REJECT_DUPLICATES, &jerr);
	const char *key;
	json_t *value;
	int rc = 0;

	if (!json_is_object(doc)) {
		json_decref(doc);
		return err_set(err, -EINVAL, "configuration file %s line %d: %s", settings->config,
			       jerr.line, doc ? "not a JSON object" : jerr.text);
	}
	json_object_foreach (doc, key, value) {
		if (!rc)
			rc = read_key(settings, key, value, nbd_given, err);
	}
	json_decref(doc);
	if (rc)
		err_prefix(err, rc, "configuration file %s", settings->config);
	return rc;
}

/* --- defaults ------------------------------------------------------------------------------- */

static void default_text(char *text, const char *value)
{
	if (!text[0])
		strcpy(text, value);
}

int hub_settings_read(struct hub_settings *settings, struct err *err)
{
	int rc = settings->config[0] ? read_file(settings, err) : 0;

	if (rc)
		return rc;
	default_text(settings->data_dir, "/var/lib/sendense");
	default_text(settings->http, "127.0.0.1:8082");
	default_text(settings->agent_url, "http://127.0.0.1:9081");
	if (!settings->nbd_count) {
		rc = add_nbd(settings, "127.0.0.1:10809", err);
		if (!rc)
			rc = add_nbd(settings, "127.0.0.1:10100", err);
	}
	return rc;
}

static void apply_ms(unsigned *to, long value, long factor)
{
	if (value >= 0)
		*to = (unsigned)(value * factor);
}

void hub_settings_apply(const struct hub_settings *settings, struct hub_config *config)
{
	*config = HUB_CONFIG_INIT;
	config->data_dir = settings->data_dir;
	config->db_url = settings->db;
	config->agent_url = settings->agent_url;
	config->nbd_listen = settings->nbd_list;
	config->nbd_listen_count = settings->nbd_count;
	config->nbd_workers = settings->workers > 0 ? (unsigned)settings->workers : 0;
	config->vcenter_user = settings->vcenter_user;
	config->vcenter_password = settings->vcenter_password;
	apply_ms(&config->start_timeout_ms, settings->start_timeout_s, 1000);
	apply_ms(&config->disconnect_grace_ms, settings->disconnect_grace_s, 1000);
	apply_ms(&config->silence_timeout_ms, settings->silence_timeout_s, 1000);
	apply_ms(&config->tick_ms, settings->tick_ms, 1);
	apply_ms(&config->progress_poll_ms, settings->progress_poll_ms, 1);
	apply_ms(&config->agent_timeout_ms, settings->agent_timeout_s, 1000);
	apply_ms(&config->discovery_timeout_ms, settings->discovery_timeout_s, 1000);
}
