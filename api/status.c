#include "api/status.h"

#include <errno.h>

#include "api/json.h"
#include "api/routes.h"
#include "base/bytes.h"
#include "catalog/catalog.h"
#include "hub/hub.h"

static const struct {
	int rc, status;
} status_map[] = {
	{0, 200},	    {HUB_E_INVALID, 400},  {HUB_E_NOT_FOUND, 404},
	{HUB_E_BUSY, 409},  {HUB_E_EXISTS, 409},   {HUB_E_STATE, 409},
	{HUB_E_AGENT, 502}, {HUB_E_STOPPING, 503}, {-EBUSY, 503},
	{-ENOTCONN, 503},   {-ENOSPC, 507},	   {-EDQUOT, 507},
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

json_t *api_error_body(const char *error, const char *details)
{
	return json_pack("{s:o,s:o,s:o}", "error", api_json_text(error), "details",
			 api_json_text(details), "timestamp", api_json_time(catalog_now_us()));
}
