-- Secrets of namespaces, each encrypted by a coordinator with a key that is nowhere in the database: AES-256-GCM, with namespace,
-- name and version as associated data, so that a row that was moved or renamed does not decrypt.
CREATE TABLE orca.secrets (
    namespace  text NOT NULL,
    name       text NOT NULL,
    -- 1, and one more each time it is set.
    version    bigint NOT NULL,
    -- Which key: a short hash of it.
    key_id     text NOT NULL,
    nonce      bytea NOT NULL,
    -- With the tag of 16 bytes at its end.
    ciphertext bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT orca.now(),
    created_by text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT orca.now(),
    updated_by text NOT NULL,
    PRIMARY KEY (namespace, name),
    CONSTRAINT secrets_nonce_check CHECK (octet_length(nonce) = 12),
    CONSTRAINT secrets_version_check CHECK (version > 0)
);
