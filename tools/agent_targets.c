#include "tools/agent_targets.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"

#define TARGET_INDEX_MAX 65535

static int target_bad(struct err *err, const char *entry, size_t len, const char *why)
{
	return err_set(err, -EINVAL, "nbd_targets: \"%.*s\": %s", (int)MIN(len, 200), entry, why);
}

/* Digits only, so that no sign, space or 0x comes in through strtoll(). */
static int parse_number(const char *s, size_t len, int64_t max, int64_t *out)
{
	int64_t v = 0;

	if (!len || len > 10)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9')
			return -EINVAL;
		v = v * 10 + (s[i] - '0');
	}
	if (v > max)
		return -EINVAL;
	*out = v;
	return 0;
}

/* Where the export name starts in a URI, or NULL for a URI that is not one of ours. */
static const char *uri_export(const char *uri)
{
	const char *slash;

	if (strncmp(uri, "nbd+unix:///", 12) == 0)
		return strstr(uri, "?socket=") ? uri + 12 : NULL;
	if (strncmp(uri, "nbd://", 6) != 0)
		return NULL;
	slash = strchr(uri + 6, '/');
	return slash && slash > uri + 6 && !strchr(uri, '?') ? slash + 1 : NULL;
}

/* The hub promises [A-Za-z0-9._-], which need no decoding and cannot hide a second URI part. */
static size_t export_length(const char *s)
{
	size_t n = 0;

	while (isascii((unsigned char)s[n]) &&
	       (isalnum((unsigned char)s[n]) || (s[n] && strchr("._-", s[n]))))
		n++;
	return n;
}

static int export_disk_index(const char *export, int *out)
{
	size_t n = strlen(export), digits = 0;
	int64_t v;

	while (digits < n && isdigit((unsigned char)export[n - digits - 1]))
		digits++;
	if (n - digits < 4 || strncmp(export + n - digits - 4, "disk", 4) != 0)
		return -EINVAL;
	if (parse_number(export + n - digits, digits, TARGET_INDEX_MAX, &v))
		return -EINVAL;
	*out = (int)v;
	return 0;
}

static int target_parse(struct agent_target *t, const char *entry, size_t len, struct err *err)
{
	const char *colon = memchr(entry, ':', len), *export;
	size_t n;

	if (!colon || parse_number(entry, (size_t)(colon - entry), INT32_MAX, &t->key))
		return target_bad(err, entry, len, "must start with a disk key and \":\"");
	n = len - (size_t)(colon + 1 - entry);
	if (n > AGENT_URI_MAX)
		return target_bad(err, entry, len, "the URI is too long");
	memcpy(t->uri, colon + 1, n);
	t->uri[n] = '\0';
	export = uri_export(t->uri);
	if (!export)
		return target_bad(err, entry, len,
				  "must be nbd://HOST:PORT/EXPORT or "
				  "nbd+unix:///EXPORT?socket=PATH");
	n = export_length(export);
	if (!n || n > AGENT_EXPORT_MAX || (export[n] && export[n] != '?'))
		return target_bad(err, entry, len,
				  "the export name must be 1 to 63 of A-Z a-z 0-9 . _ -");
	memcpy(t->export, export, n);
	t->export[n] = '\0';
	if (export_disk_index(t->export, &t->disk_index))
		return target_bad(err, entry, len, "the export name must end in \"disk<N>\"");
	return 0;
}

static int target_unique(const struct agent_target *t, size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		if (t[i].key == t[n].key)
			return err_set(err, -EINVAL, "nbd_targets: disk key %lld is there twice",
				       (long long)t[n].key);
		if (t[i].disk_index == t[n].disk_index)
			return err_set(err, -EINVAL, "nbd_targets: two exports end in \"disk%d\"",
				       t[n].disk_index);
	}
	return 0;
}

int agent_targets_parse(const char *text, struct agent_target **out, size_t *n, struct err *err)
{
	_cleanup_(freep) struct agent_target *list = calloc(AGENT_TARGETS_MAX, sizeof(*list));
	size_t count = 0, len;

	if (!list)
		return err_sys(err, -ENOMEM, "nbd_targets");
	for (;; text += len + 1) {
		int rc;

		len = strcspn(text, ",");
		if (count == AGENT_TARGETS_MAX)
			return err_set(err, -EINVAL, "nbd_targets: more than %d entries",
				       AGENT_TARGETS_MAX);
		rc = target_parse(&list[count], text, len, err);
		if (!rc)
			rc = target_unique(list, count, err);
		if (rc)
			return rc;
		count++;
		if (!text[len])
			break;
	}
	*out = steal(&list);
	*n = count;
	return 0;
}

const struct agent_target *agent_targets_find(const struct agent_target *targets, size_t n,
					      int64_t key)
{
	for (size_t i = 0; i < n; i++)
		if (targets[i].key == key)
			return &targets[i];
	return NULL;
}
