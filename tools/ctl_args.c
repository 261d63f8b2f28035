#include "tools/ctl_args.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tools/ctl_token.h"

/* What getopt_long() returns for an option: a global one, or OPT_VERB + its index in the verb. */
enum { OPT_HELP = 'h', OPT_VERSION = 'V', OPT_HUB = 256, OPT_TOKEN_FILE, OPT_JSON, OPT_VERB };

#define GLOBAL_OPTIONS 5

static const struct option global_options[GLOBAL_OPTIONS] = {
	{"hub", required_argument, NULL, OPT_HUB},
	{"token-file", required_argument, NULL, OPT_TOKEN_FILE},
	{"json", no_argument, NULL, OPT_JSON},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
};

/* True when @opt was one of the global options. */
static bool take_global(struct ctl_globals *globals, int opt)
{
	switch (opt) {
	case OPT_HUB:
		globals->hub = optarg;
		return true;
	case OPT_TOKEN_FILE:
		globals->token_file = optarg;
		return true;
	case OPT_JSON:
		globals->json = true;
		return true;
	case OPT_HELP:
		globals->help = true;
		return true;
	case OPT_VERSION:
		globals->version = true;
		return true;
	default:
		return false;
	}
}

static int bad_option(int opt, char **argv, struct err *err)
{
	if (opt == ':')
		return err_set(err, CTL_USAGE, "option %s needs a value", argv[optind - 1]);
	if (optopt > 0 && optopt < OPT_HUB)
		return err_set(err, CTL_USAGE, "no option -%c", optopt);
	return err_set(err, CTL_USAGE, "no option %s", argv[optind - 1]);
}

int ctl_parse_globals(struct ctl_globals *globals, int argc, char **argv, struct err *err)
{
	struct option options[GLOBAL_OPTIONS + 1] = {0};
	int opt;

	memcpy(options, global_options, sizeof(global_options));
	optind = 0; /* makes glibc start afresh */
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "+:hV", options, NULL)) != -1) {
		if (!take_global(globals, opt))
			return -bad_option(opt, argv, err);
	}
	return optind;
}

/* --- finding the verb ----------------------------------------------------------------------- */

static int unknown_noun(const struct ctl_verb *const *tables, const char *noun, struct err *err)
{
	char known[200] = "";

	for (; *tables; tables++) {
		strncat(known, *known ? ", " : "", sizeof(known) - strlen(known) - 1);
		strncat(known, (*tables)->noun, sizeof(known) - strlen(known) - 1);
	}
	if (!noun)
		return err_set(err, CTL_USAGE, "a command is missing; there are: %s", known);
	return err_set(err, CTL_USAGE, "no command \"%s\"; there are: %s", noun, known);
}

static int unknown_verb(const struct ctl_verb *table, const char *name, struct err *err)
{
	char known[200] = "";

	for (const struct ctl_verb *v = table; v->noun; v++) {
		strncat(known, *known ? ", " : "", sizeof(known) - strlen(known) - 1);
		strncat(known, v->name, sizeof(known) - strlen(known) - 1);
	}
	if (!name)
		return err_set(err, CTL_USAGE, "\"%s\" needs one of: %s", table->noun, known);
	return err_set(err, CTL_USAGE, "\"%s\" has no \"%s\"; there are: %s", table->noun, name,
		       known);
}

int ctl_find_verb(const struct ctl_verb *const *tables, int argc, char **argv,
		  const struct ctl_verb **verb, struct err *err)
{
	const struct ctl_verb *const *table = tables;

	while (*table && (argc < 1 || strcmp((*table)->noun, argv[0]) != 0))
		table++;
	if (!*table)
		return unknown_noun(tables, argc < 1 ? NULL : argv[0], err);
	for (const struct ctl_verb *v = *table; v->noun; v++) {
		if (!v->name || (argc > 1 && strcmp(v->name, argv[1]) == 0)) {
			*verb = v;
			return CTL_OK;
		}
	}
	return unknown_verb(*table, argc > 1 ? argv[1] : NULL, err);
}

/* --- what follows it ------------------------------------------------------------------------ */

static void make_options(const struct ctl_verb *verb, struct option *options)
{
	memcpy(options, global_options, sizeof(global_options));
	for (int i = 0; i < CTL_OPTIONS_MAX && verb->options[i].name; i++) {
		options[GLOBAL_OPTIONS + i] = (struct option){
			.name = verb->options[i].name,
			.has_arg = verb->options[i].value ? required_argument : no_argument,
			.val = OPT_VERB + i,
		};
	}
}

static int check_complete(const struct ctl_args *args, struct err *err)
{
	const struct ctl_verb *verb = args->verb;

	for (int i = 0; i < CTL_OPTIONS_MAX && verb->options[i].name; i++) {
		if (verb->options[i].required && !args->value[i])
			return err_set(err, CTL_USAGE, "--%s %s is missing", verb->options[i].name,
				       verb->options[i].value);
	}
	if (args->argc < verb->min_args)
		return err_set(err, CTL_USAGE, "%s is missing", verb->operands);
	if (verb->max_args != CTL_ARGS_ANY && args->argc > verb->max_args)
		return err_set(err, CTL_USAGE, "\"%s\" is one argument too many",
			       args->argv[verb->max_args]);
	return CTL_OK;
}

