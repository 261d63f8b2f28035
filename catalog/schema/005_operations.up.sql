-- What is done with backups while the hub runs.

-- The story of a job, line by line; the row id is the order.
CREATE TABLE job_log (
	id            $AUTO_ID,
	backup_job_id VARCHAR(64) NOT NULL,
	disk_index    INT         NULL,
	level         VARCHAR(16) NOT NULL CHECK (level IN ('error', 'warning', 'info')),
	phase         VARCHAR(64) NOT NULL DEFAULT '',
	message       TEXT        NOT NULL,
	created_at    BIGINT      NOT NULL,
	CONSTRAINT fk_job_log_job FOREIGN KEY (backup_job_id)
		REFERENCES backup_jobs (id) ON DELETE CASCADE
) $OPTIONS;
CREATE INDEX idx_job_log_job ON job_log (backup_job_id, id);

-- A point opened for looking at its files. A disk is mounted once, however many ask for it: `users`
-- counts them.
CREATE TABLE restore_mounts (
	id             VARCHAR(64)  NOT NULL PRIMARY KEY,
	backup_disk_id BIGINT       NOT NULL,
	status         VARCHAR(16)  NOT NULL
		CHECK (status IN ('mounting', 'mounted', 'unmounting', 'failed')),
	mount_path     VARCHAR(512) NOT NULL DEFAULT '',
	users          INT          NOT NULL DEFAULT 1 CHECK (users >= 0),
	error_message  TEXT         NULL,
	created_at     BIGINT       NOT NULL,
	last_used_at   BIGINT       NOT NULL,
	CONSTRAINT uk_restore_mount UNIQUE (backup_disk_id),
	CONSTRAINT fk_restore_mount_disk FOREIGN KEY (backup_disk_id)
		REFERENCES backup_disks (id) ON DELETE CASCADE
) $OPTIONS;
CREATE INDEX idx_restore_mount_used ON restore_mounts (last_used_at);
