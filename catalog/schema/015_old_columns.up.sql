-- What the flat layout kept in a job, for programs that still read it there: the index and the change
-- id of the job's disk with the lowest index. backup_disks has the truth; the database copies it, and
-- no statement of the program names these columns or triggers. A job's disks are never deleted alone.
ALTER TABLE backup_jobs ADD COLUMN disk_id INT NOT NULL DEFAULT 0;
ALTER TABLE backup_jobs ADD COLUMN change_id VARCHAR(255) NULL;

CREATE TRIGGER old_columns_insert AFTER INSERT ON backup_disks FOR EACH ROW
BEGIN
	UPDATE backup_jobs SET disk_id = NEW.disk_index, change_id = NEW.disk_change_id
		WHERE id = NEW.backup_job_id AND NOT EXISTS (SELECT 1 FROM backup_disks d
			WHERE d.backup_job_id = NEW.backup_job_id AND d.disk_index < NEW.disk_index); END;

CREATE TRIGGER old_columns_update AFTER UPDATE ON backup_disks FOR EACH ROW
BEGIN
	UPDATE backup_jobs SET change_id = NEW.disk_change_id
		WHERE id = NEW.backup_job_id AND disk_id = NEW.disk_index
			AND COALESCE(change_id, '') <> COALESCE(NEW.disk_change_id, ''); END;

-- After the triggers: another hub may be at work.
UPDATE backup_jobs SET
	disk_id = (SELECT MIN(d.disk_index) FROM backup_disks d WHERE d.backup_job_id = backup_jobs.id),
	change_id = (SELECT d.disk_change_id FROM backup_disks d WHERE d.backup_job_id = backup_jobs.id
		ORDER BY d.disk_index LIMIT 1)
	WHERE EXISTS (SELECT 1 FROM backup_disks d WHERE d.backup_job_id = backup_jobs.id);
