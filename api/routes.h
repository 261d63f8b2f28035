/*
 * From a request to a handler and back.
 *
 * A route is one row of the table its noun has at the end of h_<noun>.c, a handler one function in
 * the same file that reads a `struct api_request`, calls hub/, and leaves an answer in it. routes.c
 * lists the nouns. What a row says is all there is: api_dispatch() does it, openapi.c tells it.
 *
 * To add a route: describe what comes in and goes out (json.h: tables of members, shapes of
 * tables), write the handler, add the row, and a test that calls it; tests hold answers against the
 * shapes. To add a noun: a file like the others, its name in routes.c.
 *
 * Handlers may block: each connection has its thread (http.c).
 */
#ifndef API_ROUTES_H
#define API_ROUTES_H

#include <jansson.h>
#include <sys/types.h>

#include "api/json.h"
#include "api/uri.h"
#include "base/err.h"
#include "hub/access.h"
#include "hub/hub.h"

#define API_ARGS_MAX	4
#define API_HEADERS_MAX 8

/* --- requests ------------------------------------------------------------------------------- */

struct api_request {
	struct hub *hub;
	const char *method;
	const struct api_route *route;
	struct api_exchange *out; /* routes.c: what came and goes over HTTP */
	struct api_uri uri;
	const char *args[API_ARGS_MAX]; /* what stands for each {name} of the path, decoded */
	const json_t *body;		/* an object; NULL on routes that take none */
	char caller[80];		/* who asks, as api_authorise() found; "" : nobody known */
	struct hub_caller user;		/* of a caller with a token; else empty */
	bool denied;			/* refused for who asks, not for what: auth.c */
	bool unlisted;			/* the audit log has enough of these for now */
	bool minor;			/* changes nothing worth an entry in the audit log */
	const char *told;		/* it reads alone, and is worth an entry: what */
	int pending;			/* its number among those that change something; -1 */

	/* the handler's answer */
	json_t *answer;	   /* with result 0; given away */
	int status;	   /* with result 0; the route's unless set */
	char details[512]; /* with an error: more than its sentence says */
};

/* 0 with an answer, or a result of hub/ or API_STATUS() with @err; api/status.c makes a status of
 * it. */
typedef int api_handler(struct api_request *req, struct err *err);

/* The status of an answer without a body. */
#define API_NO_CONTENT 204

/* The status of an answer that says: it is not over yet. Of routes with `.later`. */
#define API_ACCEPTED 202

/* For what HTTP alone has a word for. */
#define API_STATUS(status) (10000 + (status))

/* An answer that comes bit by bit. @read may block and returns how many bytes it has, 0: that was
 * all, < 0: cut the connection. @end is called once, whatever happened. A piece that was read must
 * be taken in the time of the listener; where @sized, exactly @size bytes come. */
struct api_stream {
	ssize_t (*read)(void *arg, char *buf, size_t size);
	void (*end)(void *arg);
	void *arg;
	size_t piece; /* room for one read; 0: 4096 */
	bool sized;
	uint64_t size;
};

/* What came in and what goes out, without HTTP around it. */
struct api_exchange {
	const char *method, *target, *body;
	size_t body_len;
	char peer[64];	 /* the client's IP address */
	bool for_agents; /* it came in by the agents' listener */
	const char *(*header)(const struct api_exchange *x, const char *name); /* may be NULL */
	void *header_arg;

	int status;
	char *text; /* malloc()ed, given away; NULL: no memory, or a stream */
	size_t text_len;
	const char *content_type;
	struct api_stream stream; /* when it has a read function; given away */
	struct {
		const char *name;
		char *value;
	} headers[API_HEADERS_MAX];
	size_t header_count;
};

/* Always leaves an answer, whatever happened. */
void api_dispatch(struct hub *hub, struct api_exchange *x);

/* Leaves an error as the answer: @rc is a result of hub/ or API_STATUS(). */
void api_refuse(struct api_exchange *x, int rc, const char *error, const char *details);

/* Frees the headers. */
void api_exchange_deinit(struct api_exchange *x);

/* A header of the request; NULL when it has none such. */
const char *api_request_header(const struct api_request *req, const char *name);

