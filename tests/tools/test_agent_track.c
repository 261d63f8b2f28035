/*
 * What the agent remembers of a disk between backups: index files that are whole or refused, and
 * the choice between incremental and full, crashes at each step included.
 */
#include <dirent.h>

#include "tests/tools/agent_kit.h"
#include "tools/agent_index.h"
#include "tools/agent_track.h"

#define BLOCKS	  1000
#define DISK_SIZE ((uint64_t)BLOCKS * AGENT_BLOCK - 512)

/* --- one index -------------------------------------------------------------------------------- */

static const struct agent_index_id some_id = {
	.kind = AGENT_INDEX_HASH,
	.disk_size = DISK_SIZE,
	.sequence = 7,
	.generation = 9,
	.seed = 0x1234,
	.uuid = {1, 2, 3},
};

static int open_dir(void)
{
	int fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void write_index(int dir, const char *name)
{
	struct agent_index ix = AGENT_INDEX_INIT;
	struct agent_hash h = {{0xab}};

	assert_int_equal(agent_index_create(&ix, dir, &some_id, NULL), 0);
	assert_int_equal(agent_index_put(&ix, 5, 1, &h), 0);
	assert_int_equal(agent_index_put(&ix, BLOCKS - 1, 1, &h), 0);
	assert_int_equal(agent_index_seal(&ix, name, NULL), 0);
	agent_index_close(&ix);
}

static void assert_same_id(const struct agent_index_id *a, const struct agent_index_id *b)
{
	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->disk_size, b->disk_size);
	assert_int_equal(a->sequence, b->sequence);
	assert_int_equal(a->generation, b->generation);
	assert_int_equal(a->seed, b->seed);
	assert_memory_equal(a->uuid, b->uuid, sizeof(a->uuid));
	assert_memory_equal(&a->bitmap, &b->bitmap, sizeof(a->bitmap));
}

static void a_sealed_index_reads_back(void **state)
{
	_cleanup_(closep) int dir = open_dir();
	struct agent_index ix = AGENT_INDEX_INIT;
	struct agent_hash h[2], want = {{0xab}}, none = {{0}};
	struct agent_index_id id;

	(void)state;
	write_index(dir, "a.idx");
	assert_int_equal(agent_index_peek(dir, "a.idx", &id), 0);
	assert_same_id(&id, &some_id);
	assert_int_equal(agent_index_open(&ix, dir, "a.idx", NULL), 0);
	assert_same_id(&ix.id, &some_id);
	assert_int_equal(ix.blocks, BLOCKS);
	assert_int_equal(agent_index_get(&ix, 4, 2, h), 0);
	assert_memory_equal(&h[0], &none, sizeof(none));
	assert_memory_equal(&h[1], &want, sizeof(want));
	assert_int_equal(agent_index_get(&ix, BLOCKS - 1, 1, h), 0);
	assert_memory_equal(&h[0], &want, sizeof(want));
	agent_index_close(&ix);
}

static size_t count_files(const char *dir, const char *suffix)
{
	DIR *d = opendir(dir);
	struct dirent *de;
	size_t n = 0;

	assert_non_null(d);
	while ((de = readdir(d))) {
		size_t len = strlen(de->d_name), m = strlen(suffix);

		if (de->d_name[0] != '.' && len >= m && strcmp(de->d_name + len - m, suffix) == 0)
			n++;
	}
	closedir(d);
	return n;
}

static void an_unsealed_index_leaves_nothing(void **state)
{
	_cleanup_(closep) int dir = open_dir();
	struct agent_index ix = AGENT_INDEX_INIT;
	size_t before = count_files(".", "");

	(void)state;
	assert_int_equal(agent_index_create(&ix, dir, &some_id, NULL), 0);
	agent_index_close(&ix);
	assert_int_equal(count_files(".", ""), before);
}

static void assert_damaged(int dir, const char *name)
{
	struct agent_index ix = AGENT_INDEX_INIT;
	struct err err = ERR_INIT;

	assert_int_equal(agent_index_open(&ix, dir, name, &err), AGENT_INDEX_E_DAMAGED);
	assert_non_null(strstr(err.text, name));
	assert_int_equal(ix.fd, -1);
}

