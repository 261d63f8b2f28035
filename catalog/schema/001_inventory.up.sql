-- VMs under management and their disks, as discovery sees them.
-- Texts are bounded by VARCHAR where the database enforces it and by the row structs everywhere.
-- Times are microseconds since 1970 UTC, written by the program.

CREATE TABLE vm_replication_contexts (
	context_id         VARCHAR(64)  NOT NULL PRIMARY KEY,
	vm_name            VARCHAR(255) NOT NULL CHECK (vm_name <> ''),
	vmware_vm_id       VARCHAR(255) NOT NULL CHECK (vmware_vm_id <> ''),
	vm_path            VARCHAR(500) NOT NULL,
	vcenter_host       VARCHAR(255) NOT NULL,
	datacenter         VARCHAR(255) NOT NULL,
	power_state        VARCHAR(64)  NOT NULL,
	os_type            VARCHAR(255) NOT NULL,
	vmx_version        VARCHAR(64)  NOT NULL,
	cpu_count          BIGINT       NOT NULL,
	memory_mb          BIGINT       NOT NULL,
	networks           MEDIUMTEXT   NOT NULL DEFAULT '[]' CHECK (json_valid(networks)),
	credential_id      BIGINT       NULL,
	created_at         BIGINT       NOT NULL,
	updated_at         BIGINT       NOT NULL,
	last_discovered_at BIGINT       NULL,
	CONSTRAINT uk_vm_identity UNIQUE (vcenter_host, vmware_vm_id)
) $OPTIONS;
CREATE INDEX idx_vm_name ON vm_replication_contexts (vm_name);

CREATE TABLE replication_jobs (
	id               VARCHAR(64) NOT NULL PRIMARY KEY,
	vm_context_id    VARCHAR(64) NOT NULL,
	replication_type VARCHAR(16) NOT NULL CHECK (replication_type IN ('initial', 'incremental')),
	status           VARCHAR(16) NOT NULL
		CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
	error_message    TEXT        NULL,
	created_at       BIGINT      NOT NULL,
	updated_at       BIGINT      NOT NULL,
	completed_at     BIGINT      NULL,
	CONSTRAINT fk_replication_vm FOREIGN KEY (vm_context_id)
		REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE
) $OPTIONS;
CREATE INDEX idx_replication_vm ON replication_jobs (vm_context_id);

-- A disk belongs to its VM from discovery on; a replication job only borrows the row, and deleting
-- the job must not delete what discovery found: hence SET NULL.
CREATE TABLE vm_disks (
	id                $AUTO_ID,
	vm_context_id     VARCHAR(64)  NOT NULL,
	job_id            VARCHAR(64)  NULL,
	disk_id           VARCHAR(255) NOT NULL CHECK (disk_id <> ''),
	disk_index        INT          NOT NULL CHECK (disk_index >= 0),
	hardware_order    INT          NOT NULL,
	vmware_disk_key   BIGINT       NULL,
	label             VARCHAR(255) NOT NULL,
	path              VARCHAR(512) NOT NULL,
	datastore         VARCHAR(255) NOT NULL,
	capacity_bytes    BIGINT       NOT NULL CHECK (capacity_bytes > 0),
	size_gb           BIGINT       NOT NULL,
	unit_number       INT          NULL,
	provisioning_type VARCHAR(64)  NOT NULL,
	controller        VARCHAR(255) NOT NULL,
	missing           INT          NOT NULL DEFAULT 0 CHECK (missing IN (0, 1)),
	created_at        BIGINT       NOT NULL,
	updated_at        BIGINT       NOT NULL,
	CONSTRAINT uk_vm_disk UNIQUE (vm_context_id, disk_id),
	CONSTRAINT uk_vm_disk_index UNIQUE (vm_context_id, disk_index),
	CONSTRAINT fk_vm_disk_vm FOREIGN KEY (vm_context_id)
		REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE,
	CONSTRAINT fk_vm_disk_job FOREIGN KEY (job_id)
		REFERENCES replication_jobs (id) ON DELETE SET NULL
) $OPTIONS;
CREATE INDEX idx_vm_disk_job ON vm_disks (vm_context_id, job_id);
CREATE INDEX idx_vm_disk_of_job ON vm_disks (job_id);
