/*
 * What the hub and the worker say to each other, on two socket pairs of one machine: plain structs
 * in native byte order. Calls: one request, then any number of ENTRY, PARTITION or DATA messages,
 * then DONE. Blocks: one request, one answer. The hub believes nothing that comes from the worker.
 */
#ifndef FILES_PROTO_H
#define FILES_PROTO_H

#include <stddef.h>
#include <stdint.h>

#define PROTO_CALL_FD  3
#define PROTO_BLOCK_FD 4

#define PROTO_PATH_MAX 4096U	   /* raw bytes of a path within a partition */
#define PROTO_NAME_MAX 1024U	   /* raw bytes of a name */
#define PROTO_LINK_MAX 4096U	   /* raw bytes of a link's target */
#define PROTO_DATA_MAX (1U << 20)  /* bytes of a DATA message, of a block */
#define PROTO_TEXT_MAX 400U	   /* bytes of DONE's sentence */
#define PROTO_READ_MAX (16U << 20) /* bytes of one READ */

enum proto_op {
	PROTO_OPEN = 1, /* answers HELLO, then a PARTITION each */
	PROTO_STAT,	/* an ENTRY */
	PROTO_LIST,	/* ENTRY each; DONE carries counts */
	PROTO_READLINK, /* a DATA */
	PROTO_READ,	/* DATA until all is there or the file ends */
};

/* Followed by @path_len bytes: components with "/" between them, none: the partition's root. */
struct proto_request {
	uint32_t op;
	uint32_t partition; /* index in the table of partitions */
	uint32_t path_len;
	uint32_t unused;
	uint64_t off; /* READ; LIST: entries to skip */
	uint64_t len; /* READ; LIST: entries to report, 0: all; OPEN: bytes of the disk */
};

enum proto_answer { PROTO_HELLO = 1, PROTO_PARTITION, PROTO_ENTRY, PROTO_DATA, PROTO_DONE };

/* Followed by @len bytes: one of the structs below, or data. */
struct proto_head {
	uint32_t answer;
	uint32_t len;
};

struct proto_hello {
	uint32_t landlock, own_uid;
	char table[8];
};

struct proto_partition {
	uint64_t off, size;
	uint32_t number;
	uint32_t readable, needs_recovery;
	char type[24], label[129], note[200]; /* NUL-terminated */
};

/* Followed by the name's bytes, to the end of the message; none: the partition's root. */
struct proto_entry {
	uint64_t size, id;
	int64_t mtime;
	uint32_t mtime_ns, kind, mode, uid, gid, unused;
};

/* Followed by a sentence, to the end of the message. */
struct proto_done {
	int32_t code; /* 0, -errno, FILES_E_* */
	uint32_t more;
	uint64_t seen, unusable; /* LIST */
};

/* On the other socket. Never more than PROTO_DATA_MAX, never outside the disk. */
struct proto_block_request {
	uint64_t off;
	uint32_t len, unused;
};

/* Followed by the bytes. */
struct proto_block_answer {
	int32_t status; /* 0 or -errno */
	uint32_t len;
};

#endif
