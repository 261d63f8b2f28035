/*
 * Rules of the NBD specification (doc/proto.md) as tests. The name of a test is the section and the
 * sentence it proves; the tests of a program share one server and talk to it in raw bytes.
 *
 * Every rule stands in docs/nbd-conformance.md with the name of the program that proves it;
 * spec_run() compares the two, so that neither list can grow without the other.
 */
#ifndef TESTS_NBDSPEC_H
#define TESTS_NBDSPEC_H

#include "tests/nbd/rig.h"

#define SPEC_RO		 "ro"  /* a read-only export with a description */
#define SPEC_DEFAULT	 ""    /* the default export, SPEC_SMALL bytes */
#define SPEC_TWO	 "two" /* an export with two metadata contexts, SPEC_SMALL bytes */
#define SPEC_DESCRIPTION "bytes nobody may change"
#define SPEC_SMALL	 (1U << 20)
#define SPEC_FLAGS	 (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)

struct spec {
	struct rig *rig; /* its export is RIG_NAME: RIG_SIZE bytes, writable */
	struct memexport ro, small, two;
	struct nbd_export *ro_export, *small_export, *two_export;
};

extern struct spec spec;

/* One row of a program's table; OWN_RULE() in one that has a server of its own. */
#define RULE(section, sentence, test)                                                              \
	{                                                                                          \
		section ": " sentence, test, spec_reset, NULL, NULL                                \
	}
#define OWN_RULE(section, sentence, test)                                                          \
	{                                                                                          \
		section ": " sentence, test, NULL, NULL, NULL                                      \
	}

/* Runs the table of the program called @file in docs/nbd-conformance.md; main()'s return. */
int spec_run(const char *file, const struct CMUnitTest *rules, size_t count);
/* With a fixture of its own, which may use spec_start() and spec_stop() (as a fixture, too). */
int spec_run_own(const char *file, const struct CMUnitTest *rules, size_t count,
		 CMFixtureFunction setup, CMFixtureFunction teardown);

int spec_start(void **state);
int spec_stop(void **state);

/* cmocka setup of every rule: the exports do as they should again. */
int spec_reset(void **state);

/* --- negotiation ------------------------------------------------------------------------------ */

int spec_connect(void);
int spec_greeted(void);	   /* fixed newstyle, no zeroes */
int spec_structured(void); /* that, and structured replies */

/* The options are still being negotiated: GO works. Closes @fd. */
void spec_can_go(int fd);

/* Replies to one option. */
struct spec_reps {
	unsigned count; /* with the final one */
	struct peer_rep rep[16];
};

/* Sends an option and reads up to its final reply, whose type it returns. */
uint32_t spec_option(int fd, uint32_t code, const void *data, size_t len, struct spec_reps *reps);

/* The same for INFO and GO of @name, and for *_META_CONTEXT. */
uint32_t spec_info(int fd, uint32_t code, const char *name, const uint16_t *infos, unsigned count,
		   struct spec_reps *reps);
uint32_t spec_meta(int fd, uint32_t code, const char *name, const char *const *queries,
		   unsigned count, struct spec_reps *reps);

/* --- transmission ----------------------------------------------------------------------------- */

enum spec_style { SPEC_SIMPLE, SPEC_CHUNKS, SPEC_EXTENDED, SPEC_STYLES };

/* In @name, with simple replies, structured ones, or extended headers. */
int spec_enter(const char *name, enum spec_style style);
int spec_simple(void);	   /* in RIG_NAME, simple replies */
int spec_chunks(void);	   /* in RIG_NAME, structured replies */
int spec_extended(void);   /* in RIG_NAME, extended headers */
int spec_allocation(void); /* in RIG_NAME, structured replies, base:allocation is selected */

/* Says what style @fd speaks, where it was not one of these functions that entered. Returns @fd. */
int spec_style(int fd, enum spec_style style);

/* A connection with both contexts of SPEC_TWO, and their ids. */
int spec_two(enum spec_style style, uint32_t ids[2]);

/* A reply message of any kind. */
struct spec_msg {
	uint32_t magic;
	uint16_t flags, type; /* chunks */
	uint64_t cookie;
	uint32_t error;		/* of a simple reply, or an error chunk */
	uint64_t off;		/* of an extended chunk: that of the request */
	uint32_t len;		/* of a chunk's payload */
	unsigned char *payload; /* owned; spec_msg_free() */
};

/* A request in the connection's style. */
void spec_request(int fd, uint16_t flags, uint16_t type, uint64_t cookie, uint64_t off,
		  uint64_t len);

void spec_msg(int fd, struct spec_msg *msg);
void spec_msg_free(struct spec_msg *msg);

/* The whole reply to @cookie but the data of a simple one; its error. */
uint32_t spec_answer(int fd, uint64_t cookie);

/* A request without payload, and its answer's error. */
uint32_t spec_do(int fd, uint16_t flags, uint16_t type, uint64_t off, uint64_t len);

/* A WRITE of @len bytes, and its answer's error. */
uint32_t spec_write(int fd, uint16_t flags, uint64_t off, const void *p, uint32_t len);

/* The connection serves on: a READ of the first bytes is answered. */
void spec_lives(int fd);

/* A structured or extended reply with all its chunks. */
struct spec_chunks {
	unsigned count;
	struct spec_msg chunk[1024];
};

/* The chunks of the answer to @cookie, the final one included. Free them. */
struct spec_chunks *spec_gather(int fd, uint64_t cookie);
void spec_chunks_free(struct spec_chunks *chunks);

#endif
