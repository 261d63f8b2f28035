DROP TABLE restore_mounts;
DROP TABLE job_log;
