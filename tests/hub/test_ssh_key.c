/* One line of a stranger's becomes a key, or nothing. Judged by ssh-keygen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "hub/hub.h"
#include "hub/ssh_key.h"
#include "tests/support/scratch.h"

/* RFC 8032, 7.1, TEST 2: key, message 0x72, signature. */
static const uint8_t rfc_key[SSH_KEY_BYTES] = {0x3d, 0x40, 0x17, 0xc3, 0xe8, 0x43, 0x89, 0x5a,
					       0x92, 0xb7, 0x0a, 0xa7, 0x4d, 0x1b, 0x7e, 0xbc,
					       0x9c, 0x98, 0x2c, 0xcf, 0x2e, 0xc4, 0x96, 0x8c,
					       0xc0, 0xcd, 0x55, 0xf1, 0x2a, 0xf4, 0x66, 0x0c};
static const uint8_t rfc_signature[SSH_SIGNATURE_BYTES] = {
	0x92, 0xa0, 0x09, 0xa9, 0xf0, 0xd4, 0xca, 0xb8, 0x72, 0x0e, 0x82, 0x0b, 0x5f,
	0x64, 0x25, 0x40, 0xa2, 0xb2, 0x7b, 0x54, 0x16, 0x50, 0x3f, 0x8f, 0xb3, 0x76,
	0x22, 0x23, 0xeb, 0xdb, 0x69, 0xda, 0x08, 0x5a, 0xc1, 0xe4, 0x3e, 0x15, 0x99,
	0x6e, 0x45, 0x8f, 0x36, 0x13, 0xd0, 0xf1, 0x1d, 0x8c, 0x38, 0x7b, 0x2e, 0xae,
	0xb4, 0x30, 0x2a, 0xee, 0xb0, 0x0d, 0x29, 0x16, 0x12, 0xbb, 0x0c, 0x00};

static void read_line(const char *path, char *out, size_t size)
{
	FILE *f = fopen(path, "r");

	assert_non_null(f);
	assert_non_null(fgets(out, (int)size, f));
	fclose(f);
}

static void make_key(const char *dir, const char *type, char *line, size_t size)
{
	char path[300];

	assert_int_equal(
		scratch_run(
			"rm -f '%s/key' '%s/key.pub'; ssh-keygen -q -t %s -N '' -C 'vma a@b' -f "
			"'%s/key'",
			dir, dir, type, dir),
		0);
	snprintf(path, sizeof(path), "%s/key.pub", dir);
	read_line(path, line, size);
}

static void keys_of_ssh_keygen_are_read_as_it_reads_them(void **state)
{
	static const char *const types[] = {"ed25519", "ecdsa", "rsa"};
	const char *tmp = getenv("TMPDIR");
	char dir[200], line[4096], path[300], said[300];
	char fingerprint[SSH_FINGERPRINT_SIZE];
	struct ssh_key key;
	struct err err = ERR_INIT;

	(void)state;
	snprintf(dir, sizeof(dir), "%s/ssh-key-XXXXXX", tmp ? tmp : "/tmp");
	assert_non_null(mkdtemp(dir));
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		make_key(dir, types[i], line, sizeof(line));
		assert_int_equal(
			scratch_run("ssh-keygen -lf '%s/key.pub' | cut -d' ' -f2 >'%s/said'", dir,
				    dir),
			0);
		snprintf(path, sizeof(path), "%s/said", dir);
		read_line(path, said, sizeof(said));
		said[strcspn(said, "\n")] = '\0';
		assert_true(ssh_fingerprint(line, fingerprint));
		assert_string_equal(fingerprint, said);
		if (i) {
			assert_int_equal(ssh_key_parse(line, &key, &err), HUB_E_INVALID);
			continue;
		}
		assert_int_equal(ssh_key_parse(line, &key, &err), 0);
		assert_string_equal(key.fingerprint, said);
		/* The text is the line without its comment. */
		assert_int_equal(strlen(key.text), SSH_KEY_TEXT_SIZE - 1);
		assert_memory_equal(key.text, line, SSH_KEY_TEXT_SIZE - 1);
		assert_null(strstr(key.text, "vma"));
	}
	assert_int_equal(scratch_run("rm -rf '%s'", dir), 0);
}

#define GOOD "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"

