/* The verbs of "backup": start, follow, look at what there is, delete. */
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/bytes.h"
#include "tools/ctl.h"
#include "tools/ctl_args.h"
#include "tools/ctl_confirm.h"
#include "tools/ctl_deleted.h"
#include "tools/ctl_human.h"
#include "tools/ctl_lookup.h"
#include "tools/ctl_progress.h"
#include "tools/ctl_rest.h"
#include "tools/ctl_restore.h"
#include "tools/ctl_table.h"

#define BACKUPS	       "/api/v1/backups"
#define COPIES	       "/api/v1/copies"
#define POLL_MS	       300
#define PATIENCE_S     60.0 /* how long a hub may be away (a restart) while its backup is followed */
#define DISK_INDEX_MAX 1000000UL
#define REMARK_COLUMNS 60 /* of a reason in a table; "backup show" has all of it */

/* --- showing one backup --------------------------------------------------------------------- */

static void print_job(const json_t *job)
{
	char bytes[HUMAN_MAX], total[HUMAN_MAX], text[CTL_TEXT_MAX], time[HUMAN_MAX];
	char rate[HUMAN_MAX], took[HUMAN_MAX];
	uint64_t sent = ctl_number(job, "bytes_transferred");
	double seconds =
		human_seconds_between(ctl_text(job, "started_at"), ctl_text(job, "completed_at"));

	printf("Backup      %s\n", ctl_text(job, "backup_id"));
	printf("VM          %s\n", human_printable(text, sizeof(text), ctl_text(job, "vm_name")));
	printf("Type        %s\n", ctl_text(job, "backup_type"));
	printf("Status      %s\n", ctl_text(job, "status"));
	if (*ctl_text(job, "error_message"))
		printf("Reason      %s\n",
		       human_printable(text, sizeof(text), ctl_text(job, "error_message")));
	printf("Repository  %s\n", ctl_text(job, "repository_id"));
	printf("Started     %s\n", human_time(time, ctl_text(job, "started_at")));
	printf("Ended       %s\n", human_time(time, ctl_text(job, "completed_at")));
	printf("Disks       %s\n", human_bytes(total, ctl_number(job, "total_bytes")));
	printf("Sent        %s", human_bytes(bytes, sent));
	if (seconds > 0)
		printf(" in %s (%s)", human_duration(took, seconds),
		       human_rate(rate, (double)sent / seconds));
	putchar('\n');
}

static int print_job_disks(const json_t *job, struct err *err)
{
	static const char *const columns[] = {">DISK",	 "LABEL",     "STATUS", "MODE",
					      ">SIZE",	 ">SENT",     ">ZERO",	">SAME",
					      ">STORED", "CHANGE ID", "REMARK", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	static const char *const amounts[] = {"virtual_size_bytes", "bytes_received", "bytes_zero",
					      "bytes_unchanged", "bytes_stored"};
	char text[HUMAN_MAX];
	json_t *disk;
	size_t i;

	json_array_foreach (json_object_get(job, "disks"), i, disk) {
		const char *error = ctl_text(disk, "error");

		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(disk, "disk_index"));
		ctl_table_add(table, ctl_text(disk, "label"));
		ctl_table_add(table, ctl_text(disk, "status"));
		ctl_table_add(table, ctl_text(disk, "mode"));
		for (size_t a = 0; a < ARRAY_SIZE(amounts); a++)
			ctl_table_add(table, human_bytes(text, ctl_number(disk, amounts[a])));
		ctl_table_add(table, ctl_text(disk, "change_id"));
		ctl_table_add_cut(table, *error ? error : ctl_text(disk, "reason"), REMARK_COLUMNS);
	}
	return ctl_table_print(table, stdout, err);
}

static int show_job(struct ctl *ctl, const json_t *job, struct err *err)
{
	if (ctl->json) {
		ctl_print_json(job);
		return CTL_OK;
	}
	print_job(job);
	putchar('\n');
	return print_job_disks(job, err);
}

/* --- following a running backup ------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted = 1;
}

static void catch_interrupts(void)
{
	struct sigaction act = {.sa_handler = on_interrupt}; /* no SA_RESTART: it ends the nap */

	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
}

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static bool has_ended(const json_t *job)
{
	const char *status = ctl_text(job, "status");

	return strcmp(status, "pending") != 0 && strcmp(status, "running") != 0;
}

