//! Limits that more than one part must agree on. Sizes are in bytes.

/// Tasks in one plan.
pub const PLAN_TASKS: usize = 100_000;
/// Tasks in one batch of `POST /v1/batches`.
pub const BATCH_TASKS: usize = 10_000;
/// Dependencies of one task.
pub const DEPENDENCIES: usize = 100_000;
/// Dependencies of all tasks of one plan or batch together: a graph is settled by its edges.
pub const EDGES: usize = 200_000;
/// Body of a request that carries one task or less.
pub const BODY: usize = 4 << 20;
/// Body of a request that carries a plan or a batch of tasks.
pub const PLAN_BODY: usize = 64 << 20;
/// A task's input, as JSON text.
pub const INPUT: usize = 1 << 20;
/// A task's result, as JSON text.
pub const RESULT: usize = 1 << 20;
/// How deep a task's input or result may be nested. JSON parsers stop at 128, and both travel inside of other documents.
pub const NESTING: usize = 64;
/// A whole artifact.
pub const ARTIFACT: u64 = 16 << 30;
/// Artifacts that one attempt may keep.
pub const ARTIFACTS_PER_ATTEMPT: i64 = 1_000;
/// Entries in the list of what one task may reach.
pub const EGRESS: usize = 64;
/// Input artifacts of one task.
pub const INPUT_ARTIFACTS: usize = 16;
/// One log line, in bytes of UTF-8; a longer one is split by the agent.
pub const LOG_LINE: usize = 16 << 10;
/// Log lines in one request.
pub const LOG_LINES: usize = 5_000;
/// Items on one page of a list.
pub const PAGE: u32 = 500;
/// Tasks in one claim.
pub const CLAIM: u32 = 1_024;
/// Reports in one request.
pub const REPORTS: usize = 1_024;
/// Leases in one renewal.
pub const RENEWAL: usize = 10_240;
/// How deep tasks may spawn tasks. A goal is at depth 0.
pub const DEPTH: i16 = 16;
/// Rounds of planning that one goal may ask for.
pub const PLANNING_ROUNDS: i32 = 100;
/// Length of names, labels' keys and values, and idempotency keys.
pub const NAME: usize = 128;
/// Labels on one task or node.
pub const LABELS: usize = 32;
/// Grants that may end in `runtime_error` before the task fails.
pub const RUNTIME_ERRORS: i32 = 5;
/// Highest `retry.max_attempts`.
pub const ATTEMPTS: i32 = 100;
/// Highest and, negated, lowest priority.
pub const PRIORITY: i16 = 100;
/// Longest duration that a task may name, in seconds (366 days).
pub const DURATION_SECS: u64 = 366 * 86_400;
/// Node labels that one task requires, and that it prefers.
pub const PLACEMENT: usize = 16;
/// How long a preference for nodes holds a task back, in seconds.
pub const PREFERENCE_SECS: u64 = 3;
/// GPUs of one task, and of one node.
pub const GPUS: u32 = 16;
/// Annotations on one task.
pub const ANNOTATIONS: usize = 32;
/// One annotation's value.
pub const ANNOTATION: usize = 1_024;
/// Sentences that people write: reasons, comments, prompts.
pub const SENTENCE: usize = 1_024;
/// A unique key.
pub const UNIQUE_KEY: usize = 256;
/// Signals that one task waits for.
pub const SIGNALS: usize = 8;
/// Signals that are kept for one task and were not read yet.
pub const UNREAD_SIGNALS: usize = 64;
/// A signal's payload, as JSON text.
pub const SIGNAL: usize = 64 << 10;
/// One secret.
pub const SECRET: usize = 64 << 10;
/// Secrets of one task.
pub const SECRETS: usize = 32;
/// Secrets of one task together: its node looks for all of them in whatever the task says.
pub const SECRETS_BYTES: usize = 256 << 10;
/// Secrets that one namespace may have.
pub const SECRETS_PER_NAMESPACE: i64 = 10_000;
/// Exit codes in one list of a retry policy.
pub const EXIT_CODES: usize = 64;
/// Ids in one selector.
pub const SELECTED_IDS: usize = 1_000;
/// Runs of one backfill.
pub const BACKFILL: usize = 1_000;
/// What every limit on tasks that run at once, on queues and on open tasks must stay below.
pub const RUNNING: u32 = 1_000_000_000;
/// Highest weight of a group.
pub const WEIGHT: u32 = 1_000;
/// Tasks up to which what is said to be in line in a queue or a group is exact; beyond, what ended in the middle of a line is
/// counted until it is passed over.
pub const COUNTED: u64 = 2_000;
