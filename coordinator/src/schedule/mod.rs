//! Schedules, as arithmetic: when a cron expression comes round in a time zone, and what to do once it has.
//!
//! Nothing here touches the database or the clock. [`cron`] reads an expression and walks the calendar, [`calendar`] puts
//! it into a time zone and adds bounds and jitter, [`check`] says what is wrong with a schedule, and [`turn`] decides what
//! one look at a schedule that is due comes to.

pub(crate) mod calendar;
pub(crate) mod check;
pub(crate) mod cron;
mod field;
pub(crate) mod turn;
