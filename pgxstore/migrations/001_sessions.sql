-- Sessions of pgxstore, one row for each key.
CREATE TABLE IF NOT EXISTS walletauth_sessions (
	key_hash    bytea PRIMARY KEY,           -- sha256 of the key
	data        bytea,                       -- as the Codec wrote it; null: no session
	stamp       bytea,                       -- of the Update that stored the data
	data_fence  bigint NOT NULL DEFAULT 0,   -- of the same
	fence       bigint NOT NULL DEFAULT 0,   -- given last
	lease_owner bytea,                       -- null: nobody
	lease_until timestamptz,
	expires_at  timestamptz,                 -- of the refresh token
	updated_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);                    -- room for a new version on the same page
