/*
 * The tables of backups, column by column, and the words of their enums.
 */
#include "catalog/backup_rows.h"

#include <string.h>

#include "base/bytes.h"

static const char *const backup_type_names[] = {"full", "incremental", "differential"};
static const struct row_words backup_types = {backup_type_names, ARRAY_SIZE(backup_type_names)};

static const char *const job_status_names[] = {"pending", "running", "completed", "failed",
					       "cancelled"};
static const struct row_words job_statuses = {job_status_names, ARRAY_SIZE(job_status_names)};

static const char *const disk_status_names[] = {"pending", "running", "completed", "failed"};
static const struct row_words disk_statuses = {disk_status_names, ARRAY_SIZE(disk_status_names)};

const char *catalog_backup_type_name(enum catalog_backup_type type)
{
	return backup_type_names[type];
}

const char *catalog_job_status_name(enum catalog_job_status status)
{
	return job_status_names[status];
}

const char *catalog_disk_status_name(enum catalog_disk_status status)
{
	return disk_status_names[status];
}

bool catalog_backup_type_parse(const char *name, enum catalog_backup_type *out)
{
	int i = row_word_find(&backup_types, name);

	if (i >= 0)
		*out = (enum catalog_backup_type)i;
	return i >= 0;
}

bool catalog_job_status_parse(const char *name, enum catalog_job_status *out)
{
	int i = row_word_find(&job_statuses, name);

	if (i >= 0)
		*out = (enum catalog_job_status)i;
	return i >= 0;
}

