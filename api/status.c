#include "api/status.h"

#include <errno.h>
#include <string.h>

#include "api/routes.h"
#include "base/bytes.h"
#include "catalog/catalog.h"
#include "hub/hub.h"

#define PROBLEM(name) "urn:sendense:problem:" name

static const struct {
	int rc, status;
	const char *type;
} status_map[] = {
	{0, 200, ""},
	{HUB_E_INVALID, 400, PROBLEM("invalid")},
	{HUB_E_NOT_FOUND, 404, PROBLEM("not-found")},
	{HUB_E_BUSY, 409, PROBLEM("busy")},
	{HUB_E_EXISTS, 409, PROBLEM("exists")},
	{HUB_E_STATE, 409, PROBLEM("state")},
	{HUB_E_LIMIT, 429, PROBLEM("limit")},
	{HUB_E_AGENT, 502, PROBLEM("agent")},
	{HUB_E_OFTEN, 429, PROBLEM("too-often")},
	{HUB_E_STOPPING, 503, PROBLEM("stopping")},
	{-EBUSY, 503, PROBLEM("catalog-away")},
	{-ENOTCONN, 503, PROBLEM("catalog-away")},
	{-ENOSPC, 507, PROBLEM("no-space")},
	{-EDQUOT, 507, PROBLEM("no-space")},
};

static const struct {
	int status;
	const char *title;
} titles[] = {
	{400, "Bad Request"},
	{401, "Unauthorized"},
	{403, "Forbidden"},
	{404, "Not Found"},
	{405, "Method Not Allowed"},
	{408, "Request Timeout"},
	{409, "Conflict"},
	{413, "Content Too Large"},
	{414, "URI Too Long"},
	{415, "Unsupported Media Type"},
	{416, "Range Not Satisfiable"},
	{422, "Unprocessable Content"},
	{429, "Too Many Requests"},
	{431, "Request Header Fields Too Large"},
	{501, "Not Implemented"},
	{502, "Bad Gateway"},
	{503, "Service Unavailable"},
	{507, "Insufficient Storage"},
};

int api_status_of(int rc)
{
	for (size_t i = 0; i < ARRAY_SIZE(status_map); i++)
		if (status_map[i].rc == rc)
			return status_map[i].status;
	if (rc > API_STATUS(399) && rc < API_STATUS(600))
		return rc - API_STATUS(0);
	return 500;
}

const char *api_problem_type(int rc)
{
	for (size_t i = 0; i < ARRAY_SIZE(status_map); i++)
		if (status_map[i].rc == rc)
			return status_map[i].type;
	return "about:blank";
}

static const char *problem_title(int status)
{
	for (size_t i = 0; i < ARRAY_SIZE(titles); i++)
		if (titles[i].status == status)
			return titles[i].title;
	return "Internal Server Error";
}

static const struct api_json_member problem_members[] = {
	API_BY_HAND("type", TEXT, .what = "which kind of trouble, as a URI"),
	API_BY_HAND("title", TEXT, .what = "of the status"),
	API_BY_HAND("status", INT),
	API_BY_HAND("detail", TEXT, .what = "what happened, to which object, what to do"),
	API_BY_HAND("instance", TEXT, .what = "the path that was asked"),
	API_BY_HAND("error", TEXT, .what = "the same as detail"),
	API_BY_HAND("details", TEXT, .what = "more than detail says, or empty"),
	API_BY_HAND("timestamp", TIME),
};
const struct api_shape api_problem_shape = API_SHAPE("Problem", problem_members);

json_t *api_problem_body(const struct api_problem *problem)
{
	char path[512];

	snprintf(path, sizeof(path), "%.*s",
		 (int)MIN(strcspn(problem->instance, "?"), sizeof(path)), problem->instance);
	return json_pack("{s:s,s:s,s:i,s:o,s:o,s:o,s:o,s:o}", "type", problem->type, "title",
			 problem_title(problem->status), "status", problem->status, "detail",
			 api_json_text(problem->error), "instance", api_json_text(path), "error",
			 api_json_text(problem->error), "details", api_json_text(problem->details),
			 "timestamp", api_json_time(catalog_now_us()));
}
