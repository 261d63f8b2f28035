ALTER TABLE vm_disks DROP COLUMN replication_change_id;
ALTER TABLE vm_replication_contexts DROP COLUMN policy_id;
ALTER TABLE vm_replication_contexts DROP COLUMN notes;