static void flip(const char *name, uint64_t off)
{
	_cleanup_(closep) int fd = kit_open(name);
	char byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)off), 1);
	byte ^= 0x40;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)off), 1);
}

static void a_changed_byte_is_found(void **state)
{
	_cleanup_(closep) int dir = open_dir();

	(void)state;
	write_index(dir, "b.idx");
	for (uint64_t off = 0; off < 128; off++) {
		/* Bytes 20 to 23 are spare, and covered like the rest. */
		flip("b.idx", off);
		assert_damaged(dir, "b.idx");
		flip("b.idx", off);
	}
	for (uint64_t off = 4096; off < 4096 + 16 * BLOCKS; off += 331) {
		flip("b.idx", off);
		assert_damaged(dir, "b.idx");
		flip("b.idx", off);
	}
	write_index(dir, "b.idx"); /* replaces */
}

static void a_wrong_length_is_found(void **state)
{
	static const off_t lengths[] = {
		0, 1, 127, 4095, 4096, 4096 + 16 * BLOCKS - 1, 4096 + 16 * BLOCKS + 1, 1 << 30};
	_cleanup_(closep) int dir = open_dir();

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		write_index(dir, "c.idx");
		assert_int_equal(truncate("c.idx", lengths[i]), 0);
		assert_damaged(dir, "c.idx");
	}
}

static void what_is_no_file_is_not_opened(void **state)
{
	_cleanup_(closep) int dir = open_dir();
	struct agent_index ix = AGENT_INDEX_INIT;

	(void)state;
	write_index(dir, "real.idx");
	assert_int_equal(symlink("real.idx", "link.idx"), 0);
	assert_int_equal(mkfifo("fifo.idx", 0600), 0);
	assert_int_equal(mkdir("dir.idx", 0700), 0);
	assert_int_equal(agent_index_open(&ix, dir, "link.idx", NULL), -ELOOP);
	assert_damaged(dir, "fifo.idx");
	assert_damaged(dir, "dir.idx");
	assert_int_equal(agent_index_open(&ix, dir, "none.idx", NULL), -ENOENT);
}

static void hashes_know_zeroes_and_depend_on_the_seed(void **state)
{
	_cleanup_(freep) char *block = calloc(1, AGENT_BLOCK);
	struct agent_hash a, b;

	(void)state;
	a = agent_index_hash(1, block, AGENT_BLOCK);
	assert_true(bytes_all_zero(&a, sizeof(a)));
	block[AGENT_BLOCK - 1] = 1;
	a = agent_index_hash(1, block, AGENT_BLOCK);
	b = agent_index_hash(2, block, AGENT_BLOCK);
	assert_false(bytes_all_zero(&a, sizeof(a)));
	assert_memory_not_equal(&a, &b, sizeof(a));
	b = agent_index_hash(1, block, AGENT_BLOCK);
	assert_memory_equal(&a, &b, sizeof(a));
	b = agent_index_hash(1, block, AGENT_BLOCK - 512);
	assert_memory_not_equal(&a, &b, sizeof(a));
}

/* --- change ids ------------------------------------------------------------------------------- */

static void only_our_change_ids_are_parsed(void **state)
{
	static const char good[] = "00112233-4455-6677-8899-aabbccddeeff/5531";
	static const char *const bad[] = {
		"",
		"/",
		"PLACEHOLDER",
		"52 66 8c 1f 7d 11-22 33 44/5531",
		"00112233-4455-6677-8899-aabbccddeeff",
		"00112233-4455-6677-8899-aabbccddeeff/",
		"00112233-4455-6677-8899-aabbccddeeff/0",
		"00112233-4455-6677-8899-aabbccddeeff/01",
		"00112233-4455-6677-8899-aabbccddeeff/-1",
		"00112233-4455-6677-8899-aabbccddeeff/1 ",
		"00112233-4455-6677-8899-aabbccddeeff/9999999999999999999",
		"00112233-4455-6677-8899-AABBCCDDEEFF/1",
		"00112233x4455-6677-8899-aabbccddeeff/1",
		"00112233-4455-6677-8899-aabbccddee/f/1",
	};
	char text[AGENT_CHANGE_SIZE];
	uint8_t uuid[16];
	uint64_t seq;

	(void)state;
	assert_int_equal(agent_change_id_parse(good, uuid, &seq), 0);
	assert_int_equal(seq, 5531);
	agent_change_id_format(uuid, seq, '/', text);
	assert_string_equal(text, good);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(agent_change_id_parse(bad[i], uuid, &seq), -EINVAL);
}