int ctl_parse_args(struct ctl_args *args, struct ctl_globals *globals, const struct ctl_verb *verb,
		   int argc, char **argv, struct err *err)
{
	struct option options[GLOBAL_OPTIONS + CTL_OPTIONS_MAX + 1] = {0};
	int skip = verb->name ? 1 : 0; /* getopt takes the last word of the command for argv[0] */
	int opt;

	*args = (struct ctl_args){.verb = verb};
	argc -= skip;
	argv += skip;
	make_options(verb, options);
	optind = 0;
	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":hV", options, NULL)) != -1) {
		if (take_global(globals, opt))
			continue;
		if (opt < OPT_VERB)
			return bad_option(opt, argv, err);
		args->value[opt - OPT_VERB] = optarg ? optarg : "";
	}
	args->argc = argc - optind;
	args->argv = argv + optind;
	return globals->help ? CTL_OK : check_complete(args, err);
}

const char *ctl_option(const struct ctl_args *args, const char *name)
{
	for (int i = 0; i < CTL_OPTIONS_MAX && args->verb->options[i].name; i++) {
		if (strcmp(args->verb->options[i].name, name) == 0)
			return args->value[i];
	}
	assert(!"the verb's table has this option");
	return NULL;
}

int ctl_option_number(const struct ctl_args *args, const char *name, unsigned long max,
		      unsigned long *value, struct err *err)
{
	const char *text = ctl_option(args, name);
	unsigned long number;
	char *end;

	if (!text)
		return CTL_OK;
	errno = 0;
	number = strtoul(text, &end, 10);
	if (!isdigit((unsigned char)*text) || *end || errno || number > max)
		return err_set(err, CTL_USAGE, "--%s takes a number from 0 to %lu, not \"%s\"",
			       name, max, text);
	*value = number;
	return CTL_OK;
}

/* --- help ----------------------------------------------------------------------------------- */

static const char global_help[] =
	"Options of every command:\n"
	"  --hub URL    the hub's address (default: $SENDENSE_HUB, else " CTL_DEFAULT_HUB ")\n"
	"  --token-file FILE\n"
	"               the token to show (default: $SENDENSE_TOKEN; else, to a hub on this\n"
	"               machine, " CTL_TOKEN_FILE ")\n"
	"  --json       print the hub's answer as JSON; errors as JSON on stderr\n"
	"  -h, --help   help, also for one command: sendense-ctl backup start --help\n"
	"  -V, --version\n";

static const char exit_help[] =
	"Exit status:\n"
	"  0    done\n"
	"  1    the hub refused or failed, the backup waited for did not complete, or a file\n"
	"       could not be read or written\n"
	"  2    the command line makes no sense\n"
	"  3    no answer from the hub\n"
	"  4    no such VM, repository, backup or file\n"
	"  5    exists already, is in use, or a backup of this VM is running\n"
	"  6    an image has lost data\n"
	"  7    an image needs repair, nothing is lost (image check)\n"
	"  8    the file is no image, or uses a feature that is refused\n"
	"  9    the chain behind an image is broken, leaves the repository, or is a cycle\n"
	"  10   no valid token, or one that may not do this\n"
	"  130  interrupted while waiting; the backup goes on in the hub\n";

static void print_usage(const struct ctl_verb *verb, FILE *out)
{
	fprintf(out, "sendense-ctl %s%s%s", verb->noun, verb->name ? " " : "",
		verb->name ? verb->name : "");
	for (int i = 0; i < CTL_OPTIONS_MAX && verb->options[i].name; i++) {
		const struct ctl_option *o = &verb->options[i];

		fprintf(out, o->required ? " --%s%s%s" : " [--%s%s%s]", o->name,
			o->value ? " " : "", o->value ? o->value : "");
	}
	fprintf(out, "%s%s\n", *verb->operands ? " " : "", verb->operands);
}

void ctl_print_overview(const struct ctl_verb *const *tables, FILE *out)
{
	fputs("sendense-ctl - backups of virtual machines, from the command line\n\n"
	      "Usage: sendense-ctl [OPTIONS] COMMAND\n\nCommands:\n",
	      out);
	for (; *tables; tables++) {
		for (const struct ctl_verb *v = *tables; v->noun; v++) {
			char command[32];

			snprintf(command, sizeof(command), "%s %s", v->noun,
				 v->name ? v->name : "");
			fprintf(out, "  %-14s %s\n", command, v->summary);
		}
	}
	fprintf(out, "\n%s\n%s", global_help, exit_help);
}

void ctl_print_verb_help(const struct ctl_verb *verb, FILE *out)
{
	fprintf(out, "%s\n\nUsage: ", verb->summary);
	print_usage(verb, out);
	if (verb->detail)
		fprintf(out, "\n%s\n", verb->detail);
	if (verb->options[0].name)
		fputs("\nOptions:\n", out);
	for (int i = 0; i < CTL_OPTIONS_MAX && verb->options[i].name; i++) {
		const struct ctl_option *o = &verb->options[i];
		char head[40];

		snprintf(head, sizeof(head), "--%s %s", o->name, o->value ? o->value : "");
		fprintf(out, "  %-26s %s\n", head, o->help);
	}
	fprintf(out, "\n%s\nExample:\n  %s\n\n%s", global_help, verb->example, exit_help);
}
