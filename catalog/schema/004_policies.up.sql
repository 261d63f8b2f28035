-- How long backups are kept, where they are copied to, and when they are made.

-- keep_* count points of a VM: the newest, and the newest of each day, week, month, year. 0 keeps none
-- for this reason; a policy with nothing but zeroes keeps everything.
CREATE TABLE backup_policies (
	id                    VARCHAR(64)  NOT NULL PRIMARY KEY,
	name                  VARCHAR(255) NOT NULL CHECK (name <> ''),
	enabled               INT          NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
	primary_repository_id VARCHAR(64)  NOT NULL,
	keep_days             BIGINT       NOT NULL DEFAULT 0 CHECK (keep_days >= 0),
	keep_last             BIGINT       NOT NULL DEFAULT 0 CHECK (keep_last >= 0),
	keep_daily            BIGINT       NOT NULL DEFAULT 0 CHECK (keep_daily >= 0),
	keep_weekly           BIGINT       NOT NULL DEFAULT 0 CHECK (keep_weekly >= 0),
	keep_monthly          BIGINT       NOT NULL DEFAULT 0 CHECK (keep_monthly >= 0),
	keep_yearly           BIGINT       NOT NULL DEFAULT 0 CHECK (keep_yearly >= 0),
	created_at            BIGINT       NOT NULL,
	updated_at            BIGINT       NOT NULL,
	CONSTRAINT uk_policy_name UNIQUE (name),
	CONSTRAINT fk_policy_repository FOREIGN KEY (primary_repository_id)
		REFERENCES backup_repositories (id) ON DELETE RESTRICT
) $OPTIONS;
CREATE INDEX idx_policy_repository ON backup_policies (primary_repository_id);

CREATE TABLE backup_copy_rules (
	id                VARCHAR(64) NOT NULL PRIMARY KEY,
	policy_id         VARCHAR(64) NOT NULL,
	repository_id     VARCHAR(64) NOT NULL,
	copy_mode         VARCHAR(16) NOT NULL DEFAULT 'immediate'
		CHECK (copy_mode IN ('immediate', 'scheduled', 'manual')),
	enabled           INT         NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
	priority          INT         NOT NULL DEFAULT 1 CHECK (priority > 0),
	verify_after_copy INT         NOT NULL DEFAULT 1 CHECK (verify_after_copy IN (0, 1)),
	created_at        BIGINT      NOT NULL,
	updated_at        BIGINT      NOT NULL,
	CONSTRAINT uk_copy_rule UNIQUE (policy_id, repository_id),
	CONSTRAINT fk_copy_rule_policy FOREIGN KEY (policy_id)
		REFERENCES backup_policies (id) ON DELETE CASCADE,
	CONSTRAINT fk_copy_rule_repository FOREIGN KEY (repository_id)
		REFERENCES backup_repositories (id) ON DELETE RESTRICT
) $OPTIONS;
CREATE INDEX idx_copy_rule_repository ON backup_copy_rules (repository_id);

-- One finished backup in one further repository. A copy outlives the rule that asked for it.
CREATE TABLE backup_copies (
	id            VARCHAR(64) NOT NULL PRIMARY KEY,
	backup_job_id VARCHAR(64) NOT NULL,
	repository_id VARCHAR(64) NOT NULL,
	copy_rule_id  VARCHAR(64) NULL,
	status        VARCHAR(16) NOT NULL
		CHECK (status IN ('pending', 'copying', 'verifying', 'completed', 'failed')),
	bytes_total   BIGINT      NOT NULL DEFAULT 0 CHECK (bytes_total >= 0),
	bytes_copied  BIGINT      NOT NULL DEFAULT 0 CHECK (bytes_copied >= 0),
	error_message TEXT        NULL,
	created_at    BIGINT      NOT NULL,
	started_at    BIGINT      NULL,
	completed_at  BIGINT      NULL,
	verified_at   BIGINT      NULL,
	CONSTRAINT uk_copy UNIQUE (backup_job_id, repository_id),
	CONSTRAINT ck_copy_completed CHECK (status <> 'completed' OR completed_at IS NOT NULL),
	CONSTRAINT fk_copy_job FOREIGN KEY (backup_job_id)
		REFERENCES backup_jobs (id) ON DELETE CASCADE,
	CONSTRAINT fk_copy_repository FOREIGN KEY (repository_id)
		REFERENCES backup_repositories (id) ON DELETE RESTRICT,
	CONSTRAINT fk_copy_copy_rule FOREIGN KEY (copy_rule_id)
		REFERENCES backup_copy_rules (id) ON DELETE SET NULL
) $OPTIONS;
CREATE INDEX idx_copy_repository ON backup_copies (repository_id);
CREATE INDEX idx_copy_rule ON backup_copies (copy_rule_id);
CREATE INDEX idx_copy_status ON backup_copies (status);

-- When to back up one VM, or with vm_context_id NULL all VMs that have the policy. claimed_by and claimed_until say which
-- hub is at it and until when nobody else may be.
CREATE TABLE schedules (
	id              VARCHAR(64)  NOT NULL PRIMARY KEY,
	name            VARCHAR(255) NOT NULL CHECK (name <> ''),
	enabled         INT          NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
	policy_id       VARCHAR(64)  NOT NULL,
	vm_context_id   VARCHAR(64)  NULL,
	backup_type     VARCHAR(16)  NOT NULL CHECK (backup_type IN ('full', 'incremental')),
	cron_expression VARCHAR(255) NOT NULL CHECK (cron_expression <> ''),
	timezone        VARCHAR(64)  NOT NULL DEFAULT 'UTC',
	next_run_at     BIGINT       NULL,
	last_run_at     BIGINT       NULL,
	claimed_by      VARCHAR(64)  NULL,
	claimed_until   BIGINT       NULL,
	created_at      BIGINT       NOT NULL,
	updated_at      BIGINT       NOT NULL,
	CONSTRAINT uk_schedule_name UNIQUE (name),
	CONSTRAINT fk_schedule_policy FOREIGN KEY (policy_id)
		REFERENCES backup_policies (id) ON DELETE CASCADE,
	CONSTRAINT fk_schedule_vm FOREIGN KEY (vm_context_id)
		REFERENCES vm_replication_contexts (context_id) ON DELETE CASCADE
) $OPTIONS;
CREATE INDEX idx_schedule_policy ON schedules (policy_id);
CREATE INDEX idx_schedule_vm ON schedules (vm_context_id);
CREATE INDEX idx_schedule_next ON schedules (enabled, next_run_at);
