-- Capture appliances: the codes they are paired with, who asked to be let in, what was decided, and
-- the sessions they log in to.

-- A code is kept as its hash alone, and is good once.
CREATE TABLE appliance_pairings (
	id         VARCHAR(64)  NOT NULL PRIMARY KEY,
	code_hash  VARCHAR(128) NOT NULL CHECK (code_hash <> ''),
	created_by VARCHAR(255) NOT NULL,
	created_at BIGINT       NOT NULL,
	expires_at BIGINT       NOT NULL,
	used_at    BIGINT       NULL,
	CONSTRAINT uk_pairing_code UNIQUE (code_hash)
) $OPTIONS;

-- approved_key is public_key while the enrollment is approved: a key is let in by one of them.
-- "expired" is not stored: it is what an undecided one is after expires_at.
CREATE TABLE appliance_enrollments (
	id           VARCHAR(64)  NOT NULL PRIMARY KEY,
	pairing_id   VARCHAR(64)  NOT NULL,
	name         VARCHAR(255) NOT NULL CHECK (name <> ''),
	version      VARCHAR(255) NOT NULL DEFAULT '',
	public_key   VARCHAR(255) NOT NULL CHECK (public_key <> ''),
	fingerprint  VARCHAR(255) NOT NULL CHECK (fingerprint <> ''),
	challenge    VARCHAR(64)  NOT NULL CHECK (challenge <> ''),
	status       VARCHAR(32)  NOT NULL CHECK (status IN ('pending_verification',
	                          'awaiting_approval', 'approved', 'rejected', 'revoked')),
	remote       VARCHAR(255) NOT NULL DEFAULT '',
	created_at   BIGINT       NOT NULL,
	updated_at   BIGINT       NOT NULL,
	expires_at   BIGINT       NOT NULL,
	decided_at   BIGINT       NULL,
	decided_by   VARCHAR(255) NOT NULL DEFAULT '',
	reason       VARCHAR(255) NOT NULL DEFAULT '',
	approved_key VARCHAR(255) NULL,
	CONSTRAINT uk_enrollment_pairing UNIQUE (pairing_id),
	CONSTRAINT uk_enrollment_key UNIQUE (approved_key),
	CONSTRAINT fk_enrollment_pairing FOREIGN KEY (pairing_id) REFERENCES appliance_pairings (id)
) $OPTIONS;
CREATE INDEX idx_enrollment_status ON appliance_enrollments (status, id);

-- The token that a session was logged in to with. No foreign key: SQLite could not take the column
-- away again. Both are of one user, and go with it.
ALTER TABLE api_tokens ADD COLUMN parent_id VARCHAR(64) NULL;
