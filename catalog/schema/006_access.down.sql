DROP TABLE audit_log;
DROP TABLE credentials;
DROP TABLE api_tokens;
DROP TABLE users;