/* --- the lineage ------------------------------------------------------------------------------ */

struct world {
	int state_fd;
	struct agent_track_want want;
	char dir[100]; /* of the disk, relative */
};

static int world_setup(void **state)
{
	static unsigned nr;
	struct world *w = calloc(1, sizeof(*w));
	char name[32];

	snprintf(name, sizeof(name), "state-%u", ++nr);
	assert_int_equal(mkdir(name, 0700), 0);
	w->state_fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(w->state_fd >= 0);
	w->want = (struct agent_track_want){
		.state_fd = w->state_fd,
		.vm_id = "vm-1",
		.disk_key = 2000,
		.disk_size = DISK_SIZE,
		.source = "/img/a.raw",
		.hub_change_id = "",
	};
	snprintf(w->dir, sizeof(w->dir), "%s/vm-1/disk-2000", name);
	*state = w;
	return 0;
}

static int world_teardown(void **state)
{
	struct world *w = *state;

	close(w->state_fd);
	free(w);
	return 0;
}

enum how { COMMIT, CRASH_AFTER_COMPLETE, CRASH_BEFORE_SEAL, REFUSE };

/* One backup that is told @hub_id; its change id goes to @out. True: it was incremental. */
static bool backup(struct world *w, const char *hub_id, enum how how, char out[AGENT_CHANGE_SIZE])
{
	struct agent_track t;
	bool incremental;

	w->want.hub_change_id = hub_id;
	assert_int_equal(agent_track_begin(&t, &w->want, NULL), 0);
	incremental = t.incremental;
	if (out)
		strcpy(out, t.change_id);
	if (how != CRASH_BEFORE_SEAL)
		assert_int_equal(agent_track_seal(&t, NULL), 0);
	if (how == COMMIT)
		assert_int_equal(agent_track_commit(&t, 3, NULL), 0);
	if (how == REFUSE)
		agent_track_refused(&t);
	agent_track_end(&t);
	return incremental;
}

static uint64_t sequence_of(const char *change_id)
{
	return strtoull(strchr(change_id, '/') + 1, NULL, 10);
}

static bool same_lineage(const char *a, const char *b)
{
	return strncmp(a, b, AGENT_UUID_SIZE - 1) == 0;
}

static void a_chain_counts_on_in_one_lineage(void **state)
{
	struct world *w = *state;
	char first[AGENT_CHANGE_SIZE], id[AGENT_CHANGE_SIZE], next[AGENT_CHANGE_SIZE];

	assert_false(backup(w, "", COMMIT, first));
	assert_int_equal(sequence_of(first), 1);
	strcpy(id, first);
	for (uint64_t n = 2; n < 10; n++) {
		assert_true(backup(w, id, COMMIT, next));
		assert_int_equal(sequence_of(next), n);
		assert_true(same_lineage(first, next));
		strcpy(id, next);
		assert_in_range(count_files(w->dir, ".idx"), 2, 3);
	}
}

static void a_crash_after_complete_costs_nothing(void **state)
{
	struct world *w = *state;
	char full[AGENT_CHANGE_SIZE], lost[AGENT_CHANGE_SIZE], next[AGENT_CHANGE_SIZE];

	backup(w, "", COMMIT, full);
	assert_true(backup(w, full, CRASH_AFTER_COMPLETE, lost));
	assert_int_equal(count_files(w->dir, ".pending"), 1);
	assert_true(backup(w, lost, COMMIT, next));
	assert_int_equal(sequence_of(next), 3);
	assert_int_equal(count_files(w->dir, ".pending"), 0);
}

