DROP TABLE backup_disks;
DROP TABLE backup_chains;
DROP TABLE backup_jobs;
DROP TABLE vm_backup_contexts;