static unsigned terminal_columns(void)
{
	struct winsize size;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || size.ws_col < 20)
		return 80;
	return size.ws_col;
}

/* On stderr: stdout is for the result. */
static void show_progress(struct ctl *ctl, struct ctl_progress *progress, const json_t *job)
{
	ctl_progress_update(progress, job, now_s());
	if (ctl->json)
		return;
	if (isatty(STDERR_FILENO))
		ctl_progress_draw(progress, terminal_columns(), stderr);
	else
		ctl_progress_tell(progress, stderr);
}

static int still_running(const char *id, struct err *err)
{
	return err_set(err, CTL_INTERRUPTED,
		       "no longer waiting; the backup goes on: sendense-ctl backup wait %s", id);
}

/* Until the backup has ended; @job is then its last description, the caller's to free. */
static int follow(struct ctl *ctl, const char *id, json_t **job, struct err *err)
{
	struct ctl_progress progress = {0};
	double last_answer = now_s();

	catch_interrupts();
	while (!interrupted) {
		_cleanup_(json_decrefp) json_t *reply = NULL;
		int res = ctl_rest_get(ctl->rest, BACKUPS, id, NULL, NULL, &reply, err);

		if (res == CTL_OK) {
			last_answer = now_s();
			show_progress(ctl, &progress, reply);
			if (has_ended(reply)) {
				*job = steal(&reply);
				return CTL_OK;
			}
		} else if (res != CTL_UNREACHABLE || now_s() - last_answer > PATIENCE_S) {
			return interrupted ? still_running(id, err) : res;
		}
		nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
	}
	return still_running(id, err);
}

static int wait_and_show(struct ctl *ctl, const char *id, struct err *err)
{
	_cleanup_(json_decrefp) json_t *job = NULL;
	char reason[CTL_TEXT_MAX];
	int res = follow(ctl, id, &job, err);

	if (res)
		return res;
	res = show_job(ctl, job, err);
	if (res || strcmp(ctl_text(job, "status"), "completed") == 0)
		return res;
	return err_set(err, CTL_FAILED, "backup %s %s: %s", id, ctl_text(job, "status"),
		       human_printable(reason, sizeof(reason), ctl_text(job, "error_message")));
}

/* --- backup start, backup wait, backup show ------------------------------------------------- */

static int post_start(struct ctl *ctl, const struct ctl_args *args, json_t **reply, struct err *err)
{
	_cleanup_(json_decrefp) json_t *repos = NULL;
	const char *compression = ctl_option(args, "compress");
	const json_t *repo;
	int res = ctl_find_repository(ctl, ctl_option(args, "repo"), &repos, &repo, err);

	if (res)
		return res;
	return ctl_rest_post(ctl->rest, BACKUPS,
			     json_pack("{s:s, s:s, s:s, s:s*}", "vm_name", ctl_option(args, "vm"),
				       "backup_type", ctl_option(args, "type"), "repository_id",
				       ctl_text(repo, "id"), "compression", compression),
			     reply, err);
}

static int check_start(const struct ctl_args *args, struct err *err)
{
	const char *type = ctl_option(args, "type");

	if (strcmp(type, "full") != 0 && strcmp(type, "incremental") != 0)
		return err_set(err, CTL_USAGE, "--type is full or incremental, not \"%s\"", type);
	if (ctl_option(args, "wait") && ctl_option(args, "no-wait"))
		return err_set(err, CTL_USAGE, "--wait and --no-wait exclude each other");
	return CTL_OK;
}

static int backup_start(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	bool wait = !ctl_option(args, "no-wait");
	int res = check_start(args, err);

	if (!res)
		res = post_start(ctl, args, &reply, err);
	if (res)
		return res;
	if (!wait && ctl->json)
		ctl_print_json(reply);
	else if (!ctl->json)
		fprintf(wait ? stderr : stdout, "backup %s started\n",
			ctl_text(reply, "backup_id"));
	return wait ? wait_and_show(ctl, ctl_text(reply, "backup_id"), err) : CTL_OK;
}

static int backup_wait(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	return wait_and_show(ctl, args->argv[0], err);
}

