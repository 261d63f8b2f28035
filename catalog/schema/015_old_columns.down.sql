DROP TRIGGER IF EXISTS old_columns_update;
DROP TRIGGER IF EXISTS old_columns_insert;
ALTER TABLE backup_jobs DROP COLUMN change_id;
ALTER TABLE backup_jobs DROP COLUMN disk_id$REBUILD;
