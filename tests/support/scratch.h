/*
 * A private folder per test program, removed at the end, and programs run inside it.
 */
#ifndef TESTS_SUPPORT_SCRATCH_H
#define TESTS_SUPPORT_SCRATCH_H

/* cmocka group setup and teardown: makes a folder under ${TMPDIR:-/tmp}, enters it, removes it. */
int scratch_setup(void **state);
int scratch_teardown(void **state);

/* Runs a shell command made as printf() would; its exit status. Prints the output when it fails. */
int scratch_run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Runs a command and returns its output (freed by the caller), whatever its exit status. */
char *scratch_output(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