static int backup_show(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *job = NULL;
	int res = ctl_rest_get(ctl->rest, BACKUPS, args->argv[0], NULL, NULL, &job, err);

	return res ? res : show_job(ctl, job, err);
}

/* --- backup cancel, backup log -------------------------------------------------------------- */

static int backup_cancel(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	json_t *body = json_pack("{s:s*}", "reason", ctl_option(args, "reason"));
	int res;

	if (body && ctl_option(args, "keep-partial"))
		json_object_set_new(body, "keep_partial", json_true());
	res = ctl_rest_post_to(ctl->rest, BACKUPS, args->argv[0], "/cancel", body, &reply, err);
	if (res)
		return res;
	if (ctl->json)
		ctl_print_json(reply);
	else
		printf("backup %s %s cancelled\n", ctl_text(reply, "backup_id"),
		       json_is_true(json_object_get(reply, "already")) ? "was already" : "is");
	return CTL_OK;
}

static void print_line(const json_t *line)
{
	char time[HUMAN_MAX], text[CTL_TEXT_MAX];
	const json_t *disk = json_object_get(line, "disk_index");

	printf("%s %-7s ", human_time(time, ctl_text(line, "created_at")), ctl_text(line, "level"));
	if (json_is_integer(disk))
		printf("disk %lld: ", (long long)json_integer_value(disk));
	puts(human_printable(text, sizeof(text), ctl_text(line, "message")));
}

/* One page; *@after moves on. */
static int get_lines(struct ctl *ctl, const char *id, json_t *lines, json_int_t *after,
		     struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	char number[24];
	const struct ctl_query query[] = {{"after", number}, {"limit", "500"}, {NULL, NULL}};
	int res;

	snprintf(number, sizeof(number), "%lld", (long long)*after);
	res = ctl_rest_get(ctl->rest, BACKUPS, id, "/log", query, &reply, err);
	if (res)
		return res;
	*after = json_integer_value(json_object_get(reply, "next"));
	json_array_extend(lines, json_object_get(reply, "lines"));
	return CTL_OK;
}

static int backup_log(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *lines = json_array();
	json_int_t after = 0;
	size_t had, i;
	json_t *line;
	int res;

	do {
		had = json_array_size(lines);
		res = get_lines(ctl, args->argv[0], lines, &after, err);
	} while (!res && json_array_size(lines) > had);
	if (res)
		return res;
	if (ctl->json) {
		_cleanup_(json_decrefp) json_t *reply = json_pack("{s:O}", "lines", lines);

		ctl_print_json(reply);
		return CTL_OK;
	}
	json_array_foreach (lines, i, line) {
		print_line(line);
	}
	return CTL_OK;
}

/* --- backup list ---------------------------------------------------------------------------- */

static int print_list(const json_t *reply, struct err *err)
{
	static const char *const columns[] = {"BACKUP", "VM",	 "TYPE",    "STATUS", ">DISKS",
					      ">SENT",	">TOOK", "STARTED", "REASON", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	char text[HUMAN_MAX];
	json_t *job;
	size_t i;

	json_array_foreach (json_object_get(reply, "backups"), i, job) {
		const char *started = ctl_text(job, "started_at");

		ctl_table_add(table, ctl_text(job, "backup_id"));
		ctl_table_add(table, ctl_text(job, "vm_name"));
		ctl_table_add(table, ctl_text(job, "backup_type"));
		ctl_table_add(table, ctl_text(job, "status"));
		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(job, "disks_count"));
		ctl_table_add(table, human_bytes(text, ctl_number(job, "bytes_transferred")));
		ctl_table_add(table, human_duration(text, human_seconds_between(
								  started,
								  ctl_text(job, "completed_at"))));
		ctl_table_add(table, human_time(text, started));
		ctl_table_add_cut(table, ctl_text(job, "error_message"), REMARK_COLUMNS);
	}
	return ctl_table_print(table, stdout, err);
}

static int backup_list(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	const struct ctl_query query[] = {
		{"vm_name", ctl_option(args, "vm")},
		{"status", ctl_option(args, "status")},
		{NULL, NULL},
	};
	int res = ctl_rest_list(ctl->rest, BACKUPS, "backups", query, &reply, err);

	if (res)
		return res;
	if (ctl->json) {
		ctl_print_json(reply);
		return CTL_OK;
	}
	return print_list(reply, err);
}

