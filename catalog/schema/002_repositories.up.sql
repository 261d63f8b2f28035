-- Where backups are kept.

CREATE TABLE backup_repositories (
	id                   VARCHAR(64)  NOT NULL PRIMARY KEY,
	name                 VARCHAR(255) NOT NULL CHECK (name <> ''),
	repository_type      VARCHAR(16)  NOT NULL
		CHECK (repository_type IN ('local', 'nfs', 'cifs', 's3', 'azure')),
	config               TEXT         NOT NULL CHECK (json_valid(config)),
	enabled              INT          NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
	is_immutable         INT          NOT NULL DEFAULT 0 CHECK (is_immutable IN (0, 1)),
	min_retention_days   BIGINT       NOT NULL DEFAULT 0 CHECK (min_retention_days >= 0),
	total_size_bytes     BIGINT       NOT NULL DEFAULT 0 CHECK (total_size_bytes >= 0),
	used_size_bytes      BIGINT       NOT NULL DEFAULT 0 CHECK (used_size_bytes >= 0),
	available_size_bytes BIGINT       NOT NULL DEFAULT 0 CHECK (available_size_bytes >= 0),
	last_check_at        BIGINT       NULL,
	created_at           BIGINT       NOT NULL,
	updated_at           BIGINT       NOT NULL,
	CONSTRAINT uk_repository_name UNIQUE (name)
) $OPTIONS;
CREATE INDEX idx_repository_type ON backup_repositories (repository_type);
