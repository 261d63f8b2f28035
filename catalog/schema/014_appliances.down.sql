-- A session must not outlive what makes it one.
DELETE FROM api_tokens WHERE parent_id IS NOT NULL;
ALTER TABLE api_tokens DROP COLUMN parent_id;
DROP TABLE appliance_enrollments;
DROP TABLE appliance_pairings;