/* Adds a header to the answer, errors included. @name is a literal. */
void api_reply_header(struct api_request *req, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Answers with something else than JSON, in place of req->answer: @text is malloc()ed and given
 * away, NULL is "no memory"; @content_type is a literal. */
int api_reply_text(struct api_request *req, const char *content_type, char *text, struct err *err);
int api_reply_stream(struct api_request *req, const char *content_type, struct api_stream stream);

/* --- routes --------------------------------------------------------------------------------- */

enum api_role {
	API_ROLE_UNSET, /* does not start */
	API_PUBLIC,
	API_VIEWER,
	API_OPERATOR,
	API_ADMIN,
	API_AGENT, /* the capture agent's calls; those that are not agents_too bring no token */
};

/* A parameter after the '?'. A list of them ends with an empty one: API_PARAMS(). */
struct api_param {
	const char *name;
	enum api_json_kind kind; /* TEXT, INT, BOOL or TIME */
	const char *what;
	const char *one_of; /* "full|incremental" */
	bool required;
};
#define API_PARAMS(...) ((const struct api_param[]){__VA_ARGS__, {.name = NULL}})

struct api_route {
	const char *method, *path; /* "/api/v1/backups/{backup_id}" */
	api_handler *handle;
	enum api_role role;
	const char *summary;

	const struct api_shape *takes; /* the body, an object; NULL: none is read */
	bool may_be_bare;	       /* no body is an empty object */
	const struct api_shape *gives; /* the answer; NULL: not JSON, see content_type */
	const char *content_type;      /* "application/zip|application/gzip": one of them */
	bool ranges;		       /* takes a Range: the answer may be a part, with 206 */
	int status; /* of success; 0: 200; API_NO_CONTENT: neither shape nor type */
	const struct api_shape *later; /* the answer when the handler says API_ACCEPTED */
	const struct api_param *query;
	const struct api_list *list; /* list.h: takes limit, offset and sort besides */
	const char *details;	     /* what the summary has no room for */
	bool creates; /* takes an Idempotency-Key (idempotency.h); not where an answer holds a
			 secret */
	const char *instead; /* what to call in its place: this one is deprecated */
	/* A capture agent may call it besides, by the agents' listener too: there as everywhere
	 * with its token, unless the route is public. */
	bool agents_too;
};

/*
 * One row: method, path, handler, role without its API_, summary; then by name what else there is:
 *
 *	API_ROUTE(POST, "/api/v1/repositories", post_repository, ADMIN, "Create a repository",
 *		  .takes = &repository_create_shape, .gives = &repository_shape, .status = 201),
 *
 * A row without a role, or with none that exists, does not compile. Paths may overlap: a word goes
 * before a {name}. "/backups/chain" is not the backup "chain".
 */
#define API_ROUTE(verb, where, handler, who, says, ...)                                            \
	{                                                                                          \
		.method = #verb, .path = where, .handle = handler, .summary = says,                \
		.role = (enum api_role)(API_##who +                                                \
					0 * sizeof(char[API_##who != API_ROLE_UNSET ? 1 : -1])),   \
		__VA_ARGS__                                                                        \
	}

/* The routes of one h_<noun>.c. */
struct api_noun {
	const char *tag, *what; /* its name and a sentence, in the document */
	const struct api_route *routes;
	size_t route_count;
};
#define API_NOUN(name, says, table)                                                                \
	{                                                                                          \
		.tag = name, .what = says, .routes = table,                                        \
		.route_count = sizeof(table) / sizeof((table)[0])                                  \
	}

/* routes.c: in the order of the document; ends with NULL. */
extern const struct api_noun *const api_nouns[];

extern const struct api_noun api_health_noun, api_discovery_noun, api_vm_contexts_noun,
	api_repositories_noun, api_backups_noun, api_jobs_noun, api_events_noun, api_metrics_noun,
	api_chains_noun, api_docs_noun, api_agent_noun, api_credentials_noun, api_access_noun,
	api_audit_noun;
extern const struct api_noun api_deletions_noun, api_copies_noun;
extern const struct api_noun api_policies_noun, api_schedules_noun, api_replications_noun;
extern const struct api_noun api_appliances_noun;
extern const struct api_noun api_hubs_noun;
extern const struct api_noun api_restore_noun;

/* Looks through the table: roles, summaries, answers, no two rows for one call, no two shapes of
 * one name. -EINVAL, naming the row. */
int api_routes_check(struct err *err);

/* --- auth.c --------------------------------------------------------------------------------- */

/* May this caller do that? Asked before the body is read; leaves req->caller. 0 or
 * API_STATUS(401), API_STATUS(403). */
int api_authorise(struct api_request *req, const struct api_route *route, struct err *err);

/* For handlers of public routes that look at a secret themselves: refuses who has none that is
 * good, with @status, and writes it down as auth.c does. */
int api_refuse_stranger(struct api_request *req, int status, struct err *err);

/* For answers that last: may @caller, let in by api_authorise(), still do what @route does? @noun:
 * as scopes name it. When the catalog cannot say, nothing has changed. */
bool api_may_go_on(struct hub *hub, struct hub_caller *caller, const struct api_route *route,
		   const char *noun);

/* For handlers of the agents' routes, first of all: by the agents' listener, which asks for no
 * token, only what concerns a running backup is admitted, and that not too often. @name: of what
 * kind says. *@first: this address, or token, has not asked this about it for a while. HUB_E_STATE,
 * HUB_E_NOT_FOUND, API_STATUS(429). With a token everything is admitted. */
enum api_agent_object { API_AGENT_BACKUP, API_AGENT_VM };
int api_admit_agent(struct api_request *req, enum api_agent_object kind, const char *name,
		    bool *first, struct err *err);

/* Notes that a request begins to change something, in case the hub does not live to tell. */
void api_audit_begin(struct api_request *req);

/* Writes to the audit log what came of a request; @error is "" when it was done. */
void api_audit(struct api_request *req, int status, const char *error);
/* The same for a call that the agents' listener has no route for. */
void api_audit_stranger(struct api_request *req, int status);

/* --- reading parameters --------------------------------------------------------------------- */

/* An integer parameter within [min, max]; *@out keeps its value when absent. HUB_E_INVALID. */
int api_query_int(const struct api_request *req, const char *name, int64_t min, int64_t max,
		  int64_t *out, struct err *err);

#endif
