ALTER TABLE restore_mounts DROP COLUMN hub_token;