static void a_crash_before_complete_costs_nothing(void **state)
{
	struct world *w = *state;
	char full[AGENT_CHANGE_SIZE], lost[AGENT_CHANGE_SIZE], next[AGENT_CHANGE_SIZE];

	backup(w, "", COMMIT, full);
	assert_true(backup(w, full, CRASH_AFTER_COMPLETE, lost)); /* as the agent sees it */
	assert_true(backup(w, full, COMMIT, next));		  /* but the hub has it not */
	assert_string_not_equal(lost, next);
	assert_true(same_lineage(full, next));
	assert_true(backup(w, full, CRASH_BEFORE_SEAL, NULL));
	assert_true(backup(w, next, COMMIT, NULL));
	assert_int_equal(count_files(w->dir, ".tmp"), 0);
}

static void failures_do_not_wear_out_the_base(void **state)
{
	struct world *w = *state;
	char full[AGENT_CHANGE_SIZE];

	backup(w, "", COMMIT, full);
	for (int i = 0; i < 20; i++) {
		assert_true(backup(w, full, CRASH_AFTER_COMPLETE, NULL));
		assert_true(backup(w, full, REFUSE, NULL));
		assert_true(backup(w, full, COMMIT, NULL)); /* the hub lost this one */
	}
	assert_in_range(count_files(w->dir, ""), 1, 4);
}

static void a_refused_point_is_forgotten(void **state)
{
	struct world *w = *state;
	char full[AGENT_CHANGE_SIZE], refused[AGENT_CHANGE_SIZE];

	backup(w, "", COMMIT, full);
	backup(w, full, REFUSE, refused);
	assert_int_equal(count_files(w->dir, ".pending"), 0);
	assert_false(backup(w, refused, COMMIT, NULL));
}

static void two_repositories_have_a_lineage_each(void **state)
{
	struct world *w = *state;
	char a[AGENT_CHANGE_SIZE], b[AGENT_CHANGE_SIZE];

	backup(w, "", COMMIT, a);
	backup(w, "", COMMIT, b);
	assert_false(same_lineage(a, b));
	for (int i = 0; i < 5; i++) {
		assert_true(backup(w, a, COMMIT, a));
		assert_true(backup(w, b, COMMIT, b));
	}
}

/* The state folder is put back from an old copy: what the hub names since is unknown, and no
 * change id that was given away is given to another state. */
static void an_old_copy_of_the_state_folder_starts_a_new_lineage(void **state)
{
	struct world *w = *state;
	char one[AGENT_CHANGE_SIZE], two[AGENT_CHANGE_SIZE], again[AGENT_CHANGE_SIZE];

	backup(w, "", COMMIT, one);
	assert_int_equal(scratch_run("cp -a %s saved", w->dir), 0);
	backup(w, one, COMMIT, two);
	assert_int_equal(scratch_run("rm -r %s && mv saved %s", w->dir, w->dir), 0);
	assert_false(backup(w, two, COMMIT, again));
	assert_false(same_lineage(two, again));
	assert_true(backup(w, again, COMMIT, NULL));
}

static void assert_full_because(struct world *w, const char *hub_id, const char *why)
{
	struct agent_track t;

	w->want.hub_change_id = hub_id;
	assert_int_equal(agent_track_begin(&t, &w->want, NULL), 0);
	assert_false(t.incremental);
	if (!strstr(t.reason, why))
		fail_msg("\"%s\" does not say \"%s\"", t.reason, why);
	assert_int_equal(sequence_of(t.change_id), 1);
	agent_track_end(&t);
}

