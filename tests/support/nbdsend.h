/*
 * A minimal NBD client for tests: fixed newstyle, NBD_OPT_GO, simple replies, one request at a
 * time; as a capture agent behaves on the wire. Every call fails the test on trouble unless it says
 * so.
 */
#ifndef TESTS_SUPPORT_NBDSEND_H
#define TESTS_SUPPORT_NBDSEND_H

#include <stddef.h>
#include <stdint.h>

struct nbdsend {
	int fd;
	uint64_t size;
	uint64_t handle;
};

/* @address is "127.0.0.1:PORT". 0, or the NBD option error (also -1: the server hung up). */
int nbdsend_try_connect(struct nbdsend *c, const char *address, const char *export_name);
void nbdsend_connect(struct nbdsend *c, const char *address, const char *export_name);

/* 0, the NBD error of the reply, or -1: the connection is gone. */
int nbdsend_write(struct nbdsend *c, uint64_t off, const void *buf, uint32_t len);
int nbdsend_zero(struct nbdsend *c, uint64_t off, uint32_t len);

/* Closes the socket without DISC, as the agent does. */
void nbdsend_drop(struct nbdsend *c);

#endif
