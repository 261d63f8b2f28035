DROP TABLE vm_disks;
DROP TABLE replication_jobs;
DROP TABLE vm_replication_contexts;
