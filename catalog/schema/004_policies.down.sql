DROP TABLE schedules;
DROP TABLE backup_copies;
DROP TABLE backup_copy_rules;
DROP TABLE backup_policies;
