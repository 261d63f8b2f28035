/*
 * sendense-ctl: the hub from the command line. Finds the verb, runs it, says what went wrong.
 */
#include <curl/curl.h>
#include <jansson.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/descriptors.h"
#include "tools/ctl.h"
#include "tools/ctl_args.h"
#include "tools/ctl_human.h"
#include "tools/ctl_rest.h"
#include "tools/ctl_token.h"

static const struct ctl_verb *const tables[] = {
	ctl_vm_verbs,
	ctl_repo_verbs,
	ctl_backup_verbs,
	ctl_health_verbs,
	ctl_image_verbs,
	ctl_user_verbs,
	ctl_token_verbs,
	ctl_audit_verbs,
	ctl_whoami_verbs,
	ctl_credential_verbs,
	ctl_policy_verbs,
	ctl_schedule_verbs,
	ctl_hub_verbs,
	ctl_appliance_verbs,
	ctl_restore_verbs,
	NULL,
};

/* Results that are no exit status (-errno) count as a failure. */
static int exit_status(int res)
{
	return res < 0 ? CTL_FAILED : res;
}

static int complain(const struct ctl_globals *globals, const struct ctl_verb *verb, int res,
		    const struct err *err)
{
	int status = exit_status(res);
	char text[2 * sizeof(err->text)];

	fflush(stdout); /* what was printed before comes before */
	human_printable(text, sizeof(text), err->text);
	if (globals->json) {
		json_t *object = json_pack("{s:s, s:i}", "error", text, "exit_status", status);

		json_dumpf(object, stderr, JSON_COMPACT);
		fputc('\n', stderr);
		json_decref(object);
		return status;
	}
	fprintf(stderr, "sendense-ctl: %s\n", text);
	if (status == CTL_USAGE && verb)
		fprintf(stderr, "Try: sendense-ctl %s%s%s --help\n", verb->noun,
			verb->name ? " " : "", verb->name ? verb->name : "");
	else if (status == CTL_USAGE)
		fprintf(stderr, "Try: sendense-ctl --help\n");
	return status;
}

static const char *hub_address(const struct ctl_globals *globals)
{
	const char *hub = globals->hub ? globals->hub : getenv("SENDENSE_HUB");

	return hub && *hub ? hub : CTL_DEFAULT_HUB;
}

static void warn_in_the_clear(const struct ctl_globals *globals, const char *token)
{
	const char *hub = hub_address(globals);

	if (*token && !globals->json && strncmp(hub, "http://", 7) == 0 && !ctl_token_is_local(hub))
		fprintf(stderr,
			"sendense-ctl: the token goes to %s in the clear, for all on the way to "
			"read: use https://\n",
			hub);
}

static int run_verb(const struct ctl_globals *globals, const struct ctl_args *args, struct err *err)
{
	_cleanup_(ctl_rest_closep) struct ctl_rest *rest = NULL;
	struct ctl ctl = {.json = globals->json};
	char token[CTL_TOKEN_MAX];
	int res = ctl_token_find(globals->token_file, hub_address(globals), token, err);

	if (!res) {
		warn_in_the_clear(globals, token);
		res = ctl_rest_open(&rest, hub_address(globals), token, err);
	}
	explicit_bzero(token, sizeof(token));
	if (res)
		return res;
	ctl.rest = rest;
	res = args->verb->run(&ctl, args, err);
	if (!res && (fflush(stdout) || ferror(stdout)))
		return err_set(err, CTL_FAILED, "the result could not be written to stdout");
	return res;
}

static bool is_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static int main_with(struct ctl_globals *globals, int argc, char **argv)
{
	const struct ctl_verb *verb = NULL;
	struct err err = ERR_INIT;
	struct ctl_args args;
	int res, first = ctl_parse_globals(globals, argc, argv, &err);

	if (first < 0)
		return complain(globals, NULL, -first, &err);
	if (globals->help || globals->version) {
		if (globals->version)
			puts("sendense-ctl " SENDENSE_VERSION);
		else
			ctl_print_overview(tables, stdout);
		return CTL_OK;
	}
	argc -= first;
	argv += first;
	res = ctl_find_verb(tables, argc, argv, &verb, &err);
	if (res && argc == 2 && is_help(argv[1])) {
		ctl_print_overview(tables, stdout);
		return CTL_OK;
	}
	if (!res)
		res = ctl_parse_args(&args, globals, verb, argc, argv, &err);
	if (!res && globals->help)
		ctl_print_verb_help(verb, stdout);
	else if (!res)
		res = run_verb(globals, &args, &err);
	return res ? complain(globals, verb, res, &err) : CTL_OK;
}

int main(int argc, char **argv)
{
	struct ctl_globals globals = {0};
	int status;

	/* Only what counts as a letter, and always UTF-8: the hub speaks nothing else. */
	setlocale(LC_CTYPE, "C.UTF-8");
	descriptors_raise();
	curl_global_init(CURL_GLOBAL_DEFAULT);
	status = main_with(&globals, argc, argv);
	curl_global_cleanup();
	return status;
}
