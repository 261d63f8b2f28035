/*
 * What sendense-hub is told: by options, by the environment (SENDENSE_DATA_DIR for data_dir), by a
 * JSON file, by defaults, in that order of weight. The
 * file's keys are the options' names with '_' (data_dir, http, agent_listen, nbd: text or list,
 * agent_url, db, workers), the timeouts and the NBD limits. A key it does not know is refused by
 * name: a misspelled timeout must not be a default in disguise.
 */
#ifndef TOOLS_HUB_CONFIG_H
#define TOOLS_HUB_CONFIG_H

#include <stdio.h>

#include "base/activation.h"
#include "base/err.h"
#include "hub/hub.h"

#define HUB_SETTINGS_TEXT  512
#define HUB_SETTINGS_NBD   16
#define HUB_SETTINGS_ALLOW 64
#define HUB_SETTINGS_MAX   64	      /* kinds of settings */
#define HUB_SETTINGS_FILE  (64 << 10) /* bytes */

/* Numbers of the options that set something; for getopt_long(). */
enum {
	HUB_OPT_DATA_DIR = 1,
	HUB_OPT_CONFIG,
	HUB_OPT_HTTP,
	HUB_OPT_AGENT_LISTEN,
	HUB_OPT_NEW_ADMIN_TOKEN, /* without a value; of one start, so not in the file */
	HUB_OPT_NBD,
	HUB_OPT_AGENT_URL,
	HUB_OPT_DB,
	HUB_OPT_NAME,
	HUB_OPT_WORKERS,
	HUB_OPT_TLS,
	HUB_OPT_TLS_CERTIFICATES,
	HUB_OPT_TLS_PSK,
	HUB_OPT_TLS_VERIFY_PEER, /* without a value */
	HUB_OPT_TLS_ALLOW,
	HUB_OPT_LOG_LEVEL,
	HUB_OPT_LOG_FORMAT,
};

/* Where a setting came from. */
enum hub_source {
	HUB_FROM_DEFAULT,
	HUB_FROM_COMMAND_LINE,
	HUB_FROM_ENVIRONMENT,
	HUB_FROM_FILE,
};

struct hub_settings {
	char data_dir[HUB_SETTINGS_TEXT];
	char config[HUB_SETTINGS_TEXT];
	char http[HUB_SETTINGS_TEXT];
	char agent_listen[HUB_SETTINGS_TEXT]; /* or "off" */
	char http_tls_certificate[HUB_SETTINGS_TEXT], http_tls_key[HUB_SETTINGS_TEXT];
	long http_max_connections, http_max_connections_per_peer, http_timeout_s;
	char agent_url[HUB_SETTINGS_TEXT];
	char db[HUB_SETTINGS_TEXT];
	char name[HUB_SETTINGS_TEXT];
	char vcenter_user[HUB_SETTINGS_TEXT];
	char vcenter_password[HUB_SETTINGS_TEXT];
	char credentials_key[HUB_SETTINGS_TEXT];
	char files_worker[HUB_SETTINGS_TEXT];
	char nbd[HUB_SETTINGS_NBD][HUB_SETTINGS_TEXT];
	const char *nbd_list[HUB_SETTINGS_NBD];
	enum nbd_tls_policy nbd_tls[HUB_SETTINGS_NBD];
	bool nbd_tls_said[HUB_SETTINGS_NBD]; /* with the address; else that of `tls` */
	size_t nbd_count;
	char tls[HUB_SETTINGS_TEXT];
	char tls_certificates[HUB_SETTINGS_TEXT];
	char tls_psk[HUB_SETTINGS_TEXT];
	long tls_verify_peer;
	char tls_allow[HUB_SETTINGS_ALLOW][HUB_SETTINGS_TEXT];
	const char *tls_allow_list[HUB_SETTINGS_ALLOW];
	size_t tls_allow_count;
	bool new_admin_token;
	const char *import_legacy; /* URL of an old database; NULL: none. Command line alone */
	long migrate_down_to;	   /* schema version; 0: none. Command line alone */
	char log_level[HUB_SETTINGS_TEXT], log_format[HUB_SETTINGS_TEXT];
	bool check_only;	 /* --check-config */
	enum hub_source reading; /* what is being read now */
	int reading_line;
	unsigned char from[HUB_SETTINGS_MAX]; /* enum hub_source, in the order of hub_config.c */
	int line[HUB_SETTINGS_MAX];
	long workers; /* -1: not set, as for the others */
	long cancel_keeps_partial;
	long start_timeout_s, disconnect_grace_s, silence_timeout_s, stall_warning_s;
	long nbd_max_connections, nbd_max_connections_per_peer, nbd_max_connections_per_export;
	long nbd_handshake_percent;
	long nbd_handshake_timeout_s, nbd_idle_timeout_s, nbd_stall_timeout_s;
	long nbd_max_option_bytes, nbd_max_inflight_bytes, nbd_send_queue_bytes;
	char tunnel_authorized_keys[HUB_SETTINGS_TEXT]; /* or "off" */
	char tunnel_user[HUB_SETTINGS_TEXT], tunnel_host_key[HUB_SETTINGS_TEXT];
	long tunnel_port, pairing_code_s, enrollment_s, session_s;
	long lease_s;
	long copy_max_running, copy_retry_s;
	long restore_max_mounts, restore_idle_s;
	long tick_ms, schedule_max_running, progress_poll_ms, agent_timeout_s, discovery_timeout_s;
};

struct hub_settings *hub_settings_new(void); /* NULL: no memory */
void hub_settings_free(struct hub_settings *settings);

/* Takes one option. -EINVAL. */
int hub_settings_option(struct hub_settings *settings, int option, const char *value,
			struct err *err);

/* Takes what the service manager has passed as if it had been said on the command line: sockets
 * called "nbd", one called "http", and one called "agent". -EINVAL. */
int hub_settings_passed(struct hub_settings *settings, const struct activation *passed,
			struct err *err);

/* Reads the environment and the file --config or SENDENSE_CONFIG named, if any, for what nothing
 * before has set; then fills in defaults. -EINVAL: the sentence names the variable, or file, line
 * and key. */
int hub_settings_read(struct hub_settings *settings, struct err *err);

/* @config borrows the texts of @settings. */
void hub_settings_apply(const struct hub_settings *settings, struct hub_config *config);

void hub_settings_apply_log(const struct hub_settings *settings);

/* Calls @changed for each setting that differs; @live: it takes effect under a running hub. */
void hub_settings_compare(const struct hub_settings *before, const struct hub_settings *now,
			  void (*changed)(const char *key, bool live));

/* All that is set, and by what; no secrets. */
void hub_settings_print(const struct hub_settings *settings, FILE *out);

#endif