/* --- backup chain --------------------------------------------------------------------------- */

/* @repository may be NULL: the hub says when that is not enough. */
static int get_chain(struct ctl *ctl, const char *vm, const char *repository, unsigned long disk,
		     json_t **chain, struct err *err)
{
	char number[24];
	const struct ctl_query query[] = {
		{"vm_name", vm},
		{"repository_id", repository},
		{"disk_id", number},
		{NULL, NULL},
	};

	snprintf(number, sizeof(number), "%lu", disk);
	return ctl_rest_get(ctl->rest, BACKUPS "/chain", NULL, NULL, query, chain, err);
}

static int get_disks(struct ctl *ctl, const char *vm, json_t **reply, struct err *err)
{
	_cleanup_(json_decrefp) json_t *list = NULL;
	const json_t *row;
	int res = ctl_find_vm(ctl, vm, &list, &row, err);

	if (res)
		return res;
	return ctl_rest_get(ctl->rest, "/api/v1/vm-contexts", ctl_text(row, "context_id"), "/disks",
			    NULL, reply, err);
}

/* The chain of every disk the VM has, in an array; disks never backed up have none. */
static int get_all_chains(struct ctl *ctl, const char *vm, const char *repository, json_t *chains,
			  struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL;
	json_t *disk;
	size_t i;
	int res = get_disks(ctl, vm, &reply, err);

	if (res)
		return res;
	json_array_foreach (json_object_get(reply, "disks"), i, disk) {
		json_t *chain = NULL;

		res = get_chain(ctl, vm, repository, ctl_number(disk, "disk_index"), &chain, err);
		if (res && res != CTL_NOT_FOUND)
			return res;
		if (!res)
			json_array_append_new(chains, chain);
	}
	if (!json_array_size(chains))
		return err_set(err, CTL_NOT_FOUND,
			       "there is no completed backup of \"%s\" yet; make one with: "
			       "sendense-ctl backup start --vm \"%s\" --type full",
			       vm, vm);
	return CTL_OK;
}

/* Length of the folder part of a path, its last '/' included. */
static size_t folder_len(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? (size_t)(slash - path) + 1 : 0;
}

