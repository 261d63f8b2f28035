/*
 * The command line as a table: a verb is a row with its options, help text and function.
 *
 *     sendense-ctl [GLOBAL OPTIONS] NOUN [VERB] [OPTIONS] [ARGUMENTS]
 *
 * Global options are understood before and after the verb.
 */
#ifndef TOOLS_CTL_ARGS_H
#define TOOLS_CTL_ARGS_H

#include <stdbool.h>
#include <stdio.h>

#include "base/err.h"
#include "tools/ctl.h"

#define CTL_OPTIONS_MAX 8
#define CTL_ARGS_ANY	-1

struct ctl_option {
	const char *name;  /* long option; NULL ends the list */
	const char *value; /* what its value is called in help; NULL: a flag */
	const char *help;
	bool required;
};

struct ctl_args {
	const struct ctl_verb *verb;
	const char *value[CTL_OPTIONS_MAX]; /* in the order of verb->options; "" for a flag given */
	int argc;
	char **argv; /* what is no option; borrowed from main() */
};

struct ctl_verb {
	const char *noun, *name; /* name NULL: the noun is a command by itself */
	const char *operands;	 /* for the usage line, "" when none */
	int min_args, max_args;	 /* max_args may be CTL_ARGS_ANY */
	const char *summary;	 /* one line for the overview */
	const char *detail;	 /* more for the verb's own help, or NULL */
	const char *example;
	struct ctl_option options[CTL_OPTIONS_MAX];
	int (*run)(struct ctl *ctl, const struct ctl_args *args, struct err *err);
};

/* Tables of verbs, each ended by a row without a noun. */
extern const struct ctl_verb ctl_vm_verbs[];
extern const struct ctl_verb ctl_repo_verbs[];
extern const struct ctl_verb ctl_backup_verbs[];
extern const struct ctl_verb ctl_health_verbs[];
extern const struct ctl_verb ctl_image_verbs[];
extern const struct ctl_verb ctl_user_verbs[];
extern const struct ctl_verb ctl_token_verbs[];
extern const struct ctl_verb ctl_audit_verbs[];
extern const struct ctl_verb ctl_whoami_verbs[];
extern const struct ctl_verb ctl_credential_verbs[];
extern const struct ctl_verb ctl_policy_verbs[];
extern const struct ctl_verb ctl_schedule_verbs[];
extern const struct ctl_verb ctl_hub_verbs[];
extern const struct ctl_verb ctl_appliance_verbs[];
extern const struct ctl_verb ctl_restore_verbs[];

struct ctl_globals {
	const char *hub, *token_file;
	bool json, help, version;
};

/* The options in front of the noun; the index of the noun in @argv, or -CTL_USAGE. */
int ctl_parse_globals(struct ctl_globals *globals, int argc, char **argv, struct err *err);

/* CTL_OK or CTL_USAGE. @argc and @argv start at the noun. */
int ctl_find_verb(const struct ctl_verb *const *tables, int argc, char **argv,
		  const struct ctl_verb **verb, struct err *err);

/* What follows the verb; @argc and @argv start at the noun, too. CTL_OK or CTL_USAGE; with
 * globals->help set nothing was checked. */
int ctl_parse_args(struct ctl_args *args, struct ctl_globals *globals, const struct ctl_verb *verb,
		   int argc, char **argv, struct err *err);

/* The value of an option of the verb, "" for a flag, NULL when it was not given. */
const char *ctl_option(const struct ctl_args *args, const char *name);

/* As ctl_option() for a whole number from 0 to @max; @value is untouched when it was not given. */
int ctl_option_number(const struct ctl_args *args, const char *name, unsigned long max,
		      unsigned long *value, struct err *err);

void ctl_print_overview(const struct ctl_verb *const *tables, FILE *out);
void ctl_print_verb_help(const struct ctl_verb *verb, FILE *out);

#endif
