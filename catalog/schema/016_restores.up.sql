-- Which hub holds a mount: the session is in that hub's memory, and over with it. 0: none.
ALTER TABLE restore_mounts ADD COLUMN hub_token BIGINT NOT NULL DEFAULT 0;
