DROP TABLE backup_deletion_files;
DROP TABLE backup_deletions;