/* The points of a disk lie in one folder: it is told once, above the table. */
static int print_chain(const json_t *chain, struct err *err)
{
	static const char *const columns[] = {">POINT",	 "BACKUP",    "MODE",  "COMPLETED", ">SENT",
					      ">STORED", "CHANGE ID", "IMAGE", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	const json_t *points = json_object_get(chain, "backups");
	const char *first = ctl_text(json_array_get(points, 0), "qcow2_path");
	size_t folder = folder_len(first);
	char text[HUMAN_MAX], path[CTL_TEXT_MAX];
	json_t *point;
	size_t i;

	printf("disk %llu: %llu points, %s in %.*s\n",
	       (unsigned long long)ctl_number(chain, "disk_id"),
	       (unsigned long long)ctl_number(chain, "backup_count"),
	       human_bytes(text, ctl_number(chain, "total_size_bytes")), (int)folder,
	       human_printable(path, sizeof(path), first));
	json_array_foreach (points, i, point) {
		const char *image = ctl_text(point, "qcow2_path");
		bool same = strncmp(image, first, folder) == 0;

		ctl_table_addf(table, "%zu", i);
		ctl_table_add(table, ctl_text(point, "backup_id"));
		ctl_table_add(table, ctl_text(point, "mode"));
		ctl_table_add(table, human_time(text, ctl_text(point, "completed_at")));
		ctl_table_add(table, human_bytes(text, ctl_number(point, "bytes_received")));
		ctl_table_add(table, human_bytes(text, ctl_number(point, "bytes_stored")));
		ctl_table_add(table, ctl_text(point, "change_id"));
		ctl_table_add(table, same ? image + folder : image);
	}
	return ctl_table_print(table, stdout, err);
}

static int print_chains(struct ctl *ctl, json_t *chains, struct err *err)
{
	json_t *chain;
	size_t i;
	int res = CTL_OK;

	if (ctl->json) {
		_cleanup_(json_decrefp) json_t *reply = json_pack("{s:O}", "chains", chains);

		ctl_print_json(reply);
		return CTL_OK;
	}
	json_array_foreach (chains, i, chain) {
		if (i)
			putchar('\n');
		if (!res)
			res = print_chain(chain, err);
	}
	return res;
}

static int get_chains(struct ctl *ctl, const struct ctl_args *args, const char *repository,
		      json_t *chains, struct err *err)
{
	const char *vm = ctl_option(args, "vm");
	json_t *chain = NULL;
	unsigned long disk = 0;
	int res = ctl_option_number(args, "disk", DISK_INDEX_MAX, &disk, err);

	if (res)
		return res;
	if (!ctl_option(args, "disk"))
		return get_all_chains(ctl, vm, repository, chains, err);
	res = get_chain(ctl, vm, repository, disk, &chain, err);
	if (!res)
		json_array_append_new(chains, chain);
	return res;
}

static int backup_chain(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *chains = json_array();
	_cleanup_(json_decrefp) json_t *repos = NULL;
	const char *name = ctl_option(args, "repo");
	const json_t *repo = NULL;
	int res = name ? ctl_find_repository(ctl, name, &repos, &repo, err) : CTL_OK;

	if (!res)
		res = get_chains(ctl, args, repo ? ctl_text(repo, "id") : NULL, chains, err);
	return res ? res : print_chains(ctl, chains, err);
}

/* --- backup delete, backup deletions -------------------------------------------------------- */

static int ask_delete(const struct ctl_args *args, const json_t *job, struct err *err)
{
	char question[CTL_TEXT_MAX], vm[128];

	snprintf(question, sizeof(question),
		 "Delete the %s %s backup %s of VM %s, with its files%s", ctl_text(job, "status"),
		 ctl_text(job, "backup_type"), ctl_text(job, "backup_id"),
		 human_printable(vm, sizeof(vm), ctl_text(job, "vm_name")),
		 ctl_option(args, "cascade") ? ", and every backup that leans on it" : "");
	return ctl_confirm(args, question, err);
}

static int backup_delete(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *reply = NULL, *job = NULL;
	int res = CTL_OK;

	if (!ctl_option(args, "yes")) {
		res = ctl_rest_get(ctl->rest, BACKUPS, args->argv[0], NULL, NULL, &job, err);
		if (!res)
			res = ask_delete(args, job, err);
	}
	if (!res)
		res = ctl_rest_send(ctl->rest, "DELETE", BACKUPS, args->argv[0],
				    ctl_option(args, "cascade") ? "?cascade=true" : NULL, NULL,
				    &reply, err);
	if (!res)
		ctl_tell_deleted(ctl, reply, args->argv[0]);
	return res;
}

static int backup_deletions(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const char *const columns[] = {"BACKUP", "VM",	    ">IMAGES", ">SIZE", "REQUESTED",
					      ">TRIES", "LAST TRY", "REASON",  NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = NULL;
	_cleanup_(json_decrefp) json_t *reply = NULL;
	char text[HUMAN_MAX];
	json_t *row;
	size_t i;
	int res = ctl_rest_list(ctl->rest, "/api/v1/deletions", "deletions", NULL, &reply, err);

	(void)args;
	if (res)
		return res;
	if (ctl->json) {
		ctl_print_json(reply);
		return CTL_OK;
	}
	table = ctl_table_new(columns);
	json_array_foreach (json_object_get(reply, "deletions"), i, row) {
		ctl_table_add(table, ctl_text(row, "backup_id"));
		ctl_table_add(table, ctl_text(row, "vm_name"));
		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(row, "image_count"));
		ctl_table_add(table, human_bytes(text, ctl_number(row, "size_bytes")));
		ctl_table_add(table, human_time(text, ctl_text(row, "requested_at")));
		ctl_table_addf(table, "%llu", (unsigned long long)ctl_number(row, "attempts"));
		ctl_table_add(table, human_time(text, ctl_text(row, "last_try_at")));
		ctl_table_add_cut(table, ctl_text(row, "error_message"), REMARK_COLUMNS);
	}
	return ctl_table_print(table, stdout, err);
}

/* --- backup copy, backup copies ------------------------------------------------------------- */

static bool copy_has_ended(const json_t *copy)
{
	const char *status = ctl_text(copy, "status");

	return strcmp(status, "completed") == 0 || strcmp(status, "failed") == 0;
}

static void tell_copy_progress(struct ctl *ctl, const json_t *copy, double *last)
{
	uint64_t total = ctl_number(copy, "bytes_total");
	char done[HUMAN_MAX], all[HUMAN_MAX], reason[CTL_TEXT_MAX];

	if (ctl->json || now_s() - *last < 2)
		return;
	*last = now_s();
	fprintf(stderr, "%s: %s of %s%s%s\n", ctl_text(copy, "status"),
		human_bytes(done, ctl_number(copy, "bytes_copied")), human_bytes(all, total),
		*ctl_text(copy, "error_message") ? "; the last attempt failed: " : "",
		human_printable(reason, sizeof(reason), ctl_text(copy, "error_message")));
}

static int follow_copy(struct ctl *ctl, const char *id, json_t **copy, struct err *err)
{
	double last_answer = now_s(), last_told = now_s();

	catch_interrupts();
	while (!interrupted) {
		_cleanup_(json_decrefp) json_t *reply = NULL;
		int res = ctl_rest_get(ctl->rest, COPIES, id, NULL, NULL, &reply, err);

		if (res == CTL_OK) {
			last_answer = now_s();
			tell_copy_progress(ctl, reply, &last_told);
			if (copy_has_ended(reply)) {
				*copy = steal(&reply);
				return CTL_OK;
			}
		} else if (res != CTL_UNREACHABLE || now_s() - last_answer > PATIENCE_S) {
			return res;
		}
		nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
	}
	return err_set(err, CTL_INTERRUPTED, "no longer waiting; copy %s goes on", id);
}

static int wait_for_copy(struct ctl *ctl, const char *id, struct err *err)
{
	_cleanup_(json_decrefp) json_t *copy = NULL;
	char reason[CTL_TEXT_MAX];
	int res = follow_copy(ctl, id, &copy, err);

	if (res)
		return res;
	if (ctl->json)
		ctl_print_json(copy);
	if (strcmp(ctl_text(copy, "status"), "completed") != 0)
		return err_set(
			err, CTL_FAILED, "copy %s failed: %s", id,
			human_printable(reason, sizeof(reason), ctl_text(copy, "error_message")));
	if (!ctl->json)
		printf("copy %s is completed, verification: %s\n", id,
		       ctl_text(copy, "verification"));
	return CTL_OK;
}

static int backup_copy(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	_cleanup_(json_decrefp) json_t *repos = NULL;
	_cleanup_(json_decrefp) json_t *reply = NULL;
	bool wait = ctl_option(args, "wait") != NULL;
	const json_t *repo;
	int res = ctl_find_repository(ctl, ctl_option(args, "repo"), &repos, &repo, err);

	if (!res)
		res = ctl_rest_post_to(ctl->rest, BACKUPS, args->argv[0], "/copy",
				       json_pack("{s:s, s:b}", "repository_id",
						 ctl_text(repo, "id"), "verify",
						 !ctl_option(args, "no-verify")),
				       &reply, err);
	if (res)
		return res;
	if (ctl->json && !wait)
		ctl_print_json(reply);
	else if (!ctl->json)
		fprintf(wait ? stderr : stdout, "copy %s is asked for\n", ctl_text(reply, "id"));
	return wait ? wait_for_copy(ctl, ctl_text(reply, "id"), err) : CTL_OK;
}

static int print_copies(const json_t *reply, struct err *err)
{
	static const char *const columns[] = {"COPY",	"REPOSITORY", "STATUS",	 "VERIFICATION",
					      ">DONE",	">SIZE",      ">STORED", "COMPLETED",
					      "REASON", NULL};
	_cleanup_(ctl_table_freep) struct ctl_table *table = ctl_table_new(columns);
	char text[HUMAN_MAX];
	json_t *copy, *disk;
	size_t i, d;

	json_array_foreach (json_object_get(reply, "copies"), i, copy) {
		uint64_t stored = 0;

		json_array_foreach (json_object_get(copy, "disks"), d, disk) {
			stored += ctl_number(disk, "bytes_stored");
		}
		ctl_table_add(table, ctl_text(copy, "id"));
		ctl_table_add(table, ctl_text(copy, "repository_name"));
		ctl_table_add(table, ctl_text(copy, "status"));
		ctl_table_add(table, ctl_text(copy, "verification"));
		ctl_table_add(table, human_bytes(text, ctl_number(copy, "bytes_copied")));
		ctl_table_add(table, human_bytes(text, ctl_number(copy, "bytes_total")));
		ctl_table_add(table, human_bytes(text, stored));
		ctl_table_add(table, human_time(text, ctl_text(copy, "completed_at")));
		ctl_table_add_cut(table, ctl_text(copy, "error_message"), REMARK_COLUMNS);
	}
	return ctl_table_print(table, stdout, err);
}

static int backup_copies(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	static const struct ctl_query all[] = {{"limit", "1000"}, {NULL, NULL}};
	_cleanup_(json_decrefp) json_t *reply = NULL;
	int res = ctl_rest_get(ctl->rest, BACKUPS, args->argv[0], "/copies", all, &reply, err);

	if (res)
		return res;
	if (ctl->json) {
		ctl_print_json(reply);
		return CTL_OK;
	}
	return print_copies(reply, err);
}

const struct ctl_verb ctl_backup_verbs[] = {
	{
		.noun = "backup",
		.name = "start",
		.operands = "",
		.summary = "back up all disks of a VM, and follow it",
		.detail =
			"A full copies every disk; an incremental copies what changed since the\n"
			"VM's last backup in the same repository, and a disk without one in full.\n"
			"Progress goes to stderr. Ctrl-C ends the waiting, not the backup.",
		.example = "sendense-ctl backup start --vm pgtest1 --type incremental --repo daily",
		.options = {{"vm", "NAME", "the VM to back up", true},
			    {"type", "full|incremental", "what kind of backup", true},
			    {"repo", "NAME|ID", "where to keep it (default: the only repository)",
			     false},
			    {"compress", "none|zstd[:LEVEL]", "instead of the repository's setting",
			     false},
			    {"wait", NULL, "follow it until it has ended (the default)", false},
			    {"no-wait", NULL, "return as soon as it has started", false}},
		.run = backup_start,
	},
	{
		.noun = "backup",
		.name = "wait",
		.operands = "ID",
		.min_args = 1,
		.max_args = 1,
		.summary = "follow a backup until it has ended",
		.example = "sendense-ctl backup wait backup-01j9zk3v7q",
		.run = backup_wait,
	},
	{
		.noun = "backup",
		.name = "list",
		.operands = "",
		.summary = "list backups, newest first",
		.example = "sendense-ctl backup list --vm pgtest1",
		.options = {{"vm", "NAME", "of this VM only", false},
			    {"status", "STATUS", "pending, running, completed, failed or cancelled",
			     false}},
		.run = backup_list,
	},
	{
		.noun = "backup",
		.name = "show",
		.operands = "ID",
		.min_args = 1,
		.max_args = 1,
		.summary = "show one backup, disk by disk",
		.example = "sendense-ctl backup show backup-01j9zk3v7q",
		.run = backup_show,
	},
	{
		.noun = "backup",
		.name = "cancel",
		.operands = "ID",
		.min_args = 1,
		.max_args = 1,
		.summary = "stop a running backup",
		.detail =
			"Its connections are cut and what it has written is deleted; earlier "
			"points\n"
			"stay as they are. A backup that has just been completed stays completed.",
		.example = "sendense-ctl backup cancel backup-01j9zk3v7q --reason 'VM is moving'",
		.options = {{"reason", "TEXT", "goes onto the backup", false},
			    {"keep-partial", NULL,
			     "move what was written to the repository's quarantine", false}},
		.run = backup_cancel,
	},
	{
		.noun = "backup",
		.name = "log",
		.operands = "ID",
		.min_args = 1,
		.max_args = 1,
		.summary = "tell the story of a backup, step by step",
		.example = "sendense-ctl backup log backup-01j9zk3v7q",
		.run = backup_log,
	},
	{
		.noun = "backup",
		.name = "delete",
		.operands = "ID",
		.min_args = 1,
		.max_args = 1,
		.summary = "delete a backup, with its files",
		.detail =
			"Refused while it runs, while others lean on it, and while its repository\n"
			"keeps it. The next incremental leans on the backup before.",
		.example = "sendense-ctl backup delete backup-01j9zk3v7q",
		.options = {{"cascade", NULL, "and every backup that leans on it", false},
			    CTL_YES_OPTION},
		.run = backup_delete,
	},
	{
		.noun = "backup",
		.name = "deletions",
		.operands = "",
		.summary = "list deleted backups whose files could not be removed yet",
		.example = "sendense-ctl backup deletions",
		.run = backup_deletions,
	},
	{
		.noun = "backup",
		.name = "copy",
		.operands = "ID",
		.min_args = 1,
		.max_args = 1,
		.summary = "copy a completed backup to another repository",
		.detail = "The copy is a point by itself: it needs no other backup. It is compared "
			  "with\n"
			  "the backup's checksums and, unless told otherwise, read back.",
		.example = "sendense-ctl backup copy backup-01j9zk3v7q --repo offsite --wait",
		.options = {{"repo", "NAME|ID", "where to", true},
			    {"no-verify", NULL, "do not read it back", false},
			    {"wait", NULL, "follow it until it has ended", false}},
		.run = backup_copy,
	},
	{
		.noun = "backup",
		.name = "copies",
		.operands = "ID",
		.min_args = 1,
		.max_args = 1,
		.summary = "list the copies of a backup",
		.example = "sendense-ctl backup copies backup-01j9zk3v7q",
		.run = backup_copies,
	},
	{
		.noun = "backup",
		.name = "chain",
		.operands = "",
		.summary = "show the points of a VM's disks, the full first",
		.example = "sendense-ctl backup chain --vm pgtest1 --disk 0",
		.options = {{"vm", "NAME", "the VM", true},
			    {"disk", "N", "this disk only", false},
			    {"repo", "NAME|ID", "needed when it has backups in several", false}},
		.run = backup_chain,
	},
	{
		.noun = "backup",
		.name = "files",
		.operands = "",
		.summary = "list what is in a backup: partitions, folders, files",
		.detail = "Without --path the partitions. A path that does not begin with\n"
			  "/partition-N is looked for in all of them. Links are not followed.",
		.example = "sendense-ctl backup files --backup-id backup-01j9zk3v7q --path /etc",
		.options = {{"backup-id", "ID", "the backup", true},
			    {"disk", "N", "this disk only", false},
			    {"path", "PATH", "a folder or a file of the guest", false},
			    {"recursive", NULL, "and all that is below it", false}},
		.run = ctl_backup_files,
	},
	{
		.noun = "backup",
		.name = "extract",
		.operands = "",
		.summary = "copy a file or a folder out of a backup",
		.detail = "A path that does not begin with /partition-N is looked for in all\n"
			  "partitions; links on the way are followed within theirs. What exists is "
			  "not\n"
			  "overwritten without --force. Owners are "
			  "not\n"
			  "kept; devices, pipes and sockets are left out. --output - is stdout.",
		.example = "sendense-ctl backup extract --backup-id backup-01j9zk3v7q \\\n"
			   "      --file /var/www/index.php --output ./index.php",
		.options = {{"backup-id", "ID", "the backup", true},
			    {"file", "PATH", "a file or folder of the guest", true},
			    {"output", "PATH", "where to; - is stdout", true},
			    {"disk", "N", "this disk only", false},
			    {"force", NULL, "overwrite files that are there", false}},
		.run = ctl_backup_extract,
	},
	{
		.noun = "backup",
		.name = "mount",
		.operands = "",
		.summary = "mount a disk of a backup on a folder, read-only",
		.detail = "Each partition is a folder /partition-N. A process in the background "
			  "serves\n"
			  "it from the hub until it is unmounted; a hub that is gone gives I/O "
			  "errors.",
		.example = "sendense-ctl backup mount --backup-id backup-01j9zk3v7q --path "
			   "/tmp/restore",
		.options = {{"backup-id", "ID", "the backup", true},
			    {"path", "FOLDER", "where to", true},
			    {"disk", "N", "which disk (0)", false},
			    {"foreground", NULL, "serve it from here, until Ctrl-C", false}},
		.run = ctl_backup_mount,
	},
	{
		.noun = "backup",
		.name = "unmount",
		.operands = "",
		.summary = "unmount what \"backup mount\" has mounted",
		.example = "sendense-ctl backup unmount --path /tmp/restore",
		.options = {{"path", "FOLDER", "where it is mounted", true}},
		.run = ctl_backup_unmount,
	},
	{0},
};
