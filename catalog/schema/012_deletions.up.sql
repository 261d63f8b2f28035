-- The journal of deletions: points that are gone for everybody, and whose files may still be there. A
-- row is written in the transaction that takes the backup's own rows away, and goes when nothing of
-- it is left on disk.

-- The row id is the order: a point before what it leans on. hub_token is the hub that is at it; NULL:
-- none is. files_gone: 1 once no file is left, so that only empty folders remain to be looked for.
CREATE TABLE backup_deletions (
	id                $AUTO_ID,
	backup_id         VARCHAR(64)  NOT NULL,
	vm_context_id     VARCHAR(64)  NOT NULL DEFAULT '',
	vm_name           VARCHAR(255) NOT NULL,
	repository_id     VARCHAR(64)  NOT NULL,
	backup_type       VARCHAR(16)  NOT NULL
		CHECK (backup_type IN ('full', 'incremental', 'differential')),
	size_bytes        BIGINT       NOT NULL DEFAULT 0,
	files_gone        INT          NOT NULL DEFAULT 0 CHECK (files_gone IN (0, 1)),
	attempts          BIGINT       NOT NULL DEFAULT 0,
	error_message     TEXT         NULL,
	hub_token         BIGINT       NULL,
	backup_created_at BIGINT       NOT NULL,
	created_at        BIGINT       NOT NULL,
	last_try_at       BIGINT       NULL,
	retry_at          BIGINT       NOT NULL,
	CONSTRAINT uk_deletion_backup UNIQUE (backup_id),
	CONSTRAINT fk_deletion_repository FOREIGN KEY (repository_id)
		REFERENCES backup_repositories (id) ON DELETE RESTRICT
) $OPTIONS;
CREATE INDEX idx_deletion_repository ON backup_deletions (repository_id);

-- An image and what lies beside it; with committed 0 only its folders: there was no point.
CREATE TABLE backup_deletion_files (
	id          $AUTO_ID,
	deletion_id BIGINT       NOT NULL,
	qcow2_path  VARCHAR(512) NOT NULL,
	committed   INT          NOT NULL CHECK (committed IN (0, 1)),
	CONSTRAINT fk_deletion_file FOREIGN KEY (deletion_id)
		REFERENCES backup_deletions (id) ON DELETE CASCADE
) $OPTIONS;
CREATE INDEX idx_deletion_file ON backup_deletion_files (deletion_id);
CREATE INDEX idx_deletion_path ON backup_deletion_files (qcow2_path);
