-- Backups: a VM in a repository, its runs, its chains, and the disks of each run.

-- The VM's identity is copied here, because backups outlive the VM's place in the inventory.
CREATE TABLE vm_backup_contexts (
	context_id         VARCHAR(64)  NOT NULL PRIMARY KEY,
	vm_context_id      VARCHAR(64)  NULL,
	vm_name            VARCHAR(255) NOT NULL CHECK (vm_name <> ''),
	vmware_vm_id       VARCHAR(255) NOT NULL CHECK (vmware_vm_id <> ''),
	vm_path            VARCHAR(500) NOT NULL,
	vcenter_host       VARCHAR(255) NOT NULL,
	datacenter         VARCHAR(255) NOT NULL,
	repository_id      VARCHAR(64)  NOT NULL,
	total_backups_run  INT          NOT NULL DEFAULT 0,
	successful_backups INT          NOT NULL DEFAULT 0,
	failed_backups     INT          NOT NULL DEFAULT 0,
	last_backup_id     VARCHAR(64)  NULL,
	last_backup_type   VARCHAR(16)  NULL
		CHECK (last_backup_type IN ('full', 'incremental', 'differential')),
	last_backup_at     BIGINT       NULL,
	created_at         BIGINT       NOT NULL,
	updated_at         BIGINT       NOT NULL,
	CONSTRAINT uk_vm_backup UNIQUE (vcenter_host, vmware_vm_id, repository_id),
	CONSTRAINT fk_backup_context_vm FOREIGN KEY (vm_context_id)
		REFERENCES vm_replication_contexts (context_id) ON DELETE SET NULL,
	CONSTRAINT fk_backup_context_repository FOREIGN KEY (repository_id)
		REFERENCES backup_repositories (id) ON DELETE RESTRICT
) $OPTIONS;
CREATE INDEX idx_backup_context_name ON vm_backup_contexts (vm_name);
CREATE INDEX idx_backup_context_vm ON vm_backup_contexts (vm_context_id);
CREATE INDEX idx_backup_context_repository ON vm_backup_contexts (repository_id);

-- One row a run. running_vm_name and running_vm_context_id are set exactly while the job is pending
-- or running, and unique: they are what keeps a second run of the same VM out. A unique key takes any
-- number of NULLs in every database.
CREATE TABLE backup_jobs (
	id                    VARCHAR(64)  NOT NULL PRIMARY KEY,
	vm_context_id         VARCHAR(64)  NULL,
	vm_backup_context_id  VARCHAR(64)  NOT NULL,
	vm_name               VARCHAR(255) NOT NULL,
	repository_id         VARCHAR(64)  NOT NULL,
	repository_type       VARCHAR(50)  NOT NULL,
	repository_path       VARCHAR(512) NOT NULL,
	backup_type           VARCHAR(16)  NOT NULL
		CHECK (backup_type IN ('full', 'incremental', 'differential')),
	status                VARCHAR(16)  NOT NULL
		CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
	running_vm_name       VARCHAR(255) NULL,
	running_vm_context_id VARCHAR(64)  NULL,
	parent_backup_id      VARCHAR(64)  NULL,
	policy_id             VARCHAR(64)  NULL,
	tags                  TEXT         NULL CHECK (tags IS NULL OR json_valid(tags)),
	disk_count            INT          NOT NULL,
	total_bytes           BIGINT       NOT NULL DEFAULT 0,
	bytes_transferred     BIGINT       NOT NULL DEFAULT 0,
	compression_enabled   INT          NOT NULL DEFAULT 0 CHECK (compression_enabled IN (0, 1)),
	current_phase         VARCHAR(64)  NOT NULL DEFAULT '',
	error_message         TEXT         NULL,
	last_telemetry_at     BIGINT       NULL,
	last_progress_at      BIGINT       NULL,
	created_at            BIGINT       NOT NULL,
	started_at            BIGINT       NULL,
	completed_at          BIGINT       NULL,
	CONSTRAINT uk_running_vm_name UNIQUE (running_vm_name),
	CONSTRAINT uk_running_vm_context UNIQUE (running_vm_context_id),
	CONSTRAINT ck_running CHECK (
		(status IN ('pending', 'running') AND running_vm_name IS NOT NULL
			AND running_vm_context_id IS NOT NULL AND completed_at IS NULL)
		OR (status IN ('completed', 'failed', 'cancelled') AND running_vm_name IS NULL
			AND running_vm_context_id IS NULL AND completed_at IS NOT NULL)),
	CONSTRAINT fk_job_vm FOREIGN KEY (vm_context_id)
		REFERENCES vm_replication_contexts (context_id) ON DELETE SET NULL,
	CONSTRAINT fk_job_context FOREIGN KEY (vm_backup_context_id)
		REFERENCES vm_backup_contexts (context_id) ON DELETE CASCADE,
	CONSTRAINT fk_job_repository FOREIGN KEY (repository_id)
		REFERENCES backup_repositories (id) ON DELETE RESTRICT,
	CONSTRAINT fk_job_parent FOREIGN KEY (parent_backup_id)
		REFERENCES backup_jobs (id) ON DELETE SET NULL
) $OPTIONS;
CREATE INDEX idx_vm_context ON backup_jobs (vm_context_id);
CREATE INDEX idx_status ON backup_jobs (status);
CREATE INDEX idx_created ON backup_jobs (created_at);
CREATE INDEX idx_job_context ON backup_jobs (vm_backup_context_id);
CREATE INDEX idx_job_vm_name ON backup_jobs (vm_name, created_at);
CREATE INDEX idx_job_repository ON backup_jobs (repository_id, created_at);
CREATE INDEX idx_job_parent ON backup_jobs (parent_backup_id);

