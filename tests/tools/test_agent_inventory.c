/* The inventory: what is taken, and that what is not is refused with VM and field named. */
#include "tests/tools/agent_kit.h"
#include "tools/agent_inventory.h"

static int parse(struct agent_inventory **inv, const char *text, struct err *err)
{
	return agent_inventory_parse(inv, text, strlen(text), "inv.json", err);
}

static void all_fields_are_taken(void **state)
{
	static const char text[] =
		"{\"vms\":[{\"name\":\"pg 1\",\"id\":\"42\",\"path\":\"/dc/vm/db/pg 1\","
		"\"guest_os\":\"debian\",\"datacenter\":\"dc\",\"power_state\":\"poweredOff\","
		"\"folder_path\":\"/dc/vm/db\",\"annotation\":\"note\",\"memory_mb\":2048,"
		"\"num_cpu\":4,\"disks\":["
		"{\"key\":2000,\"label\":\"root\",\"source\":\"/img/a.raw\",\"format\":\"raw\","
		"\"unit_number\":0},"
		"{\"key\":2016,\"source\":\"/img/b:1.qcow2\",\"format\":\"qcow2\","
		"\"bitmap\":\"b0\",\"unit_number\":3},"
		"{\"key\":3000,\"source\":\"nbd+unix:///x?socket=/run/s\",\"bitmap\":\"b1\","
		"\"capacity_bytes\":1048576}]}]}";
	struct agent_inventory *inv = NULL;
	struct err err = ERR_INIT;
	const struct agent_vm *vm;

	(void)state;
	assert_int_equal(parse(&inv, text, &err), 0);
	assert_int_equal(agent_inventory_count(inv), 1);
	assert_null(agent_inventory_find(inv, "/dc/vm/pg 1"));
	vm = agent_inventory_find(inv, "/dc/vm/db/pg 1");
	assert_ptr_equal(vm, agent_inventory_vm(inv, 0));
	assert_string_equal(vm->name, "pg 1");
	assert_string_equal(vm->id, "42");
	assert_int_equal(vm->memory_mb, 2048);
	assert_int_equal(vm->num_cpu, 4);
	assert_int_equal(vm->disk_count, 3);
	assert_int_equal(vm->disks[0].format, AGENT_FORMAT_RAW);
	assert_null(vm->disks[0].bitmap);
	assert_int_equal(vm->disks[1].format, AGENT_FORMAT_QCOW2);
	assert_int_equal(vm->disks[1].key, 2016);
	assert_int_equal(vm->disks[1].unit_number, 3);
	assert_string_equal(vm->disks[1].bitmap, "b0");
	assert_string_equal(vm->disks[1].label, "");
	assert_int_equal(vm->disks[2].format, AGENT_FORMAT_NBD);
	assert_int_equal(vm->disks[2].capacity_bytes, 1048576);
	agent_inventory_free(inv);
}

static void a_running_qemu_is_named_by_its_monitor(void **state)
{
	struct agent_inventory *inv = NULL;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(parse(&inv,
			       "{\"vms\":[{\"name\":\"a\",\"id\":\"1\",\"qmp\":\"/run/a.qmp\","
			       "\"disks\":[{\"key\":1,\"source\":\"qemu:drive-0\"}]}]}",
			       &err),
			 0);
	assert_string_equal(agent_inventory_vm(inv, 0)->qmp, "/run/a.qmp");
	assert_int_equal(agent_inventory_vm(inv, 0)->disks[0].format, AGENT_FORMAT_LIVE);
	agent_inventory_free(inv);
}

static void a_path_is_made_of_datacenter_and_name(void **state)
{
	struct agent_inventory *inv = NULL;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(parse(&inv,
			       "{\"vms\":[{\"name\":\"a\",\"id\":\"1\",\"disks\":[{\"key\":1,"
			       "\"source\":\"nbd://h/x\"}]},{\"name\":\"b\",\"id\":\"2\","
			       "\"datacenter\":\"dc\",\"disks\":[{\"key\":1,"
			       "\"source\":\"nbd://h/x\"}]}]}",
			       &err),
			 0);
	assert_string_equal(agent_inventory_vm(inv, 0)->path, "/local/vm/a");
	assert_string_equal(agent_inventory_vm(inv, 0)->power_state, "unknown");
	assert_string_equal(agent_inventory_vm(inv, 1)->path, "/dc/vm/b");
	assert_null(agent_inventory_vm(inv, 2));
	agent_inventory_free(inv);
}

