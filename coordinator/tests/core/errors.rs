//! What is told of the database's own errors.

use orca_coordinator::app::{Error, StartError};
use orca_proto::problem::Kind;

use super::support::TestApp;

#[tokio::test]
async fn a_lock_table_that_is_full_is_named_and_no_line_of_postgres_own_source_is() {
    let test = TestApp::start().await;
    let raise = "DO $$ BEGIN RAISE 'out of shared memory' USING ERRCODE = '53200'; END $$";
    let mut connection = test.connection().await;
    let mut fail = async || sqlx::query(raise).execute(&mut connection).await.unwrap_err();
    let problem = Error::from(fail().await).problem();
    assert_eq!(problem.kind, Kind::Unavailable);
    assert!(problem.detail.contains("max_locks_per_transaction"), "{}", problem.detail);
    let told = StartError::Connect(fail().await).to_string();
    assert!(told.contains("out of shared memory;") && !told.contains(" at line "), "{told}");
    test.stop().await;
}