static void hostile_lines_are_no_keys(void **state)
{
	static const char *const bad[] = {
		"",
		"\n",
		"ssh-ed25519",
		"ssh-ed25519 ",
		" ssh-ed25519 " GOOD,
		"ssh-ed25519  " GOOD,
		"ssh-ed25519\t" GOOD,
		"command=\"sh\" ssh-ed25519 " GOOD,
		"restrict ssh-ed25519 " GOOD,
		"# ssh-ed25519 " GOOD,
		"ssh-rsa " GOOD,
		"SSH-ED25519 " GOOD,
		"ssh-ed25519-cert-v01@openssh.com " GOOD,
		/* A line behind the line. */
		"ssh-ed25519 " GOOD " x\nssh-ed25519 " GOOD,
		"ssh-ed25519 " GOOD "\nssh-ed25519 " GOOD,
		"ssh-ed25519 " GOOD " x\rcommand=\"sh\" ssh-ed25519 " GOOD,
		"ssh-ed25519 " GOOD "\x0b x",
		"ssh-ed25519 " GOOD " \x1b[2J",
		/* Not one key's bytes. */
		"ssh-ed25519 " GOOD "AAAA",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4=",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
		"ssh-ed25519 AAAADHNzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE2AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4*",
		"ssh-ed25519 \"" GOOD "\"",
		"-----BEGIN PUBLIC "
		"KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
		"-----END PUBLIC KEY-----",
	};
	char line[SSH_KEY_LINE_MAX + 100];
	struct err err = ERR_INIT;
	struct ssh_key key;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (ssh_key_parse(bad[i], &key, &err) != HUB_E_INVALID)
			fail_msg("taken for a key: %s", bad[i]);
	memset(line, 'x', sizeof(line));
	memcpy(line, "ssh-ed25519 " GOOD " ", strlen("ssh-ed25519 " GOOD " "));
	line[sizeof(line) - 1] = '\0';
	assert_int_equal(ssh_key_parse(line, &key, &err), HUB_E_INVALID);
	line[SSH_KEY_LINE_MAX] = '\0';
	assert_int_equal(ssh_key_parse(line, &key, &err), 0);
	/* What is kept of a comment with quotes and commas: nothing. */
	assert_int_equal(
		ssh_key_parse("ssh-ed25519 " GOOD " \",command=\"sh\" ssh-rsa\n", &key, &err), 0);
	assert_string_equal(key.text, "ssh-ed25519 " GOOD);
	assert_int_equal(ssh_key_parse("ssh-ed25519 " GOOD "\r\n", &key, &err), 0);
	for (int i = 0; i < SSH_KEY_BYTES; i++)
		assert_int_equal(key.bytes[i], i);
}

static void only_the_owner_has_signed(void **state)
{
	uint8_t signature[SSH_SIGNATURE_BYTES];
	struct ssh_key key = {.text = ""};

	(void)state;
	memcpy(key.bytes, rfc_key, sizeof(rfc_key));
	assert_true(ssh_key_verify(&key, "\x72", 1, rfc_signature));
	assert_false(ssh_key_verify(&key, "\x73", 1, rfc_signature));
	assert_false(ssh_key_verify(&key, "\x72", 0, rfc_signature));
	for (size_t i = 0; i < sizeof(signature); i++) {
		memcpy(signature, rfc_signature, sizeof(signature));
		signature[i] ^= 1;
		assert_false(ssh_key_verify(&key, "\x72", 1, signature));
	}
	memset(signature, 0, sizeof(signature));
	assert_false(ssh_key_verify(&key, "\x72", 1, signature));
	key.bytes[0] ^= 1;
	assert_false(ssh_key_verify(&key, "\x72", 1, rfc_signature));
}

#define LONGEST_BLOB 4095 /* of 4096 bytes that are read, in whole groups of base64 */

static void what_is_no_public_key_has_no_fingerprint(void **state)
{
	static const char *const bad[] = {"",
					  "x",
					  "ssh-ed25519",
					  "ssh-ed25519 ",
					  "ssh-ed25519 AAAA",
					  "ssh-rsa " GOOD,
					  "ssh-ed25519 " GOOD "AAA"};
	char fingerprint[SSH_FINGERPRINT_SIZE], line[12 + LONGEST_BLOB / 3 * 4 + 5];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(ssh_fingerprint(bad[i], fingerprint));
	/* The longest there may be, and as many characters with three bytes more. */
	memset(line, 'A', sizeof(line));
	memcpy(line, "ssh-ed25519 " GOOD, strlen("ssh-ed25519 " GOOD));
	line[sizeof(line) - 1 - 4] = '\0';
	assert_true(ssh_fingerprint(line, fingerprint));
	line[sizeof(line) - 1 - 4] = 'A';
	line[sizeof(line) - 1] = '\0';
	assert_false(ssh_fingerprint(line, fingerprint));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_of_ssh_keygen_are_read_as_it_reads_them),
		cmocka_unit_test(hostile_lines_are_no_keys),
		cmocka_unit_test(only_the_owner_has_signed),
		cmocka_unit_test(what_is_no_public_key_has_no_fingerprint),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
