#!/bin/sh
# Makes the secrets of the Compose stack where they are absent: the key that signs tokens, the one that tasks' secrets are
# encrypted with, the database's password, and a token for the operator and for each node. Each service finds its own in
# its own volume, readable by nobody else.
#
# Tokens are valid for a year; one that is older than 30 days is made anew whenever the stack is brought up.
set -eu
umask 077

coordinator=/secrets/coordinator
orca_user=7070
postgres_user=999

# hand_over FILE USER: the file belongs to the user and only they can read it.
hand_over() {
    chown "$2:$2" "$1"
    chmod 0400 "$1"
}

# issue ROLE NAME FILE USER
issue() {
    if [ -s "$3" ] && [ -z "$(find "$3" -mtime +30)" ]; then
        return
    fi
    rm -f "$3.new"
    orca token issue --role "$1" --name "$2" --key "$coordinator/signing-key.pem" --ttl 8760h --out "$3.new"
    hand_over "$3.new" "$4"
    mv "$3.new" "$3"
    echo "secrets: a token for the $1 $2"
}

if [ ! -s "$coordinator/signing-key.pem" ]; then
    rm -f "$coordinator/signing-key.pem.new"
    orca token key --out "$coordinator/signing-key.pem.new"
    hand_over "$coordinator/signing-key.pem.new" "$orca_user"
    mv "$coordinator/signing-key.pem.new" "$coordinator/signing-key.pem"
    echo "secrets: a key that signs tokens"
fi

if [ ! -s "$coordinator/secrets.key" ]; then
    rm -f "$coordinator/secrets.key.new"
    orca secret key --out "$coordinator/secrets.key.new"
    hand_over "$coordinator/secrets.key.new" "$orca_user"
    mv "$coordinator/secrets.key.new" "$coordinator/secrets.key"
    echo "secrets: a key that encrypts secrets"
fi

if [ ! -s /secrets/postgres/password ]; then
    head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >/secrets/postgres/password.new
    hand_over /secrets/postgres/password.new "$postgres_user"
    mv /secrets/postgres/password.new /secrets/postgres/password
    echo "secrets: a password for the database"
fi
cp /secrets/postgres/password "$coordinator/database.password.new"
hand_over "$coordinator/database.password.new" "$orca_user"
mv "$coordinator/database.password.new" "$coordinator/database.password"

issue operator operator "$coordinator/operator.token" "$orca_user"
issue planner planner /secrets/planner/node.token 0
issue worker worker-1 /secrets/worker-1/node.token 0
issue worker worker-2 /secrets/worker-2/node.token 0

# The directories themselves: whoever mounts one may enter it.
chown "$orca_user:$orca_user" "$coordinator"
chown "$postgres_user:$postgres_user" /secrets/postgres
chmod 0500 "$coordinator" /secrets/postgres /secrets/planner /secrets/worker-1 /secrets/worker-2