/* Bytes of the UTF-8 character @p begins with; 0 when it begins with none (Unicode, table 3-7). */
static size_t utf8_length(const unsigned char *p)
{
	static const struct {
		unsigned char first, last, low, high; /* bounds of byte 1 and of byte 2 */
		unsigned char length;
	} forms[] = {
		{0x01, 0x7f, 0x00, 0xff, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2},
		{0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
		{0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
		{0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4},
		{0xf4, 0xf4, 0x80, 0x8f, 4},
	};

	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		if (*p < forms[i].first || *p > forms[i].last)
			continue;
		if (forms[i].length > 1 && (p[1] < forms[i].low || p[1] > forms[i].high))
			return 0;
		for (size_t k = 2; k < forms[i].length; k++)
			if ((p[k] & 0xc0) != 0x80)
				return 0;
		return forms[i].length;
	}
	return 0;
}

void catalog_text_cut(char *dst, size_t cap, const char *src)
{
	size_t used = 0;

	while (src && *src) {
		size_t length = utf8_length((const unsigned char *)src), n = MAX(length, 1U);

		if (used + n >= cap)
			break;
		memcpy(dst + used, length ? src : "?", n);
		used += n;
		src += n;
	}
	dst[used] = 0;
}

#define C struct catalog_backup_context

static const struct row_field context_fields[] = {
	TEXT_COL(C, context_id, "context_id"),
	TEXT_COL(C, vm_context_id, "vm_context_id", ROW_OPT),
	TEXT_COL(C, vm_name, "vm_name"),
	TEXT_COL(C, vmware_vm_id, "vmware_vm_id"),
	TEXT_COL(C, vm_path, "vm_path"),
	TEXT_COL(C, vcenter_host, "vcenter_host"),
	TEXT_COL(C, datacenter, "datacenter"),
	TEXT_COL(C, repository_id, "repository_id"),
	I64_COL(C, total_backups_run, "c.total_backups_run", ROW_DERIVED),
	I64_COL(C, successful_backups, "c.successful_backups", ROW_DERIVED),
	I64_COL(C, failed_backups, "c.failed_backups", ROW_DERIVED),
	TEXT_COL(C, last_backup_id, "c.last_backup_id", ROW_DERIVED, ROW_OPT),
	ENUM_COL(C, last_backup_type, "c.last_backup_type", &backup_types, ROW_DERIVED, ROW_OPT),
	TIME_COL(C, last_backup_at_us, "c.last_backup_at", ROW_DERIVED, ROW_OPT),
	TIME_COL(C, created_at_us, "created_at"),
	TIME_COL(C, updated_at_us, "updated_at"),
};

const struct row_map catalog_backup_context_map =
	ROW_MAP(C, "vm_backup_contexts", "c", "", context_fields);

#define J struct catalog_backup

static const struct row_field job_fields[] = {
	TEXT_COL(J, id, "id"),
	TEXT_COL(J, vm_context_id, "vm_context_id", ROW_OPT),
	TEXT_COL(J, vm_backup_context_id, "vm_backup_context_id"),
	TEXT_COL(J, vm_name, "vm_name"),
	TEXT_COL(J, repository_id, "repository_id"),
	TEXT_COL(J, repository_type, "repository_type"),
	TEXT_COL(J, repository_path, "repository_path"),
	ENUM_COL(J, backup_type, "backup_type", &backup_types),
	ENUM_COL(J, status, "status", &job_statuses),
	TEXT_COL(J, parent_backup_id, "parent_backup_id", ROW_OPT),
	TEXT_COL(J, policy_id, "policy_id", ROW_OPT),
	TEXT_COL(J, tags, "tags", ROW_OPT),
	I64_COL(J, disk_count, "disk_count"),
	I64_COL(J, total_bytes, "total_bytes"),
	I64_COL(J, bytes_transferred, "bytes_transferred"),
	BOOL_COL(J, compression_enabled, "compression_enabled"),
	TEXT_COL(J, current_phase, "current_phase"),
	TEXT_COL(J, error_message, "error_message", ROW_OPT),
	TIME_COL(J, last_telemetry_at_us, "last_telemetry_at", ROW_OPT),
	TIME_COL(J, last_progress_at_us, "last_progress_at", ROW_OPT),
	TIME_COL(J, created_at_us, "created_at"),
	TIME_COL(J, started_at_us, "started_at", ROW_OPT),
	TIME_COL(J, completed_at_us, "completed_at", ROW_OPT),
	I64_COL(J, hub_token, "hub_token", ROW_OPT),
};

const struct row_map catalog_backup_map = ROW_MAP(J, "backup_jobs", "j", "", job_fields);

#define D struct catalog_backup_disk

static const struct row_field disk_fields[] = {
	I64_COL(D, id, "d.id", ROW_DERIVED),
	TEXT_COL(D, vm_backup_context_id, "vm_backup_context_id"),
	TEXT_COL(D, backup_job_id, "backup_job_id"),
	INT_COL(D, disk_index, "disk_index"),
	INT_COL(D, hardware_order, "hardware_order"),
	TEXT_COL(D, disk_id, "disk_id"),
	I64_COL(D, vmware_disk_key, "vmware_disk_key", ROW_OPT),
	INT_COL(D, unit_number, "unit_number", ROW_OPT),
	I64_COL(D, virtual_size_bytes, "virtual_size_bytes"),
	I64_COL(D, size_gb, "size_gb"),
	ENUM_COL(D, mode, "mode", &backup_types),
	TEXT_COL(D, reason, "reason"),
	I64_COL(D, parent_disk_id, "parent_disk_id", ROW_OPT),
	TEXT_COL(D, chain_id, "chain_id", ROW_OPT),
	TEXT_COL(D, export_name, "export_name"),
	TEXT_COL(D, qcow2_path, "qcow2_path"),
	TEXT_COL(D, part_path, "part_path"),
	TEXT_COL(D, change_id, "disk_change_id", ROW_OPT),
	I64_COL(D, bytes.bytes_transferred, "bytes_transferred"),
	I64_COL(D, bytes.bytes_zero, "bytes_zero"),
	I64_COL(D, bytes.bytes_unchanged, "bytes_unchanged"),
	I64_COL(D, bytes.bytes_stored, "bytes_stored"),
	ENUM_COL(D, status, "status", &disk_statuses),
	TEXT_COL(D, error_message, "error_message", ROW_OPT),
	TIME_COL(D, created_at_us, "created_at"),
	TIME_COL(D, started_at_us, "started_at", ROW_OPT),
	TIME_COL(D, completed_at_us, "completed_at", ROW_OPT),
	TEXT_COL(D, parent_backup_id, "p.backup_job_id", ROW_DERIVED, ROW_OPT),
	TEXT_COL(D, parent_change_id, "p.disk_change_id", ROW_DERIVED, ROW_OPT),
	TEXT_COL(D, parent_qcow2_path, "p.qcow2_path", ROW_DERIVED, ROW_OPT),
};

const struct row_map catalog_backup_disk_map = ROW_MAP(
	D, "backup_disks", "d", "LEFT JOIN backup_disks p ON p.id = d.parent_disk_id", disk_fields);

#define H struct catalog_chain

static const struct row_field chain_fields[] = {
	TEXT_COL(H, id, "id"),
	TEXT_COL(H, vm_backup_context_id, "vm_backup_context_id"),
	INT_COL(H, disk_index, "disk_index"),
	TEXT_COL(H, disk_id, "disk_id"),
	TEXT_COL(H, full_backup_id, "full_backup_id"),
	TEXT_COL(H, latest_backup_id, "latest_backup_id"),
	I64_COL(H, total_backups, "total_backups"),
	I64_COL(H, total_size_bytes, "total_size_bytes"),
	BOOL_COL(H, active, "active", ROW_OPT),
	TIME_COL(H, created_at_us, "created_at"),
	TIME_COL(H, updated_at_us, "updated_at"),
	TEXT_COL(H, vm_name, "c.vm_name", ROW_DERIVED),
	TEXT_COL(H, vm_context_id, "c.vm_context_id", ROW_DERIVED, ROW_OPT),
	TEXT_COL(H, repository_id, "c.repository_id", ROW_DERIVED),
};

const struct row_map catalog_chain_map = ROW_MAP(
	H, "backup_chains", "ch",
	"JOIN vm_backup_contexts c ON c.context_id = ch.vm_backup_context_id", chain_fields);