static void a_full_copy_says_why(void **state)
{
	struct world *w = *state;
	char id[AGENT_CHANGE_SIZE], name[200];

	assert_full_because(w, NULL, "could not be asked");
	assert_full_because(w, "", "no earlier point");
	assert_full_because(w, "52 66 8c/12", "not one of this agent's");
	assert_full_because(w, "00112233-4455-6677-8899-aabbccddeeff/1", "does not know");
	backup(w, "", COMMIT, id);
	w->want.disk_size += 512;
	assert_full_because(w, id, "size has changed");
	w->want.disk_size -= 512;
	w->want.bitmap = "b0";
	w->want.bitmap_served = true;
	assert_full_because(w, id, "way of change tracking");
	w->want.bitmap = NULL;
	snprintf(name, sizeof(name), "%s/%.36s-1.idx", w->dir, id);
	flip(name, 4096 + 160);
	assert_full_because(w, id, "damaged");
	flip(name, 4096 + 160);
	assert_true(backup(w, id, COMMIT, NULL));
}

static void a_bitmap_lineage_is_bound_to_bitmap_and_source(void **state)
{
	struct world *w = *state;
	char id[AGENT_CHANGE_SIZE];

	w->want.bitmap = "b0";
	w->want.bitmap_served = true;
	assert_false(backup(w, "", COMMIT, id));
	assert_true(backup(w, id, COMMIT, id));
	w->want.bitmap_served = false;
	assert_full_because(w, id, "no dirty bitmap");
	w->want.bitmap_served = true;
	w->want.bitmap = "b1";
	assert_full_because(w, id, "way of change tracking");
	w->want.bitmap = "b0";
	w->want.source = "/img/other.raw";
	assert_full_because(w, id, "source");
	w->want.source = "/img/a.raw";
	assert_true(backup(w, id, COMMIT, id));
}

static void any_vm_id_stays_inside_the_state_folder(void **state)
{
	static const char *const ids[] = {"..", ".", "../../x", "/etc", "a b\n", "%2e", "ä"};
	struct world *w = *state;
	char before[32];

	snprintf(before, sizeof(before), "%zu", count_files(".", ""));
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		w->want.vm_id = ids[i];
		assert_false(backup(w, "", COMMIT, NULL));
	}
	assert_int_equal(count_files(".", ""), strtoul(before, NULL, 10));
	w->dir[strcspn(w->dir, "/")] = '\0';
	assert_int_equal(count_files(w->dir, ""), ARRAY_SIZE(ids));
}

static void a_state_folder_that_cannot_be_used_is_an_error(void **state)
{
	struct world *w = *state;
	struct err err = ERR_INIT;
	struct agent_track t;
	char name[200];

	w->dir[strcspn(w->dir, "/")] = '\0';
	snprintf(name, sizeof(name), "%s/vm-1", w->dir);
	kit_make(name, 1); /* a file where the VM's folder would be */
	assert_int_equal(agent_track_begin(&t, &w->want, &err), -ENOTDIR);
	assert_non_null(strstr(err.text, "vm-1"));
}

#define lineage_test(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_sealed_index_reads_back),
		cmocka_unit_test(an_unsealed_index_leaves_nothing),
		cmocka_unit_test(a_changed_byte_is_found),
		cmocka_unit_test(a_wrong_length_is_found),
		cmocka_unit_test(what_is_no_file_is_not_opened),
		cmocka_unit_test(hashes_know_zeroes_and_depend_on_the_seed),
		cmocka_unit_test(only_our_change_ids_are_parsed),
		lineage_test(a_chain_counts_on_in_one_lineage),
		lineage_test(a_crash_after_complete_costs_nothing),
		lineage_test(a_crash_before_complete_costs_nothing),
		lineage_test(failures_do_not_wear_out_the_base),
		lineage_test(a_refused_point_is_forgotten),
		lineage_test(two_repositories_have_a_lineage_each),
		lineage_test(an_old_copy_of_the_state_folder_starts_a_new_lineage),
		lineage_test(a_full_copy_says_why),
		lineage_test(a_bitmap_lineage_is_bound_to_bitmap_and_source),
		lineage_test(any_vm_id_stays_inside_the_state_folder),
		lineage_test(a_state_folder_that_cannot_be_used_is_an_error),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
