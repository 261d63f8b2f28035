-- Copies are made by hubs: what is to be done with one, who is at it, and how it went.

-- task: what there is to do while status is pending, copying or verifying. when_idle: not while
-- anything else runs. verification: of what lies in the repository. claim grows with every
-- claim, and is compared by every write of who holds it; hub_token says whether that hub still
-- lives, NULL: nobody is at it. retry_at: not before.
ALTER TABLE backup_copies ADD COLUMN task VARCHAR(8) NOT NULL DEFAULT 'copy'
	CHECK (task IN ('copy', 'verify', 'remove'));
ALTER TABLE backup_copies ADD COLUMN priority INT NOT NULL DEFAULT 1 CHECK (priority > 0);
ALTER TABLE backup_copies ADD COLUMN when_idle INT NOT NULL DEFAULT 0 CHECK (when_idle IN (0, 1));
ALTER TABLE backup_copies ADD COLUMN verify_after_copy INT NOT NULL DEFAULT 1
	CHECK (verify_after_copy IN (0, 1));
ALTER TABLE backup_copies ADD COLUMN verification VARCHAR(8) NOT NULL DEFAULT 'pending'
	CHECK (verification IN ('pending', 'passed', 'failed'));
ALTER TABLE backup_copies ADD COLUMN attempts INT NOT NULL DEFAULT 0;
ALTER TABLE backup_copies ADD COLUMN retry_at BIGINT NULL;
ALTER TABLE backup_copies ADD COLUMN claim BIGINT NOT NULL DEFAULT 0;
ALTER TABLE backup_copies ADD COLUMN hub_token BIGINT NULL;

-- The files of a copy, written down before they are made. sha256 is that of the image's file, once
-- it was read back.
CREATE TABLE backup_copy_disks (
	copy_id      VARCHAR(64)  NOT NULL,
	disk_index   INT          NOT NULL CHECK (disk_index >= 0),
	qcow2_path   VARCHAR(512) NOT NULL,
	part_path    VARCHAR(512) NOT NULL,
	bytes_total  BIGINT       NOT NULL,
	bytes_stored BIGINT       NOT NULL DEFAULT 0,
	sha256       VARCHAR(64)  NOT NULL DEFAULT '',
	CONSTRAINT uk_copy_disk UNIQUE (copy_id, disk_index),
	CONSTRAINT fk_copy_disk_copy FOREIGN KEY (copy_id)
		REFERENCES backup_copies (id) ON DELETE CASCADE
) $OPTIONS;
