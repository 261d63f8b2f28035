-- Calls that create something and carry an Idempotency-Key. While one runs its status is NULL; then its
-- answer is kept until it expires. request_hash tells another call under the same key.
CREATE TABLE idempotency_keys (
	caller       VARCHAR(80)  NOT NULL,
	idem_key     VARCHAR(255) NOT NULL CHECK (idem_key <> ''),
	request_hash VARCHAR(64)  NOT NULL CHECK (request_hash <> ''),
	owner        VARCHAR(128) NOT NULL,
	status       INT          NULL,
	answer       LONGTEXT     NULL,
	created_at   BIGINT       NOT NULL,
	expires_at   BIGINT       NOT NULL,
	CONSTRAINT pk_idempotency PRIMARY KEY (caller, idem_key)
) $OPTIONS;
CREATE INDEX idx_idempotency_expires ON idempotency_keys (expires_at);