#define VM_HEAD "{\"name\":\"web\",\"id\":\"1\",\"disks\":["
#define VM_WITH(x)                                                                                 \
	"{\"vms\":[" VM_HEAD "{\"key\":2000,\"source\":\"/a\",\"format\":\"raw\"}]" x "}]}"
#define DISK_WITH(x) "{\"vms\":[" VM_HEAD "{\"key\":2000" x "}]}]}"

static const struct {
	const char *text, *says; /* what the sentence must contain */
} bad[] = {
	{"", "inv.json: line"},
	{"[]", "inv.json must be a JSON object"},
	{"{}", "field \"vms\" is missing"},
	{"{\"vms\":{}}", "field \"vms\" must be a list"},
	{"{\"vms\":[],\"vm\":1}", "field \"vm\" is not known"},
	{"{\"vms\":[7]}", "VM number 1 must be a JSON object"},
	{"{\"vms\":[{\"id\":\"1\",\"disks\":[]}]}", "VM number 1: field \"name\" is missing"},
	{"{\"vms\":[{\"name\":\"web\",\"disks\":[]}]}", "VM \"web\": field \"id\" is missing"},
	{"{\"vms\":[{\"name\":\"web\",\"id\":\"1\",\"disks\":[]}]}",
	 "VM \"web\": field \"disks\" must be a list of 1 to"},
	{VM_WITH(",\"memory_mb\":\"4\""), "VM \"web\": field \"memory_mb\" must be a whole number"},
	{VM_WITH(",\"memory_mb\":-1"), "VM \"web\": field \"memory_mb\" must be 0 to"},
	{VM_WITH(",\"num_cpus\":1"), "VM \"web\": field \"num_cpus\" is not known"},
	{VM_WITH(",\"guest_os\":3"), "VM \"web\": field \"guest_os\" must be a text"},
	{VM_WITH(",\"guest_os\":\"a\\u0000b\""), "inv.json: line"},
	{VM_WITH(",\"path\":\"/dc/vm/other\""), "field \"path\" must start with \"/\" and end in "
						"\"/web\""},
	{VM_WITH(",\"path\":\"web\""), "field \"path\""},
	{DISK_WITH(",\"source\":\"a.raw\",\"format\":\"raw\""),
	 "VM \"web\", disk 2000: field \"source\" must be an absolute path"},
	{DISK_WITH(",\"source\":\"http://h/x\""), "disk 2000: field \"source\""},
	{DISK_WITH(",\"source\":\"/a\""), "disk 2000: field \"format\" must be"},
	{DISK_WITH(",\"source\":\"/a\",\"format\":\"vmdk\""),
	 "disk 2000: field \"format\" must be"},
	{DISK_WITH(",\"source\":\"nbd://h/x\",\"format\":\"raw\""),
	 "disk 2000: field \"format\" belongs to files"},
	{DISK_WITH(",\"source\":\"/a\",\"format\":\"raw\",\"bitmap\":\"b\""),
	 "disk 2000: field \"bitmap\" needs a qcow2 or NBD source"},
	{DISK_WITH(",\"source\":\"/a\",\"format\":\"raw\",\"bitmpa\":\"b\""),
	 "disk 2000: field \"bitmpa\" is not known"},
	{DISK_WITH(",\"source\":\"/a\",\"format\":\"raw\",\"capacity_bytes\":512"),
	 "disk 2000: field \"capacity_bytes\" belongs to NBD"},
	{DISK_WITH(",\"source\":\"nbd://h/x\",\"capacity_bytes\":1000"),
	 "disk 2000: field \"capacity_bytes\" must be a multiple of 512"},
	{DISK_WITH(""), "disk 2000: field \"source\" is missing"},
	{"{\"vms\":[" VM_HEAD "{\"source\":\"nbd://h/x\"}]}]}",
	 "VM \"web\", disk number 1: field \"key\" is missing"},
	{"{\"vms\":[" VM_HEAD "{\"key\":2.5,\"source\":\"nbd://h/x\"}]}]}", "field \"key\""},
	{"{\"vms\":[" VM_HEAD "{\"key\":-1,\"source\":\"nbd://h/x\"}]}]}", "field \"key\""},
	{"{\"vms\":[" VM_HEAD "{\"key\":1,\"source\":\"nbd://h/x\"},{\"key\":1,\"source\":"
	 "\"nbd://h/y\"}]}]}",
	 "VM \"web\", disk 1: field \"key\" is used twice"},
	{"{\"vms\":[" VM_HEAD "{\"key\":1,\"source\":\"nbd://h/x\"}]}," VM_HEAD
	 "{\"key\":1,\"source\":\"nbd://h/x\"}]}]}",
	 "field \"name\" is another VM's too: \"web\""},
	{"{\"vms\":[{\"name\":\"a/b\",\"id\":\"1\",\"disks\":[{\"key\":1,\"source\":"
	 "\"nbd://h/x\"}]}]}",
	 "field \"name\" must not contain \"/\""},
	{"{\"vms\":[],\"vms\":[]}", "inv.json: line"},
	{DISK_WITH(",\"source\":\"qemu:d0\""),
	 "disk 2000: field \"source\" is qemu:NODE, which needs"},
	{DISK_WITH(",\"source\":\"qemu:#block1\""), "disk 2000: field \"source\": a node's name"},
	{DISK_WITH(",\"source\":\"qemu:d0\",\"bitmap\":\"b\""),
	 "field \"bitmap\" is not for a node"},
	{VM_WITH(",\"qmp\":\"/run/q\""), "disk 2000: field \"source\" must be qemu:NODE"},
	{VM_WITH(",\"qmp\":\"run/q\""), "field \"qmp\" must be an absolute path"},
};

