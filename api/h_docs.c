/* The API about itself: the OpenAPI document and a page that shows it. */
#include <string.h>

#include "api/openapi.h"
#include "api/routes.h"

/* docs.html, NUL-terminated. The path is relative to the repository root, where the compiler runs.
 */
__asm__(".pushsection .rodata\n"
	"api_docs_html:\n\t.incbin \"api/docs.html\"\n\t.byte 0\n"
	".popsection\n");
extern const char api_docs_html[];

static int get_openapi(struct api_request *req, struct err *err)
{
	return api_openapi(&req->answer, err);
}

/* Its script is its own and talks to this hub alone. */
static int get_docs(struct api_request *req, struct err *err)
{
	api_reply_header(
		req, "Content-Security-Policy",
		"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
		"connect-src 'self'; base-uri 'none'; form-action 'none'; "
		"frame-ancestors 'none'");
	return api_reply_text(req, "text/html; charset=utf-8", strdup(api_docs_html), err);
}

static const struct api_route docs_routes[] = {
	API_ROUTE(GET, "/openapi.json", get_openapi, PUBLIC, "This document",
		  .content_type = "application/json"),
	API_ROUTE(GET, "/docs", get_docs, PUBLIC, "A page that shows this document",
		  .content_type = "text/html; charset=utf-8"),
	API_ROUTE(GET, "/swagger", get_docs, PUBLIC, "The same page, where it was once",
		  .content_type = "text/html; charset=utf-8", .instead = "/docs"),
};
const struct api_noun api_docs_noun =
	API_NOUN("Documentation", "What the API says about itself.", docs_routes);
