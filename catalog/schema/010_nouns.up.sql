-- What people say about a VM, the policy it has, and where its replication stands.

-- policy_id has no foreign key: SQLite could not take the column away again. The program refuses to
-- delete a policy that a VM has.
ALTER TABLE vm_replication_contexts ADD COLUMN notes VARCHAR(1024) NOT NULL DEFAULT '';
ALTER TABLE vm_replication_contexts ADD COLUMN policy_id VARCHAR(64) NULL;

-- The change id of the disk's latest copy by a replication job.
ALTER TABLE vm_disks ADD COLUMN replication_change_id VARCHAR(255) NOT NULL DEFAULT '';