static void a_bad_inventory_is_refused_naming_vm_and_field(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct agent_inventory *inv = NULL;
		struct err err = ERR_INIT;

		assert_int_equal(parse(&inv, bad[i].text, &err), -EINVAL);
		assert_null(inv);
		if (!strstr(err.text, bad[i].says))
			fail_msg("%s\n  gives \"%s\"\n  not   \"%s\"", bad[i].text, err.text,
				 bad[i].says);
	}
}

/* Every prefix and every byte flipped: refused or taken, never more than that. */
static void a_torn_inventory_does_no_harm(void **state)
{
	char text[] = DISK_WITH(",\"source\":\"nbd://h/x\",\"label\":\"l\"");
	size_t n = strlen(text);

	(void)state;
	for (size_t i = 0; i <= n; i++) {
		struct agent_inventory *inv = NULL;

		if (agent_inventory_parse(&inv, text, i, "torn", NULL) == 0)
			assert_int_equal(i, n);
		agent_inventory_free(inv);
	}
	for (size_t i = 0; i < n; i++) {
		struct agent_inventory *inv = NULL;

		text[i] ^= 0x11;
		if (agent_inventory_parse(&inv, text, n, "flipped", NULL) == 0)
			agent_inventory_free(inv);
		text[i] ^= 0x11;
	}
}

static void a_file_is_read_and_a_missing_one_named(void **state)
{
	struct agent_inventory *inv = NULL;
	struct err err = ERR_INIT;

	(void)state;
	kit_write("inv.json", 0, "{\"vms\":[]}", 10);
	assert_int_equal(agent_inventory_load(&inv, "inv.json", &err), 0);
	assert_int_equal(agent_inventory_count(inv), 0);
	agent_inventory_free(inv);
	assert_int_equal(agent_inventory_load(&inv, "no.json", &err), -ENOENT);
	assert_non_null(strstr(err.text, "no.json"));
	assert_int_equal(agent_inventory_load(&inv, ".", &err), -EINVAL);
	assert_int_equal(mkfifo("fifo.json", 0600), 0);
	assert_int_equal(agent_inventory_load(&inv, "fifo.json", &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_fields_are_taken),
		cmocka_unit_test(a_running_qemu_is_named_by_its_monitor),
		cmocka_unit_test(a_path_is_made_of_datacenter_and_name),
		cmocka_unit_test(a_bad_inventory_is_refused_naming_vm_and_field),
		cmocka_unit_test(a_torn_inventory_does_no_harm),
		cmocka_unit_test(a_file_is_read_and_a_missing_one_named),
	};

	return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
