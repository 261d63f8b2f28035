#include "hub/repositories.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "catalog/deletions.h"
#include "hub/job.h"

/* Two repositories over one folder would quarantine each other's work. */
static int repository_check_other_roots(struct hub *hub, const struct repo *repo, struct err *err)
{
	_cleanup_(freep) struct catalog_repository *rows = NULL;
	struct stat mine, theirs;
	size_t n = 0;
	int rc = catalog_repositories_list(hub->catalog, &rows, &n, err);

	if (rc)
		return hub_from_catalog(rc);
	if (stat(repo->root, &mine) < 0)
		return err_sys(err, -errno, "folder %s", repo->root);
	for (size_t i = 0; i < n; i++) {
		_cleanup_(repo_closep) struct repo *other = NULL;

		if (repo_open(&other, &rows[i], false, NULL) || stat(other->root, &theirs) < 0)
			continue;
		if (mine.st_dev == theirs.st_dev && mine.st_ino == theirs.st_ino)
			return err_set(err, HUB_E_EXISTS,
				       "folder %s is the one of repository \"%s\" already",
				       repo->root, rows[i].name);
	}
	return 0;
}

static int repository_set_sizes(struct hub *hub, const struct repo_storage *s,
				struct catalog_repository *row, struct err *err)
{
	int rc = catalog_repository_set_sizes(hub->catalog, row->id, s->total_bytes, s->used_bytes,
					      s->available_bytes, err);

	if (rc)
		return hub_from_catalog(rc);
	row->total_size_bytes = s->total_bytes;
	row->used_size_bytes = s->used_bytes;
	row->available_size_bytes = s->available_bytes;
	row->last_check_at_us = catalog_now_us();
	return 0;
}

static int repository_fresh_sizes(struct hub *hub, struct repo *repo,
				  struct catalog_repository *row, struct err *err)
{
	struct repo_storage s;
	int rc = repo->ops->storage(repo, &s, err);

	return rc ? rc : repository_set_sizes(hub, &s, row, err);
}

int hub_repository_create(struct hub *hub, struct catalog_repository *row, struct err *err)
{
	_cleanup_(repo_closep) struct repo *repo = NULL;
	struct catalog_repository other;
	int rc;

	if (!row->name[0])
		return err_set(err, HUB_E_INVALID, "name is missing");
	if (!catalog_repository_get_by_name(hub->catalog, row->name, &other, NULL))
		return err_set(err, HUB_E_EXISTS, "repository \"%s\" exists already", row->name);
	rc = repo_open(&repo, row, true, err);
	if (!rc)
		rc = repository_check_other_roots(hub, repo, err);
	if (!rc)
		rc = repo->ops->probe(repo, err);
	if (rc) /* whatever is wrong with the place, another one has to be named */
		return rc == HUB_E_EXISTS ? rc : HUB_E_INVALID;
	rc = catalog_repository_create(hub->catalog, row, err);
	if (rc)
		return hub_from_catalog(rc);
	log_info(&hub->log, "repository \"%s\" (%s) at %s", row->name, row->id, repo->root);
	return repository_fresh_sizes(hub, repo, row, err);
}

/* A repository out of reach, or that does not answer in time, keeps the sizes last seen. */
static void repositories_refresh(struct hub *hub, struct catalog_repository *rows, size_t n)
{
	_cleanup_(freep) struct hub_look *looks = calloc(n + 1, sizeof(*looks));

	if (!looks)
		return;
	hub_look(hub->looks, rows, n, looks);
	for (size_t i = 0; i < n; i++)
		if (!looks[i].rc)
			repository_set_sizes(hub, &looks[i].storage, &rows[i], NULL);
}

int hub_repository_get(struct hub *hub, const char *id, struct catalog_repository *out,
		       struct err *err)
{
	int rc = catalog_repository_get(hub->catalog, id, out, err);

	if (rc)
		return hub_from_catalog(rc);
	repositories_refresh(hub, out, 1);
	return 0;
}

int hub_repositories_list(struct hub *hub, struct catalog_repository **rows, size_t *n,
			  struct err *err)
{
	int rc = catalog_repositories_list(hub->catalog, rows, n, err);

	if (rc)
		return hub_from_catalog(rc);
	repositories_refresh(hub, *rows, *n);
	return 0;
}

/* --- change, test --------------------------------------------------------------------------- */

/* The files of deleted backups are looked for where they were. */
static int repository_check_deletions(struct hub *hub, const struct catalog_repository *old,
				      struct err *err)
{
	_cleanup_(freep) struct catalog_deletion *rows = NULL;
	size_t n = 0;
	int rc = catalog_deletions_list(hub->catalog, old->id, &rows, &n, err);

	if (rc || !n)
		return rc;
	return err_set(err, HUB_E_STATE,
		       "repository \"%s\" has files of %zu deleted backups that could not be "
		       "removed yet: its place cannot be changed",
		       old->name, n);
}

