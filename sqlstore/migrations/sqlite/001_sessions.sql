-- Sessions of sqlstore, one row for each key. Times are microseconds since 1970.
CREATE TABLE IF NOT EXISTS walletauth_sessions (
	key_hash    BLOB PRIMARY KEY NOT NULL,   -- sha256 of the key
	data        BLOB,                        -- as the Codec wrote it; null: no session
	stamp       BLOB,                        -- of the Update that stored the data
	data_fence  INTEGER NOT NULL DEFAULT 0,  -- of the same
	fence       INTEGER NOT NULL DEFAULT 0,  -- given last
	lease_owner BLOB,                        -- null: nobody
	lease_until INTEGER,
	expires_at  INTEGER,                     -- of the refresh token
	updated_at  INTEGER NOT NULL,            -- of the data
	version     INTEGER NOT NULL,            -- of the row: it grows with every change
	UNIQUE (updated_at, key_hash)            -- an index, by which processes look for changes
)
