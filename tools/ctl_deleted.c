#include "tools/ctl_deleted.h"

#include <stdio.h>

#include "tools/ctl_human.h"
#include "tools/ctl_lookup.h"

static void tell_remaining(const json_t *reply)
{
	const json_t *row;
	size_t i;

	json_array_foreach (json_object_get(reply, "deletions"), i, row) {
		const char *why = ctl_text(row, "error_message");
		char text[CTL_TEXT_MAX];

		if (*why) {
			printf("%s: %s\n", ctl_text(row, "backup_id"),
			       human_printable(text, sizeof(text), why));
			break;
		}
	}
}

void ctl_tell_deleted(struct ctl *ctl, const json_t *reply, const char *what)
{
	unsigned long long total = ctl_number(reply, "total"),
			   remaining = ctl_number(reply, "remaining");

	if (ctl->json) {
		if (reply)
			ctl_print_json(reply);
		return;
	}
	printf("%s is deleted", what);
	if (total > 1)
		printf(", %llu backups in all", total);
	putchar('\n');
	if (!remaining)
		return;
	printf("files of %llu of them remain, the hub goes on trying: sendense-ctl backup "
	       "deletions\n",
	       remaining);
	tell_remaining(reply);
}