static int repository_check_config(struct hub *hub, const struct catalog_repository *old,
				   const char *config, struct err *err)
{
	_cleanup_(repo_closep) struct repo *now = NULL, *then = NULL;
	struct catalog_repository row = *old;
	const int64_t held = old->backup_count + old->copy_count;
	int rc;

	if (!CATALOG_TEXT(row.config, config))
		return err_set(err, HUB_E_INVALID, "config is larger than %zu bytes",
			       sizeof(row.config) - 1);
	rc = repo_open(&then, &row, !held, err);
	if (rc)
		return HUB_E_INVALID;
	if (!repo_open(&now, old, false, NULL) && !strcmp(now->root, then->root))
		return 0;
	if (held)
		return err_set(err, HUB_E_STATE,
			       "repository \"%s\" holds %lld backups and copies: its place cannot "
			       "be changed to %s",
			       old->name, (long long)held, then->root);
	rc = repository_check_deletions(hub, old, err);
	if (!rc)
		rc = repository_check_other_roots(hub, then, err);
	if (!rc)
		rc = then->ops->probe(then, err);
	if (rc == HUB_E_STATE)
		return rc;
	return rc && rc != HUB_E_EXISTS ? HUB_E_INVALID : rc;
}

int hub_repository_update(struct hub *hub, const char *id,
			  const struct hub_repository_change *change, struct err *err)
{
	const struct catalog_repository_change c = {change->name, change->config, change->enabled,
						    change->min_retention_days};
	struct catalog_repository old;
	int rc = hub_from_catalog(catalog_repository_get(hub->catalog, id, &old, err));

	if (!rc && change->config)
		rc = repository_check_config(hub, &old, change->config, err);
	if (!rc)
		rc = hub_from_catalog(catalog_repository_update(hub->catalog, id, &c, err));
	if (!rc)
		log_info(&hub->log, "repository \"%s\" (%s) was changed", old.name, id);
	return rc;
}

int hub_repository_test(struct hub *hub, const struct catalog_repository *row, struct err *err)
{
	_cleanup_(repo_closep) struct repo *repo = NULL;
	int rc = repo_open(&repo, row, false, err);

	(void)hub;
	return rc ? rc : repo->ops->probe(repo, err);
}

int hub_repository_storage(struct hub *hub, const char *id, struct catalog_repository *out,
			   struct err *err)
{
	int rc = hub_from_catalog(catalog_repository_get(hub->catalog, id, out, err));
	struct hub_look look;

	if (rc)
		return rc;
	hub_look(hub->looks, out, 1, &look);
	rc = look.rc ? err_set(err, look.rc, "%s", look.err.text)
		     : repository_set_sizes(hub, &look.storage, out, err);
	return rc < 0 ? HUB_E_STATE : rc;
}

/* --- by the words of a request -------------------------------------------------------------- */

static int repository_by_type(struct hub *hub, const char *name, struct catalog_repository *out,
			      struct err *err)
{
	_cleanup_(freep) struct catalog_repository *rows = NULL;
	enum catalog_repository_type type;
	size_t n = 0, found = 0;
	int rc;

	if (!catalog_repository_type_parse(name, &type))
		return err_set(err, HUB_E_NOT_FOUND, "no repository is called \"%s\"", name);
	rc = catalog_repositories_list(hub->catalog, &rows, &n, err);
	if (rc)
		return hub_from_catalog(rc);
	for (size_t i = 0; i < n; i++)
		if (rows[i].type == type && !found++)
			*out = rows[i];
	if (found == 1)
		return 0;
	if (!found)
		return err_set(err, HUB_E_NOT_FOUND, "no repository is called, or of type, \"%s\"",
			       name);
	return err_set(err, HUB_E_INVALID, "%zu repositories are of type \"%s\": say repository_id",
		       found, name);
}

static int repository_by_name(struct hub *hub, const char *name, struct catalog_repository *out,
			      struct err *err)
{
	int rc = catalog_repository_get_by_name(hub->catalog, name, out, err);

	if (rc == CATALOG_E_NOT_FOUND)
		return repository_by_type(hub, name, out, err);
	return hub_from_catalog(rc);
}

static int repository_named(struct hub *hub, const char *id, const char *name,
			    struct catalog_repository *out, struct err *err)
{
	struct catalog_repository named;
	bool has_id = id && id[0], has_name = name && name[0];
	int rc;

	if (!has_id && !has_name)
		return err_set(err, HUB_E_INVALID, "repository_id is missing");
	if (!has_id)
		return repository_by_name(hub, name, out, err);
	rc = catalog_repository_get(hub->catalog, id, out, err);
	if (rc || !has_name)
		return hub_from_catalog(rc);
	rc = repository_by_name(hub, name, &named, err);
	if (rc)
		return rc;
	if (strcmp(named.id, out->id))
		return err_set(err, HUB_E_INVALID,
			       "repository_id %s and repository \"%s\" are different repositories",
			       id, name);
	return 0;
}

int hub_repository_resolve(struct hub *hub, const char *id, const char *name,
			   struct catalog_repository *out, struct err *err)
{
	int rc = repository_named(hub, id, name, out, err);

	if (!rc && !out->enabled)
		return err_set(err, HUB_E_STATE,
			       "repository \"%s\" is disabled: enable it, or name another",
			       out->name);
	return rc;
}
