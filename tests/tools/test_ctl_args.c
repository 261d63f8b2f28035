/* The command line of sendense-ctl: what is understood, and what is said about the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "tools/ctl_args.h"

static int run_nothing(struct ctl *ctl, const struct ctl_args *args, struct err *err)
{
	(void)ctl;
	(void)args;
	(void)err;
	return CTL_OK;
}

static const struct ctl_verb cup_verbs[] = {
	{
		.noun = "cup",
		.name = "fill",
		.operands = "CUP...",
		.min_args = 1,
		.max_args = 2,
		.summary = "fill cups",
		.example = "cup fill mine --with tea",
		.options = {{"with", "DRINK", "what to pour", true},
			    {"level", "PERCENT", "how far", false},
			    {"hot", NULL, "heat it", false}},
		.run = run_nothing,
	},
	{.noun = "cup",
	 .name = "list",
	 .operands = "",
	 .summary = "list",
	 .example = "cup list",
	 .run = run_nothing},
	{0},
};

static const struct ctl_verb alone_verbs[] = {
	{.noun = "alone",
	 .operands = "",
	 .summary = "by itself",
	 .example = "alone",
	 .run = run_nothing},
	{0},
};

static const struct ctl_verb *const tables[] = {cup_verbs, alone_verbs, NULL};

/* One command line through all three steps, as main() takes it. */
struct line {
	struct ctl_globals globals;
	struct ctl_args args;
	struct err err;
	int res;
};

#define PARSE(...) parse((char *[]){"sendense-ctl", __VA_ARGS__, NULL})

static struct line parse(char **argv)
{
	struct line line = {0};
	const struct ctl_verb *verb = NULL;
	int argc = 0, first;

	while (argv[argc])
		argc++;
	first = ctl_parse_globals(&line.globals, argc, argv, &line.err);
	if (first < 0) {
		line.res = -first;
		return line;
	}
	line.res = ctl_find_verb(tables, argc - first, argv + first, &verb, &line.err);
	if (!line.res)
		line.res = ctl_parse_args(&line.args, &line.globals, verb, argc - first,
					  argv + first, &line.err);
	return line;
}

static void options_and_operands_may_come_in_any_order(void **state)
{
	struct line line = PARSE("--hub", "http://h:1", "cup", "fill", "mine", "--with", "tea",
				 "--json", "yours", "--hot");

	(void)state;
	assert_int_equal(line.res, CTL_OK);
	assert_string_equal(line.globals.hub, "http://h:1");
	assert_true(line.globals.json);
	assert_string_equal(ctl_option(&line.args, "with"), "tea");
	assert_non_null(ctl_option(&line.args, "hot"));
	assert_null(ctl_option(&line.args, "level"));
	assert_int_equal(line.args.argc, 2);
	assert_string_equal(line.args.argv[0], "mine");
	assert_string_equal(line.args.argv[1], "yours");
}

static void two_dashes_end_the_options(void **state)
{
	struct line line = PARSE("cup", "fill", "--with", "tea", "--", "--odd");

	(void)state;
	assert_int_equal(line.res, CTL_OK);
	assert_string_equal(line.args.argv[0], "--odd");
}

static void a_command_may_be_one_word(void **state)
{
	struct line line = PARSE("alone", "--json");

	(void)state;
	assert_int_equal(line.res, CTL_OK);
	assert_true(line.globals.json);
	assert_int_equal(line.args.argc, 0);
}

static void help_asks_for_nothing_else(void **state)
{
	struct line line = PARSE("cup", "fill", "--help");

	(void)state;
	assert_int_equal(line.res, CTL_OK);
	assert_true(line.globals.help);
}

static void every_mistake_is_named(void **state)
{
	static const struct {
		char *argv[8];
		const char *says;
	} cases[] = {
		{{"x", NULL}, "a command is missing; there are: cup, alone"},
		{{"x", "pot", NULL}, "no command \"pot\"; there are: cup, alone"},
		{{"x", "cup", NULL}, "\"cup\" needs one of: fill, list"},
		{{"x", "cup", "wash", NULL}, "\"cup\" has no \"wash\"; there are: fill, list"},
		{{"x", "cup", "fill", "mine", NULL}, "--with DRINK is missing"},
		{{"x", "cup", "fill", "--with", "tea", NULL}, "CUP... is missing"},
		{{"x", "cup", "fill", "--with", NULL}, "option --with needs a value"},
		{{"x", "cup", "fill", "--sugar", NULL}, "no option --sugar"},
		{{"x", "cup", "list", "-z", NULL}, "no option -z"},
		{{"x", "--sugar", "cup", NULL}, "no option --sugar"},
		{{"x", "cup", "list", "all", NULL}, "\"all\" is one argument too many"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct line line = parse((char **)cases[i].argv);

		assert_int_equal(line.res, CTL_USAGE);
		assert_string_equal(line.err.text, cases[i].says);
	}
}

static void a_number_is_whole_and_within_its_bounds(void **state)
{
	static char *const bad[] = {"x", "", "-1", "+1", " 1", "1x", "101", "99999999999999999999"};
	unsigned long value = 7;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct line line = PARSE("cup", "fill", "a", "--with", "tea", "--level", bad[i]);

		assert_int_equal(ctl_option_number(&line.args, "level", 100, &value, &line.err),
				 CTL_USAGE);
		assert_int_equal(value, 7);
	}
	struct line line = PARSE("cup", "fill", "a", "--with", "tea", "--level", "100");

	assert_int_equal(ctl_option_number(&line.args, "level", 100, &value, &line.err), CTL_OK);
	assert_int_equal(value, 100);
}

static void the_real_tables_are_complete(void **state)
{
	const struct ctl_verb *const real[] = {ctl_vm_verbs,	 ctl_repo_verbs,  ctl_backup_verbs,
					       ctl_health_verbs, ctl_user_verbs,  ctl_token_verbs,
					       ctl_audit_verbs,	 ctl_whoami_verbs};

	(void)state;
	for (size_t t = 0; t < ARRAY_SIZE(real); t++) {
		for (const struct ctl_verb *v = real[t]; v->noun; v++) {
			assert_non_null(v->operands);
			assert_non_null(v->summary);
			assert_non_null(v->run);
			assert_non_null(v->example);
			assert_non_null(strstr(v->example, "sendense-ctl "));
			assert_non_null(strstr(v->example, v->noun));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_and_operands_may_come_in_any_order),
		cmocka_unit_test(two_dashes_end_the_options),
		cmocka_unit_test(a_command_may_be_one_word),
		cmocka_unit_test(help_asks_for_nothing_else),
		cmocka_unit_test(every_mistake_is_named),
		cmocka_unit_test(a_number_is_whole_and_within_its_bounds),
		cmocka_unit_test(the_real_tables_are_complete),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
