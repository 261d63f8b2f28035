/*
 * A scripted NBD client: says exactly what the test tells it to, byte by byte if need be, and reads
 * what comes back. A peer that waits for longer than PEER_TIMEOUT_S fails the test.
 */
#ifndef TESTS_NBDPEER_H
#define TESTS_NBDPEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nbd/wire.h"

#define PEER_TIMEOUT_S 30

/* "unix:PATH" or "ADDR:PORT" as nbd_server_listen() gave it. */
int peer_connect(const char *address);
void peer_close(int fd);

void peer_send(int fd, const void *p, size_t len);
void peer_recv(int fd, void *p, size_t len);
/* True when the server closed the connection and sent nothing before. */
bool peer_at_end(int fd);
/* Reads and drops whatever comes until the server closes. */
void peer_drain_to_end(int fd);

/* --- handshake -------------------------------------------------------------------------------- */

/* Reads the greeting, sends @flags; returns the server's handshake flags. */
uint16_t peer_greet(int fd, uint32_t flags);

void peer_option(int fd, uint32_t code, const void *data, size_t len);

struct peer_rep {
	uint32_t option, type, len;
	unsigned char data[8192];
};

void peer_rep(int fd, struct peer_rep *rep);

/* Sends the option and expects one reply of @type, as the only and final one. */
void peer_option_expect(int fd, uint32_t code, const void *data, size_t len, uint32_t type);

/* Data of INFO and GO: name and information requests. Returns its length. */
size_t peer_info_data(unsigned char *p, const char *name, const uint16_t *infos, unsigned count);

/* Data of *_META_CONTEXT. Returns its length. */
size_t peer_meta_data(unsigned char *p, const char *name, const char *const *queries,
		      unsigned count);

struct peer_export {
	uint64_t size;
	uint16_t flags;
};

/* GO; false: refused, with the reply's type in *@error (may be NULL). */
bool peer_go(int fd, const char *name, struct peer_export *export, uint32_t *error);

/* Connected, greeted and in transmission, all of it sent at once; -1: it was hung up on before it
 * was in, as a client is that the machine held up for longer than it may negotiate. */
int peer_try_enter(const char *address, const char *name);

/* What most tests want: connected, greeted, in transmission. */
int peer_enter(const char *address, const char *name);
int peer_enter_structured(const char *address, const char *name);
int peer_enter_meta(const char *address, const char *name);
/* With extended headers and the contexts named, all of which must be there; their ids in @ids. */
int peer_enter_extended(const char *address, const char *name, const char *const *contexts,
			unsigned count, uint32_t *ids);

/* --- transmission ----------------------------------------------------------------------------- */

void peer_request(int fd, uint16_t flags, uint16_t type, uint64_t cookie, uint64_t off,
		  uint32_t len);
void peer_put_request(unsigned char *p, uint16_t flags, uint16_t type, uint64_t cookie,
		      uint64_t off, uint32_t len);
void peer_write(int fd, uint16_t flags, uint64_t cookie, uint64_t off, const void *p, uint32_t len);

/* The same with extended headers; peer_ext_write() sets PAYLOAD_LEN itself. */
void peer_ext_request(int fd, uint16_t flags, uint16_t type, uint64_t cookie, uint64_t off,
		      uint64_t len);
void peer_put_ext_request(unsigned char *p, uint16_t flags, uint16_t type, uint64_t cookie,
			  uint64_t off, uint64_t len);
void peer_ext_write(int fd, uint16_t flags, uint64_t cookie, uint64_t off, const void *p,
		    uint32_t len);

/* A simple reply; returns its error. */
uint32_t peer_simple(int fd, uint64_t *cookie);
/* The same, which must be to @cookie. */
uint32_t peer_simple_to(int fd, uint64_t cookie);

struct peer_chunk {
	uint16_t flags, type;
	uint64_t cookie;
	uint32_t len;
	uint64_t off;	     /* OFFSET_DATA, OFFSET_HOLE */
	uint32_t error;	     /* ERROR */
	unsigned char *data; /* OFFSET_DATA without the offset, an OFFSET_HOLE's zeroes, or the
			      * payload; owned */
	uint32_t data_len;
};

/* One chunk; peer_chunk_free() it. */
void peer_chunk(int fd, struct peer_chunk *chunk);
/* One extended chunk, whose header must repeat @off. */
void peer_ext_chunk(int fd, struct peer_chunk *chunk, uint64_t off);
/* An extended reply without data, which must be to @cookie and @off; returns its error, 0: none. */
uint32_t peer_ext_reply(int fd, uint64_t cookie, uint64_t off);
void peer_chunk_free(struct peer_chunk *chunk);

/* A whole structured answer to a READ of [off, off + len) into @buf; returns the error, 0: none.
 * *@data_chunks (may be NULL) is how many chunks of data or zeroes it took. */
uint32_t peer_read_structured(int fd, uint64_t cookie, uint64_t off, uint32_t len, void *buf,
			      unsigned *data_chunks);
uint32_t peer_read_extended(int fd, uint64_t cookie, uint64_t off, uint32_t len, void *buf,
			    unsigned *data_chunks);

#endif
