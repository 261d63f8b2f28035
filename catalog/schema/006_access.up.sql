-- Who may do what, what the hub itself logs in with, and what was done.

CREATE TABLE users (
	id            VARCHAR(64)  NOT NULL PRIMARY KEY,
	name          VARCHAR(255) NOT NULL CHECK (name <> ''),
	role          VARCHAR(16)  NOT NULL CHECK (role IN ('admin', 'operator', 'viewer', 'agent')),
	enabled       INT          NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
	created_at    BIGINT       NOT NULL,
	updated_at    BIGINT       NOT NULL,
	last_login_at BIGINT       NULL,
	CONSTRAINT uk_user_name UNIQUE (name)
) $OPTIONS;

-- A token is kept as its hash alone.
CREATE TABLE api_tokens (
	id           VARCHAR(64)  NOT NULL PRIMARY KEY,
	user_id      VARCHAR(64)  NOT NULL,
	name         VARCHAR(255) NOT NULL,
	token_hash   VARCHAR(128) NOT NULL CHECK (token_hash <> ''),
	scopes       TEXT         NOT NULL DEFAULT '[]' CHECK (json_valid(scopes)),
	created_at   BIGINT       NOT NULL,
	expires_at   BIGINT       NULL,
	revoked_at   BIGINT       NULL,
	last_used_at BIGINT       NULL,
	CONSTRAINT uk_token_hash UNIQUE (token_hash),
	CONSTRAINT fk_token_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) $OPTIONS;
CREATE INDEX idx_token_user ON api_tokens (user_id);

-- The secret is encrypted; key_id says with which key. A VM context names a credential by its id.
-- is_default is 1 or NULL, so that the unique key allows one default and any number of others.
CREATE TABLE credentials (
	id         $AUTO_ID,
	name       VARCHAR(255) NOT NULL CHECK (name <> ''),
	kind       VARCHAR(16)  NOT NULL CHECK (kind IN ('vcenter', 'cifs', 's3', 'azure')),
	host       VARCHAR(255) NOT NULL DEFAULT '',
	username   VARCHAR(255) NOT NULL,
	datacenter VARCHAR(255) NOT NULL DEFAULT '',
	is_default INT          NULL CHECK (is_default = 1),
	secret     TEXT         NOT NULL CHECK (secret <> ''),
	key_id     VARCHAR(64)  NOT NULL CHECK (key_id <> ''),
	created_at BIGINT       NOT NULL,
	updated_at BIGINT       NOT NULL,
	CONSTRAINT uk_credential_name UNIQUE (name),
	CONSTRAINT uk_credential_default UNIQUE (is_default)
) $OPTIONS;

-- Each entry's hash covers the entry and the hash before it, so that none can be changed or taken out
-- unseen. previous_hash being unique keeps the chain from forking. Names are text: an entry outlives
-- whom it is about.
CREATE TABLE audit_log (
	id            $AUTO_ID,
	created_at    BIGINT       NOT NULL,
	user_name     VARCHAR(255) NOT NULL,
	action        VARCHAR(64)  NOT NULL CHECK (action <> ''),
	object        VARCHAR(255) NOT NULL DEFAULT '',
	outcome       VARCHAR(16)  NOT NULL CHECK (outcome IN ('allowed', 'denied', 'failed')),
	remote        VARCHAR(255) NOT NULL DEFAULT '',
	detail        TEXT         NOT NULL,
	previous_hash VARCHAR(128) NOT NULL,
	entry_hash    VARCHAR(128) NOT NULL CHECK (entry_hash <> ''),
	CONSTRAINT uk_audit_previous UNIQUE (previous_hash),
	CONSTRAINT uk_audit_entry UNIQUE (entry_hash)
) $OPTIONS;
CREATE INDEX idx_audit_user ON audit_log (user_name, id);
CREATE INDEX idx_audit_object ON audit_log (object, id);
