ALTER TABLE backup_jobs DROP COLUMN hub_token;
DROP TABLE hubs;
DROP TABLE hub_tokens;