-- A full and what leans on it, of one disk. `active` is 1 or NULL, so that the unique key allows one
-- active chain a disk and any number of others.
CREATE TABLE backup_chains (
	id                   VARCHAR(64)  NOT NULL PRIMARY KEY,
	vm_backup_context_id VARCHAR(64)  NOT NULL,
	disk_index           INT          NOT NULL,
	disk_id              VARCHAR(255) NOT NULL,
	full_backup_id       VARCHAR(64)  NOT NULL,
	latest_backup_id     VARCHAR(64)  NOT NULL,
	total_backups        INT          NOT NULL DEFAULT 0,
	total_size_bytes     BIGINT       NOT NULL DEFAULT 0,
	active               INT          NULL CHECK (active = 1),
	created_at           BIGINT       NOT NULL,
	updated_at           BIGINT       NOT NULL,
	CONSTRAINT uk_active_chain UNIQUE (vm_backup_context_id, disk_id, active),
	CONSTRAINT fk_chain_context FOREIGN KEY (vm_backup_context_id)
		REFERENCES vm_backup_contexts (context_id) ON DELETE CASCADE,
	CONSTRAINT fk_chain_full FOREIGN KEY (full_backup_id)
		REFERENCES backup_jobs (id) ON DELETE CASCADE,
	CONSTRAINT fk_chain_latest FOREIGN KEY (latest_backup_id)
		REFERENCES backup_jobs (id) ON DELETE CASCADE
) $OPTIONS;
CREATE INDEX idx_chain_full ON backup_chains (full_backup_id);
CREATE INDEX idx_chain_latest ON backup_chains (latest_backup_id);

-- One disk of one run. The row id grows with every insert and is never used again, so "latest" is the
-- highest id, without a look at any clock.
CREATE TABLE backup_disks (
	id                   $AUTO_ID,
	vm_backup_context_id VARCHAR(64)  NOT NULL,
	backup_job_id        VARCHAR(64)  NOT NULL,
	disk_index           INT          NOT NULL CHECK (disk_index >= 0),
	hardware_order       INT          NOT NULL,
	disk_id              VARCHAR(255) NOT NULL CHECK (disk_id <> ''),
	vmware_disk_key      BIGINT       NULL,
	unit_number          INT          NULL,
	virtual_size_bytes   BIGINT       NOT NULL CHECK (virtual_size_bytes > 0),
	size_gb              BIGINT       NOT NULL,
	mode                 VARCHAR(16)  NOT NULL CHECK (mode IN ('full', 'incremental')),
	reason               VARCHAR(255) NOT NULL DEFAULT '',
	parent_disk_id       BIGINT       NULL,
	chain_id             VARCHAR(64)  NULL,
	export_name          VARCHAR(63)  NOT NULL,
	qcow2_path           VARCHAR(512) NOT NULL,
	part_path            VARCHAR(512) NOT NULL,
	disk_change_id       VARCHAR(255) NULL,
	bytes_transferred    BIGINT       NOT NULL DEFAULT 0,
	bytes_zero           BIGINT       NOT NULL DEFAULT 0,
	bytes_unchanged      BIGINT       NOT NULL DEFAULT 0,
	bytes_stored         BIGINT       NOT NULL DEFAULT 0,
	status               VARCHAR(16)  NOT NULL
		CHECK (status IN ('pending', 'running', 'completed', 'failed')),
	error_message        TEXT         NULL,
	created_at           BIGINT       NOT NULL,
	started_at           BIGINT       NULL,
	completed_at         BIGINT       NULL,
	CONSTRAINT uk_backup_disk UNIQUE (backup_job_id, disk_index),
	CONSTRAINT ck_completed CHECK (status <> 'completed'
		OR (disk_change_id IS NOT NULL AND disk_change_id <> '' AND completed_at IS NOT NULL)),
	CONSTRAINT fk_disk_context FOREIGN KEY (vm_backup_context_id)
		REFERENCES vm_backup_contexts (context_id) ON DELETE CASCADE,
	CONSTRAINT fk_disk_job FOREIGN KEY (backup_job_id)
		REFERENCES backup_jobs (id) ON DELETE CASCADE,
	CONSTRAINT fk_disk_parent FOREIGN KEY (parent_disk_id)
		REFERENCES backup_disks (id) ON DELETE SET NULL,
	CONSTRAINT fk_disk_chain FOREIGN KEY (chain_id)
		REFERENCES backup_chains (id) ON DELETE SET NULL
) $OPTIONS;
CREATE INDEX idx_change_id_lookup ON backup_disks (vm_backup_context_id, disk_index, status);
CREATE INDEX idx_point_lookup ON backup_disks (vm_backup_context_id, disk_id, status);
CREATE INDEX idx_disk_parent ON backup_disks (parent_disk_id);
CREATE INDEX idx_disk_chain ON backup_disks (chain_id);
