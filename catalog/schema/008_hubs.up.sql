-- Several hubs on one database. A hub's row says that it lives, until lease_until by the database's
-- clock. Its token is higher than that of every hub before it, and is written on each job it runs: a
-- hub whose job was taken over does not hold the job's token any more, and can write nothing of it.

CREATE TABLE hub_tokens (
	id         INT    NOT NULL PRIMARY KEY CHECK (id = 1),
	last_token BIGINT NOT NULL
) $OPTIONS;

-- steady_since: from then on the lease was always renewed before it was over.
-- `instance` belongs to a data folder, which one hub uses at a time: another row with the same one is
-- left of a hub that is gone for certain.
CREATE TABLE hubs (
	token        BIGINT       NOT NULL PRIMARY KEY,
	id           VARCHAR(64)  NOT NULL,
	name         VARCHAR(255) NOT NULL CHECK (name <> ''),
	instance     VARCHAR(64)  NOT NULL,
	started_at   BIGINT       NOT NULL,
	heartbeat_at BIGINT       NOT NULL,
	steady_since BIGINT       NOT NULL,
	lease_until  BIGINT       NOT NULL,
	CONSTRAINT uk_hub_id UNIQUE (id),
	CONSTRAINT uk_hub_instance UNIQUE (instance)
) $OPTIONS;

-- NULL: run by no hub that is known here, or by one of before this migration.
ALTER TABLE backup_jobs ADD COLUMN hub_token BIGINT NULL;
