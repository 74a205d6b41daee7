-- Sessions of sqlstore, one row for each key. Times are microseconds since 1970.
CREATE TABLE IF NOT EXISTS walletauth_sessions (
	key_hash    BINARY(32) PRIMARY KEY,      -- sha256 of the key
	data        MEDIUMBLOB,                  -- as the Codec wrote it; null: no session
	stamp       VARBINARY(16),               -- of the Update that stored the data
	data_fence  BIGINT NOT NULL DEFAULT 0,   -- of the same
	fence       BIGINT NOT NULL DEFAULT 0,   -- given last
	lease_owner VARBINARY(16),               -- null: nobody
	lease_until BIGINT,
	expires_at  BIGINT,                      -- of the refresh token
	updated_at  BIGINT NOT NULL,             -- of the data
	version     BIGINT NOT NULL,             -- of the row: it grows with every change
	KEY updated_at (updated_at)              -- by which processes look for changes
) ENGINE = InnoDB
